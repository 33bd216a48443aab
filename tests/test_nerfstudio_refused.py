"""A transforms.json that cannot be used, or not all of it: refused in one line, or used with a warning."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import captures
from recon.datasets import nerfstudio
from recon.datasets.errors import InputError


def refused(path: Path, **options: float) -> str:
    with pytest.raises(InputError) as error:
        nerfstudio.load(path, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_photos_that_are_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    captures.write_transforms(tmp_path)
    (tmp_path / "images" / "1.png").unlink()
    with caplog.at_level(logging.WARNING):
        scene = nerfstudio.load(tmp_path)
    assert [view.name for view in scene.views] == ["0", "2", "3"]
    assert len(caplog.records) == 1
    for i in (0, 2, 3):
        (tmp_path / "images" / f"{i}.png").unlink()
    assert refused(tmp_path) == f"{tmp_path}/transforms.json: none of its 4 photos is there, such as images/0.png"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ('{"frames": [', "is not JSON"),
        ("[1, 2]", "has no list of frames"),
        ('{"frames": []}', "has no list of frames"),
        ('{"frames": [1]}', "has no list of frames"),
        ('{"frames": [{"transform_matrix": []}]}', "frame 0 has no file_path"),
        ('{"frames": [{"file_path": 3}]}', "frame 0: file_path 3 is not text"),
        ("\udcff", "is not JSON"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "transforms.json").write_bytes(text.encode(errors="surrogateescape"))
    assert said in refused(tmp_path)
    assert str(tmp_path / "transforms.json") in refused(tmp_path)


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda meta: meta["frames"][2].update({key: value})


def _pose(row: int, column: int, value: float) -> Callable[[dict[str, Any]], object]:
    def change(meta: dict[str, Any]) -> None:
        meta["frames"][2]["transform_matrix"][row][column] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_pose(0, 3, math.nan), "transform_matrix has values that are not finite: [-0.164399 -0.128622 0.977972 nan; "),
        (_pose(1, 1, math.inf), "transform_matrix has values that are not finite"),
        (_pose(0, 0, 5.0), "pose is not a rotation and a translation"),
        (_set("transform_matrix", None), "transform_matrix is not a matrix of 4x4 numbers"),
        (_set("transform_matrix", [[1, 2], [3]]), "transform_matrix is not a matrix of 4x4 numbers"),
        (_set("transform_matrix", [["a"] * 4] * 4), "transform_matrix is not a matrix of 4x4 numbers"),
        (_set("transform_matrix", [[0.0] * 4] * 4), "transform_matrix is singular"),
        (_set("fl_x", math.nan), "fl_x nan is not a finite number"),
        (_set("fl_x", "50"), "fl_x '50' is not a finite number"),
        (_set("fl_x", 0), "focal length 0 is not positive"),
        (_set("fl_y", -2), "focal length -2 is not positive"),
        (_set("fl_x", 10**400), "is not a finite number"),
        (_set("w", 1e12), "camera size 1e+12x36 is larger than any image"),
        (_set("w", 0), "camera size 0x36 is not positive"),
        (_set("w", 90), "images/2.png: image is 40x36, its camera is for 90x36"),
        (_set("camera_model", "EQUIRECTANGULAR"), "camera_model EQUIRECTANGULAR is not supported"),
        (_set("ftheta_p0", 1.0), "f-theta lenses (ftheta_p0) are not supported"),
        (_set("mask_path", "nowhere.png"), "nowhere.png: there is no such image"),
        (_set("depth_file_path", "nowhere.png"), "nowhere.png: there is no such image"),
    ],
)
def test_frames_that_cannot_be_used(tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    captures.edit_transforms(captures.write_transforms(tmp_path), change)
    text = refused(tmp_path)
    assert said in text
    assert "2.png" in text or "nowhere.png" in text


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("applied_transform", [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0]], "is not a rotation, a scale and a transl"),
        ("applied_transform", [[2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "is not a rotation, a scale and a transl"),
        ("applied_scale", -1.0, "is not a rotation, a scale and a transl"),
        ("applied_scale", math.nan, "applied_scale nan is not a finite number"),
        ("up", [0, 0, 0], "up [0, 0, 0] is not a direction"),
        ("train_filenames", "all", "train_filenames is not a list"),
        ("camera_angle_x", 4.0, "field of view 4 is not between 0 and pi"),
    ],
)
def test_shared_fields_that_cannot_be_used(tmp_path: Path, field: str, value: Any, said: str) -> None:
    shared = {"w": 40, "h": 36} | ({} if field == "camera_angle_x" else {"fl_x": 50.0})
    assert said in refused(captures.write_transforms(tmp_path, shared, **{field: value}))


def test_no_focal_length(tmp_path: Path) -> None:
    assert "frame images/0.png: has no focal length" in refused(captures.write_transforms(tmp_path, {"w": 40, "h": 36}))


def test_a_broken_ply_is_named(tmp_path: Path) -> None:
    captures.write_transforms(tmp_path, ply_file_path="points.ply")
    (tmp_path / "points.ply").write_bytes(b"ply\nformat ascii 1.0\n")
    assert str(tmp_path / "points.ply") in refused(tmp_path)


@pytest.mark.parametrize("downscale", [0.5, 0, 10])
def test_a_downscale_out_of_range_is_named(tmp_path: Path, downscale: float) -> None:
    assert f"downscale {downscale:g} " in refused(captures.write_transforms(tmp_path), downscale=downscale)
