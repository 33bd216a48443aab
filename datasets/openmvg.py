"""Captures of OpenMVG: sfm_data.json, as openMVG_main_SfM and openMVG_main_ConvertSfM_DataFormat write it.

Four lists of {"key", "value"}: "views" (a photo's file name and size, the keys of its intrinsic and its pose),
"intrinsics" (a kind of lens and its numbers), "extrinsics" (rotation, world to camera, and the camera's centre) and
"structure" (points X with observations). Views without an extrinsic were not registered. The format is what cereal
makes of sfm_data (src/openMVG/sfm/sfm_data_io_cereal.cpp, src/openMVG/cameras/*_io.hpp): the values of views and
intrinsics are in "ptr_wrapper" "data"; a kind's name stands only where it comes first, with a "polymorphic_id" whose
top bit is set, and later by this number alone. Camera axes are OpenCV's. OpenMVG counts positions from the centre of
the first pixel, not from its corner, so principal points move by half a pixel here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon.datasets import fields, photos, point_colours
from recon.datasets.errors import InputError
from recon.datasets.images import SourceCamera
from recon.datasets.photos import Shot
from recon.datasets.scene import Points, Scene

FILE = "sfm_data.json"

_NEW = 1 << 31  # set in a number that is used for the first time


def find_file(path: Path) -> Path | None:
    """The sfm_data.json of a capture's folder; OpenMVG's own scripts put it into a folder for its results."""
    folders = (path, path / "reconstruction_sequential", path / "reconstruction_global", path / "reconstruction")
    return next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A capture with sfm_data.json as a scene, in the coordinate frame of that file.

    Photos are looked for beside the file, in images/, and below the file's root_path. Points take their colours from
    the photos, as the file has none. Photos that have no pose or are not there are left out with a warning.

    Args:
        path: the capture's folder or the file itself.
        downscale: how many times smaller than the photos the views are to be.
        test_every: every how many photos one is held out, see `images.split_every`.
    Raises:
        InputError: a damaged file, a lens that is no pinhole, no photo with a pose.
    """
    path = Path(path)
    file = (find_file(path) or path / FILE) if path.is_dir() else path
    meta = fields.read_json(file)
    lenses = {key: _lens(data, kind, where) for key, data, kind, where in _pointers(meta, "intrinsics", file)}
    poses = {key: _viewmat(value, where) for key, value, where in _entries(meta, "extrinsics", file)}
    named, posed, unposed = [], [], 0
    for key, data, _, where in _pointers(meta, "views", file):
        photo = "/".join((str(data.get("local_path") or ""), fields.entry(data, "filename", str, where)))
        pose, lens = fields.whole(data, "id_pose", where), fields.whole(data, "id_intrinsic", where)
        if pose not in poses:
            unposed += 1
        elif lens not in lenses:
            raise InputError(f"{where}: has intrinsic {lens}, which is not there")
        else:
            named.append(photo)
            posed.append((key, lenses[lens], poses[pose], where))
    root_path = fields.text(meta, "root_path", f"{file}") or ""
    root = file.parent if not path.is_dir() else path
    why = f"{unposed} have no pose" if unposed else ""
    found = photos.find(
        file, [f"{root_path}/{photo.lstrip('/')}" for photo in named], root=root, downscale=downscale, why=why
    )
    shots = [Shot(place, photo, *posed[number][1:]) for place, (number, photo) in enumerate(found.items())]
    points = _points(meta, file, {posed[number][0]: place for place, number in enumerate(found)})
    if points is not None:
        points = point_colours.of_shots(points, shots, stored_pixels=True)
    return photos.scene(root, shots, points=points, downscale=downscale, test_every=test_every, stored_pixels=True)


def _entries(meta: Any, name: str, file: Path) -> Iterator[tuple[int, dict[str, Any], str]]:
    """(key, value, where) of each entry of a list of the file."""
    for number, item in enumerate(fields.entry(meta, name, list, f"{file}")):
        where = f"{file}: {name}[{number}]"
        value = fields.entry(item, "value", dict, where)
        yield fields.whole(item, "key", where), value, where


def _pointers(meta: Any, name: str, file: Path) -> Iterator[tuple[int, dict[str, Any], str, str]]:
    """(key, data, kind, where) of the entries that are pointers, which may share data and name kinds by numbers."""
    kinds: dict[int, str] = {}
    shared: dict[int, dict[str, Any]] = {}
    for key, value, where in _entries(meta, name, file):
        kind_id = int(fields.number(value, "polymorphic_id", where) or 0) & ~_NEW
        kind = fields.text(value, "polymorphic_name", where)
        if kind is not None:
            kinds[kind_id] = kind
        wrapper = fields.entry(value, "ptr_wrapper", dict, where)
        pointer = int(fields.number(wrapper, "id", where) or 0) & ~_NEW
        if "data" in wrapper or pointer not in shared:
            data = fields.entry(wrapper, "data", dict, where)
            base = data.get("value0")  # older versions keep what all lenses have in an object of its own
            shared[pointer] = {**base, **data} if isinstance(base, dict) else data
        yield key, shared[pointer], kinds.get(kind_id, ""), where


def _lens(data: dict[str, Any], kind: str, where: str) -> SourceCamera:
    """OpenMVG's lenses are COLMAP's, with other names; brown_t2 has the order k1 k2 k3 t1 t2, its t are OpenCV's p."""
    width, height = fields.whole(data, "width", where), fields.whole(data, "height", where)
    counts = {"pinhole": 0, "pinhole_radial_k1": 1, "pinhole_radial_k3": 3, "pinhole_brown_t2": 5, "fisheye": 4}
    if kind not in counts:
        raise InputError(f"{where}: lens {kind or 'without a name'} is none of {', '.join(counts)}")
    focal = fields.needed(data, "focal_length", where)
    centre = [value + 0.5 for value in fields.numbers(data, "principal_point", 2, where)]
    key = {"pinhole_radial_k1": "disto_k1", "pinhole_radial_k3": "disto_k3", "pinhole_brown_t2": "disto_t2"}
    k = fields.numbers(data, key.get(kind, kind), counts[kind], where) if counts[kind] else []
    if kind == "pinhole":
        return SourceCamera("SIMPLE_PINHOLE", (focal, *centre), width, height)
    if kind == "pinhole_radial_k1":
        return SourceCamera("SIMPLE_RADIAL", (focal, *centre, *k), width, height)
    if kind == "fisheye":
        return SourceCamera("OPENCV_FISHEYE", (focal, focal, *centre, *k), width, height)
    k1, k2, k3, t1, t2 = (*k, 0.0, 0.0)[:5]
    return SourceCamera("FULL_OPENCV", (focal, focal, *centre, k1, k2, t1, t2, k3, 0.0, 0.0, 0.0), width, height)


def _viewmat(pose: dict[str, Any], where: str) -> Tensor:
    """[4,4] world to camera: R (X - C)."""
    rows = fields.entry(pose, "rotation", list, where)
    if len(rows) != 3:
        raise InputError(f"{where}: rotation is not 3 rows: {fields.shown(rows)}")
    result = torch.eye(4, dtype=torch.float64)
    result[:3, :3] = torch.tensor([fields.listed(row, 3, f"{where}: rotation") for row in rows], dtype=torch.float64)
    result[:3, 3] = -result[:3, :3] @ torch.tensor(fields.numbers(pose, "center", 3, where), dtype=torch.float64)
    return result


def _points(meta: Any, file: Path, number_of: dict[int, int]) -> Points | None:
    """The structure, still without colours; tracks name a photo by its number, which `number_of` has for its key."""
    if not meta.get("structure"):
        return None
    xyz: list[list[float]] = []
    tracks: list[tuple[int, int]] = []
    for _, value, where in _entries(meta, "structure", file):
        for observation in fields.entry(value, "observations", list, where):
            key = observation.get("key") if isinstance(observation, dict) else None
            if isinstance(key, int) and key in number_of:
                tracks.append((len(xyz), number_of[key]))
        xyz.append(fields.numbers(value, "X", 3, where))
    positions = torch.tensor(xyz, dtype=torch.float64)
    grey = torch.full((len(xyz), 3), point_colours.UNKNOWN)
    return Points(positions, grey, tracks=torch.tensor(tracks, dtype=torch.int64).reshape(-1, 2))
