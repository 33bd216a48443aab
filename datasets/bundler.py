"""Captures in the layout of Bundler (Snavely et al. 2006), also written by VisualSFM and others: bundle.out.

A text file: "# Bundle file v0.3", the numbers of cameras and points, then for each camera its focal length f (px) and
radial distortion k1 k2, rotation (3 rows) and translation, all 0 for a photo that was not registered; then for each
point its position, colour (0..255) and view list: a count and so many times (camera, key, x, y). Cameras look along -z
with y up, and image positions count from the image's centre, y up. The photos' names stand in list.txt, in order.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets import images
from recon.datasets.cameras import OPENCV_FROM_OPENGL, Cameras, simple_focal
from recon.datasets.decode import read_header
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.datasets.images import SourceCamera
from recon.datasets.scene import Points, Scene
from recon.datasets.writing import write_photo

HEADER = "# Bundle file v0.3"

log = logging.getLogger("recon")


@dataclass(frozen=True)
class Bundle:
    """What a bundle.out says, in its own conventions.

    Attributes:
        lenses: [C,3] focal length (px) and radial distortion k1, k2; a focal length of 0: the photo is not registered.
        rotations: [C,3,3] world to camera (y up, looking along -z).
        translations: [C,3].
        xyz: [P,3].
        rgb: [P,3] 0..255.
        seen: [O,2] int64 (point, camera).
        positions: [O,2] where in the image it was found, px from the centre, y up.
    """

    lenses: NDArray[np.float64]
    rotations: NDArray[np.float64]
    translations: NDArray[np.float64]
    xyz: NDArray[np.float64]
    rgb: NDArray[np.float64]
    seen: NDArray[np.int64]
    positions: NDArray[np.float64]


def find_file(path: Path) -> Path | None:
    """The bundle.out of a capture's folder."""
    return next((f for f in (path / "bundle.out", path / "bundle" / "bundle.out") if f.is_file()), None)


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A capture with bundle.out as a scene, in the coordinate frame of that file.

    The photos are those of list.txt beside the file (or above its folder, where Bundler puts it), or without one all
    photos there, by name. Photos that are not registered or not there are left out with a warning.

    Args:
        path: the capture's folder, with bundle.out or bundle/bundle.out, or the file itself.
        downscale: how many times smaller than the photos the views are to be.
        test_every: every how many photos one is held out, see `images.split_every`.
    Raises:
        InputError: a damaged file, another number of photos than of cameras, no registered photo.
    """
    path = Path(path)
    file = (find_file(path) or path / "bundle.out") if path.is_dir() else path
    bundle = read_bundle(file)
    root = file.parent
    if root.name == "bundle" and not (root / "list.txt").is_file() and not images.list_images(root):
        root = root.parent
    photos = _photos(file, root, len(bundle.lenses))

    registered = [i for i in range(len(photos)) if bundle.lenses[i, 0] != 0]
    there = sorted((i for i in registered if photos[i].is_file()), key=lambda i: photos[i].as_posix())
    if not there:
        what = f"none of its {len(photos)} photos is registered"
        if registered:
            what = f"none of its {len(registered)} registered photos is there, such as {photos[registered[0]]}"
        raise InputError(f"{file}: {what}")
    if len(there) < len(photos):
        log.warning(
            "%s: of %d photos %d are left out: %d are not registered, %d not there",
            file,
            len(photos),
            len(photos) - len(there),
            len(photos) - len(registered),
            len(registered) - len(there),
        )
    names = images.view_names([photos[i].as_posix() for i in there])
    views = []
    for name, i in zip(names, there, strict=True):
        viewmat = torch.eye(4, dtype=torch.float64)
        viewmat[:3, :3], viewmat[:3, 3] = (
            torch.from_numpy(bundle.rotations[i]),
            torch.from_numpy(bundle.translations[i]),
        )
        views.append(
            images.make_view(
                name,
                photos[i],
                _lens(photos[i], bundle.lenses[i]),
                OPENCV_FROM_OPENGL @ viewmat,
                downscale=downscale,
                stored_pixels=True,
                where=f"{file}: camera {i}",
            )
        )
    train, test = images.split_every(names, test_every)
    return Scene(root.resolve().name, tuple(views), train, test, points=_points(file, bundle, there))


def read_bundle(file: Path | str) -> Bundle:
    """Read a bundle.out whole; `InputError` for one that is cut short, garbled or of another version."""
    file = Path(file)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    first, _, rest = content.partition(b"\n")
    if first.strip() != HEADER.encode():
        raise InputError(f"{file}: starts with {first[:40].decode('ascii', 'replace')!r}, not {HEADER!r}")
    try:
        numbers = np.array(rest.split(), dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{file}: has something that is no number ({' '.join(str(error).split())})") from error
    if len(numbers) < 2:
        raise InputError(f"{file}: cut short: has no counts of cameras and points")
    camera_count, point_count = (_count(value, file, "count") for value in numbers[:2])
    points_start = 2 + 15 * camera_count
    if points_start + 7 * point_count > len(numbers):
        raise InputError(
            f"{file}: cut short: {len(numbers)} numbers cannot be {camera_count} cameras and {point_count} points"
        )
    cameras = numbers[2:points_start].reshape(camera_count, 15)
    starts, sizes = _view_lists(numbers, points_start, point_count, file)
    points = numbers[starts[:, None] + np.arange(6)] if point_count else np.zeros((0, 6))
    # The rows of all view lists: four numbers each, after a point's own seven.
    point_of = np.repeat(np.arange(point_count), sizes)
    within = np.arange(len(point_of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    entries = (
        numbers[(starts[point_of] + 7 + 4 * within)[:, None] + np.arange(4)] if len(point_of) else np.zeros((0, 4))
    )
    camera_of = entries[:, 0]
    wrong = ~((camera_of >= 0) & (camera_of < camera_count) & (camera_of == np.floor(camera_of)))
    if wrong.any():
        raise InputError(f"{file}: a view list names camera {camera_of[wrong][0]:g}, there are {camera_count}")
    return Bundle(
        lenses=cameras[:, :3],
        rotations=cameras[:, 3:12].reshape(-1, 3, 3),
        translations=cameras[:, 12:],
        xyz=points[:, :3],
        rgb=points[:, 3:],
        seen=np.stack([point_of, camera_of.astype(np.int64)], axis=-1),
        positions=entries[:, 2:],
    )


def save(scene: Scene, path: Path | str) -> None:
    """Write a scene as `path/bundle.out`, `path/list.txt` and `path/images`, in the frame of the capture it came from.

    Raises:
        InputError: a camera that is not centred or has no square pixels, which the format has no room for. Masks and
            depth have no place in it either; they are left out.
    """
    path = Path(path)
    cameras = [view.camera.to(dtype=torch.float64).transformed(scene.source_from_world) for view in scene.views]
    listed, lines = [], [HEADER, f"{len(cameras)} {0 if scene.points is None else len(scene.points)}"]
    for view, camera in zip(scene.views, cameras, strict=True):
        focal = simple_focal(camera)
        if focal is None:
            raise InputError(
                f"{path}: view {view.name} is not centred with square pixels; Bundler knows no other cameras"
            )
        photo = write_photo(view, path / "images" / view.name)
        listed.append(f"{photo.relative_to(path).as_posix()} 0 {focal!r}")
        viewmat = OPENCV_FROM_OPENGL @ camera.viewmats[0]
        lines.append(f"{focal!r} 0 0")
        lines += [_text(row) for row in (*viewmat[:3, :3], viewmat[:3, 3])]
    lines += _point_lines(scene, cameras)
    for name, text in (("list.txt", listed), ("bundle.out", lines)):
        with atomic_write(path / name) as target:
            target.write("".join(f"{line}\n" for line in text).encode())


def _photos(file: Path, root: Path, count: int) -> list[Path]:
    """The photo of each camera; whether it is there is another question."""
    names_file = root / "list.txt"
    if names_file.is_file():
        lines = names_file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        photos = [_listed_photo(line, root) for line in lines if line.strip()]
        source: Path = names_file
    else:
        source = root / "images" if (root / "images").is_dir() and not images.list_images(root) else root
        photos = images.list_images(source)
    if len(photos) != count:
        raise InputError(f"{file}: has {count} cameras, but {source} has {len(photos)} photos")
    return photos


def _listed_photo(line: str, root: Path) -> Path:
    """The photo of a line "NAME", or "NAME 0 FOCAL": where it says, or beside list.txt, or in images/."""
    words = line.strip().split(" ")
    name = line.strip()
    if len(words) >= 3 and all(_is_number(word) for word in words[-2:]):
        name = " ".join(words[:-2])
    name = name.replace("\\", "/")
    bare = name.rpartition("/")[2]
    found = (
        images.find_image(candidate)
        for candidate in (root / name, root.parent / name, root / bare, root / "images" / bare)
    )
    return next((photo for photo in found if photo is not None), root / name)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _lens(photo: Path, lens: NDArray[np.float64]) -> SourceCamera:
    """The file does not say how large its photos are. Bundler does not turn them as EXIF says."""
    header = read_header(photo)
    focal, k1, k2 = lens.tolist()
    centre = (header.width / 2, header.height / 2)
    if k1 == 0 and k2 == 0:
        return SourceCamera("SIMPLE_PINHOLE", (focal, *centre), header.width, header.height)
    return SourceCamera("RADIAL", (focal, *centre, k1, k2), header.width, header.height)


def _points(file: Path, bundle: Bundle, cameras: Sequence[int]) -> Points | None:
    """The points, with tracks in the views made of `cameras`."""
    if not len(bundle.xyz):
        return None
    view_of = np.full(len(bundle.lenses), -1)
    view_of[list(cameras)] = np.arange(len(cameras))
    tracks = np.stack([bundle.seen[:, 0], view_of[bundle.seen[:, 1]]], axis=-1)
    rgb = torch.from_numpy(np.clip(bundle.rgb / 255, 0, 1).astype(np.float32))
    points = Points(torch.from_numpy(bundle.xyz), rgb, tracks=torch.from_numpy(tracks[tracks[:, 1] >= 0]))
    finite = torch.isfinite(points.xyz).all(dim=-1) & torch.isfinite(points.rgb).all(dim=-1)
    if not finite.all():
        log.warning("%s: %d points that are not finite are left out", file, int((~finite).sum()))
        points = points.select(finite)
    return points if len(points) else None


def _count(value: float, file: Path, what: str) -> int:
    if not (0 <= value < 2**53 and value == int(value)):
        raise InputError(f"{file}: {what} {value:g} is not a whole number")
    return int(value)


def _view_lists(
    numbers: NDArray[np.float64], start: int, count: int, file: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each of `count` points begins, and how long its view list is."""
    starts, sizes = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for point in range(count):
        if start + 7 > len(numbers):
            raise InputError(f"{file}: cut short in point {point} of {count}")
        size = _count(float(numbers[start + 6]), file, f"point {point}: length of the view list")
        starts[point], sizes[point] = start, size
        start += 7 + 4 * size
        if start > len(numbers):
            raise InputError(f"{file}: cut short in point {point} of {count}")
    if start < len(numbers):
        raise InputError(f"{file}: {len(numbers) - start} numbers follow the {count} points that are promised")
    return starts, sizes


def _point_lines(scene: Scene, cameras: Sequence[Cameras]) -> list[str]:
    points = scene.points
    if points is None:
        return []
    xyz = points.xyz.double() @ scene.source_from_world[:3, :3].T + scene.source_from_world[:3, 3]
    lists: list[list[str]] = [[] for _ in range(len(points))]
    for index, camera in enumerate(cameras if points.tracks is not None else ()):
        assert points.tracks is not None
        seen = points.tracks[points.tracks[:, 1] == index, 0]
        centre = torch.tensor([camera.width / 2, camera.height / 2], dtype=torch.float64)
        positions = (camera.project(xyz[seen])[0][0] - centre) * torch.tensor([1.0, -1.0])
        for key, (point, position) in enumerate(zip(seen.tolist(), positions, strict=True)):
            lists[point].append(f"{index} {key} {_text(position)}")
    colours = (points.rgb.double().clamp(0, 1) * 255).round().long().tolist()
    lines = []
    for position, colour, views in zip(xyz, colours, lists, strict=True):
        lines += [_text(position), " ".join(map(str, colour)), " ".join([str(len(views)), *views])]
    return lines


def _text(values: Tensor) -> str:
    return " ".join(repr(value) for value in values.tolist())
