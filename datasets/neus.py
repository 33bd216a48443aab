"""Captures in the layout of IDR and NeuS, as in their copies of DTU: cameras_sphere.npz or cameras.npz.

capture/cameras_sphere.npz    world_mat_0, scale_mat_0, world_mat_1, ...
capture/image/*.png           in the order of their names
capture/mask/*.png            optional, as many; bright where the object is

world_mat_i [4,4] is a projection matrix, K [R t] above a row of 0 0 0 1, in the frame of the data set; scale_mat_i, the
same for all, takes the unit sphere that holds the object to that frame. Positions count from the first pixel's centre:
NeuS sends its rays through whole numbers. See the data convention in github.com/Totoro97/NeuS and models/dataset.py.

Points are in a .ply beside it, if there is one (`points_beside.py`).
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets import images, photos, projection
from recon.datasets.cameras import similarity_scale
from recon.datasets.decode import read_header
from recon.datasets.errors import InputError
from recon.datasets.photos import Shot
from recon.datasets.scene import Scene

FILES = ("cameras_sphere.npz", "cameras.npz")
LARGEST = 4096  # bytes that the array of a matrix takes at most


def find_file(path: Path) -> Path | None:
    """The file with cameras of a capture's folder."""
    return next((path / name for name in FILES if (path / name).is_file()), None)


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A capture with NeuS's cameras as a scene, in which the object lies in the unit sphere about the origin.

    `source_from_world` is the file's scale_mat_0, so it leads to the frame of the data set.

    Args:
        path: the capture's folder or the .npz file itself.
        downscale: how many times smaller than the photos the views are to be.
        test_every: every how many photos one is held out, see `images.split_every`.
    Raises:
        InputError: a damaged file, matrices that are no cameras, another number of photos or masks.
    """
    path = Path(path)
    file = (find_file(path) or path / FILES[0]) if path.is_dir() else path
    root = file.parent
    world_mats, scale_mat = _read(file)
    folder = next((root / name for name in ("image", "rgb", "images") if (root / name).is_dir()), root / "image")
    listed = images.list_images(folder)
    if len(listed) != len(world_mats):
        raise InputError(f"{file}: has {len(world_mats)} cameras, but {folder} has {len(listed)} photos")
    masks = images.list_images(root / "mask")
    if masks and len(masks) != len(listed):
        raise InputError(f"{file}: has {len(world_mats)} cameras, but {root / 'mask'} has {len(masks)} masks")
    shots = []
    for i, photo in enumerate(listed):
        where = f"{file}: world_mat_{i}"
        header = read_header(photo)
        K, viewmat = projection.decomposed(world_mats[i][:3], where)
        camera = projection.pinhole(K, (header.width, header.height), where, from_centre=True)
        moved = _in_sphere(viewmat, scale_mat)
        shots.append(Shot(i, photo, camera, moved, where, mask=masks[i] if masks else None))
    return photos.scene(
        root,
        shots,
        downscale=downscale,
        test_every=test_every,
        stored_pixels=True,
        source_from_world=scale_mat,
        look_for_points=True,
    )


def _read(file: Path) -> tuple[list[NDArray[np.float64]], Tensor]:
    """All world_mat [4,4], and scale_mat [4,4]; never unpickles."""
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {name.removesuffix(".npy"): archive.getinfo(name).file_size for name in archive.namelist()}
        count = len([name for name in sizes if name.startswith("world_mat_") and name[10:].isdecimal()])
        with np.load(file, allow_pickle=False) as arrays:
            worlds = [_matrix(arrays, f"world_mat_{i}", sizes, file) for i in range(count)]
            scales = [_matrix(arrays, f"scale_mat_{i}", sizes, file) for i in range(count)]
    except (InputError, FileNotFoundError):
        raise
    except Exception as error:  # damaged archives and headers of arrays raise almost anything
        raise InputError(f"{file}: is not a .npz archive of arrays ({' '.join(str(error).split())})") from error
    if not worlds:
        raise InputError(f"{file}: has no world_mat_0")
    for i, scale in enumerate(scales):
        if not np.allclose(scale, scales[0], rtol=1e-5, atol=1e-8):
            raise InputError(f"{file}: scale_mat_{i} is not the same as scale_mat_0")
    scale_mat = torch.from_numpy(scales[0])
    linear = scale_mat[:3, :3] / similarity_scale(scale_mat).clamp(min=1e-300)
    off = (linear @ linear.T - torch.eye(3, dtype=torch.float64)).abs().max()
    if not (torch.isfinite(scale_mat).all() and torch.linalg.det(linear) > 0 and off < 1e-3):
        raise InputError(f"{file}: scale_mat_0 is not a scale and a translation: {scales[0].tolist()}")
    return worlds, scale_mat


def _matrix(arrays: np.lib.npyio.NpzFile, key: str, sizes: dict[str, int], file: Path) -> NDArray[np.float64]:
    if key not in sizes:
        raise InputError(f"{file}: has no {key}")
    if sizes[key] > LARGEST:
        raise InputError(f"{file}: {key} is larger than a matrix of 4x4 numbers")
    array = arrays[key]
    if array.shape != (4, 4) or array.dtype.kind not in "fiu":
        raise InputError(f"{file}: {key} is an array {list(array.shape)} of {array.dtype}, not [4,4] of numbers")
    return array.astype(np.float64)


def _in_sphere(viewmat: Tensor, scale_mat: Tensor) -> Tensor:
    """[4,4] from the world in which the object lies in the unit sphere to the camera, whose unit shrinks likewise."""
    moved = viewmat @ scale_mat
    moved[:3] /= similarity_scale(scale_mat)
    return moved
