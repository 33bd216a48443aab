"""Photos that a capture's file lists with their cameras: where they are, and the scene that they make.

What the loaders share whose file holds a list of photos: each translates its list into `Shot`s.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from recon.datasets import images, points_beside
from recon.datasets.decode import read_header
from recon.datasets.errors import InputError
from recon.datasets.folders import EXTENSIONS
from recon.datasets.images import SourceCamera
from recon.datasets.scene import Points, Scene, View

FARTHEST = 1000  # times their own spread that cameras may be away from the origin
LONGEST_NAME = 255  # bytes; asking a file system for a longer one is an error
SMALL_SIDE = 800  # px, the longer side of small views

log = logging.getLogger("recon")


@dataclass(frozen=True)
class Shot:
    """A photo that is there, with its camera.

    Attributes:
        number: by which tracks of points refer to it; its place in the capture's file.
        photo: its file.
        camera, viewmat: see `images.make_view`.
        where: what messages about the camera and its pose start with.
        mask, depth, depth_scale, confidence: see `images.make_view`.
    """

    number: int
    photo: Path
    camera: SourceCamera
    viewmat: Tensor
    where: str
    mask: Path | None = None
    depth: Path | None = None
    depth_scale: float = 1.0
    confidence: Path | None = None


def find(
    file: Path, paths: Sequence[str], *, root: Path | None = None, downscale: float = 1, why: str = ""
) -> dict[int, Path]:
    """Where the photos of a capture's file are, by their place in the list; a warning counts those not there.

    Files are often moved and photos with them, so of a path as much is used as leads to a photo: all of it, or less
    and less of its beginning left out, in images/ (or the folder of smaller copies for `downscale`) or in `root`, or
    where an absolute path says. Suffixes may be missing.

    Args:
        file: the capture's file, for messages.
        paths: of the photos, as they are written there, of whatever system.
        root: the capture's folder; the file's own if not given.
        why: what the file says of other photos that it lists, for the warning: "3 have no pose".
    Raises:
        InputError: no photo is there, or two paths lead to one.
    """
    root = file.parent if root is None else root
    chosen = images.choose_image_folder(root / "images", downscale)
    bases = [base for base in dict.fromkeys((chosen, root / "images", root)) if base is not None]
    found: dict[int, Path] = {}
    owner: dict[Path, str] = {}
    for number, path in enumerate(paths):
        photo = _find_one(path, bases)
        if photo is None:
            continue
        if photo in owner:
            raise InputError(f"{file}: photos {owner[photo]} and {path} would both be {photo}")
        found[number], owner[photo] = photo, path
    missing = [path for number, path in enumerate(paths) if number not in found]
    if not found:
        said = f"none of its {len(paths)} photos is there, such as {missing[0]}" if paths else "has no photos"
        raise InputError(f"{file}: {said}{f' ({why})' if why else ''}")
    if missing or why:
        said = f"{len(missing)} of {len(paths)} photos are not there" if missing else ""
        log.warning("%s: %s; left out", file, ", ".join(part for part in (said, why) if part))
    return found


def _find_one(path: str, bases: Sequence[Path]) -> Path | None:
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", "//", ".", "..")]
    if not parts or any(len(part.encode(errors="replace")) > LONGEST_NAME for part in parts):
        return None
    for base in bases:
        for start in range(len(parts)):
            candidate = base.joinpath(*parts[start:])
            photo = images.find_image(candidate)
            if photo is None and candidate.suffix.lower() in EXTENSIONS:
                photo = images.find_image(candidate.with_suffix(""))  # copies may be of another format
            if photo is not None:
                return photo
    return images.find_image(Path(path)) if Path(path).is_absolute() else None


def scene(
    root: Path,
    shots: Sequence[Shot],
    *,
    points: Points | None = None,
    downscale: float = 1,
    test_every: int = 8,
    stored_pixels: bool = False,
    source_from_world: Tensor | None = None,
    up: Tensor | None = None,
    exact_poses: bool = False,
    look_for_points: bool = False,
) -> Scene:
    """The scene of photos that are there. Tracks of `points` name shots by number; those of other shots are dropped.
    With `look_for_points` they may be in a .ply in `root`.

    Coordinates as surveyors have them, far from the origin, are counted from a place near the cameras, which a
    warning names: 32 bits hold too few digits of the others.
    """
    by_name = in_order(shots)
    views = [_view(name, shot, downscale, stored_pixels) for name, shot in by_name]
    if source_from_world is None:
        source_from_world = torch.eye(4, dtype=torch.float64)
    if look_for_points:
        points = points_beside.find(root, views, source_from_world)
    if points is not None:
        points = _of_views(points, [shot.number for _, shot in by_name], root)
    shift = _far_away(views)
    if shift is not None:
        log.warning("%s: its coordinates are large; the scene's are counted from (%g, %g, %g)", root, *shift.tolist())
        views = [replace(view, camera=view.camera.transformed(_moving(-shift))) for view in views]
        points = None if points is None else replace(points, xyz=points.xyz.double() - shift)
    train, test = images.split_every([view.name for view in views], test_every)
    return Scene(
        root.resolve().name,
        tuple(views),
        train,
        test,
        points=points,
        source_from_world=source_from_world,
        up=up,
        exact_poses=exact_poses,
    )


def in_order(shots: Sequence[Shot]) -> list[tuple[str, Shot]]:
    """The shots by the names that their views get."""
    names = images.view_names([shot.photo.as_posix() for shot in shots])
    return sorted(zip(names, shots, strict=True), key=lambda pair: pair[0])


def small_views(shots: Sequence[Shot], *, stored_pixels: bool = False) -> list[View]:
    """Views of shots that are cheap to work with: whatever the capture's, about `SMALL_SIDE` pixels."""
    sides = [max(shot.camera.width, shot.camera.height) for shot in shots]
    return [
        _view(f"{shot.number}", shot, max(1, side / SMALL_SIDE), stored_pixels)
        for shot, side in zip(shots, sides, strict=True)
    ]


def key(shots: Sequence[Shot]) -> tuple[object, ...]:
    """What tells shots from others: their files as they are now, cameras and poses."""
    return tuple(
        (
            *((file, read_header(file).stamp) for file in _files(shot)),
            shot.camera,
            shot.depth_scale,
            tuple(shot.viewmat.flatten().tolist()),
        )
        for shot in shots
    )


def _files(shot: Shot) -> list[Path]:
    return [file for file in (shot.photo, shot.depth, shot.mask, shot.confidence) if file is not None]


def _view(name: str, shot: Shot, downscale: float, stored_pixels: bool) -> View:
    return images.make_view(
        name,
        shot.photo,
        shot.camera,
        shot.viewmat,
        downscale=downscale,
        mask_path=shot.mask,
        depth_path=shot.depth,
        depth_scale=shot.depth_scale,
        confidence_path=shot.confidence,
        stored_pixels=stored_pixels,
        where=shot.where,
    )


def _of_views(points: Points, numbers: Sequence[int], root: Path) -> Points | None:
    """Points with tracks in views, which are the shots of these numbers; without those that are not finite."""
    if points.tracks is not None and len(points.tracks):
        view_of = torch.full((max(int(points.tracks[:, 1].max()), *numbers) + 1,), -1)
        view_of[list(numbers)] = torch.arange(len(numbers))
        tracks = torch.stack([points.tracks[:, 0], view_of[points.tracks[:, 1]]], dim=-1)
        points = replace(points, tracks=tracks[tracks[:, 1] >= 0])
    finite = torch.isfinite(points.xyz).all(dim=-1) & torch.isfinite(points.rgb).all(dim=-1)
    if not finite.all():
        log.warning("%s: %d points that are not finite are left out", root, int((~finite).sum()))
        points = points.select(finite)
    return points if len(points) else None


def _far_away(views: Sequence[View]) -> Tensor | None:
    """[3] a place near the cameras in whole units, where they are too far from the origin."""
    positions = torch.cat([view.camera.positions for view in views])
    centre = positions.mean(dim=0)
    spread = float((positions - centre).norm(dim=-1).max())
    return centre.round() if 0 < spread * FARTHEST < float(centre.norm()) else None


def _moving(shift: Tensor) -> Tensor:
    moved = torch.eye(4, dtype=torch.float64)
    moved[:3, 3] = shift
    return moved
