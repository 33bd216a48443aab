"""Record3D's metadata.json, with the fields that its export writes."""

from __future__ import annotations

import copy
import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import readers
from exr_files import write_exr
from recon.datasets import load_scene, record3d

# A quarter turn about y: a camera at (5, 0, x) that looks along -x; and one with the world's own axes.
TURNED = [0.0, math.sqrt(0.5), 0.0, math.sqrt(0.5), 5.0, 0.0, 1.0]
META: dict[str, Any] = {
    "w": 40,
    "h": 30,
    "fps": 30,
    "K": [50.0, 0, 0, 0, 48.0, 0, 20.0, 15.0, 1],
    "poses": [TURNED, [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 5.0]],
}


def _capture(path: Path, **more: Any) -> Path:
    readers.photos(path / "rgb", ["0.jpg", "1.jpg"])
    meta = {key: value for key, value in {**META, **more}.items() if value is not None}
    (path / "metadata.json").write_text(json.dumps(meta))
    return path


def test_cameras(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(_capture(tmp_path), test_every=0)
    assert not caplog.records
    assert scene.name == tmp_path.name
    turned, straight = scene.views
    assert (turned.name, straight.name) == ("0", "1")
    assert turned.camera.positions[0].tolist() == pytest.approx([5, 0, 1])
    assert turned.camera.forward[0].tolist() == pytest.approx([-1, 0, 0])
    assert turned.camera.up[0].tolist() == pytest.approx([0, 1, 0])
    assert readers.pixel(turned, (0, 1, 0)) == pytest.approx([20 + 10, 15 - 9.6])
    assert straight.camera.forward[0].tolist() == pytest.approx([0, 0, -1])
    assert readers.pixel(straight, (2, 1, 0)) == pytest.approx([20 + 10, 15 - 9.6])
    assert scene.up is not None
    assert scene.up.tolist() == [0, 1, 0]


def test_lenses_that_differ_from_photo_to_photo(tmp_path: Path) -> None:
    scene = load_scene(_capture(tmp_path, perFrameIntrinsicCoeffs=[[60, 58, 21, 14], [50, 48, 20, 15]], K=None))
    assert scene.views[0].camera.Ks[0].tolist() == [[60, 0, 21], [0, 58, 14], [0, 0, 1]]
    assert float(scene.views[1].camera.Ks[0, 0, 0]) == 50


def test_depths_become_points(tmp_path: Path) -> None:
    """The camera at (1, 0, 5) looks along -z."""
    _capture(tmp_path)
    (tmp_path / "depth").mkdir()
    write_exr(tmp_path / "depth" / "1.exr", {"Y": np.full((15, 20), 4, np.float16)})
    scene = load_scene(tmp_path, test_every=0)
    assert scene.views[0].depth is None
    assert scene.views[1].depth is not None
    assert torch.equal(scene.views[1].depth.load(), torch.full((30, 40, 1), 4.0))
    assert scene.points is not None
    assert torch.allclose(scene.points.xyz[:, 2], torch.ones(1, dtype=torch.float64))


def test_depths_that_only_openexr_reads_are_left_out_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    _capture(tmp_path)
    (tmp_path / "depth").mkdir()
    write_exr(tmp_path / "depth" / "0.exr", {"R": np.full((15, 20), 4, np.float32)})
    (tmp_path / "depth" / "1.exr").write_bytes(b"v/1\x01\0")
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(tmp_path, test_every=0)
    assert [view.depth for view in scene.views] == [None, None]
    assert scene.points is None
    assert "depth: 2 depth maps are left out: they need the package OpenEXR" in caplog.text


def test_more_than_nine_photos_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    readers.photos(tmp_path / "rgb", [f"{i}.jpg" for i in range(11)])
    poses = [[0.0, 0.0, 0.0, 1.0, float(i), 0.0, 0.0] for i in range(11)]
    scene = load_scene(_capture(tmp_path, poses=poses))
    for view in scene.views:
        assert float(view.camera.positions[0, 0]) == int(view.name)


def test_photos_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _capture(tmp_path)
    (tmp_path / "rgb" / "1.jpg").unlink()
    with caplog.at_level(logging.WARNING, logger="recon"):
        assert [view.name for view in load_scene(tmp_path / "metadata.json").views] == ["0"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/metadata.json: 1 of 2 photos are not there; left out"
    ]
    (tmp_path / "rgb" / "0.jpg").unlink()
    assert "none of its 2 photos is there, such as 0" in readers.refused(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("poses", None, "has no poses"),
        ("poses", [], "has no photos"),
        ("poses", [[0, 0, 0, 1, 0, 0]], "photo 0: pose is not 7 numbers: [0, 0, 0, 1, 0, 0]"),
        ("poses", [[0, 0, 0, math.nan, 0, 0, 0]], "photo 0: pose is not 7 finite numbers"),
        ("poses", [[0, 0, 0, 0, 1, 0, 0]], "photo 0: rotation (0 0 0 0) is not a quaternion"),
        ("w", None, "has no w"),
        ("w", 80, "image is 40x30, its camera is for 80x30"),
        ("K", None, "has no K"),
        ("K", [[50, 0, 0]], "K is not 9 numbers: [[50, 0, 0]]"),
        ("K", [0.0] * 9, "photo 0: focal length 0 is not positive"),
        ("perFrameIntrinsicCoeffs", [[1, 2, 3, 4]], "has 2 poses, but not as many perFrameIntrinsicCoeffs"),
        ("perFrameIntrinsicCoeffs", [[1], [2]], "photo 0: intrinsics is not 4 numbers: [1]"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, key: str, value: Any, said: str) -> None:
    assert said in readers.refused(_capture(tmp_path, **{key: value}))


def test_a_file_that_is_cut_is_no_json(tmp_path: Path) -> None:
    file = _capture(tmp_path) / "metadata.json"
    text = file.read_text()
    for length in range(0, len(text), 23):
        file.write_text(text[:length])
        assert "is not JSON" in readers.refused(tmp_path, file)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _capture(tmp_path_factory.mktemp("record3d"))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_damage_is_an_input_error_or_a_scene(capture: Path, data: st.DataObject) -> None:
    meta = {**copy.deepcopy(META), "perFrameIntrinsicCoeffs": [[60, 58, 21, 14], [50, 48, 20, 15]]}
    (capture / "metadata.json").write_text(json.dumps(readers.damaged(meta, data)))
    readers.read_or_refused(record3d.load, capture)
