"""Surveyors' .las and its compressed .laz: version 1.4, points of format 7, normals as NormalX, NormalY and NormalZ.

Coordinates are whole numbers of a step, which is the finest power of ten with which all points fit: it is less than a
400-millionth of what the points span, finer than the floats that they come from. Colours have 16 bits.

The files are written by laspy, which is not among what is always installed. Shape letter: P points.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from torch import Tensor

from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.datasets.scene import Points

STEPS = 4e9  # that a coordinate has: a little fewer than 32 bits tell apart
SMALLEST = 1e-6  # span, for points that are all in one place
NORMALS = ("NormalX", "NormalY", "NormalZ")  # as PDAL calls them


def save(path: Path, points: Points, normals: Tensor) -> None:
    """Write points with normals [P,3], compressed if the name says .laz; `InputError` where laspy is missing."""
    packed = path.suffix.lower() == ".laz"
    try:
        import laspy

        if packed:
            import lazrs  # noqa: F401, laspy finds it by itself
    except ImportError as error:
        raise InputError(f"{path}: needs laspy and lazrs: pip install laspy[lazrs]") from error

    xyz = points.xyz.numpy()
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    span = max(float((high - low).max()), SMALLEST)
    header = laspy.LasHeader(version="1.4", point_format=7)
    header.scales = np.full(3, 10.0 ** math.ceil(math.log10(span / STEPS)))
    header.offsets = (low + high) / 2
    header.generating_software = "recon"
    header.add_extra_dims([laspy.ExtraBytesParams(name=name, type=np.float32) for name in NORMALS])
    cloud = laspy.LasData(header)
    cloud.xyz = xyz
    colours = np.rint(np.clip(points.rgb.numpy(), 0, 1) * 65535).astype(np.uint16)
    for name, values in zip(("red", "green", "blue"), colours.T, strict=True):
        cloud[name] = values
    for name, values in zip(NORMALS, normals.numpy().T, strict=True):
        cloud[name] = values.astype(np.float32)
    with atomic_write(path) as file:
        cloud.write(file, do_compress=packed)
