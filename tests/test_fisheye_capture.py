"""Poses from fisheye photos, as far as they are put right by the lens that was found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch

from sources import SCRIPTS

if not SCRIPTS:
    pytest.skip("the scripts are not beside the tests", allow_module_level=True)

from _filmed import UP, errors
from recon import capturing
from recon.datasets import load_scene, shading, synthetic
from recon.datasets.cameras import look_at
from recon.datasets.decode import save_pixels
from recon.datasets.errors import InputError
from recon.datasets.sources import Wishes, find

WIDTH, HEIGHT, FOCAL = 960, 720, 340.0  # 130 degrees across
LENS = (FOCAL, FOCAL, 474.0, 366.0, 0.03, -0.01, 0.0, 0.0)


def photograph(folder: Path, count: int) -> torch.Tensor:
    """Photos of the still life through a fisheye lens, from an arc; their poses [N,4,4], camera to world."""
    at = np.arange(count)
    azimuth = 0.12 * at
    eyes = np.stack([1.5 * np.cos(azimuth), 1.5 * np.sin(azimuth), 0.9 + 0.1 * np.cos(2 * at)], axis=-1)
    poses = look_at(torch.from_numpy(eyes), torch.tensor([[0.0, 0.0, 0.35]]).double().expand(count, 3), UP)
    camera = pycolmap.Camera(model="OPENCV_FISHEYE", width=WIDTH, height=HEIGHT, params=LENS)
    grid = np.stack(np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5), axis=-1).reshape(-1, 2)
    own = np.c_[camera.cam_from_img(grid), np.ones(len(grid))]
    for i, pose in enumerate(poses.numpy()):
        ways = own @ pose[:3, :3].T
        ways = (ways / np.linalg.norm(ways, axis=1, keepdims=True)).astype(np.float32)
        eye = np.tile(pose[:3, 3].astype(np.float32), (len(ways), 1))
        seen = shading.tone_map(shading.look(synthetic._stage(), eye, ways)).reshape(HEIGHT, WIDTH, 3)
        save_pixels(folder / f"fish_{i:02d}.png", np.rint(255 * seen).astype(np.uint8))
    return poses


@pytest.mark.slow
def test_fisheye_photos_get_their_poses_and_their_lens(tmp_path: Path) -> None:
    poses = photograph(tmp_path / "photos", 10)
    report = capturing.capture_photos(tmp_path / "photos", tmp_path / "scene", Wishes(fisheye=True))
    assert report.registered == 10
    camera = next(iter(pycolmap.Reconstruction(str(tmp_path / "scene" / "sparse" / "0")).cameras.values()))
    assert camera.model_name == "OPENCV_FISHEYE"
    assert camera.mean_focal_length() == pytest.approx(FOCAL, rel=0.02)
    found = errors(tmp_path / "scene", poses, lambda name: int(name[-2:]), FOCAL)
    assert found.cameras == 10
    assert found.position[0] < 1  # % of the arc
    assert found.rotation[0] < 0.3  # degrees
    view = load_scene(tmp_path / "scene").views[0]
    assert tuple(view.load().shape) == (view.camera.height, view.camera.width, 3)


def test_what_cannot_be_both_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--fisheye and --panorama yes"):
        find(tmp_path, Wishes(panorama="yes", fisheye=True))
