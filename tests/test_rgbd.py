"""Folders of RGB-D frames, in the layout of 7-Scenes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import readers
from recon.datasets import depth_points, load_scene

# A camera at (x, -5, 0) that looks along +y with z up: columns are right x, down -z, forward y.
POSE = "1 0 0 {x}\n0 0 1 -5\n0 -1 0 0\n0 0 0 1\n"
NAMES = ("frame-000000", "frame-000003")


def _capture(path: Path, suffix: str = ".png") -> Path:
    """A wall at y = 0; a column of pixels where depth is not known, and one where it is too far to tell."""
    readers.photos(path, [f"{name}.color{suffix}" for name in NAMES])
    depth = np.full((30, 40), 5000, np.uint16)
    depth[:, 0], depth[:, 1] = 0, 65535
    for i, name in enumerate(NAMES):
        iio.imwrite(path / f"{name}.depth.png", depth)
        (path / f"{name}.pose.txt").write_text(POSE.format(x=i))
    (path / "camera-intrinsics.txt").write_text(" 5.0e+01\t 0.0 \t 20\t\n0 48 15\n0 0 1\n")
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_cameras_and_depths(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(_capture(tmp_path, suffix), test_every=0)
    assert not caplog.records
    view = scene.views[1]
    assert [v.name for v in scene.views] == [f"{name}.color" for name in NAMES]
    assert view.camera.positions[0].tolist() == pytest.approx([1, -5, 0])
    assert view.camera.forward[0].tolist() == pytest.approx([0, 1, 0])
    assert readers.pixel(view, (2, 0, 1)) == pytest.approx([20 + 10, 15 - 9.6])
    assert view.depth is not None
    depth = view.depth.load()
    assert depth[..., 2:, :].unique().tolist() == pytest.approx([5])
    assert depth[:, :2].abs().max() == 0


def test_points_lie_where_the_depths_say_with_the_colours_of_the_photos(tmp_path: Path) -> None:
    scene = load_scene(_capture(tmp_path), test_every=0)
    points = scene.points
    assert points is not None
    assert len(points) == 2 * 30 * 38
    assert torch.allclose(points.xyz[:, 1], torch.zeros(1, dtype=torch.float64), atol=1e-9)
    # Each view sees a stretch of 40 / 50 * 5 of the wall, without its two columns on the left.
    assert float(points.xyz[:, 0].min()) == pytest.approx(-2 + 0.25)
    assert float(points.xyz[:, 0].max()) == pytest.approx(3 - 0.05)
    assert sorted(points.rgb[:, 0].unique().tolist()) == pytest.approx([0, 0.1], abs=0.01)


def test_the_number_of_points_is_shared_by_the_views(tmp_path: Path) -> None:
    scene = load_scene(_capture(tmp_path), test_every=0, downscale=1)
    few = depth_points.from_depth(scene.views, count=100)
    assert few is not None
    assert len(few) == 100
    assert float((few.rgb[:, 0] < 0.05).double().mean()) == 0.5
    assert depth_points.from_depth([]) is None
    for name in NAMES:
        iio.imwrite(tmp_path / f"{name}.depth.png", np.zeros((30, 40), np.uint16))
    assert load_scene(tmp_path).points is None


def test_points_are_the_same_for_any_downscale_and_follow_the_files(tmp_path: Path) -> None:
    _capture(tmp_path)
    first = load_scene(tmp_path, test_every=0).points
    again = load_scene(tmp_path, test_every=0, downscale=1.5).points
    assert first is not None
    assert again is not None
    assert torch.equal(first.xyz, again.xyz)
    iio.imwrite(tmp_path / "frame-000000.depth.png", np.full((30, 40), 4001, np.uint16))
    changed = load_scene(tmp_path, test_every=0).points
    assert changed is not None
    assert float(changed.xyz[:, 1].min()) == pytest.approx(-0.999)


def test_held_out_frames_give_no_points(tmp_path: Path) -> None:
    scene = load_scene(_capture(tmp_path), test_every=2)
    assert scene.test == (0,)
    assert scene.points is not None
    assert scene.points.rgb[:, 0].min() > 0.05


def test_depths_of_another_size_and_none(tmp_path: Path) -> None:
    _capture(tmp_path)
    iio.imwrite(tmp_path / "frame-000000.depth.png", np.full((15, 20), 4000, np.uint16))
    (tmp_path / "frame-000003.depth.png").unlink()
    scene = load_scene(tmp_path, test_every=0)
    assert scene.views[0].depth is not None
    assert scene.views[0].depth.load().shape == (30, 40, 1)
    assert scene.views[1].depth is None


def test_intrinsics_by_other_names(tmp_path: Path) -> None:
    _capture(tmp_path / "seq-01")
    (tmp_path / "seq-01" / "camera-intrinsics.txt").unlink()
    (tmp_path / "intrinsics.txt").write_text("50 0 20 0\n0 48 15 0\n0 0 1 0\n0 0 0 1\n")
    assert float(load_scene(tmp_path / "seq-01").views[0].camera.Ks[0, 1, 1]) == 48
    (tmp_path / "intrinsics.txt").unlink()
    assert "has no intrinsics; looked for camera-intrinsics.txt, " in readers.refused(tmp_path / "seq-01")


def test_frames_that_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A camera that was lost, a photo without a pose, a pose without a photo."""
    _capture(tmp_path)
    readers.photos(tmp_path, [f"frame-00000{i}.color.png" for i in (5, 6)])
    (tmp_path / "frame-000005.pose.txt").write_text("-inf " * 16)
    (tmp_path / "frame-000007.pose.txt").write_text(POSE.format(x=7))
    with caplog.at_level(logging.WARNING, logger="recon"):
        assert len(load_scene(tmp_path).views) == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: 1 of 3 photos are not there, 1 lost their pose, 1 have no pose; left out"
    ]


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "named", "said"),
    [
        (_write("frame-000000.pose.txt", "1 2 3"), "frame-000000.pose.txt", "'1 2 3' is not 16 finite numbers"),
        (_write("frame-000000.pose.txt", POSE.format(x="nan")), "frame-000000.pose.txt", "is not 16 finite numbers"),
        (_write("frame-000000.pose.txt", ""), "frame-000000.pose.txt", "'' is not 16 finite numbers"),
        (_write("frame-000000.pose.txt", "0 " * 16), "frame-000000.pose.txt", "is singular"),
        (
            _write("frame-000000.pose.txt", "2" + POSE.format(x=0)[1:]),
            "frame-000000.pose.txt",
            "pose is not a rotation",
        ),
        (_write("camera-intrinsics.txt", "50 0 20"), "camera-intrinsics.txt", "'50 0 20' is not 9 finite numbers"),
        (_write("camera-intrinsics.txt", "50 9 20 0 50 15 0 0 1"), "camera-intrinsics.txt", "skew 9 is not 0"),
        (_write("frame-000000.color.png", "no photo"), "frame-000000.color.png", "cannot be read as an image"),
        (_write("frame-000000.depth.png", "no depth"), "frame-000000.depth.png", "cannot be read as an image"),
    ],
)
def test_bad_files_are_named_in_one_line(
    tmp_path: Path, damage: Callable[[Path], object], named: str, said: str
) -> None:
    damage(_capture(tmp_path))
    assert said in readers.refused(tmp_path, tmp_path / named)


def test_real_frames_agree_with_one_another(real_data: Callable[[str], Path]) -> None:
    """What a frame measures projects to what another one measures there."""
    scene = load_scene(real_data("rgbd"), test_every=0)
    assert len(scene.views) == 17
    assert scene.points is not None
    assert 50_000 < len(scene.points) <= depth_points.COUNT
    first, second = scene.views[0], scene.views[2]
    points = depth_points.from_depth([first], count=20_000)
    assert points is not None
    assert second.depth is not None
    pixels, depth = second.camera.project(points.xyz)
    x, y = pixels[0].long().unbind(dim=-1)
    inside = (x >= 0) & (x < 640) & (y >= 0) & (y < 480)
    assert float(inside.double().mean()) > 0.8
    measured = second.depth.load()[y[inside], x[inside], 0]
    known = measured > 0
    difference = (depth[0][inside][known] - measured[known]).abs()
    assert float(difference.median()) < 0.02
    image = second.load()
    colours = (image[y[inside][known], x[inside][known]] - points.rgb[inside][known]).abs().mean(dim=-1)
    assert float(colours.median()) < 0.05
