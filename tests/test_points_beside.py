"""Points in a .ply beside captures whose own file has none."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import captures
from recon.datasets import load_scene, points_beside
from recon.datasets.images import save_image
from recon.datasets.ply import read_fields
from recon.datasets.point_cloud import write_points
from recon.datasets.scene import Points, Scene
from small_scene import small_scene
from test_written_capture import metashape, neus, realitycapture


def written(path: Path, write: object) -> Scene:
    """small_scene in a format without points, and its points beside it."""
    scene = small_scene()
    for view in scene.views:
        save_image(path / "images" / f"{view.name}.png", view.load())
    write(path, [view.camera.viewmats[0].numpy() for view in scene.views])  # type: ignore[operator]
    assert scene.points is not None
    write_points(path / "cloud.ply", scene.points)
    return scene


@pytest.mark.parametrize("write", [metashape, realitycapture, neus])
def test_points_come_with_the_cameras(tmp_path: Path, write: object) -> None:
    scene = written(tmp_path, write)
    points = load_scene(tmp_path).points
    assert points is not None
    assert scene.points is not None
    assert torch.allclose(points.xyz, scene.points.xyz, atol=1e-6)
    assert torch.allclose(points.rgb, scene.points.rgb, atol=1e-6)


def test_points_follow_the_frame_of_the_files(tmp_path: Path) -> None:
    """NeuS's scenes lie in the unit sphere, whose place in the frame of its files is another."""
    scene = written(tmp_path, neus)
    arrays: dict[str, Any] = dict(np.load(tmp_path / "cameras_sphere.npz"))
    sphere = np.diag([2.0, 2.0, 2.0, 1.0])
    sphere[:3, 3] = (0.1, 0.2, 0.3)
    arrays |= {name: sphere for name in arrays if "scale" in name}
    np.savez(tmp_path / "cameras_sphere.npz", **arrays)
    again = load_scene(tmp_path)
    assert again.points is not None
    assert scene.points is not None
    for view, old in zip(again.views, scene.views, strict=True):
        assert torch.allclose(
            view.camera.project(again.points.xyz)[0], old.camera.project(scene.points.xyz)[0], atol=1e-3
        )


def test_points_of_elsewhere_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scene = written(tmp_path, realitycapture)
    assert scene.points is not None
    write_points(tmp_path / "cloud.ply", replace(scene.points, xyz=scene.points.xyz + 100))
    with caplog.at_level(logging.WARNING):
        assert load_scene(tmp_path).points is None
    assert "cloud.ply: its points are left out: the capture's cameras see only 0% of them" in caplog.text


def test_of_two_files_none_is_taken_and_splats_and_rubbish_do_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = written(tmp_path, realitycapture)
    assert scene.points is not None
    (tmp_path / "rubbish.ply").write_bytes(b"ply\nwhat")
    names = "".join(f"property float {name}\n" for name in ("x", "y", "z", "f_dc_0"))
    (tmp_path / "splats.ply").write_text(f"ply\nformat ascii 1.0\nelement vertex 1\n{names}end_header\n0 0 0 0\n")
    assert load_scene(tmp_path).points is not None
    write_points(tmp_path / "more.ply", scene.points)
    with caplog.at_level(logging.WARNING):
        assert load_scene(tmp_path).points is None
    assert "2 .ply files; none is taken for the capture's points" in caplog.text


@pytest.mark.parametrize("count", [1, 19_999, 20_001, 70_000])
def test_a_part_of_many_points_is_looked_at(count: int) -> None:
    scene = small_scene()
    points = Points(torch.zeros(count, 3, dtype=torch.float64), torch.zeros(count, 3))
    assert points_beside.if_seen(points, scene.views, Path("x")) is points


def test_the_names_of_fields_need_no_rows(tmp_path: Path) -> None:
    points = captures.scene(tmp_path / "photos").points
    assert points is not None
    write_points(tmp_path / "a.ply", points, torch.zeros(len(points), 3))
    (tmp_path / "a.ply").write_bytes((tmp_path / "a.ply").read_bytes()[:250])
    assert read_fields(tmp_path / "a.ply") == ["x", "y", "z", "nx", "ny", "nz", "red", "green", "blue"]
