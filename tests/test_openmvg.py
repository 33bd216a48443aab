"""OpenMVG's sfm_data.json. The fixture has the fields that sfm_data_io_cereal.cpp and the lenses' *_io.hpp write."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import readers
from recon.datasets import load_scene, openmvg

NEW = 1 << 31


def _intrinsic(key: int, kind: str | None, kind_id: int, **more: Any) -> dict[str, Any]:
    data = {"width": 40, "height": 30, "focal_length": 50.0, "principal_point": [19.5, 14.5], **more}
    value: dict[str, Any] = {"polymorphic_id": kind_id, "ptr_wrapper": {"id": NEW + 10 + key, "data": data}}
    return {"key": key, "value": {**value, **({"polymorphic_name": kind} if kind else {})}}


def _view(key: int, name: str, intrinsic: int = 0, pose: int | None = None) -> dict[str, Any]:
    data = {
        "local_path": "/",
        "filename": name,
        "width": 40,
        "height": 30,
        "id_view": key,
        "id_intrinsic": intrinsic,
        "id_pose": key if pose is None else pose,
    }
    return {"key": key, "value": {"polymorphic_id": 1 << 30, "ptr_wrapper": {"id": NEW + 1 + key, "data": data}}}


# A camera that looks along +y with z up: rows are right x, down -z, forward y.
ROTATION = [[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]
META: dict[str, Any] = {
    "sfm_data_version": "0.3",
    "root_path": "/home/somebody/photos",
    "views": [_view(0, "a.png"), _view(1, "b.png", 1), _view(2, "c.png", 2)],
    "intrinsics": [
        _intrinsic(0, "pinhole", NEW + 1),
        _intrinsic(1, "pinhole_radial_k3", NEW + 2, disto_k3=[-0.1, 0.02, 0.003]),
        _intrinsic(2, None, 2, disto_k3=[0.0, 0.0, 0.0]),
    ],
    "extrinsics": [
        {"key": 0, "value": {"rotation": ROTATION, "center": [1.0, -5.0, 0.0]}},
        {"key": 1, "value": {"rotation": ROTATION, "center": [0.0, -5.0, 0.0]}},
    ],
    "structure": [
        {
            "key": 7,
            "value": {"X": [2.0, 0.0, 1.0], "observations": [{"key": 0, "value": {"id_feat": 1}}]},
        },
        {"key": 8, "value": {"X": [0.0, 0.0, 0.0], "observations": [{"key": 1}, {"key": 2}]}},
    ],
    "control_points": [],
}


def _capture(path: Path, change: Callable[[dict[str, Any]], object] = lambda meta: None) -> Path:
    readers.photos(path, ["a.png", "b.png", "c.png"])
    meta = copy.deepcopy(META)
    change(meta)
    (path / "sfm_data.json").write_text(json.dumps(meta))
    return path


def test_cameras_points_and_tracks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(_capture(tmp_path), test_every=0)
    assert [view.name for view in scene.views] == ["a", "b"]
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}/sfm_data.json: 1 have no pose; left out"]
    camera = scene.views[0].camera
    assert camera.positions[0].tolist() == pytest.approx([1, -5, 0])
    assert camera.forward[0].tolist() == pytest.approx([0, 1, 0])
    assert camera.up[0].tolist() == pytest.approx([0, 0, 1])
    # 19.5 from the first pixel's centre is 20 from its corner; the point is 1 right, 1 up, 5 ahead.
    assert readers.pixel(scene.views[0], (2, 0, 1)) == pytest.approx([20 + 10, 15 - 10])
    assert scene.points is not None
    assert scene.points.xyz.tolist() == [[2, 0, 1], [0, 0, 0]]
    assert scene.points.tracks is not None
    assert scene.points.tracks.tolist() == [[0, 0], [1, 1]]
    # Each point has the colour of the photo that shows it.
    assert torch.allclose(scene.points.rgb, torch.tensor([[0.0] * 3, [0.1] * 3]), atol=0.01)


def _radius(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x * x + y * y


def _brown(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r2, (k1, k2, k3, t1, t2) = _radius(x, y), (-0.1, 0.02, 0.003, 0.004, -0.005)
    radial = k1 * r2 + k2 * r2**2 + k3 * r2**3
    xd = x + x * radial + t2 * (r2 + 2 * x * x) + 2 * t1 * x * y
    yd = y + y * radial + t1 * (r2 + 2 * y * y) + 2 * t2 * x * y
    return 50 * xd + 20, 50 * yd + 15


def _fisheye(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r = np.sqrt(_radius(x, y)).clip(min=1e-12)
    theta = np.arctan(r)
    scale = theta * (1 + 0.1 * theta**2 - 0.02 * theta**4 + 0.003 * theta**6 - 0.0004 * theta**8) / r
    return 50 * x * scale + 20, 50 * y * scale + 15


LENSES: list[tuple[str, dict[str, Any], Callable[..., Any]]] = [
    (
        "pinhole_radial_k1",
        {"disto_k1": [-0.1]},
        lambda x, y: (50 * x * (1 - 0.1 * _radius(x, y)) + 20, 50 * y * (1 - 0.1 * _radius(x, y)) + 15),
    ),
    ("pinhole_brown_t2", {"disto_t2": [-0.1, 0.02, 0.003, 0.004, -0.005]}, _brown),
    ("fisheye", {"fisheye": [0.1, -0.02, 0.003, -0.0004]}, _fisheye),
]


@pytest.mark.parametrize(("kind", "numbers", "formula"), LENSES, ids=[kind for kind, _, _ in LENSES])
def test_lenses_are_openmvgs(tmp_path: Path, kind: str, numbers: dict[str, Any], formula: Callable[..., Any]) -> None:
    def change(meta: dict[str, Any]) -> None:
        meta["intrinsics"][1:] = [_intrinsic(1, kind, NEW + 2, **numbers), _intrinsic(2, None, 2, **numbers)]

    scene = load_scene(_capture(tmp_path, change), test_every=0)
    readers.assert_lens(readers.lens(readers.view(scene, "b")), formula)


def test_three_radial_coefficients(tmp_path: Path) -> None:
    def formula(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r2 = _radius(x, y)
        radial = 1 - 0.1 * r2 + 0.02 * r2**2 + 0.003 * r2**3
        return 50 * x * radial + 20, 50 * y * radial + 15

    scene = load_scene(_capture(tmp_path), test_every=0)
    readers.assert_lens(readers.lens(readers.view(scene, "b")), formula)


def test_older_files_keep_what_lenses_share_in_an_object_of_its_own(tmp_path: Path) -> None:
    def change(meta: dict[str, Any]) -> None:
        pointer = meta["intrinsics"][1]["value"]["ptr_wrapper"]
        k3 = pointer["data"].pop("disto_k3")
        pointer["data"] = {"value0": pointer["data"], "disto_k3": k3}

    scene = load_scene(_capture(tmp_path, change), test_every=0)
    assert readers.lens(readers.view(scene, "b")).params[:4] == (50, 50, 20, 15)


def test_photos_elsewhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In images/, of which there are smaller copies; with a Windows path; results have a folder of their own."""
    readers.photos(tmp_path / "images", ["a.png", "b.png"])
    readers.photos(tmp_path / "images_2", ["a.jpg", "b.jpg"], 20, 15)

    def change(meta: dict[str, Any]) -> None:
        meta["root_path"] = "C:\\Users\\me\\photos"
        meta["views"] = meta["views"][:2]

    _capture(tmp_path / "reconstruction_sequential", change)
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "reconstruction_sequential" / name).unlink()
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(tmp_path, test_every=0)
        half = load_scene(tmp_path, test_every=0, downscale=2)
    assert not caplog.records
    assert [view.name for view in scene.views] == ["a", "b"]
    assert half.views[0].camera.width == 20
    assert readers.pixel(half.views[0], (2, 0, 1)) == pytest.approx([15, 2.5])


def test_photos_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _capture(tmp_path)
    (tmp_path / "b.png").unlink()
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(tmp_path, test_every=0)
    assert [view.name for view in scene.views] == ["a"]
    assert len(caplog.records) == 1
    assert "1 of 2 photos are not there, 1 have no pose; left out" in caplog.text
    assert scene.points is not None
    assert scene.points.tracks is not None
    assert scene.points.tracks.tolist() == [[0, 0]]
    (tmp_path / "a.png").unlink()
    assert "none of its 2 photos is there, such as /home/somebody/photos/a.png" in readers.refused(tmp_path)


def test_two_photos_of_one_name_that_lie_in_one_place(tmp_path: Path) -> None:
    def change(meta: dict[str, Any]) -> None:
        for i, view in enumerate(meta["views"][:2]):
            view["value"]["ptr_wrapper"]["data"].update(local_path=f"/cam{i}", filename="a.png")

    assert "cam0/a.png and /home/somebody/photos/cam1/a.png would both be" in readers.refused(
        _capture(tmp_path, change)
    )


def _set(name: str, number: int, key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    def change(meta: dict[str, Any]) -> None:
        entry = meta[name][number]["value"]
        entry = entry["ptr_wrapper"]["data"] if "ptr_wrapper" in entry else entry
        if value is None:
            del entry[key]
        else:
            entry[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda meta: meta.pop("views"), "has no views"),
        (lambda meta: meta.update(views={}), "views is not a list"),
        (lambda meta: meta.update(views=[]), "has no photos"),
        (lambda meta: meta.update(views=[1]), "views[0]: has no value"),
        (lambda meta: meta.update(extrinsics=[]), "has no photos (3 have no pose)"),
        (lambda meta: meta.pop("intrinsics"), "has no intrinsics"),
        (lambda meta: meta["intrinsics"].pop(0), "views[0]: has intrinsic 0, which is not there"),
        (lambda meta: meta["intrinsics"][0]["value"].update(polymorphic_name="spherical"), "lens spherical is none of"),
        (lambda meta: meta["intrinsics"][2]["value"].update(polymorphic_id=5), "intrinsics[2]: lens without a name"),
        (_set("views", 1, "filename", None), "views[1]: has no filename"),
        (_set("views", 1, "id_pose", 0.5), "views[1]: id_pose 0.5 is not a whole number"),
        (_set("intrinsics", 0, "focal_length", float("nan")), "intrinsics[0]: focal_length nan is not a finite number"),
        (_set("intrinsics", 0, "focal_length", -50), "views[0]: focal length -50 is not positive"),
        (_set("intrinsics", 0, "width", None), "intrinsics[0]: has no width"),
        (_set("intrinsics", 0, "width", 80), "image is 40x30, its camera is for 80x30"),
        (_set("intrinsics", 0, "principal_point", [1]), "principal_point is not 2 numbers: [1]"),
        (_set("intrinsics", 1, "disto_k3", [0, 0]), "intrinsics[1]: disto_k3 is not 3 numbers: [0, 0]"),
        (_set("extrinsics", 0, "rotation", [[1, 0, 0]]), "extrinsics[0]: rotation is not 3 rows: [[1, 0, 0]]"),
        (_set("extrinsics", 0, "rotation", [[2, 0, 0], [0, 1, 0], [0, 0, 1]]), "views[0]: pose is not a rotation"),
        (_set("extrinsics", 0, "center", [0, float("inf"), 0]), "center is not 3 finite numbers: [0, inf, 0]"),
        (_set("structure", 0, "X", [1, 2]), "structure[0]: X is not 3 numbers: [1, 2]"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    _capture(tmp_path, change)
    message = readers.refused(tmp_path)
    assert said in message


def test_a_file_that_is_cut_is_no_json(tmp_path: Path) -> None:
    file = _capture(tmp_path) / "sfm_data.json"
    text = file.read_text()
    for length in range(0, len(text), 97):
        file.write_text(text[:length])
        assert "is not JSON" in readers.refused(tmp_path, file)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _capture(tmp_path_factory.mktemp("openmvg"))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_damage_is_an_input_error_or_a_scene(capture: Path, data: st.DataObject) -> None:
    (capture / "sfm_data.json").write_text(json.dumps(readers.damaged(META, data)))
    readers.read_or_refused(openmvg.load, capture)
