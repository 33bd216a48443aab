"""Captures in the layout of LLFF: poses_bounds.npy and a folder of photos (Mildenhall et al. 2019).

poses_bounds.npy is [N,17] float64, a row for each photo in the order of their names: a 3x5 matrix, row by row, and the
nearest and farthest depth in view. The matrix's first four columns are camera-to-world, with camera axes
(down, right, backwards); its last is the height, width and focal length in pixels of the original photos, of which
`images_N` holds copies N times smaller. The principal point is the centre, pixels are square, there is no distortion.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets import colmap, images, points_beside
from recon.datasets.cameras import Cameras, similarity_scale, simple_focal
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.datasets.images import SourceCamera
from recon.datasets.scene import Points, Scene, View
from recon.datasets.writing import write_photo

LARGEST_SIDE = 1_000_000  # px; a declared size beyond it is garbage

log = logging.getLogger("recon")


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A capture with poses_bounds.npy as a scene, in the coordinate frame of that file.

    Points come from the COLMAP model that the poses were made from, where `sparse/0` still has it; they are left out
    with a warning when the cameras do not see them, as then the poses have been moved.

    Args:
        path: the capture's folder or its poses_bounds.npy.
        downscale: how many times smaller than the originals the views are to be, see `images.choose_image_folder`.
        test_every: every how many photos one is held out, see `images.split_every`.
    Raises:
        InputError: a damaged file, poses that are none, photos missing or too many.
    """
    path = Path(path)
    file = path / "poses_bounds.npy" if path.is_dir() else path
    root = file.parent
    rows = _read(file)
    folder = images.choose_image_folder(root / "images", downscale) or root
    photos = images.list_images(folder)
    if len(photos) != len(rows):
        raise InputError(f"{file}: has {len(rows)} poses, but {folder} has {len(photos)} photos")
    names = images.view_names([photo.name for photo in photos])
    views = []
    for name, photo, row in zip(names, photos, rows, strict=True):
        where = f"{file}: pose of {photo.name}"
        viewmat, camera = _camera(row, where)
        views.append(images.make_view(name, photo, camera, viewmat, downscale=downscale, where=where))
    train, test = images.split_every(names, test_every)
    return Scene(root.resolve().name, tuple(views), train, test, points=_points(root, views))


def save(scene: Scene, path: Path | str) -> None:
    """Write a scene as `path/poses_bounds.npy`, `path/images` and, with points, `path/sparse/0/points3D.bin`, in the
    frame of the capture it came from.

    Raises:
        InputError: a camera that is not centred or has no square pixels, which the layout has no room for. Masks, depth
            and tracks have no place in it either; they are left out.
    """
    path = Path(path)
    points = scene.points
    if points is not None:
        to_source = scene.source_from_world
        points = Points(points.xyz.double() @ to_source[:3, :3].T + to_source[:3, 3], points.rgb)
    rows = {}
    for view in scene.views:
        camera = view.camera.to(dtype=torch.float64).transformed(scene.source_from_world)
        focal = simple_focal(camera)
        if focal is None:
            raise InputError(f"{path}: view {view.name} is not centred with square pixels; LLFF knows no other cameras")
        photo = write_photo(view, path / "images" / view.name.replace("/", "_"))
        right, down, forward, position = camera.c2w[0, :3].unbind(dim=-1)
        size = torch.tensor([camera.height, camera.width, focal], dtype=torch.float64)
        matrix = torch.stack([down, right, -forward, position, size], dim=-1)
        rows[photo] = torch.cat([matrix.reshape(15), _bounds(view, camera, scene, points)])
    in_order = torch.stack([rows[photo] for photo in sorted(rows)])
    with atomic_write(path / "poses_bounds.npy") as target:
        np.save(target, in_order.numpy())
    if points is not None:
        _write_points(path / "sparse" / "0" / "points3D.bin", points)


def _read(file: Path) -> NDArray[np.float64]:
    """[N,17], with all but the bounds finite."""
    try:
        # Mapped, an array cannot be larger than its file, whatever the header says.
        rows = np.array(np.lib.format.open_memmap(file, mode="r"))
    except FileNotFoundError:
        raise InputError(f"{file}: there is no such file") from None
    except Exception as error:  # numpy's reader of headers raises almost anything for a garbled one
        raise InputError(f"{file}: is not a .npy array ({' '.join(str(error).split())})") from error
    if rows.ndim != 2 or rows.shape[1] != 17 or rows.dtype.kind not in "fiu":
        raise InputError(f"{file}: is an array {list(rows.shape)} of {rows.dtype}, not [N,17] of numbers")
    if not len(rows):
        raise InputError(f"{file}: has no poses")
    return rows.astype(np.float64)


def _camera(row: NDArray[np.float64], where: str) -> tuple[Tensor, SourceCamera]:
    """The world-to-camera matrix [4,4] and the lens of one row [17]."""
    matrix = row[:15].reshape(3, 5)
    if not np.isfinite(matrix).all():
        raise InputError(f"{where} has values that are not finite: {' '.join(f'{v:g}' for v in row[:15])}")
    height, width, focal = matrix[:, 4].tolist()
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise InputError(f"{where}: image size {width:g}x{height:g} makes no sense")
    down, right, backwards, position = (torch.tensor(matrix[:, i]) for i in range(4))
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3] = torch.stack([right, down, -backwards, position], dim=-1)
    if abs(float(torch.linalg.det(c2w))) < 1e-6:
        raise InputError(f"{where} is singular: {' '.join(f'{v:g}' for v in row[:15])}")
    camera = SourceCamera("SIMPLE_PINHOLE", (focal, width / 2, height / 2), round(width), round(height))
    return torch.linalg.inv(c2w), camera


def _points(root: Path, views: list[View]) -> Points | None:
    """The points of the COLMAP model, if most of them are seen by two views or more (in COLMAP, all are)."""
    model = root / "sparse" / "0"
    if colmap.find_file(model, "points3D") is None:
        return None
    points = colmap.read_points(model)
    if not len(points):
        return None
    return points_beside.if_seen(points, views, model)


def _bounds(view: View, camera: Cameras, scene: Scene, points: Points | None) -> Tensor:
    """Nearest and farthest depth [2] in view, as LLFF takes them: the 0.1% and 99.9% quantiles of points or depth map;
    without either a range that certainly holds what the cameras look at."""
    depths = torch.empty(0, dtype=torch.float64)
    if points is not None:
        depths = camera.project(points.xyz)[1][0][camera.pixels_of(points.xyz)[1]]
    if not len(depths) and view.depth is not None:
        known = view.depth.load().double().flatten() * similarity_scale(scene.source_from_world)
        depths = known[known > 0]
    if len(depths):
        return torch.from_numpy(np.quantile(depths.numpy(), [0.001, 0.999]))
    return torch.tensor([0.1, 100.0], dtype=torch.float64) * max(scene.extent, 1e-6)


def _write_points(file: Path, points: Points) -> None:
    """COLMAP's points3D.bin, without tracks."""
    fields = [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track_length", "<u8")]
    rows = np.zeros(len(points), np.dtype(fields))
    rows["id"] = np.arange(1, len(points) + 1)
    rows["xyz"] = points.xyz.numpy()
    rows["rgb"] = (points.rgb.double().clamp(0, 1) * 255).round().numpy()
    rows["error"] = -1
    with atomic_write(file) as target:
        target.write(np.uint64(len(points)).astype("<u8").tobytes())
        target.write(rows.tobytes())
