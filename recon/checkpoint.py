"""Checkpoints: one safetensors file that holds a training state whole. Loading one never runs code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon import __version__, config, gathering
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.exposure import Exposure
from recon.fields import field_class
from recon.gaussians import PARAMETERS, Gaussians
from recon.model import Field
from recon.poses import Poses
from recon.ranks import ALONE, Ranks
from recon.raster.divided import Divided
from recon.train import TrainState, optimizer_for, strategy_for

FORMAT = 1
SUFFIX = ".safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")
MODEL = "model."
OPTIMIZER, STRATEGY, EXPOSURE, POSES = "optimizer.", "strategy.", "exposure.", "poses."
OF_ROWS = (MODEL, OPTIMIZER, STRATEGY)  # of Gaussians: what parts of a divided scene have of their own


def save(state: TrainState, path: Path) -> None:
    """Write `state`; the file appears whole or not at all. All processes of a divided scene call this at once.

    OSError where it cannot be written, FloatingPointError for a model that is not finite: none could go on from that.
    """
    if state.divided.count > 1:
        _save_divided(state, path)
        return
    data = packed(state)
    with atomic_write(path) as file:
        file.write(data)


def _save_divided(state: TrainState, path: Path) -> None:
    ranks = state.divided
    tensors, header = _contents(state)
    broken = [name for name, value in tensors.items() if name.startswith(MODEL) and not _finite(value)]
    if ranks.most(len(broken)):
        raise FloatingPointError(f"{', '.join(broken) or 'another part'} has values that are not finite")
    parts = {name: value for name, value in tensors.items() if name.startswith(OF_ROWS) and value.dim()}
    whole = {name: value for name, value in tensors.items() if name not in parts}
    for name, value in whole.items():
        if name.startswith(STRATEGY):  # numbers of Gaussians
            whole[name] = torch.tensor(ranks.total(int(value)))
    gathering.write(path, whole, parts, header, ranks)


def packed(state: TrainState) -> bytes:
    """The bytes of that file."""
    from safetensors.torch import save as serialise

    tensors, header = _contents(state)
    for name, value in tensors.items():
        if name.startswith(MODEL) and not _finite(value):
            raise FloatingPointError(f"{name} has values that are not finite")
    return serialise({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"recon": json.dumps(header)})


def _contents(state: TrainState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description of that file."""
    tensors = {f"{MODEL}{name}": value for name, value in state.model.state_dict().items()}
    steps: dict[str, int] = {}
    for group in state.optimizer.param_groups:
        moments = state.optimizer.state.get(group["params"][0], {})
        for key in MOMENTS:
            if key in moments:
                tensors[f"{OPTIMIZER}{group['name']}.{key}"] = moments[key]
        if "step" in moments:
            steps[group["name"]] = int(moments["step"])
    if state.strategy is not None:
        tensors |= {f"{STRATEGY}{name}": value for name, value in state.strategy.state_dict().items()}
    if state.exposure is not None:
        tensors |= {f"{EXPOSURE}{name}": value for name, value in state.exposure.state_dict().items()}
    if state.poses is not None:
        tensors |= {f"{POSES}{name}": value for name, value in state.poses.state_dict().items()}
    header = {
        "format": FORMAT,
        "recon": __version__,
        "method": state.config.method,
        "step": state.step,
        "seconds": state.seconds,
        "optimizer_steps": steps,
        "extent": state.extent,
        "background": list(state.background),
        "source_from_world": state.source_from_world.tolist(),
        "train": config.to_json(state.config),
    }
    if isinstance(state.model, Gaussians):
        names = ("opacity_reg", "scale_reg", "antialiased")
        header |= {name: getattr(state.model, name) for name in names}
    return tensors, header


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def load(path: Path, device: torch.device | str = "cpu", divided: Ranks = ALONE, *, moments: bool = True) -> TrainState:
    """The state that `save` wrote, on `device`. InputError, naming the file, if it is anything else.

    Args:
        divided: the processes that are to have a part of the scene each, however many had one before.
        moments: whether the training is to go on; without, two thirds of the file are left out.
    """
    header, tensors = _read(path, divided, moments)
    try:
        return _restore(header, tensors, path, torch.device(device), divided)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: not a usable checkpoint ({error})") from error


def _read(path: Path, divided: Ranks, moments: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = _header((file.metadata() or {}).get("recon"), path)
            in_parts = divided.count > 1 and header.get("method") == "splats"

            def read(key: str) -> Tensor:
                rows = file.get_slice(key) if in_parts and key.startswith(OF_ROWS) else None
                if rows is None or not rows.get_shape():
                    return file.get_tensor(key)
                return gathering.read(rows, header.get("parts"), divided)

            keys = file.keys()
            if not moments:
                header["optimizer_steps"], keys = {}, [key for key in keys if not key.startswith(OPTIMIZER)]
            return header, {key: read(key) for key in keys}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint") from error
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable checkpoint ({error})") from error


def _header(text: str | None, path: Path) -> dict[str, Any]:
    if text is None:
        raise InputError(f"{path}: a safetensors file, but not one of our checkpoints")
    try:
        header = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: its description is damaged ({error})") from error
    if not isinstance(header, dict) or "format" not in header:
        raise InputError(f"{path}: its description is damaged (no format)")
    if header["format"] != FORMAT:
        raise InputError(f"{path}: checkpoint format {header.get('format')}, this version reads {FORMAT}")
    return header


def _restore(
    header: dict[str, Any], tensors: dict[str, Tensor], path: Path, device: torch.device, divided: Ranks
) -> TrainState:
    settings = config.from_json(header["train"], str(path))
    for name, value in tensors.items():
        if not _finite(value):
            raise ValueError(f"{name} holds values that are not finite")
    model: Gaussians | Field
    if settings.radiance is None:
        model = Gaussians(
            *(tensors[f"{MODEL}{name}"].to(device) for name in PARAMETERS),
            opacity_reg=header["opacity_reg"],
            scale_reg=header["scale_reg"],
            antialiased=header.get("antialiased", False),  # older ones do not say
            rasterizer=Divided(divided) if divided.count > 1 else None,
        )
    else:
        own = {name.removeprefix(MODEL): value for name, value in tensors.items() if name.startswith(MODEL)}
        model = field_class(settings).restore(settings, own, device)
    optimizer = optimizer_for(model, settings, header["extent"])
    for group in optimizer.param_groups:
        name, parameter = group["name"], group["params"][0]
        moments = {key: tensors.get(f"{OPTIMIZER}{name}.{key}") for key in MOMENTS}
        if name in header["optimizer_steps"]:
            for key, moment in moments.items():
                if moment is None or moment.shape != parameter.shape:
                    raise ValueError(f"optimizer.{name}.{key} does not fit the parameter")
                optimizer.state[parameter][key] = moment.to(device)
            optimizer.state[parameter]["step"] = torch.tensor(float(header["optimizer_steps"][name]))
    strategy = strategy_for(settings, header["extent"], divided)

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    if strategy is not None:
        known = {name: value if value.dim() else _portion(value, divided) for name, value in part(STRATEGY).items()}
        strategy.load_state_dict({name: value.to(device) for name, value in known.items()})
    exposure, poses = part(EXPOSURE), part(POSES)
    red, green, blue = header["background"]
    return TrainState(
        model=model,
        optimizer=optimizer,
        strategy=strategy,
        config=settings,
        extent=header["extent"],
        background=(red, green, blue),
        source_from_world=torch.tensor(header["source_from_world"], dtype=torch.float64).reshape(4, 4),
        exposure=Exposure(**exposure) if exposure else None,
        poses=Poses(**poses) if poses else None,
        step=header["step"],
        seconds=header["seconds"],
        divided=divided,
    )


def _portion(count: Tensor, divided: Ranks) -> Tensor:
    return torch.tensor(divided.portion(int(count)))
