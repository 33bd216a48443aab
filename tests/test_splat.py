"""antimatter15's .splat: known bytes, gsplat's writer, order, and sizes that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.datasets.errors import InputError
from recon.export import export, load, splat
from splat_files import written_by_gsplat
from test_splat_formats import angles_between, matched, scene_of


def test_known_bytes_give_known_splats(real_data: Callable[[str], Path]) -> None:
    scene = load(real_data("splats/tiny/minimal.splat"))
    assert scene.means.tolist() == [[-1, 0, -1], [0, 0, -1], [-1, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(scene.scales.detach(), torch.full((4, 3), 0.1))
    torch.testing.assert_close(scene.opacities.detach(), torch.full((4,), 0xE6 / 255))
    assert scene.quats.tolist() == [[0, 0, 0, 1]] * 4
    assert scene.sh0[0, 0, 2].item() == pytest.approx((0x80 / 255 - 0.5) / 0.28209479177387814, rel=1e-3)


def test_it_is_the_scene_of_the_ply_that_it_was_made_from(real_data: Callable[[str], Path]) -> None:
    ply = load(real_data("splats/tiny/test-splat.3-points-from-train.ply"))
    small = load(real_data("splats/tiny/test-splat.3-points-from-train.splat"))
    assert torch.equal(ply.means, small.means)
    torch.testing.assert_close(ply.log_scales, small.log_scales, rtol=1e-5, atol=1e-5)
    assert (ply.opacities - small.opacities).abs().max() < 1 / 255
    assert angles_between(ply.quats.detach(), small.quats.detach()).max() < 1.2


def test_gsplat_writes_the_same_rows_but_for_rounding(tmp_path: Path) -> None:
    scene = scene_of(60, 0)
    written = written_by_gsplat(scene, "splat", tmp_path / "theirs.splat")
    theirs = matched(load(written), scene)
    export(scene, tmp_path / "ours.splat")
    ours = matched(load(tmp_path / "ours.splat"), scene)
    assert torch.equal(theirs["means"], ours["means"])
    torch.testing.assert_close(theirs["log_scales"], ours["log_scales"], rtol=1e-5, atol=1e-5)
    assert (theirs["sh0"] - ours["sh0"]).abs().max() < 1.01 / 255 / 0.282
    assert angles_between(theirs["quats"], ours["quats"]).max() < 2


def test_what_covers_most_comes_first(tmp_path: Path) -> None:
    scene = scene_of(3, 0)
    with torch.no_grad():
        scene.log_scales[:] = torch.tensor([[-3.0], [-1.0], [-2.0]])
        scene.logit_opacities[:] = 0.0
    export(scene, tmp_path / "s.splat")
    assert load(tmp_path / "s.splat").log_scales[:, 0].tolist() == pytest.approx([-1, -2, -3])


def test_scales_of_nothing_and_sizes_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "s.splat"
    table = np.zeros(2, splat.ROW)
    table["scale"][0] = -1
    path.write_bytes(table.tobytes())
    assert torch.isfinite(load(path).log_scales).all()
    path.write_bytes(table.tobytes()[:-1])
    with pytest.raises(InputError, match=r"s\.splat: 63 bytes are no whole number of splats of 32"):
        load(path)
    with torch.no_grad():
        scene = scene_of(2, 0)
        scene.log_scales[0, 0] = 100
    with pytest.raises(InputError, match=r"a scale of exp\(100\) is more than a float holds"):
        export(scene, path)
