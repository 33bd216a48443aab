"""Captures in the layout of Strecha et al. 2008 (fountain-P11, Herz-Jesu-P8, ...): PHOTO.camera for each photo.

Nine lines of numbers: K (3 rows), "0 0 0", the rotation from the camera's axes, which are OpenCV's, to the world's (3
rows), the camera's centre, and the photo's width and height; so P = K [R^T | -R^T c]. The photos are free of lens
distortion. PHOTO.camera stands beside PHOTO or in a folder of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recon.datasets import fields, photos, projection
from recon.datasets.errors import InputError
from recon.datasets.photos import Shot
from recon.datasets.scene import Scene

ENDING = ".camera"
FOLDERS = ("", "camera", "cameras", "images", "urd", "gt_dense_cameras")
COUNT = 26  # numbers in a file


def find_file(path: Path) -> Path | None:
    """The folder with the .camera files of a capture."""
    return next((path / name for name in FOLDERS if any((path / name).glob(f"?*{ENDING}"))), None)


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A capture with .camera files as a scene, in their coordinate frame.

    Photos that are not there are left out with a warning.

    Args:
        path: the capture's folder, or one of the files, which stands for all beside it.
        downscale: how many times smaller than the photos the views are to be.
        test_every: every how many photos one is held out, see `images.split_every`.
    Raises:
        InputError: a damaged file, no photo.
    """
    path = Path(path)
    root = path if path.is_dir() else path.parent
    folder = find_file(root) or root
    files = sorted(folder.glob(f"?*{ENDING}"))
    if not files:
        raise InputError(f"{root}: has no {ENDING} files")
    names = [file.relative_to(root).as_posix().removesuffix(ENDING) for file in files]
    found = photos.find(folder, names, root=root, downscale=downscale)
    shots = []
    for number, photo in found.items():
        file = files[number]
        numbers = np.array(fields.spelled(fields.read_text(file), COUNT, f"{file}:"))
        width, height = numbers[24:].tolist()
        if not (width == round(width) and height == round(height)):
            raise InputError(f"{file}: image size {width:g}x{height:g} is not of whole numbers")
        camera = projection.pinhole(numbers[:9].reshape(3, 3), (int(width), int(height)), f"{file}")
        turn = torch.from_numpy(numbers[12:21].reshape(3, 3))
        viewmat = torch.eye(4, dtype=torch.float64)
        viewmat[:3, :3], viewmat[:3, 3] = turn.T, -turn.T @ torch.from_numpy(numbers[21:24])
        shots.append(Shot(number, photo, camera, viewmat, f"{file}"))
    return photos.scene(root, shots, downscale=downscale, test_every=test_every, stored_pixels=True, exact_poses=True)
