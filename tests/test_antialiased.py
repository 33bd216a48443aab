"""Scenes whose small Gaussians are drawn fainter instead of larger: how they look, are trained, kept and exported."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import tiny
from recon import checkpoint, export, exporting, parts
from recon.config import TrainConfig
from recon.datasets.errors import InputError
from recon.division import part
from recon.gaussians import Gaussians
from recon.opening import first_model
from recon.options import Options
from recon.ranks import Ranks
from recon.train import start, train

CPU = torch.device("cpu")


def light(model: Gaussians, width: int) -> float:
    """The mean alpha of a picture of some width."""
    camera = tiny.ring(4, 128, 128)[0].resized(width, width)
    with torch.no_grad():
        return float(model.render(camera).alpha.mean())


@pytest.mark.parametrize("antialiased", [False, True])
def test_small_gaussians_cover_as_much_of_a_smaller_picture(antialiased: bool) -> None:
    model = tiny.gaussians(60, antialiased=antialiased)
    model.log_scales.data -= 2.5  # half a pixel of the large picture
    model.logit_opacities.data.fill_(5.0)  # or much of what is faint falls below 1/255
    ratio = light(model, 32) / light(model, 128)
    assert (0.7 < ratio < 1.2) == antialiased
    assert antialiased or ratio > 2


def test_large_gaussians_look_the_same() -> None:
    model = tiny.gaussians(20)
    model.log_scales.data += 1.5
    other = model.like(*model.state_dict().values())
    other.antialiased = True
    camera = tiny.ring(4, 256, 256)[0]
    with torch.no_grad():
        assert (other.render(camera).rgb - model.render(camera).rgb).abs().max() < 0.02


def test_a_training_is_kept_and_goes_on_as_it_was(tmp_path: Path) -> None:
    scene = tiny.scene()
    settings = dataclasses.replace(Options("x", antialiased=True).train_config(), steps=20, coarse=0.0)
    state = start(first_model(scene, settings, CPU), settings, scene)
    train(state, scene.train_views)
    checkpoint.save(state, tmp_path / "state.safetensors")
    again = checkpoint.load(tmp_path / "state.safetensors").gaussians
    assert again.antialiased
    assert part(again, Ranks(1, 2)).antialiased
    assert again.transformed(torch.eye(4)).to("cpu").antialiased
    plain = dataclasses.replace(settings, antialiased=False)
    other = start(first_model(scene, plain, CPU), plain, scene)
    train(other, scene.train_views)
    assert not torch.equal(other.gaussians.log_scales, again.log_scales)


def test_it_is_for_splats() -> None:
    with pytest.raises(InputError, match="--antialiased: is for splats"):
        Options("x", method="ngp", antialiased=True).train_config()
    assert not TrainConfig().antialiased


@pytest.mark.parametrize("suffix", [*export.SAY_ANTIALIASED, ".ply"])
@pytest.mark.parametrize("antialiased", [False, True])
def test_files_that_can_say_so_do(suffix: str, antialiased: bool, tmp_path: Path) -> None:
    path = tmp_path / (suffix if suffix[0] != "." else f"scene{suffix}")
    export.export(tiny.gaussians(30, antialiased=antialiased), path)
    assert export.load(path).antialiased == (antialiased and suffix != ".ply")


def test_an_export_says_what_its_file_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export.export(tiny.gaussians(30, antialiased=True), tmp_path / "a.spz")
    exporting.export_to(tmp_path / "a.spz", tmp_path / "b.ply")
    assert ".ply does not say that this scene was trained antialiased" in " ".join(capsys.readouterr().out.split())
    exporting.export_to(tmp_path / "a.spz", tmp_path / "c.sog", parts=parts.Parts(min_opacity=0.1))
    assert export.load(tmp_path / "c.sog").antialiased


def test_two_kinds_of_scenes_are_not_made_one(tmp_path: Path) -> None:
    export.export(tiny.gaussians(30, antialiased=True), tmp_path / "a.spz")
    with pytest.raises(InputError, match=r"a\.spz: one of the scenes was trained antialiased and one was not"):
        parts.chosen(tiny.gaussians(30), parts.Parts(merge=(tmp_path / "a.spz",)))
