"""Captures in the layout of the Middlebury multi-view data sets (Seitz et al. 2006): NAME_par.txt beside its photos.

The first line is the number of photos; then there is a line for each: its name, k11 k12 k13 k21 ... k33, r11 ... r33,
t1 t2 t3, where K [R t] is the projection matrix, in pixels from the image's top left, x to the right and y down. See
https://vision.middlebury.edu/mview/data/, which does not say whether that is the first pixel's corner or its centre;
its corner is taken.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recon.datasets import fields, photos, projection
from recon.datasets.decode import read_header
from recon.datasets.errors import InputError
from recon.datasets.photos import Shot
from recon.datasets.scene import Scene

ENDING = "_par.txt"


def find_file(path: Path) -> Path | None:
    """The file with cameras of a capture's folder."""
    return next((file for file in sorted(path.glob(f"*{ENDING}")) if file.is_file()), None)


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A capture with NAME_par.txt as a scene, in the coordinate frame of that file.

    Photos that are not there are left out with a warning.

    Args:
        path: the capture's folder or the file itself.
        downscale: how many times smaller than the photos the views are to be.
        test_every: every how many photos one is held out, see `images.split_every`.
    Raises:
        InputError: a damaged file, another number of lines than it says, no photo.
    """
    path = Path(path)
    file = (find_file(path) or path / f"{path.name}{ENDING}") if path.is_dir() else path
    names, rows = _read(file)
    # Cameras are for the photos' own size, which the file does not say: smaller copies would hide it.
    found = photos.find(file, names)
    shots = []
    for number, photo in found.items():
        where = f"{file}: {names[number]}"
        header = read_header(photo)
        row = np.array(rows[number])
        camera = projection.pinhole(row[:9].reshape(3, 3), (header.width, header.height), where)
        viewmat = torch.eye(4, dtype=torch.float64)
        viewmat[:3, :3] = torch.from_numpy(row[9:18].reshape(3, 3))
        viewmat[:3, 3] = torch.from_numpy(row[18:])
        shots.append(Shot(number, photo, camera, viewmat, where))
    return photos.scene(
        file.parent, shots, downscale=downscale, test_every=test_every, stored_pixels=True, exact_poses=True
    )


def _read(file: Path) -> tuple[list[str], list[list[float]]]:
    """The photos' names, and for each 21 numbers."""
    lines = [line.split() for line in fields.read_text(file).splitlines() if line.strip()]
    if not lines or len(lines[0]) != 1 or not lines[0][0].isdecimal():
        said = fields.shown(" ".join(lines[0])) if lines else "''"
        raise InputError(f"{file}: starts with {said}, not with the number of its photos")
    if len(lines) - 1 != int(lines[0][0]):
        raise InputError(f"{file}: says that it has {lines[0][0]} photos, but has {len(lines) - 1} lines of them")
    names = [words[0] for words in lines[1:]]
    return names, [fields.spelled(" ".join(words[1:]), 21, f"{file}: {words[0]}:") for words in lines[1:]]
