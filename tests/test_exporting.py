"""From the command to a file of splats: what goes into it, and what is said of its loss."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from recon import exporting, gaussians, lost
from recon.datasets.errors import InputError
from recon.export import LOSSES, SAVERS, export, load
from recon.gaussians import Gaussians
from recon.parts import Parts
from splat_files import assert_same, columns_of
from test_splat_formats import scene_of
from tiny import gaussians as tiny_cloud


def written(tmp_path: Path, scene: Gaussians, parts: Parts | None = None) -> Gaussians:
    export(scene, tmp_path / "source.ply")
    exporting.export_to(tmp_path / "source.ply", tmp_path / "out.ply", parts=parts)
    return load(tmp_path / "out.ply")


def test_a_file_becomes_another_bit_for_bit(tmp_path: Path) -> None:
    scene = scene_of(20, 2)
    assert_same(written(tmp_path, scene), scene)


def test_a_box_keeps_what_is_in_it(tmp_path: Path) -> None:
    scene = scene_of(200, 1)
    loaded = written(tmp_path, scene, Parts(crop=(-1, -0.5, 0, 1, 0.5, 9)))
    x, y, z = (columns_of(scene)[axis] for axis in "xyz")
    inside = (abs(x) <= 1) & (abs(y) <= 0.5) & (z >= 0)
    assert 0 < inside.sum() < 200
    assert torch.equal(loaded.means, scene.means[torch.from_numpy(inside)])


def test_faint_ones_and_high_degrees_are_left_out(tmp_path: Path) -> None:
    scene = scene_of(100, 3)
    loaded = written(tmp_path, scene, Parts(min_opacity=0.5, sh_degree=1))
    assert torch.equal(loaded.means, scene.means[scene.opacities >= 0.5])
    assert loaded.sh_degree == 1
    assert torch.equal(loaded.shN, scene.shN[scene.opacities >= 0.5][:, :3])
    assert written(tmp_path, scene_of(3, 0), Parts(sh_degree=2)).sh_degree == 0


def test_those_that_cover_most_are_kept_in_their_order(tmp_path: Path) -> None:
    scene = scene_of(5, 0)
    with torch.no_grad():
        scene.log_scales[:] = torch.tensor([[-3.0], [-1.0], [-2.0], [0.0], [-4.0]])
        scene.logit_opacities[:] = torch.tensor([3.0, 3.0, 3.0, -20.0, 3.0])
    loaded = written(tmp_path, scene, Parts(max_count=3))
    assert loaded.log_scales[:, 0].tolist() == [-3, -1, -2]
    thin = scene_of(2, 0)
    with torch.no_grad():
        thin.logit_opacities[:] = 0
        thin.log_scales[:] = torch.tensor([[0.0, -9.0, -9.0], [-2.0, -2.0, -9.0]])  # a needle and a plate
    assert written(tmp_path, thin, Parts(max_count=1)).log_scales[0, 0] == -2


def test_scenes_are_merged_before_the_rest(tmp_path: Path) -> None:
    first, second = scene_of(10, 0), scene_of(20, 1)
    export(second, tmp_path / "second.ply")
    merge = (tmp_path / "second.ply",)
    loaded = written(tmp_path, first, Parts(merge=merge))
    assert len(loaded) == 30
    assert torch.equal(loaded.means, torch.cat([first.means, second.means]))
    assert loaded.shN[:10].abs().max() == 0
    assert len(written(tmp_path, first, Parts(merge=merge, max_count=12))) == 12


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"crop": (0, 0, 0, 1, 0, 1)}, "--crop 0 0 0 1 0 1: not lowest"),
        ({"min_opacity": 1.5}, "--min-opacity 1.5: not between"),
        ({"max_count": 0}, "--max-count 0: must be at least 1"),
        ({"sh_degree": 4}, "--sh-degree 4: not between 0 and 3"),
    ],
)
def test_what_cannot_be_is_said_by_the_name_of_the_option(parts: dict, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Parts(**parts)


def test_nothing_left_is_said_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing of 10 Gaussians is left to write"):
        written(tmp_path, scene_of(10, 0), Parts(crop=(50, 50, 50, 51, 51, 51)))
    assert not (tmp_path / "out.ply").exists()


def test_the_suffix_is_looked_at_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out\.xyz: no splat format has the suffix"):
        exporting.export_to(tmp_path / "nowhere", tmp_path / "out.xyz")


@pytest.mark.parametrize("suffix", sorted(LOSSES))
def test_the_loss_is_said(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    export(tiny_cloud(60, degree=2), tmp_path / "source.ply")
    out = tmp_path / "written" / (suffix if suffix[0] != "." else f"out{suffix}")
    exporting.export_to(tmp_path / "source.ply", out)
    said = capsys.readouterr().out
    assert f"Lost in {suffix}: {LOSSES[suffix]}." in said
    found = re.search(r"Pictures around it differ by ([\d.]+) dB\.", said)
    assert found is not None, said
    assert 20 < float(found.group(1)) < 90
    size = sum(file.stat().st_size for file in (tmp_path / "written").rglob("*") if file.is_file())
    assert f"Wrote 60 Gaussians: {out} (" in said
    assert f"{size / 60:.1f} bytes each)" in said


def test_formats_without_loss_say_nothing_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(SAVERS) - set(LOSSES) == {".ply", ".glb", ".usda", ".usdc", ".usdz"}
    export(scene_of(5, 0), tmp_path / "source.ply")
    exporting.export_to(tmp_path / "source.ply", tmp_path / "out.glb")
    assert "ost" not in capsys.readouterr().out.replace("source", "")


def test_cameras_around_splats_see_most_of_them() -> None:
    scene = tiny_cloud(200)
    with torch.no_grad():
        scene.means.add_(torch.tensor([100.0, 0.0, -50.0]))
        scene.means[0] = 1e5  # a stray
    cameras = exporting.around(scene)
    pixels, depth = cameras.project(scene.means.detach().double())
    seen = (depth > 0) & (pixels >= 0).all(-1) & (pixels[..., 0] <= cameras.width) & (pixels[..., 1] <= cameras.height)
    assert len(cameras) == exporting.VIEWS
    assert seen.double().mean(dim=1).min() > 0.8


def test_equal_scenes_do_not_differ() -> None:
    scene = tiny_cloud(30)
    cameras = exporting.around(scene)
    assert lost.difference(scene, scene, cameras) == 0
    darker = gaussians.Gaussians(*scene.state_dict().values())
    with torch.no_grad():
        darker.sh0.sub_(0.5)
    assert lost.difference(scene, darker, cameras) > 1e-4
