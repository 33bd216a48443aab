"""Polycam's raw data, as polyform's README describes it."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import readers
from recon.datasets import load_scene

# ARKit's world has y up; a camera at (x, 0, 5) that looks along -z has its axes, as OpenGL's are.
LENS = {"fx": 50.0, "fy": 48.0, "cx": 20.0, "cy": 15.0, "width": 40, "height": 30, "blur_score": 100.0}


def _camera(x: float, **more: Any) -> dict[str, Any]:
    rows = [[1.0, 0, 0, x], [0, 1.0, 0, 0], [0, 0, 1.0, 5]]
    return {**{f"t_{i}{j}": rows[i][j] for i in range(3) for j in range(4)}, **LENS, **more}


def _capture(path: Path, corrected: bool = True, **more: Any) -> Path:
    pictures = ["images", "corrected_images"] if corrected else ["images"]
    for name in pictures:
        readers.photos(path / "keyframes" / name, ["100.jpg", "200.jpg"])
    for name in pictures:
        folder = path / "keyframes" / name.replace("images", "cameras")
        folder.mkdir()
        for stem, x in (("100", 1.0), ("200", 0.0)):
            change = more if stem == "100" else {}
            camera = _camera(x + (0 if name == pictures[-1] else 9), **change)
            (folder / f"{stem}.json").write_text(json.dumps({k: v for k, v in camera.items() if v is not None}))
    return path


@pytest.mark.parametrize("corrected", [True, False])
def test_cameras(tmp_path: Path, corrected: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(_capture(tmp_path, corrected), test_every=0)
    assert not caplog.records
    assert scene.name == tmp_path.name
    assert [view.name for view in scene.views] == ["100", "200"]
    view = scene.views[0]
    assert ("corrected" in str(view.image.path)) is corrected  # type: ignore[attr-defined]
    assert view.camera.positions[0].tolist() == pytest.approx([1, 0, 5])
    assert view.camera.forward[0].tolist() == pytest.approx([0, 0, -1])
    assert view.camera.up[0].tolist() == pytest.approx([0, 1, 0])
    assert readers.pixel(view, (2, 1, 0)) == pytest.approx([20 + 10, 15 - 9.6])
    assert scene.up is not None
    assert scene.up.tolist() == [0, 1, 0]
    assert scene.points is None
    assert len(load_scene(tmp_path / "keyframes").views) == 2


def test_depths_become_points(tmp_path: Path) -> None:
    """LiDAR's depth maps are smaller than the photos."""
    _capture(tmp_path)
    (tmp_path / "keyframes" / "depth").mkdir()
    iio.imwrite(tmp_path / "keyframes" / "depth" / "100.png", np.full((15, 20), 5000, np.uint16))
    scene = load_scene(tmp_path, test_every=0)
    assert scene.points is not None
    assert torch.allclose(scene.points.xyz[:, 2], torch.zeros(1, dtype=torch.float64), atol=1e-9)
    assert scene.views[1].depth is None


def test_depths_of_low_confidence_are_none(tmp_path: Path) -> None:
    """The left half is low, and the rest medium or high."""
    _capture(tmp_path)
    for name in ("depth", "confidence"):
        (tmp_path / "keyframes" / name).mkdir()
    iio.imwrite(tmp_path / "keyframes" / "depth" / "100.png", np.full((15, 20), 5000, np.uint16))
    levels = np.repeat(np.array([0, 0, 127, 255], np.uint8), 2)
    iio.imwrite(tmp_path / "keyframes" / "confidence" / "100.png", np.tile(levels, (6, 1)))
    depth = load_scene(tmp_path, test_every=0).views[0].depth
    assert depth is not None
    height, width = depth.load().shape[:2]
    expected = torch.where(torch.arange(width) < width // 2, 0.0, 5.0).expand(height, width)
    assert torch.allclose(depth.load()[..., 0], expected)


def test_photos_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _capture(tmp_path)
    folder = tmp_path / "keyframes" / "corrected_images"
    (folder / "200.jpg").unlink()
    with caplog.at_level(logging.WARNING, logger="recon"):
        assert [view.name for view in load_scene(tmp_path).views] == ["100"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/keyframes/corrected_cameras: 1 of 2 photos are not there; left out"
    ]
    (folder / "100.jpg").unlink()
    assert "none of its 2 photos is there, such as 100" in readers.refused(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("fx", None, "has no fx"),
        ("t_12", None, "has no t_12"),
        ("t_03", math.nan, "t_03 nan is not a finite number"),
        ("t_00", "1", "t_00 '1' is not a finite number"),
        ("t_00", 2.0, "pose is not a rotation and a translation"),
        ("t_00", 0.0, "its matrix t_00 to t_23 is singular"),
        ("cx", math.inf, "cx inf is not a finite number"),
        ("fy", -1.0, "focal length -1 is not positive"),
        ("width", 40.5, "width 40.5 is not a whole number"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, key: str, value: Any, said: str) -> None:
    _capture(tmp_path, **{key: value})
    assert said in readers.refused(tmp_path, tmp_path / "keyframes" / "corrected_cameras" / "100.json")


def test_files_that_make_no_sense(tmp_path: Path) -> None:
    file = _capture(tmp_path) / "keyframes" / "corrected_cameras" / "100.json"
    text = file.read_text()
    for length in range(0, len(text), 23):
        file.write_text(text[:length])
        assert "is not JSON" in readers.refused(tmp_path, file)
    file.write_text("[]")
    assert "is not an object" in readers.refused(tmp_path, file)
