"""Captures of Polycam, exported as raw data (developer mode, "Raw Data"). See github.com/PolyCam/polyform.

keyframes/corrected_cameras/TIME.json, corrected_images/TIME.jpg     after its own optimisation; or, without it,
keyframes/cameras/TIME.json, images/TIME.jpg
keyframes/depth/TIME.png                                             16 bits, millimetres; with LiDAR only
keyframes/confidence/TIME.png                                        0, 127, 255: low, medium, high; low is no depth

A camera has fx fy cx cy for an image of width x height, and t_00 ... t_23, three rows of the matrix from the camera's
axes, which are OpenGL's, to ARKit's world, y up, metres. neighbors and blur_score are not used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon.datasets import depth_points, fields, images, photos
from recon.datasets.cameras import OPENCV_FROM_OPENGL
from recon.datasets.errors import InputError
from recon.datasets.images import SourceCamera
from recon.datasets.photos import Shot
from recon.datasets.scene import Scene

DEPTH_SCALE = 1e-3

_PLACES = (("corrected_cameras", "corrected_images"), ("cameras", "images"))  # of cameras and of photos


def find_file(path: Path) -> Path | None:
    """The folder with the cameras of a capture's folder (or of its keyframes)."""
    base = path if path.resolve().name == "keyframes" else path / "keyframes"
    folders = (base / cameras for cameras, _ in _PLACES)
    return next((f for f in folders if any(f.glob("*.json")) and (f.parent / dict(_PLACES)[f.name]).is_dir()), None)


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A capture of Polycam as a scene, in ARKit's world; with depth maps it has points where these say.

    Photos that are not there are left out with a warning.

    Args:
        path: the capture's folder.
        downscale: how many times smaller than the photos the views are to be.
        test_every: every how many photos one is held out, see `images.split_every`.
    Raises:
        InputError: a damaged file, no photo.
    """
    root = Path(path)
    folder = find_file(root)
    if folder is None:
        raise InputError(f"{root}: has no keyframes/corrected_cameras or keyframes/cameras with photos beside it")
    files = sorted(folder.glob("*.json"))
    found = photos.find(folder, [file.stem for file in files], root=folder.parent / dict(_PLACES)[folder.name])
    shots = []
    for number, photo in found.items():
        file = files[number]
        camera = fields.read_json(file)
        if not isinstance(camera, dict):
            raise InputError(f"{file}: is not an object")
        depth = images.find_image(folder.parent / "depth" / file.stem)
        confidence = images.find_image(folder.parent / "confidence" / file.stem)
        lens, viewmat = _lens(camera, f"{file}"), _viewmat(camera, f"{file}")
        shots.append(Shot(number, photo, lens, viewmat, f"{file}", None, depth, DEPTH_SCALE, confidence))
    by_name = photos.in_order(shots)
    train, _ = images.split_every([name for name, _ in by_name], test_every)
    points = depth_points.of_shots([by_name[i][1] for i in train], stored_pixels=True)
    return photos.scene(
        folder.parent.resolve().parent,
        shots,
        points=points,
        downscale=downscale,
        test_every=test_every,
        stored_pixels=True,
        up=torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64),
    )


def _lens(camera: dict[str, Any], where: str) -> SourceCamera:
    width, height = fields.whole(camera, "width", where), fields.whole(camera, "height", where)
    fx, fy, cx, cy = (fields.needed(camera, key, where) for key in ("fx", "fy", "cx", "cy"))
    return SourceCamera("PINHOLE", (fx, fy, cx, cy), width, height)


def _viewmat(camera: dict[str, Any], where: str) -> Tensor:
    """[4,4] world to camera."""
    c2w = torch.eye(4, dtype=torch.float64)
    for row in range(3):
        for column in range(4):
            c2w[row, column] = fields.needed(camera, f"t_{row}{column}", where)
    if abs(float(torch.linalg.det(c2w))) < 1e-12:
        raise InputError(f"{where}: its matrix t_00 to t_23 is singular")
    return torch.linalg.inv(c2w @ OPENCV_FROM_OPENGL)
