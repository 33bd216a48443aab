"""Captures of OpenSfM and OpenDroneMap: reconstruction.json.

A list of reconstructions (parts that could not be joined), each with "cameras" (a projection_type, width, height and
numbers), "shots" (by the photo's name: a camera, rotation and translation, world to camera, the rotation as axis times
angle) and "points" (coordinates, color 0..255). Camera axes are OpenCV's. Numbers of lenses are normalised: they are
for images whose larger side is 1 and whose centre is (0, 0), pixels being squares, so a focal length in pixels is
`focal * max(width, height)`. See https://opensfm.org/docs/dataset.html, https://opensfm.org/docs/geometry.html and
OpenSfM's opensfm/io.py.

opensfm:        capture/reconstruction.json            capture/images
OpenDroneMap:   capture/opensfm/reconstruction.json    capture/images
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon.datasets import fields, photos
from recon.datasets.errors import InputError
from recon.datasets.images import SourceCamera
from recon.datasets.photos import Shot
from recon.datasets.scene import Points, Scene

FILE = "reconstruction.json"

# Lenses: COLMAP's name, and the coefficients that it takes, in its order; "" is one that OpenSfM's does not have.
_LENSES = {
    "perspective": ("RADIAL", ("k1", "k2")),
    "simple_radial": ("FULL_OPENCV", ("k1", "", "", "", "", "", "", "")),
    "radial": ("FULL_OPENCV", ("k1", "k2", "", "", "", "", "", "")),
    "brown": ("FULL_OPENCV", ("k1", "k2", "p1", "p2", "k3", "", "", "")),
    "fisheye": ("OPENCV_FISHEYE", ("k1", "k2", "", "")),
    "fisheye_opencv": ("OPENCV_FISHEYE", ("k1", "k2", "k3", "k4")),
}

log = logging.getLogger("recon")


def find_file(path: Path) -> Path | None:
    """The reconstruction.json of a capture's folder."""
    return next((file for file in (path / FILE, path / "opensfm" / FILE) if file.is_file()), None)


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A capture with reconstruction.json as a scene, in the coordinate frame of that file: metres, z up, by GPS.

    Of several reconstructions the one with the most shots counts; the others are left out with a warning, as are photos
    that are not there.

    Args:
        path: the capture's folder, a folder of an OpenDroneMap project, or the file itself.
        downscale: how many times smaller than the photos the views are to be.
        test_every: every how many photos one is held out, see `images.split_every`.
    Raises:
        InputError: a damaged file, a lens that is no pinhole's, no photo.
    """
    path = Path(path)
    file = (find_file(path) or path / FILE) if path.is_dir() else path
    root = file.parent
    if root.name == "opensfm" and not (root / "images").is_dir():
        root = root.parent
    part, where = _largest(fields.read_json(file), file)
    cameras = fields.entry(part, "cameras", dict, where)
    lenses = {name: _lens(camera, f"{where}: camera {name}") for name, camera in cameras.items()}
    listed = fields.entry(part, "shots", dict, where)
    names = list(listed)
    found = photos.find(file, names, root=root, downscale=downscale)
    shots = []
    for number, photo in found.items():
        at = f"{where}: shot {names[number]}"
        shot = listed[names[number]]
        lens = fields.entry(shot, "camera", str, at)
        if lens not in lenses:
            raise InputError(f"{at}: has camera {lens!r}, which is not there")
        shots.append(Shot(number, photo, lenses[lens], _viewmat(shot, at), at))
    return photos.scene(
        root,
        shots,
        points=_points(part, where),
        downscale=downscale,
        test_every=test_every,
        stored_pixels=True,
    )


def _largest(parts: Any, file: Path) -> tuple[dict[str, Any], str]:
    """The reconstruction with the most shots, and what messages about it start with."""
    if not isinstance(parts, list) or not parts:
        raise InputError(f"{file}: has no list of reconstructions")
    sizes = [len(fields.entry(part, "shots", dict, f"{file}: [{i}]")) for i, part in enumerate(parts)]
    best = max(range(len(parts)), key=lambda i: (sizes[i], -i))
    if len(parts) > 1:
        log.warning("%s: %d reconstructions that are not joined; the largest is [%d]", file, len(parts), best)
    return parts[best], f"{file}: [{best}]" if len(parts) > 1 else f"{file}"


def _lens(camera: Any, where: str) -> SourceCamera:
    """A lens in pixels. OpenSfM's position x of the larger side's length is the pixel x * side + width / 2."""
    if not isinstance(camera, dict):
        raise InputError(f"{where}: is not an object")
    kind = fields.text(camera, "projection_type", where) or "perspective"
    if kind in ("fisheye62", "fisheye624") and not any(
        fields.number(camera, key, where) for key in ("k5", "k6", "p1", "p2", "s0", "s1", "s2", "s3")
    ):
        kind = "fisheye_opencv"
    if kind not in _LENSES:
        raise InputError(f"{where}: projection_type {kind} is none of {', '.join(_LENSES)}")
    model, keys = _LENSES[kind]
    width, height = fields.whole(camera, "width", where), fields.whole(camera, "height", where)
    side = max(width, height)
    cx = (fields.number(camera, "c_x", where) or 0.0) * side + width / 2
    cy = (fields.number(camera, "c_y", where) or 0.0) * side + height / 2
    k = tuple((fields.number(camera, key, where) or 0.0) if key else 0.0 for key in keys)
    if kind == "perspective":
        return SourceCamera(model, (fields.needed(camera, "focal", where) * side, cx, cy, *k), width, height)
    both = ("focal", "focal") if kind == "fisheye" else ("focal_x", "focal_y")
    fx, fy = (fields.needed(camera, key, where) * side for key in both)
    return SourceCamera(model, (fx, fy, cx, cy, *k), width, height)


def _viewmat(shot: dict[str, Any], where: str) -> Tensor:
    """[4,4] world to camera: R X + t."""
    result = torch.eye(4, dtype=torch.float64)
    result[:3, :3] = rotation(fields.numbers(shot, "rotation", 3, where))
    result[:3, 3] = torch.tensor(fields.numbers(shot, "translation", 3, where), dtype=torch.float64)
    return result


def rotation(vector: list[float]) -> Tensor:
    """[3,3] float64 the rotation about an axis by the axis' length in radians (Rodrigues)."""
    x, y, z = vector
    angle = math.hypot(x, y, z)
    turn = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(turn) if angle < 100 else torch.linalg.matrix_exp(turn * (angle % math.tau / angle))


def _points(part: dict[str, Any], where: str) -> Points | None:
    listed = part.get("points")
    if not isinstance(listed, dict) or not listed:
        return None
    xyz = [fields.numbers(point, "coordinates", 3, f"{where}: point {name}") for name, point in listed.items()]
    rgb = [fields.numbers(point, "color", 3, f"{where}: point {name}") for name, point in listed.items()]
    return Points(torch.tensor(xyz, dtype=torch.float64), (torch.tensor(rgb) / 255).clamp(0, 1))
