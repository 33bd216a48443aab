"""The cameras.json of 3DGS's training, with the fields that its camera_to_JSON writes."""

from __future__ import annotations

import copy
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import readers
from recon.datasets import cameras_json, load_scene
from recon.datasets.point_cloud import write_points
from recon.datasets.scene import Points

# Columns are the camera's axes: right x, down -z, forward y.
ROTATION = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]
SHARED = {"width": 40, "height": 30, "rotation": ROTATION, "fx": 50.0, "fy": 48.0}
META: list[dict[str, Any]] = [
    {"id": 0, "img_name": "a", "position": [1.0, -5.0, 0.0], **SHARED},
    {"id": 1, "img_name": "b.png", "position": [0.0, -5.0, 0.0], **SHARED},
]


def _capture(path: Path, key: str = "", value: Any = None) -> Path:
    readers.photos(path / "images", ["a.png", "b.png"])
    meta = copy.deepcopy(META)
    if key:
        meta[0][key] = value
    (path / "cameras.json").write_text(json.dumps(meta))
    return path


def test_cameras_and_points(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _capture(tmp_path)
    write_points(tmp_path / "input.ply", Points(torch.tensor([[2.0, 0, 1]]), torch.tensor([[1.0, 0.2, 0]])))
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(tmp_path, test_every=0)
    assert not caplog.records
    assert [view.name for view in scene.views] == ["a", "b"]
    camera = scene.views[0].camera
    assert camera.positions[0].tolist() == pytest.approx([1, -5, 0])
    assert camera.forward[0].tolist() == pytest.approx([0, 1, 0])
    assert camera.up[0].tolist() == pytest.approx([0, 0, 1])
    assert readers.pixel(scene.views[0], (2, 0, 1)) == pytest.approx([20 + 10, 15 - 9.6])
    assert scene.points is not None
    assert scene.points.xyz.tolist() == [[2, 0, 1]]


def test_names_that_are_numbers(tmp_path: Path) -> None:
    readers.photos(tmp_path / "images", ["7.png"])
    assert [view.name for view in load_scene(_capture(tmp_path, "img_name", 7)).views] == ["7", "b"]


def test_photos_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _capture(tmp_path)
    (tmp_path / "images" / "b.png").unlink()
    with caplog.at_level(logging.WARNING, logger="recon"):
        assert [view.name for view in load_scene(tmp_path / "cameras.json").views] == ["a"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/cameras.json: 1 of 2 photos are not there; left out"
    ]
    (tmp_path / "images" / "a.png").unlink()
    assert "none of its 2 photos is there, such as a" in readers.refused(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("img_name", None, "[0]: has no img_name"),
        ("width", None, "a: has no width"),
        ("width", 40.5, "a: width 40.5 is not a whole number"),
        ("width", 80, "image is 40x30, its camera is for 80x30"),
        ("fx", math.nan, "a: fx nan is not a finite number"),
        ("fy", 0, "a: focal length 0 is not positive"),
        ("position", [1, 2], "a: position is not 3 numbers: [1, 2]"),
        ("position", [1, 2, math.inf], "a: position is not 3 finite numbers: [1, 2, inf]"),
        ("rotation", [1], "a: rotation is not 3 rows: [1]"),
        ("rotation", [[1, 0, 0]] * 3, "a: pose is not a rotation and a translation"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, key: str, value: Any, said: str) -> None:
    assert said in readers.refused(_capture(tmp_path, key, value))


def test_files_of_that_name_that_are_something_else(tmp_path: Path) -> None:
    file = _capture(tmp_path) / "cameras.json"
    text = file.read_text()
    for length in range(0, len(text), 37):
        file.write_text(text[:length])
        assert "is not JSON" in readers.refused(file)
    file.write_text('{"a lens": {}}')
    assert "no capture is recognised" in readers.refused(tmp_path)
    assert "has no list of cameras" in readers.refused(file)
    file.write_text("[]")
    assert "has no photos" in readers.refused(file)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _capture(tmp_path_factory.mktemp("cameras_json"))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_damage_is_an_input_error_or_a_scene(capture: Path, data: st.DataObject) -> None:
    (capture / "cameras.json").write_text(json.dumps(readers.damaged(META, data)))
    readers.read_or_refused(cameras_json.load, capture)
