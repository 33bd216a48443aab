"""Captures with the cameras.json that 3DGS's training writes beside its results (Kerbl et al. 2023).

A list of objects with img_name, width, height, position and rotation (camera to world, rows; axes are OpenCV's), fx and
fy in pixels of that size; principal points are centres. See camera_to_JSON in utils/camera_utils.py of
graphdeco-inria/gaussian-splatting. input.ply, which the training writes too, has the points that it began with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon.datasets import fields, photos
from recon.datasets.errors import InputError
from recon.datasets.images import SourceCamera
from recon.datasets.photos import Shot
from recon.datasets.point_cloud import read_points
from recon.datasets.scene import Scene

FILE = "cameras.json"


def find_file(path: Path) -> Path | None:
    """The cameras.json of a folder, if it is 3DGS's; other programs have other files of that name."""
    file = path / FILE
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        head = opened.read(4096)
    return file if head.lstrip().startswith(b"[") and b'"img_name"' in head else None


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A capture with cameras.json as a scene, in the coordinate frame of that file.

    Photos are looked for in images/ and beside the file; those that are not there are left out with a warning.

    Args:
        path: the capture's folder or the file itself.
        downscale: how many times smaller than the photos the views are to be.
        test_every: every how many photos one is held out, see `images.split_every`.
    Raises:
        InputError: a damaged file, no photo.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    entries = fields.read_json(file)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{file}: has no list of cameras")
    names = [_name(entry, f"{file}: [{number}]") for number, entry in enumerate(entries)]
    found = photos.find(file, names, downscale=downscale)
    shots = []
    for number, photo in found.items():
        where = f"{file}: {names[number]}"
        shots.append(Shot(number, photo, _camera(entries[number], where), _viewmat(entries[number], where), where))
    cloud = file.parent / "input.ply"
    points = read_points(cloud) if cloud.is_file() else None
    return photos.scene(file.parent, shots, points=points, downscale=downscale, test_every=test_every)


def _name(entry: dict[str, Any], where: str) -> str:
    """The photo's name; some programs write a number."""
    name = entry.get("img_name")
    return str(name) if isinstance(name, int) else fields.entry(entry, "img_name", str, where)


def _camera(entry: dict[str, Any], where: str) -> SourceCamera:
    width, height = fields.whole(entry, "width", where), fields.whole(entry, "height", where)
    fx, fy = fields.needed(entry, "fx", where), fields.needed(entry, "fy", where)
    return SourceCamera("PINHOLE", (fx, fy, width / 2, height / 2), width, height)


def _viewmat(entry: dict[str, Any], where: str) -> Tensor:
    """[4,4] world to camera."""
    rows = fields.entry(entry, "rotation", list, where)
    if len(rows) != 3:
        raise InputError(f"{where}: rotation is not 3 rows: {fields.shown(rows)}")
    turn = torch.tensor([fields.listed(row, 3, f"{where}: rotation") for row in rows], dtype=torch.float64)
    result = torch.eye(4, dtype=torch.float64)
    result[:3, :3] = turn.T
    result[:3, 3] = -turn.T @ torch.tensor(fields.numbers(entry, "position", 3, where), dtype=torch.float64)
    return result
