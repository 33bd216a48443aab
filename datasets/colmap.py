"""COLMAP captures: a sparse model, binary or text, and its photos.

capture/images/...            or images_2, images_4, ... or the photos in the capture folder itself
capture/sparse/0/             or sparse/, colmap/sparse/0/, or the model's files in the folder given
capture/sparse/0/test.txt     optional, names of the photos that are held out, one a line, as 3DGS reads them
capture/masks/NAME.png        optional, NAME with or without its suffix; bright where pixels may be used
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets import colmap_files, images
from recon.datasets.colmap_files import ModelImage, ModelPoints, find_file
from recon.datasets.errors import InputError
from recon.datasets.fields import read_text
from recon.datasets.files import atomic_write
from recon.datasets.scene import Points, Scene
from recon.datasets.writing import PLAIN, Writing, write_photos

if TYPE_CHECKING:
    import pycolmap

HELD_OUT = "test.txt"

log = logging.getLogger("recon")


def find_model(path: Path) -> Path | None:
    """The folder of the sparse model of a capture (or of a model itself); None when there is none.

    Of several models (`sparse/0`, `sparse/1`, ...: parts that could not be joined) the one with the most photos counts.
    """
    for base in (path / "sparse", path / "colmap" / "sparse"):
        parts = [folder for folder in base.glob("*") if folder.name.isdecimal() and is_model(folder)]
        if parts:
            parts.sort(key=lambda folder: (-_size(folder), int(folder.name)))
            if len(parts) > 1:
                log.warning("%s: %d models that are not joined; the largest is %s", base, len(parts), parts[0].name)
            return parts[0]
    return next((folder for folder in (path / "sparse", path) if is_model(folder)), None)


def has_parts(path: Path) -> bool:
    """Whether there is a file of a model, complete or not, in one of the places where models are."""
    folders = (path / "sparse" / "0", path / "colmap" / "sparse" / "0", path / "sparse", path)
    return any(find_file(folder, stem) for folder in folders for stem in ("cameras", "images", "points3D"))


def is_model(folder: Path) -> bool:
    """Whether a folder has cameras and images of a COLMAP model."""
    return find_file(folder, "cameras") is not None and find_file(folder, "images") is not None


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A COLMAP capture as a scene, in the model's own coordinate frame.

    Args:
        path: the capture's folder, or the model's.
        downscale: how many times smaller than the model's cameras the views are to be.
        test_every: every how many photos one is held out, see `images.split_every`, unless there is a test.txt.
    Raises:
        InputError: no model, a damaged one, or no photos.
    """
    path = Path(path)
    model = find_model(path)
    if model is None:
        raise InputError(f"{path}: no whole COLMAP model in it or in sparse/0: needs cameras and images, .bin or .txt")
    cameras_file, images_file = find_file(model, "cameras"), find_file(model, "images")
    assert cameras_file is not None
    assert images_file is not None
    cameras = colmap_files.read_cameras(cameras_file)
    photos = sorted(colmap_files.read_images(images_file), key=lambda photo: photo.name)
    if not photos:
        raise InputError(f"{images_file}: has no registered images")
    root = _capture_root(path, model, photos[0].name)
    found = _find_photos(root, photos, downscale)

    views = []
    names = images.view_names([photo.name for photo, _ in found])
    for name, (photo, file) in zip(names, found, strict=True):
        if photo.camera_id not in cameras:
            raise InputError(f"{images_file}: image {photo.name} has camera {photo.camera_id}, not in {cameras_file}")
        where = f"{images_file}: image {photo.name}"
        view = images.make_view(
            name,
            file,
            cameras[photo.camera_id],
            viewmat(photo, where),
            where=where,
            downscale=downscale,
            mask_path=_find_mask(root, photo.name),
            stored_pixels=True,
        )
        views.append(view)
    names = [photo.name for photo, _ in found]
    places = _places([photo for photo, _ in found], images_file)
    train, test = _split(model, names) or images.split_every(names, test_every, places)
    points_file = find_file(model, "points3D")
    points = None
    if points_file is not None:
        points = _points(colmap_files.read_points(points_file), [photo for photo, _ in found], points_file)
    return Scene(root.resolve().name, tuple(views), train, test, points if points else None)


def read_points(path: Path | str) -> Points:
    """The points of a model's folder, or of a points3D.bin or .txt file, without their tracks."""
    path = Path(path)
    file = find_file(path, "points3D") if path.is_dir() else path
    if file is None or not file.is_file():
        raise InputError(f"{path}: no points3D.bin or points3D.txt")
    return _points(colmap_files.read_points(file), (), file)


def save(scene: Scene, path: Path | str, how: Writing = PLAIN) -> None:
    """Write a scene as `path/images` and a binary model `path/sparse/0`, in the frame of the capture it came from.

    Photos are written as `how` says. Masks go to `path/masks`, names of held-out photos to `sparse/0/test.txt`; COLMAP
    has no place for depth.
    """
    import pycolmap

    path = Path(path)
    folder, sparse = path / "images", path / "sparse" / "0"
    points = None if scene.points is None else _moved(scene.points, scene.source_from_world)
    seen = _points_by_view(points, len(scene.views))
    model = pycolmap.Reconstruction()
    camera_ids: dict[tuple[float, ...], int] = {}
    written = write_photos(scene.views, [folder / view.name for view in scene.views], how)
    photos = [photo.relative_to(folder).as_posix() for photo in written]
    for index, (view, photo) in enumerate(zip(scene.views, photos, strict=True)):
        camera = view.camera.to(dtype=torch.float64).transformed(scene.source_from_world)
        if view.mask is not None:
            images.save_image(path / "masks" / f"{photo}.png", view.mask.load())
        K = camera.Ks[0]
        params = [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])]
        camera_id = camera_ids.setdefault((camera.width, camera.height, *params), len(camera_ids) + 1)
        if camera_id not in model.cameras:
            lens = pycolmap.Camera(
                camera_id=camera_id, model="PINHOLE", width=camera.width, height=camera.height, params=params
            )
            model.add_camera_with_trivial_rig(lens)
        keypoints = camera.project(points.xyz[seen[index]])[0][0].numpy() if points is not None else np.zeros((0, 2))
        image = pycolmap.Image(name=photo, keypoints=keypoints, camera_id=camera_id, image_id=index + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(camera.viewmats[0, :3].numpy()))
    if points is not None:
        _add_points(model, points, seen)
    with tempfile.TemporaryDirectory() as temporary:
        model.write_binary(temporary)
        for file in sorted(Path(temporary).iterdir()):
            with atomic_write(sparse / file.name) as target:
                target.write(file.read_bytes())
    if scene.test:
        with atomic_write(sparse / HELD_OUT) as target:
            target.write("".join(f"{photos[i]}\n" for i in scene.test).encode())


def _split(model: Path, photos: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The (train, test) indices that the file beside a model tells; None without one, or where no photo would be left
    to train on."""
    file = model / HELD_OUT
    if not file.is_file():
        return None
    held_out = {line.strip() for line in read_text(file).splitlines()}
    test = tuple(i for i, photo in enumerate(photos) if photo in held_out)
    if not test or len(test) == len(photos):
        log.warning("%s: holds out %d of %d photos; not used", file, len(test), len(photos))
        return None
    return tuple(i for i, photo in enumerate(photos) if photo not in held_out), test


def _size(model: Path) -> int:
    """How much a model holds, without reading it: the size of its file of images."""
    file = find_file(model, "images")
    return file.stat().st_size if file is not None else 0


def _capture_root(path: Path, model: Path, name: str) -> Path:
    """The folder with the photos: the one given, or above it if that is the model's own."""
    if path == model:
        path = path.resolve()
        for folder in (path, *list(path.parents)[:3]):
            if images.choose_image_folder(folder / "images", math.inf) is not None or (folder / name).is_file():
                return folder
    return path


def _find_photos(root: Path, photos: Sequence[ModelImage], downscale: float) -> list[tuple[ModelImage, Path]]:
    """The photos whose file is there; a warning says how many are not."""
    folder = images.choose_image_folder(root / "images", downscale) or root
    found = []
    for photo in photos:
        # The smaller copies may be of another format than the originals.
        file = images.find_image(folder / photo.name) or images.find_image((folder / photo.name).with_suffix(""))
        if file is not None:
            found.append((photo, file))
    missing = len(photos) - len(found)
    if not found:
        raise InputError(f"{folder}: none of the model's {len(photos)} photos is here, such as {photos[0].name}")
    if missing:
        log.warning("%s: %d of the model's %d photos are not there and are left out", folder, missing, len(photos))
    return found


def _find_mask(root: Path, name: str) -> Path | None:
    """COLMAP's own rule for the name of a mask (a.jpg.png), or the photo's name with the suffix .png."""
    candidates = (root / "masks" / f"{name}.png", (root / "masks" / name).with_suffix(".png"))
    return next((path for path in candidates if path.is_file()), None)


def viewmat(photo: ModelImage, where: str) -> Tensor:
    """[4,4] float64 world to camera."""
    w, x, y, z = photo.qvec
    norm = math.hypot(w, x, y, z)
    if not (math.isfinite(norm) and norm > 0):
        raise InputError(f"{where}: rotation ({w:g} {x:g} {y:g} {z:g}) is not a quaternion")
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), photo.tvec[0]],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x), photo.tvec[1]],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y), photo.tvec[2]],
            [0, 0, 0, 1],
        ],
        dtype=torch.float64,
    )


def _places(photos: Sequence[ModelImage], file: Path) -> list[tuple[float, ...]]:
    """Where the photos were taken, the same for those that share their centre."""
    poses = torch.stack([viewmat(photo, f"{file}: image {photo.name}") for photo in photos])
    centres = -(poses[:, :3, :3].mT @ poses[:, :3, 3:])[..., 0]
    apart = centres - centres[:1]
    extent = apart.abs().max().clamp(min=1e-12)
    return [tuple(place) for place in (apart / extent).round(decimals=7).tolist()]


def _points(points: ModelPoints, photos: Sequence[ModelImage], file: Path) -> Points:
    """A model's points, with the tracks that lie in `photos`, which are views 0, 1, 2, ..."""
    result = Points(
        torch.from_numpy(points.xyz),
        torch.from_numpy(points.rgb.astype(np.float32) / np.float32(255)),
        torch.from_numpy(points.error) if (points.error >= 0).all() else None,
        _tracks(points.ids, photos) if photos else None,
    )
    finite = torch.isfinite(result.xyz).all(dim=-1)
    if not finite.all():
        log.warning("%s: %d points that are not finite are left out", file, int((~finite).sum()))
        result = result.select(finite)
    return result


def _tracks(ids: NDArray[np.int64], photos: Sequence[ModelImage]) -> Tensor:
    """[O,2] (point, view) for the points of which the photos say that they see them."""
    order = np.argsort(ids)
    pairs = []
    for view, photo in enumerate(photos):
        seen = np.unique(photo.point_ids[photo.point_ids >= 0])
        place = np.searchsorted(ids, seen, sorter=order)
        known = place < len(ids)
        known[known] = ids[order[place[known]]] == seen[known]
        rows = order[place[known]]
        pairs.append(np.stack([rows, np.full_like(rows, view)], axis=-1))
    return torch.from_numpy(np.concatenate(pairs))


def _moved(points: Points, target_from_world: Tensor) -> Points:
    xyz = points.xyz.double() @ target_from_world[:3, :3].T + target_from_world[:3, 3]
    return replace(points, xyz=xyz)


def _points_by_view(points: Points | None, count: int) -> list[Tensor]:
    """For each view the indices of the points that it sees."""
    if points is None or points.tracks is None:
        return [torch.zeros(0, dtype=torch.int64)] * count
    by_view = points.tracks[points.tracks[:, 1].argsort(stable=True)]
    return list(by_view[:, 0].split(by_view[:, 1].bincount(minlength=count).tolist()))


def _add_points(model: pycolmap.Reconstruction, points: Points, seen: Sequence[Tensor]) -> None:
    """Add points with their tracks; `seen` lists them in the order of each image's keypoints."""
    import pycolmap

    tracks = [pycolmap.Track() for _ in range(len(points))]
    for index, rows in enumerate(seen):
        for keypoint, row in enumerate(rows.tolist()):
            tracks[row].add_element(index + 1, keypoint)
    colours = (points.rgb.double().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    errors = torch.full((len(points),), -1.0) if points.error is None else points.error
    for xyz, colour, error, track in zip(points.xyz.numpy(), colours, errors.tolist(), tracks, strict=True):
        model.points3D[model.add_point3D(xyz, track, colour)].error = error
