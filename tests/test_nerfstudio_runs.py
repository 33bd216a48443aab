"""Reading nerfstudio's runs: splats where the capture has them, and nothing in a file that is executed.

The files are made here as nerfstudio 1.1.5 lays them out; tests/nerfstudio has it write them itself.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from recon import checkpoint, cli, config, export, viewing
from recon.datasets import load_scene, nerfstudio
from recon.datasets.errors import InputError
from recon.gaussians import Gaussians
from recon.loading import load, load_state, load_with_frame, trained_scene
from recon.nerfstudio import runs
from recon.train import start
from small_scene import small_scene

CPU = torch.device("cpu")
SPLATS = 200

CONFIG = """!!python/object:nerfstudio.engine.trainer.TrainerConfig
data: &id001 !!python/object/apply:pathlib.PosixPath
{parts}
method_name: splatfacto
pipeline: !!python/object:nerfstudio.pipelines.base_pipeline.VanillaPipelineConfig
  model: !!python/object:nerfstudio.models.splatfacto.SplatfactoModelConfig
    background_color: {background}
    rasterize_mode: {rasterize}
"""


def transform() -> tuple[Tensor, float]:
    """[3,4] and a scale, as of a dataparser: turned and moved, then scaled."""
    angle = 0.7
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0], [0.0, 0.0, 1.0]]
    )
    return torch.cat([turn, torch.tensor([[0.3], [-1.2], [2.0]])], dim=1).double(), 0.4


def world_from_source() -> Tensor:
    rows, scale = transform()
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = rows * scale
    return matrix


def as_splatfacto(model: Gaussians) -> dict[str, Tensor]:
    """The parameters under splatfacto's names."""
    values = model.state_dict()
    return {
        "means": values["means"],
        "scales": values["log_scales"],
        "quats": values["quats"],
        "features_dc": values["sh0"][:, 0],
        "features_rest": values["shN"],
        "opacities": values["logit_opacities"][:, None],
    }


def write_run(
    folder: Path,
    pipeline: dict[str, Any],
    *,
    step: int = 29999,
    data: Path | None = None,
    background: str = "random",
    rasterize: str = "classic",
) -> Path:
    """A run folder; returns it."""
    models = folder / runs.MODELS
    models.mkdir(parents=True, exist_ok=True)
    rows, scale = transform()
    (folder / runs.TRANSFORMS).write_text(json.dumps({"transform": rows.tolist(), "scale": scale}))
    parts = "\n".join(f"- {part}" for part in (data or Path("/nowhere/flat")).absolute().parts)
    (folder / runs.CONFIG).write_text(CONFIG.format(parts=parts, background=background, rasterize=rasterize))
    schedulers = {"means": {"last_epoch": step, "_last_lr": [np.float64(1.6e-6)], "lr_lambdas": [None]}}
    stored = {
        "step": step,
        "pipeline": pipeline,
        "optimizers": {"means": {"state": {}, "param_groups": [{"lr": np.float32(1e-4), "params": [0]}]}},
        "schedulers": schedulers,
        "scalers": {},
    }
    torch.save(stored, models / f"step-{step:09d}.ckpt")
    return folder


def splatfacto_run(folder: Path, model: Gaussians, prefix: str = "_model.gauss_params.", **options: Any) -> Path:
    return write_run(folder, {f"{prefix}{name}": value for name, value in as_splatfacto(model).items()}, **options)


def assert_same(model: Gaussians, expected: Gaussians, tolerance: float = 2e-6) -> None:
    for name, value in expected.state_dict().items():
        assert torch.allclose(model.state_dict()[name], value, rtol=1e-5, atol=tolerance), name


@pytest.mark.parametrize(
    "prefix", ["_model.gauss_params.", "_model.", "module._model.gauss_params.", "_model.module.gauss_params."]
)
def test_splats_of_every_spelling_are_read_as_they_are(tmp_path: Path, prefix: str) -> None:
    model = tiny.gaussians(SPLATS)
    run = splatfacto_run(tmp_path / "outputs/flat/splatfacto/2024-01-01_000000", model, prefix)
    found = load(run)
    assert isinstance(found, Gaussians)
    assert_same(found, model, 0.0)


def test_exports_lie_in_the_frame_of_the_capture(tmp_path: Path) -> None:
    in_capture = tiny.gaussians(SPLATS)
    run = splatfacto_run(tmp_path / "run", in_capture.transformed(world_from_source()))
    model, source_from_world = load_with_frame(run)
    assert torch.allclose(source_from_world, torch.linalg.inv(world_from_source()), atol=1e-12)
    cli.export(run, tmp_path / "out.ply")
    written = export.load(tmp_path / "out.ply")
    assert torch.allclose(written.means, in_capture.means, atol=1e-5)
    assert torch.allclose(written.log_scales, in_capture.log_scales, atol=1e-5)
    cameras = tiny.ring(3)
    with torch.no_grad():
        assert torch.allclose(written.render(cameras).rgb, in_capture.render(cameras).rgb, atol=1e-3)
    assert len(model) == SPLATS


def test_a_run_is_found_by_any_of_its_parts_and_the_newest_of_several(tmp_path: Path) -> None:
    parent = tmp_path / "outputs/flat/splatfacto"
    splatfacto_run(parent / "2024-01-01_000000", tiny.gaussians(5), step=9)
    newest = splatfacto_run(parent / "2024-02-01_000000", tiny.gaussians(6), step=999)
    splatfacto_run(newest, tiny.gaussians(7), step=1999)
    expected = newest / runs.MODELS / "step-000001999.ckpt"
    for path in (tmp_path / "outputs", parent, newest, newest / runs.MODELS, newest / runs.CONFIG, expected):
        assert runs.find(path) == expected
        assert len(load_state(path).gaussians) == 7
    assert load_state(expected).step == 2000
    assert runs.find(tmp_path / "nothing") is None


@pytest.mark.parametrize(("background", "colour"), [("white", (1, 1, 1)), ("random", runs.BACKGROUNDS["random"])])
def test_the_background_is_that_of_its_viewer(tmp_path: Path, background: str, colour: tuple[float, ...]) -> None:
    run = splatfacto_run(tmp_path, tiny.gaussians(5), background=background)
    assert load_state(run).background == colour


def test_colours_without_harmonics_are_logits(tmp_path: Path) -> None:
    model = tiny.gaussians(SPLATS, degree=0)
    found = load(splatfacto_run(tmp_path, model))
    assert isinstance(found, Gaussians)
    shown = found.sh0 * 0.28209479177387814 + 0.5
    assert torch.allclose(shown, model.sh0.sigmoid(), atol=1e-6)


def test_photos_are_in_the_world_of_the_splats(tmp_path: Path) -> None:
    scene = small_scene()
    nerfstudio.save(scene, tmp_path / "capture")
    run = splatfacto_run(tmp_path / "run", tiny.gaussians(SPLATS), data=tmp_path / "capture")
    state = load_state(run)
    found = trained_scene(run, state, CPU)
    original = load_scene(tmp_path / "capture")
    assert (found.train, found.test) == (original.train, original.test)  # as the file says
    for view, other in zip(found.views, original.views, strict=True):
        moved = other.camera.transformed(world_from_source())
        assert torch.allclose(view.camera.positions, moved.positions, atol=1e-6)
        assert torch.allclose(view.camera.forward, moved.forward, atol=1e-6)
    cli.render(run, tmp_path / "frames", frames=2, threads=1)
    assert len(list((tmp_path / "frames").glob("*.png"))) == 2
    shown = viewing.open_source(run, CPU)
    assert (shown.name, shown.folder) == ("capture", run)
    assert shown.scene is not None


def test_what_our_methods_leave_is_read_whole(tmp_path: Path) -> None:
    scene = tiny.scene()
    state = start(tiny.gaussians(SPLATS), config.TrainConfig(steps=7), scene)
    state.source_from_world = torch.linalg.inv(world_from_source())
    stored = torch.frombuffer(bytearray(checkpoint.packed(state)), dtype=torch.uint8)
    run = write_run(tmp_path, {"_model._extra_state": stored})
    found = load_state(run)
    assert_same(found.gaussians, state.gaussians, 0.0)
    assert torch.equal(found.source_from_world, state.source_from_world)
    assert found.config == state.config
    stored[200] ^= 255
    write_run(tmp_path, {"_model._extra_state": stored})
    with pytest.raises(InputError, match=r"step-000029999\.ckpt: "):
        load_state(run)


class Malicious:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (Path("executed"),)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path, {"_model.means": Malicious()})
    with pytest.raises(InputError, match=r"\.ckpt: not a readable checkpoint \(it asks for \w+, which could run code"):
        load(run)
    (run / runs.MODELS / "step-000029999.ckpt").write_bytes(pickle.dumps({"pipeline": Malicious()}))
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load(run)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ({"_model.field.mlp_base.tcnn_encoding.params": torch.zeros(3)}, "neither splats of nerfstudio's"),
        ({"_model.gauss_params.means": torch.zeros(3, 3)}, "its splats have no quats, scales"),
        (
            {f"_model.{name}": value[:-1] for name, value in as_splatfacto(tiny.gaussians(4)).items()}
            | {"_model.means": torch.zeros(4, 3)},
            "do not fit together",
        ),
        (None, "holds no pipeline"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, pipeline: Any, message: str) -> None:
    run = write_run(tmp_path, pipeline)
    with pytest.raises(InputError, match=rf"step-000029999\.ckpt: .*{message}"):
        load(run)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no checkpoint at all", pickle.dumps(3)])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    run = splatfacto_run(tmp_path, tiny.gaussians(3))
    (run / runs.MODELS / "step-000029999.ckpt").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load(run)
    assert str(caught.value).startswith(f"{run / runs.MODELS}")
    assert "\n" not in str(caught.value)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    run = splatfacto_run(tmp_path, tiny.gaussians(300))
    file = run / runs.MODELS / "step-000029999.ckpt"
    whole = file.read_bytes()
    for share in (0.1, 0.5, 0.99):
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match="not a readable checkpoint"):
            load(run)


@pytest.mark.parametrize(
    "values", [{}, {"transform": "x"}, {"transform": [[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0]]}, {"transform": 3}, []]
)
def test_transforms_that_are_none_are_refused(tmp_path: Path, values: Any) -> None:
    run = splatfacto_run(tmp_path, tiny.gaussians(3))
    (run / runs.TRANSFORMS).write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"dataparser_transforms\.json"):
        load(run)


def test_splats_that_are_not_finite_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny.gaussians(10)
    with torch.no_grad():
        model.means[3, 1] = math.nan
    found = load(splatfacto_run(tmp_path, model, rasterize="antialiased"))
    assert len(found) == 9
    assert "1 of 10 splats are not finite" in caplog.text
    assert isinstance(found, Gaussians)
    assert found.antialiased
