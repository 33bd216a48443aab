"""Captures of Record3D, exported as "EXR + RGB": metadata.json and rgb/0.jpg, rgb/1.jpg, ...

metadata.json has w and h, the size of the photos; K, 9 numbers column by column; poses, for each photo x y z w of a
quaternion and x y z of the camera's place, from the camera's axes, which are OpenGL's, to ARKit's world, y up, metres;
and, in newer versions, perFrameIntrinsicCoeffs, fx fy cx cy for each photo. See nerfstudio's
process_data/record3d_utils.py and https://record3d.app. The depth maps of LiDAR, depth/0.exr, ..., are in metres.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon.datasets import depth_points, exr, fields, images, photos
from recon.datasets.cameras import OPENCV_FROM_OPENGL
from recon.datasets.errors import InputError
from recon.datasets.images import SourceCamera
from recon.datasets.photos import Shot
from recon.datasets.scene import Scene

FILES = ("metadata.json", "metadata")

log = logging.getLogger("recon")


def find_file(path: Path) -> Path | None:
    """The metadata of a capture's folder."""
    return next((path / name for name in FILES if (path / name).is_file() and (path / "rgb").is_dir()), None)


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A capture of Record3D as a scene, in ARKit's world; with depth maps it has points where these say.

    Photos that are not there are left out with a warning, and so are depth maps that only the package OpenEXR reads,
    where that is not installed.

    Args:
        path: the capture's folder or its metadata.json.
        downscale: how many times smaller than the photos the views are to be.
        test_every: every how many photos one is held out, see `images.split_every`.
    Raises:
        InputError: a damaged file, no photo.
    """
    path = Path(path)
    file = (find_file(path) or path / FILES[0]) if path.is_dir() else path
    meta = fields.read_json(file)
    poses = fields.entry(meta, "poses", list, f"{file}")
    each = meta.get("perFrameIntrinsicCoeffs")
    if each and (not isinstance(each, list) or len(each) != len(poses)):
        raise InputError(f"{file}: has {len(poses)} poses, but not as many perFrameIntrinsicCoeffs")
    size = (fields.whole(meta, "w", f"{file}"), fields.whole(meta, "h", f"{file}"))
    found = photos.find(file, [f"{number}" for number in range(len(poses))], root=file.parent / "rgb")
    depths = _depths(file.parent / "depth", list(found))
    shots = []
    for number, photo in found.items():
        where = f"{file}: photo {number}"
        lens = tuple(fields.listed(each[number], 4, f"{where}: intrinsics")) if each else _shared(meta, f"{file}")
        viewmat = _viewmat(poses[number], where)
        camera = SourceCamera("PINHOLE", lens, *size)
        shots.append(Shot(number, photo, camera, viewmat, where, depth=depths.get(number)))
    by_name = photos.in_order(shots)
    train, _ = images.split_every([name for name, _ in by_name], test_every)
    points = depth_points.of_shots([by_name[i][1] for i in train])
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    return photos.scene(file.parent, shots, points=points, downscale=downscale, test_every=test_every, up=up)


def _depths(folder: Path, numbers: Sequence[int]) -> dict[int, Path]:
    """The depth maps that can be read, by the numbers of their photos; a warning counts others."""
    files = {number: folder / f"{number}.exr" for number in numbers}
    there = {number: file for number, file in files.items() if file.is_file()}
    readable = {number: file for number, file in there.items() if exr.can_read(file)}
    if len(readable) < len(there):
        missing = len(there) - len(readable)
        log.warning("%s: %d depth maps are left out: they need the package OpenEXR, or are damaged", folder, missing)
    return readable


def _shared(meta: dict[str, Any], where: str) -> tuple[float, ...]:
    """(fx, fy, cx, cy) of the matrix K."""
    K = fields.numbers(meta, "K", 9, where)
    return K[0], K[4], K[6], K[7]


def _viewmat(pose: Any, where: str) -> Tensor:
    """[4,4] world to camera."""
    x, y, z, w, *place = fields.listed(pose, 7, f"{where}: pose")
    norm = math.hypot(x, y, z, w)
    if norm < 1e-6:
        raise InputError(f"{where}: rotation ({x:g} {y:g} {z:g} {w:g}) is not a quaternion")
    x, y, z, w = x / norm, y / norm, z / norm, w / norm
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
    c2w[:3, 3] = torch.tensor(place, dtype=torch.float64)
    return torch.linalg.inv(c2w @ OPENCV_FROM_OPENGL)
