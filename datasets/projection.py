"""Cameras from matrices: what the loaders of formats share that give an intrinsic or a projection matrix."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets import fields
from recon.datasets.errors import InputError
from recon.datasets.images import SourceCamera

SMALL = 0.05  # px; what moves no pixel of the image by more may be left out


def pinhole(K: NDArray[np.float64], size: tuple[int, int], where: str, *, from_centre: bool = False) -> SourceCamera:
    """The camera of an intrinsic matrix [3,3], up to its scale.

    Args:
        size: (width, height) of the image in pixels.
        where: what messages start with.
        from_centre: positions count from the centre of the first pixel, not from its corner as ours do.
    """
    if not np.isfinite(K).all():
        raise InputError(f"{where}: intrinsics have values that are not finite: {fields.rows(K)}")
    scaled = K / K[2, 2] if K[2, 2] != 0 else K
    if abs(scaled[[1, 2, 2], [0, 0, 1]]).max() > 1e-6 or scaled[2, 2] != 1:
        raise InputError(f"{where}: intrinsics are not of the form [f s c; 0 f c; 0 0 1]: {fields.rows(K)}")
    fx, skew, cx, fy, cy = (float(value) for value in (*scaled[0], *scaled[1, 1:]))
    if fy > 0 and abs(skew) / fy * size[1] / 2 > SMALL:
        raise InputError(f"{where}: skew {skew:g} is not 0, which no camera here can have")
    shift = 0.5 if from_centre else 0.0
    return SourceCamera("PINHOLE", (fx, fy, cx + shift, cy + shift), *size)


def decomposed(projection: NDArray[np.float64], where: str) -> tuple[NDArray[np.float64], Tensor]:
    """An intrinsic matrix K [3,3] and world to camera [4,4] (float64) whose product `projection` [3,4] is, up to scale.

    K has a positive diagonal, the rotation a positive determinant (Hartley and Zisserman, section 6.2.4).
    """
    import scipy.linalg

    if not np.isfinite(projection).all():
        raise InputError(f"{where}: projection matrix has values that are not finite: {fields.rows(projection)}")
    left = projection[:, :3]
    size = abs(left).max()
    if size == 0 or abs(np.linalg.det(left / size)) < 1e-15:
        raise InputError(f"{where}: projection matrix is singular: {fields.rows(projection)}")
    projection = projection / size * np.sign(np.linalg.det(left / size))
    K, rotation = scipy.linalg.rq(projection[:, :3])
    signs = np.sign(np.diag(K))
    K, rotation = K * signs, signs[:, None] * rotation
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = torch.from_numpy(rotation)
    viewmat[:3, 3] = torch.from_numpy(np.linalg.solve(K, projection[:, 3]))
    return K / K[2, 2], viewmat
