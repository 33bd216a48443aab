"""OpenSfM's reconstruction.json, with the fields that https://opensfm.org/docs/dataset.html and opensfm/io.py name."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import readers
from recon.datasets import load_scene, opensfm

# A camera that looks along +y with z up: its rotation takes y to z and z to -y.
LOOKS_ALONG_Y = [math.pi / 2, 0.0, 0.0]
META: list[dict[str, Any]] = [
    {
        "cameras": {
            "a lens": {"projection_type": "perspective", "width": 40, "height": 30, "focal": 1.25, "k1": 0, "k2": 0},
            "bent": {
                "projection_type": "perspective",
                "width": 40,
                "height": 30,
                "focal": 1.25,
                "k1": -0.1,
                "k2": 0.02,
            },
        },
        "shots": {
            "a.png": {"rotation": LOOKS_ALONG_Y, "translation": [-1.0, 0.0, 5.0], "camera": "a lens"},
            "b.png": {"rotation": LOOKS_ALONG_Y, "translation": [0.0, 0.0, 5.0], "camera": "bent", "orientation": 1},
        },
        "points": {"1": {"coordinates": [2.0, 0.0, 1.0], "color": [255.0, 127.5, 0.0]}},
        "reference_lla": {"latitude": 50.0, "longitude": 8.0, "altitude": 100.0},
    }
]


def _capture(path: Path, change: Callable[[dict[str, Any]], object] = lambda part: None) -> Path:
    readers.photos(path / "images", ["a.png", "b.png"])
    meta = copy.deepcopy(META)
    change(meta[0])
    (path / "reconstruction.json").write_text(json.dumps(meta))
    return path


def test_cameras_and_points(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(_capture(tmp_path), test_every=0)
    assert not caplog.records
    assert [view.name for view in scene.views] == ["a", "b"]
    camera = scene.views[0].camera
    assert camera.positions[0].tolist() == pytest.approx([1, -5, 0])
    assert camera.forward[0].tolist() == pytest.approx([0, 1, 0])
    assert camera.up[0].tolist() == pytest.approx([0, 0, 1])
    assert readers.pixel(scene.views[0], (2, 0, 1)) == pytest.approx([20 + 10, 15 - 10])
    assert scene.points is not None
    assert scene.points.xyz.tolist() == [[2, 0, 1]]
    assert scene.points.rgb[0].tolist() == pytest.approx([1, 0.5, 0])


def test_opendronemap_keeps_the_file_in_a_folder_of_its_own(tmp_path: Path) -> None:
    _capture(tmp_path)
    (tmp_path / "opensfm").mkdir()
    (tmp_path / "reconstruction.json").rename(tmp_path / "opensfm" / "reconstruction.json")
    for path in (tmp_path, tmp_path / "opensfm", tmp_path / "opensfm" / "reconstruction.json"):
        scene = load_scene(path, test_every=0)
        assert len(scene.views) == 2
        assert scene.name == tmp_path.name


def _radial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    r2 = x * x + y * y
    return 1 - 0.1 * r2 + 0.02 * r2**2


def _brown(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r2 = x * x + y * y
    radial = _radial(x, y) + 0.003 * r2**3
    xd = x * radial + 2 * 0.004 * x * y - 0.005 * (r2 + 2 * x * x)
    yd = y * radial + 0.004 * (r2 + 2 * y * y) - 2 * 0.005 * x * y
    return 40 * (1.2 * xd + 0.01) + 20, 40 * (1.3 * yd - 0.02) + 15


def _fisheye(*k: float) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    def formula(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r = np.sqrt(x * x + y * y).clip(min=1e-12)
        theta = np.arctan(r)
        bent = theta * (1 + sum(c * theta ** (2 * i + 2) for i, c in enumerate(k))) / r
        return 48 * x * bent + 20, 48 * y * bent + 15

    return formula


BOTH = {"focal_x": 1.2, "focal_y": 1.3, "c_x": 0.01, "c_y": -0.02}
LENSES: list[tuple[dict[str, Any], Callable[..., Any]]] = [
    (
        {"projection_type": "perspective", "focal": 1.2, "k1": -0.1, "k2": 0.02},
        lambda x, y: (48 * x * _radial(x, y) + 20, 48 * y * _radial(x, y) + 15),
    ),
    ({"projection_type": "brown", **BOTH, "k1": -0.1, "k2": 0.02, "k3": 0.003, "p1": 0.004, "p2": -0.005}, _brown),
    (
        {"projection_type": "radial", **BOTH, "k1": -0.1, "k2": 0.02},
        lambda x, y: (40 * (1.2 * x * _radial(x, y) + 0.01) + 20, 40 * (1.3 * y * _radial(x, y) - 0.02) + 15),
    ),
    (
        {"projection_type": "simple_radial", **BOTH, "k1": -0.1},
        lambda x, y: (
            40 * (1.2 * x * (1 - 0.1 * (x * x + y * y)) + 0.01) + 20,
            40 * (1.3 * y * (1 - 0.1 * (x * x + y * y)) - 0.02) + 15,
        ),
    ),
    ({"projection_type": "fisheye", "focal": 1.2, "k1": 0.1, "k2": -0.02}, _fisheye(0.1, -0.02)),
    (
        {"projection_type": "fisheye_opencv", "focal_x": 1.2, "focal_y": 1.2, "k1": 0.1, "k2": -0.02, "k4": 0.003},
        _fisheye(0.1, -0.02, 0, 0.003),
    ),
    (
        {"projection_type": "fisheye62", "focal_x": 1.2, "focal_y": 1.2, "k1": 0.1, "k3": -0.02, "p1": 0, "k5": 0},
        _fisheye(0.1, 0, -0.02),
    ),
]


@pytest.mark.parametrize(("numbers", "formula"), LENSES, ids=[str(n["projection_type"]) for n, _ in LENSES])
def test_lenses_are_opensfms(tmp_path: Path, numbers: dict[str, Any], formula: Callable[..., Any]) -> None:
    def change(part: dict[str, Any]) -> None:
        part["cameras"]["bent"] = {"width": 40, "height": 30, **numbers}

    scene = load_scene(_capture(tmp_path, change), test_every=0)
    readers.assert_lens(readers.lens(scene.views[1]), formula)


@settings(deadline=None)
@given(st.lists(st.floats(-400, 400), min_size=3, max_size=3))
def test_rotations_are_those_of_another_implementation(vector: list[float]) -> None:
    expected = torch.from_numpy(Rotation.from_rotvec(vector).as_matrix())
    assert torch.allclose(opensfm.rotation(vector), expected, rtol=0, atol=1e-9)


def test_of_parts_that_are_not_joined_the_largest_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = _capture(tmp_path) / "reconstruction.json"
    small = copy.deepcopy(META[0])
    del small["shots"]["b.png"]
    file.write_text(json.dumps([small, META[0]]))
    with caplog.at_level(logging.WARNING, logger="recon"):
        assert len(load_scene(tmp_path).views) == 2
    assert "2 reconstructions that are not joined; the largest is [1]" in caplog.text


def test_photos_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _capture(tmp_path)
    (tmp_path / "images" / "b.png").unlink()
    with caplog.at_level(logging.WARNING, logger="recon"):
        assert [view.name for view in load_scene(tmp_path).views] == ["a"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/reconstruction.json: 1 of 2 photos are not there; left out"
    ]
    (tmp_path / "images" / "a.png").unlink()
    assert "none of its 2 photos is there, such as a.png" in readers.refused(tmp_path)


def _set(*path: str, value: Any) -> Callable[[dict[str, Any]], object]:
    def change(part: dict[str, Any]) -> None:
        for key in path[:-1]:
            part = part[key]
        if value is None:
            del part[path[-1]]
        else:
            part[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("shots", value=None), "[0]: has no shots"),
        (_set("shots", value={}), "has no photos"),
        (_set("cameras", value=None), "has no cameras"),
        (_set("cameras", "a lens", value=[]), "camera a lens: is not an object"),
        (_set("cameras", "a lens", "projection_type", value="spherical"), "projection_type spherical is none of"),
        (_set("cameras", "a lens", value={"projection_type": "fisheye62", "p1": 0.1}), "fisheye62 is none of"),
        (_set("cameras", "a lens", "focal", value=None), "camera a lens: has no focal"),
        (_set("cameras", "a lens", "focal", value=math.nan), "camera a lens: focal nan is not a finite number"),
        (_set("cameras", "a lens", "focal", value=-1), "shot a.png: focal length -40 is not positive"),
        (_set("cameras", "a lens", "k1", value="0"), "camera a lens: k1 '0' is not a finite number"),
        (_set("cameras", "a lens", "width", value=80), "image is 40x30, its camera is for 80x30"),
        (_set("shots", "a.png", "camera", value="other"), "shot a.png: has camera 'other', which is not there"),
        (_set("shots", "a.png", "rotation", value=[0, 0]), "shot a.png: rotation is not 3 numbers: [0, 0]"),
        (_set("shots", "a.png", "translation", value=None), "shot a.png: has no translation"),
        (_set("shots", "a.png", "translation", value=[0, math.inf, 0]), "not 3 finite numbers: [0, inf, 0]"),
        (_set("points", "1", "color", value=None), "point 1: has no color"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    assert said in readers.refused(_capture(tmp_path, change))


def test_files_that_make_no_sense(tmp_path: Path) -> None:
    file = _capture(tmp_path) / "reconstruction.json"
    text = file.read_text()
    for length in range(0, len(text), 61):
        file.write_text(text[:length])
        assert "is not JSON" in readers.refused(tmp_path, file)
    for text in ("{}", "[]", "3"):
        file.write_text(text)
        assert "has no list of reconstructions" in readers.refused(tmp_path, file)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _capture(tmp_path_factory.mktemp("opensfm"))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_damage_is_an_input_error_or_a_scene(capture: Path, data: st.DataObject) -> None:
    (capture / "reconstruction.json").write_text(json.dumps(readers.damaged(META, data)))
    readers.read_or_refused(opensfm.load, capture)
