"""Reading what nerfstudio trained: splats of its splatfacto methods, fields of nerfacto, and what our methods leave.

A run is `outputs/<scene>/<method>/<time>/` with config.yml, dataparser_transforms.json and
nerfstudio_models/step-<number>.ckpt, as of nerfstudio 1.1.5 (engine/trainer.py, models/splatfacto.py). Nothing in it is
executed: checkpoints are unpickled by torch with a list of harmless types, and of config.yml, whose tags would make
objects, single lines are read as text (settings.py).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import pickle
import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon import checkpoint, opening
from recon.config import TrainConfig
from recon.datasets import transforms_json
from recon.datasets.cameras import similarity_scale
from recon.datasets.convert import in_source_frame
from recon.datasets.errors import InputError
from recon.datasets.fields import number, read_json
from recon.datasets.scene import Scene
from recon.gaussians import Gaussians
from recon.model import Field
from recon.nerfstudio import nerfacto, nerfacto_weights, settings
from recon.options import Options
from recon.sh import from_rgb
from recon.terminal import say
from recon.train import TrainState, optimizer_for, strategy_for

log = logging.getLogger("recon")

SUFFIX = ".ckpt"
MODELS, CONFIG, TRANSFORMS = "nerfstudio_models", "config.yml", "dataparser_transforms.json"
DEPTH = 3  # folders that may lie above a run: outputs/<scene>/<method>

OURS = "_extra_state"  # what a model of ours stores: a checkpoint of our own, as bytes
PREFIX = "gauss_params."  # of splatfacto's parameters; before 1.1 they had none
NAMES = ("means", "quats", "scales", "opacities", "features_dc", "features_rest")

# What its viewer shows behind a scene that was trained over random colours.
BACKGROUNDS = {"random": (0.1490, 0.1647, 0.2157), "black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}
# Nothing is added behind fields that were trained over those, nor where the last sample of a ray is the background.
FIELD_BACKGROUNDS = BACKGROUNDS | {"random": BACKGROUNDS["black"]}

# Schedulers keep learning rates as numpy's scalars, which are pickled as a call of `scalar`; numpy 1 called its module
# otherwise.
SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
HARMLESS: list[Any] = [
    SCALAR,
    (SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
]


def find(path: Path) -> Path | None:
    """The checkpoint that is meant by a path: itself, or the newest of a run or of a folder of runs; None without."""
    if path.suffix == SUFFIX:
        return path
    if path.name == CONFIG:
        path = path.parent
    if not path.is_dir():
        return None
    if path.name == MODELS:
        path = path.parent
    for depth in range(DEPTH + 1):
        found = list(path.glob(f"{'*/' * depth}{MODELS}/step-*{SUFFIX}"))
        if found:
            return max(found, key=lambda file: (file.parent.parent.name, _number(file)))
    return None


def _number(file: Path) -> int:
    digits = re.sub(r"\D", "", file.stem)
    return int(digits) if digits else -1


def load(path: Path, device: torch.device | str = "cpu") -> TrainState:
    """What a checkpoint holds, in nerfstudio's coordinates; `source_from_world` leads back to those of the capture.

    InputError, naming the file, if there is nothing in it that is read.
    """
    loaded = _unpickled(path)
    tensors = loaded.get("pipeline") if isinstance(loaded, dict) else None
    if not isinstance(tensors, dict):
        raise InputError(f"{path}: not a checkpoint of nerfstudio (it holds no pipeline)")
    # Of several GPUs, all names have "module." in them.
    tensors = {str(name).replace("module.", "").removeprefix("_model."): value for name, value in tensors.items()}
    if isinstance(tensors.get(OURS), Tensor):
        # Its photos are in nerfstudio's order, so what is known of how they were exposed cannot be told apart here.
        return dataclasses.replace(unpacked(tensors[OURS], path, device), exposure=None)
    step = loaded.get("step")
    config = TrainConfig(steps=max(1, step + 1 if isinstance(step, int) else 1))
    model: Gaussians | Field
    if nerfacto.is_one(tensors):
        model, behind = _field(tensors, path, device), FIELD_BACKGROUNDS
    else:
        model, behind = _splats(tensors, path).to(device), BACKGROUNDS
    return TrainState(
        model=model,
        optimizer=optimizer_for(model, config, 1.0),
        strategy=strategy_for(config, 1.0) if isinstance(model, Gaussians) else None,
        config=config,
        extent=1.0,
        background=behind.get(settings.word(_config(path), "background_color") or "random", behind["random"]),
        source_from_world=_source_from_world(path),
        step=config.steps,
    )


def unpacked(stored: Tensor, path: Path, device: torch.device | str) -> TrainState:
    """The training state in the bytes [B] that a model of ours stores; `path` is for messages."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"checkpoint{checkpoint.SUFFIX}"
        file.write_bytes(stored.cpu().to(torch.uint8).numpy().tobytes())
        try:
            return checkpoint.load(file, device)
        except InputError as error:
            raise InputError(str(error).replace(str(file), str(path))) from error


def _unpickled(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint") from error
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it asks for {named[1]}, which could run code" if named else str(error).partition("\n")[0]
        raise InputError(f"{path}: not a readable checkpoint ({what})") from error
    except Exception as error:  # whatever a damaged archive makes torch's readers stumble over
        what = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: not a readable checkpoint ({what})") from error


def _splats(tensors: dict[str, Any], path: Path) -> Gaussians:
    """The Gaussians of splatfacto. Those with numbers that are not finite are left out, as by its own exporter."""
    given = {name: tensors.get(f"{PREFIX}{name}", tensors.get(name)) for name in NAMES}
    found = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    missing = [name for name in NAMES if name not in found]
    if len(missing) == len(NAMES):
        raise InputError(
            f"{path}: neither splats of nerfstudio's (splatfacto) nor a field of nerfacto: other layouts are not read."
            " ns-render and ns-export show it; to have the scene here, train its capture: recon train CAPTURE"
        )
    if missing:
        raise InputError(f"{path}: its splats have no {', '.join(missing)}")
    values = {name: value.detach().float() for name, value in found.items()}
    count = len(values["means"])
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "features_dc": (3,)}
    antialiased = settings.word(_config(path), "rasterize_mode") == "antialiased"
    try:
        for name, shape in shapes.items():
            values[name] = values[name].reshape(count, *shape)
        rest = values["features_rest"].reshape(count, -1, 3) if count else torch.zeros(0, 0, 3)
        kept = torch.stack([torch.isfinite(each).reshape(count, -1).all(dim=1) for each in values.values()]).all(dim=0)
        if not kept.all():
            log.warning("%s: %d of %d splats are not finite and are left out", path, int((~kept).sum()), count)
        sh0 = values["features_dc"]
        if rest.shape[1] == 0:  # without harmonics, they are logits of colours
            sh0 = from_rgb(sh0.sigmoid())
        parts = (values["means"], values["quats"], values["scales"], values["opacities"], sh0[:, None], rest)
        return Gaussians(*(part[kept] for part in parts), antialiased=antialiased)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{path}: its splats do not fit together ({error})") from error


def _field(tensors: dict[str, Any], path: Path, device: torch.device | str) -> nerfacto.Nerfacto:
    """The radiance field of nerfacto, of the sizes that config.yml says."""
    file = _run_of(path) / CONFIG
    if not file.is_file():
        log.warning("%s: is not there, so it is taken for what ns-train nerfacto says by itself", file)
    wishes = nerfacto_weights.settings_of(settings.below(_config(path), "model"), str(file))
    try:
        return nerfacto.Nerfacto(wishes, tensors, device)
    except KeyError as error:
        raise InputError(f"{path}: its nerfacto has no {error.args[0]}") from error
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{path}: its nerfacto is not what {CONFIG} says: {error}") from error


def _source_from_world(checkpoint: Path) -> Tensor:
    """[4,4] float64: the dataparser turned and moved the capture, then scaled it; this leads back."""
    file = _run_of(checkpoint) / TRANSFORMS
    if not file.is_file():
        log.warning("%s: is not there, so the scene stays in nerfstudio's coordinates", file)
        return torch.eye(4, dtype=torch.float64)
    meta = read_json(file)
    if not isinstance(meta, dict) or "transform" not in meta:
        raise InputError(f"{file}: has no transform")
    world_from_source = transforms_json.matrix(meta["transform"], f"{file}: transform")
    scale = number(meta, "scale", str(file))
    world_from_source[:3] *= 1.0 if scale is None else scale
    even = similarity_scale(world_from_source)
    turn = world_from_source[:3, :3] / even.clamp(min=1e-300)
    off = (turn @ turn.T - torch.eye(3, dtype=torch.float64)).abs().max()
    if even < 1e-30 or off > 1e-3 or torch.linalg.det(turn) <= 0:
        raise InputError(f"{file}: is not a rotation, a scale and a translation")
    return torch.linalg.inv(world_from_source)


def called(checkpoint: Path) -> tuple[str, Path]:
    """What the scene of a checkpoint is called, and the folder of its run."""
    folder, source = _run_of(checkpoint), capture_folder(checkpoint)
    return (folder if source is None else source).name, folder


def capture(path: Path, state: TrainState, device: torch.device) -> Scene:
    """The photos that a checkpoint was trained on, in its world; InputError where they are not there any more."""
    source = capture_folder(path)
    if source is None:
        raise InputError(f"{_run_of(path) / CONFIG}: does not say where the capture is")
    if not source.exists():
        raise InputError(f"{_run_of(path) / CONFIG}: the capture is no longer at {source}")
    parser = settings.below(_config(path), "dataparser")
    every = parser.get("test_every")  # of ours
    scene, _ = opening.open_scene(Options(scene=str(source), test_every=every if isinstance(every, int) else 0), device)
    to_world = torch.linalg.inv(state.source_from_world) @ scene.source_from_world
    moved = in_source_frame(dataclasses.replace(scene, source_from_world=to_world))
    train, test = (scene.train, scene.test) if scene.test else _split(scene, parser)
    return dataclasses.replace(moved, train=train, test=test, source_from_world=state.source_from_world)


def _split(scene: Scene, parser: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which photos were trained on and which were held out, as a dataparser chooses them that is told nothing by the
    capture (data/utils/dataparsers_utils.py). None are held out where that is not known."""
    names = [view.name for view in scene.views]
    order = sorted(range(len(names)), key=names.__getitem__)
    mode, share, every = (parser.get(name) for name in ("eval_mode", "train_split_fraction", "eval_interval"))
    held = []
    if mode == "fraction" and isinstance(share, (int, float)) and 0 < share <= 1:
        kept = np.linspace(0, len(order) - 1, math.ceil(len(order) * share), dtype=int)
        held = np.setdiff1d(np.arange(len(order)), kept).tolist()
    elif mode == "interval" and isinstance(every, int) and every > 1:
        held = list(range(0, len(order), every))
    test = sorted(order[place] for place in held)
    if test:
        say(f"nerfstudio held {len(test)} of these photos out")
    return tuple(n for n in range(len(names)) if n not in test), tuple(test)


def capture_folder(checkpoint: Path) -> Path | None:
    """The capture that config.yml names first."""
    parts = settings.path(_config(checkpoint), "data")
    return None if parts is None else Path(PurePosixPath(*parts))


def _config(checkpoint: Path) -> str:
    return settings.text_of(_run_of(checkpoint) / CONFIG)


def _run_of(checkpoint: Path) -> Path:
    return checkpoint.absolute().parent.parent
