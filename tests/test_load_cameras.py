"""Cameras to render along, from a transforms.json without photos."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from recon.datasets import nerfstudio
from recon.datasets.cameras import OPENCV_FROM_OPENGL, Cameras, intrinsics, look_at
from recon.datasets.errors import InputError
from recon.datasets.nerfstudio import load_cameras


def ring(count: int) -> Cameras:
    """Round the origin, 40x30 px."""
    turns = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    eyes = torch.stack([5 * turns.cos(), 5 * turns.sin(), torch.full_like(turns, 1.5)], dim=-1)
    c2w = look_at(eyes, torch.zeros_like(eyes), torch.tensor([0.0, 0.0, 1.0]))
    return Cameras.from_c2w(c2w, intrinsics(40, 44, 22, 13.5).expand(count, 3, 3), 40, 30)


def camera_file(folder: Path, *, count: int = 3, **shared: Any) -> Path:
    """A transforms.json with the cameras of `ring`, intrinsics shared; `shared` overrides them (None: leaves out)."""
    cameras = ring(count)
    K = cameras.Ks[0].tolist()
    fields: dict[str, Any] = {"fl_x": K[0][0], "fl_y": K[1][1], "cx": K[0][2], "cy": K[1][2], "w": 40, "h": 30} | shared
    fields = {key: value for key, value in fields.items() if value is not None}
    fields["frames"] = [{"transform_matrix": (pose @ OPENCV_FROM_OPENGL).tolist()} for pose in cameras.c2w]
    (folder / "transforms.json").write_text(json.dumps(fields))
    return folder / "transforms.json"


def test_cameras_come_from_a_file_without_photos(tmp_path: Path) -> None:
    file = camera_file(tmp_path)
    for path in (file, tmp_path):
        cameras = load_cameras(path)
        assert (cameras.width, cameras.height) == (40, 30)
        assert torch.allclose(cameras.viewmats, ring(3).viewmats, atol=1e-12)
        assert torch.allclose(cameras.Ks, ring(3).Ks, atol=1e-12)


def test_a_field_of_view_serves_for_a_focal_length(tmp_path: Path) -> None:
    angle = 2 * math.atan(20 / 50)
    file = camera_file(tmp_path, fl_x=None, fl_y=None, cx=None, cy=None, camera_angle_x=angle)
    assert torch.allclose(load_cameras(file).Ks, intrinsics(50, 50, 20, 15), atol=1e-9)


@pytest.mark.parametrize("lens", [{}, {"k1": 0.1, "k2": -0.02, "p1": 0.001}], ids=["pinhole", "distorted"])
def test_a_capture_s_own_file_gives_the_capture_s_cameras(tmp_path: Path, lens: dict[str, Any]) -> None:
    """Photos, a lens, and a frame that was moved and scaled: what `load` calls the source frame."""
    turn = [[0.0, -1.0, 0.0, 0.5], [1.0, 0.0, 0.0, -2.0], [0.0, 0.0, 1.0, 0.25]]
    file = camera_file(tmp_path, applied_transform=turn, applied_scale=0.5, **lens)
    meta = json.loads(file.read_text())
    for number, frame in enumerate(meta["frames"]):
        frame["file_path"] = f"{number}.png"
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / frame["file_path"])
    file.write_text(json.dumps(meta))
    scene = nerfstudio.load(tmp_path)
    expected = Cameras.cat([view.camera for view in scene.views]).transformed(scene.source_from_world)
    found = load_cameras(file)
    assert (found.width, found.height) == (expected.width, expected.height)
    assert torch.allclose(found.viewmats, expected.viewmats, atol=1e-9)
    assert torch.allclose(found.Ks, expected.Ks, atol=1e-9)
    assert not torch.allclose(found.positions, ring(3).positions, atol=0.1)


def test_camera_files_that_cannot_be_used(tmp_path: Path) -> None:
    def with_frame(**changes: Any) -> str:
        meta = json.loads(camera_file(tmp_path).read_text())
        meta["frames"][1] |= changes
        return json.dumps(meta)

    nan_pose = np.full((4, 4), math.nan).tolist()
    sheared = [[1.0, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    cases = {
        "is not JSON": "cameras",
        "no list of frames": "{}",
        "frame 0: has no image size": camera_file(tmp_path, w=None).read_text(),
        "frame 0: has no focal length": camera_file(tmp_path, fl_x=None, fl_y=None).read_text(),
        "frame 1: is 80x30, those before it 40x30": with_frame(w=80),
        "frame 1: transform_matrix has values that are not finite": with_frame(transform_matrix=nan_pose),
        "frame 1: pose is not a rotation": with_frame(transform_matrix=sheared),
        "frame 1: focal length -3 is not positive": with_frame(fl_x=-3),
        "frame 1: camera size 0x30 is not positive": with_frame(w=0),
    }
    file = tmp_path / "transforms.json"
    for message, content in cases.items():
        file.write_text(content)
        with pytest.raises(InputError) as caught:
            load_cameras(file)
        assert message in str(caught.value)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"nowhere\.json"):
        load_cameras(tmp_path / "nowhere.json")
