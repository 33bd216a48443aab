"""The procedural scene as a video or as 360-degree photos, with exact cameras; how far found poses are off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets import load_scene, shading, synthetic
from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.decode import save_pixels
from recon.video import write_video

FIELD = 0.93  # focal length, times the shorter side
UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


@dataclass(frozen=True)
class Errors:
    """Of poses, once the two sets of cameras lie over each other as well as a similarity can make them.

    Attributes:
        cameras: how many there are.
        position: distances to the true places, mean and largest, in % of the diagonal of the box round these.
        rotation: degrees, mean and largest.
        focal: % that the focal length is off.
    """

    cameras: int
    position: tuple[float, float]
    rotation: tuple[float, float]
    focal: float


def film_cameras(count: int, width: int, height: int, turns: float = 1.0) -> Cameras:
    """A walk round the still life, smooth in place and aim."""
    at = np.arange(count) / count
    azimuth = 2 * np.pi * turns * at - 1.2
    elevation = np.radians(25 + 10 * np.sin(4 * np.pi * at))
    distance = 3.8 + 0.2 * np.sin(6 * np.pi * at + 1)
    flat = distance * np.cos(elevation)
    eyes = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), 0.3 + distance * np.sin(elevation)], axis=-1)
    sway = [np.sin(6 * np.pi * at), np.cos(4 * np.pi * at), np.sin(10 * np.pi * at)]
    targets = np.array([0, 0, 0.38]) + 0.06 * np.stack(sway, axis=-1)
    focal = FIELD * min(width, height)
    Ks = intrinsics(focal, focal, width / 2, height / 2).expand(count, 3, 3)
    return Cameras.from_c2w(look_at(torch.from_numpy(eyes), torch.from_numpy(targets), UP), Ks, width, height)


def film(path: Path, cameras: Cameras, progress: Callable[[int, int | None], None] | None = None) -> None:
    """What the cameras see, one frame each, as a video."""
    stage = synthetic._stage()
    frames = (synthetic._picture(stage, cameras[i], 1) for i in range(len(cameras)))
    write_video(frames, path, crf=14, total=len(cameras), progress=progress)


def panorama_poses(count: int, seed: int = 0) -> Tensor:
    """[N,4,4] camera to world, along an arc among the things; each looks somewhere, not quite level."""
    rng = np.random.default_rng(seed)
    at = np.arange(count)
    azimuth = 1.2 * np.pi * at / count
    radius = 2.2 + 0.3 * np.sin(3 * at)
    eyes = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), 1.1 + 0.25 * np.cos(2.3 * at)], axis=-1)
    heading = rng.uniform(0, 2 * np.pi, count)
    aims = eyes + np.stack([np.cos(heading), np.sin(heading), rng.normal(0, 0.05, count)], axis=-1)
    return look_at(torch.from_numpy(eyes), torch.from_numpy(aims), UP)


def photograph_all_round(folder: Path, poses: Tensor, width: int) -> None:
    """Equirectangular photos, `width` px wide, of cameras at these poses: column x looks 2 pi (x / width - 1/2) to the
    right, row y pi (1/2 - 2 y / width) up."""
    stage = synthetic._stage()
    longitude = 2 * np.pi * ((np.arange(width) + 0.5) / width - 0.5)
    latitude = np.pi * (0.5 - (np.arange(width // 2)[:, None] + 0.5) / (width // 2))
    along = [
        np.cos(latitude) * np.sin(longitude),
        -np.sin(latitude) + 0 * longitude,
        np.cos(latitude) * np.cos(longitude),
    ]
    own = np.stack(along, axis=-1).reshape(-1, 3)
    for i, pose in enumerate(poses.numpy()):
        ways = (own @ pose[:3, :3].T).astype(np.float32)
        eyes = np.tile(pose[:3, 3].astype(np.float32), (len(ways), 1))
        seen = shading.tone_map(shading.look(stage, eyes, ways)).reshape(width // 2, width, 3)
        save_pixels(folder / f"round_{i:03d}.jpg", np.rint(255 * seen).astype(np.uint8))


def errors(scene: Path, poses: Tensor, number: Callable[[str], int | None], focal: float) -> Errors:
    """How far the cameras of a capture are off.

    Args:
        poses: [N,4,4] camera to world, the true ones.
        number: of the pose that the view of a name has; None: not to be compared.
        focal: px, the true one.
    """
    views = [(view, number(view.name)) for view in load_scene(scene).views]
    found = [(view.camera, poses[i].double().numpy()) for view, i in views if i is not None]
    ours = np.array([camera.positions[0].double().numpy() for camera, _ in found])
    true = np.array([pose[:3, 3] for _, pose in found])
    true_from_ours = pycolmap.estimate_sim3d(ours, true)
    assert true_from_ours is not None
    moved = np.array([true_from_ours * place for place in ours])
    size = float(np.linalg.norm(true.max(axis=0) - true.min(axis=0)))
    apart = 100 * np.linalg.norm(moved - true, axis=1) / size
    turn = true_from_ours.rotation.matrix()
    angles = _angles(
        [turn @ camera.c2w[0, :3, :3].double().numpy() for camera, _ in found], [p[:3, :3] for _, p in found]
    )
    off = 100 * abs(float(found[0][0].Ks[0, 0, 0]) / focal - 1)
    return Errors(
        len(found), (float(apart.mean()), float(apart.max())), (float(angles.mean()), float(angles.max())), off
    )


def _angles(ours: Sequence[NDArray[np.float64]], true: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Degrees between rotations."""
    traces = np.array([np.trace(one.T @ other) for one, other in zip(ours, true, strict=True)])
    return np.degrees(np.arccos(((traces - 1) / 2).clip(-1, 1)))
