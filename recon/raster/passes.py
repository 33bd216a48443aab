"""What a render on the CPU is made of: tensors checked and seen as arrays, projected, blended, and pictures as tensors.

`cpu.py` puts it together for autograd, `straight.py` for a training that needs no autograd.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import sh
from recon.datasets.cameras import Cameras
from recon.kernels.buffers import take
from recon.kernels.camera_gradient import CAMERA_GRADIENT, FOCAL, STEP, TURN
from recon.kernels.rasterize import (
    Floats,
    Found,
    NotFiniteError,
    Parameters,
    Pictures,
    View,
    blend_view,
    find_view,
    pack_camera,
    project_view,
)


class Projected(NamedTuple):
    """Gaussians as every camera sees them."""

    views: list[View]
    centres: Floats  # [C,N,2]
    extents: NDArray[np.int32]  # [C,N,2]


def project(
    tensors: Sequence[Tensor], cameras: Cameras, sh_degree: int, near: float, far: float, antialiased: bool = False
) -> Projected:
    """Project stored Gaussians into every camera; ValueError for what is not as `Rasterizer` wants it."""
    _check(tensors, cameras, sh_degree, near)
    parameters, shape = parameters_of(tensors), (len(cameras), len(tensors[0]), 2)
    centres, extents = take(shape, np.float32), take(shape, np.int32)
    size = (cameras.width, cameras.height)
    with _naming_odd_values(parameters):
        views = [
            project_view(parameters, camera, *size, sh_degree, centre, extent)
            for camera, centre, extent in zip(_packed(cameras, near, far, antialiased), centres, extents, strict=True)
        ]
    return Projected(views, centres, extents)


def find(
    tensors: Sequence[Tensor],
    cameras: Sequence[Cameras],
    sh_degree: int,
    near: float,
    far: float,
    antialiased: bool = False,
) -> tuple[list[Found], Floats, NDArray[np.int32]]:
    """What single cameras of any sizes see of stored Gaussians, with the centres and extents of `Projected`."""
    parameters, shape = parameters_of(tensors), (len(cameras), len(tensors[0]), 2)
    centres, extents = take(shape, np.float32), take(shape, np.int32)
    found = []
    with _naming_odd_values(parameters):
        for camera, centre, extent in zip(cameras, centres, extents, strict=True):
            _check(tensors, camera, sh_degree, near)
            (packed,) = _packed(camera, near, far, antialiased)
            found.append(find_view(parameters, packed, camera.width, camera.height, sh_degree, centre, extent))
    return found, centres, extents


@contextlib.contextmanager
def _naming_odd_values(parameters: Parameters) -> Iterator[None]:
    try:
        yield
    except NotFiniteError:
        raise ValueError(_odd_value(parameters)) from None


def _check(given: Sequence[Tensor], cameras: Cameras, sh_degree: int, near: float) -> None:
    """ValueError for what the kernels cannot take. NaN in the parameters is found by the kernels."""
    rows, coefficients = len(given[0]), 1 + (given[-1].shape[1] if given[-1].dim() == 3 else 0)
    shapes = ((rows, 3), (rows, 4), (rows, 3), (rows,), (rows, 1, 3), (rows, coefficients - 1, 3))
    for name, tensor, shape in zip(Parameters._fields, given, shapes, strict=True):
        if tensor.shape != shape or tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            got = f"{list(tensor.shape)}, {tensor.dtype}, {tensor.device}"
            raise ValueError(f"{name} is {got}; the CPU rasteriser takes {list(shape)}, torch.float32, cpu")
    if not 0 <= sh_degree <= sh.degree_of(coefficients):
        raise ValueError(f"sh_degree {sh_degree}: the coefficients reach degree {sh.degree_of(coefficients)}")
    if not near >= 0:
        raise ValueError(f"near {near}: must not be negative")
    if len(cameras) == 0:
        raise ValueError("no cameras")


def _packed(cameras: Cameras, near: float, far: float, antialiased: bool) -> list[Floats]:
    """The cameras as the kernels take them; ValueError if they contain NaN or infinity.

    Plain numbers are much faster to work with than small arrays.
    """
    viewmats, Ks = cameras.viewmats.tolist(), cameras.Ks.tolist()
    for name, matrices in (("viewmats", viewmats), ("Ks", Ks)):
        if not all(math.isfinite(number) for matrix in matrices for row in matrix for number in row):
            raise ValueError(f"cameras.{name} contains NaN or infinity")
    about = (cameras.width, cameras.height, near, far, antialiased)
    return [pack_camera(viewmat, K, *about) for viewmat, K in zip(viewmats, Ks, strict=True)]


def parameters_of(tensors: Iterable[Tensor]) -> Parameters:
    """The same memory as numpy arrays."""
    return Parameters(*(tensor.detach().numpy() for tensor in tensors))


def camera_gradient(pieces: Floats, viewmat: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a view matrix [4,4] and of intrinsics [3,3].

    Of the view matrix, that in the directions in which it can change and remain one: sums over turns and steps tell no
    other.

    Args:
        pieces: of `rasterize.camera_gradients`.
        viewmat: [4,4]
    """
    total = torch.from_numpy(_summed(pieces))
    turn, step, focal, centre = total.split([3, 3, 2, 2])
    rotation, translation = viewmat[:3, :3].detach().double(), viewmat[:3, 3].detach().double()
    g_viewmat, g_K = torch.zeros(4, 4), torch.zeros(3, 3)
    step = rotation @ step  # in the axes of the camera
    x, y, z = 0.5 * (turn - torch.linalg.cross(translation, step))  # a turn moves the translation as well
    zero = torch.zeros_like(x)
    across = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    g_viewmat[:3, :3], g_viewmat[:3, 3] = across @ rotation, step
    g_K[0, 0], g_K[1, 1] = focal
    g_K[0, 2], g_K[1, 2] = centre
    return g_viewmat, g_K


def _summed(pieces: Floats) -> NDArray[np.float64]:
    return pieces.reshape(-1, CAMERA_GRADIENT).sum(axis=0, dtype=np.float64)


def motion_gradient(pieces: Floats, cameras: Cameras) -> NDArray[np.float64]:
    """The gradient of the motion of a camera, see `recon.poses.moved`: [7].

    Args:
        pieces: of `rasterize.camera_gradients`.
        cameras: that one alone.
    """
    total, rotation, K = _summed(pieces), cameras.viewmats.numpy()[0, :3, :3], cameras.Ks.numpy()[0]
    motion = np.empty(7)
    motion[:3], motion[3:6] = total[TURN:STEP], rotation @ total[STEP:FOCAL]
    motion[6] = total[FOCAL] * float(K[0, 0]) + total[FOCAL + 1] * float(K[1, 1])
    return motion


def _odd_value(parameters: Parameters) -> str:
    """What is wrong with parameters in which the kernels met something that is not finite."""
    for name, array in parameters._asdict().items():
        odd = np.argwhere(~np.isfinite(array.reshape(len(array), -1)))
        if len(odd):
            return f"{name} contains NaN or infinity, first in row {odd[0, 0]}"
    lengths, largest = np.abs(parameters.quats).max(axis=1), parameters.log_scales.max(axis=1)
    if lengths.max() > 1e18:
        return f"quats: the one in row {lengths.argmax()} is too long for float32"
    return f"log_scales: a Gaussian is too large for float32, perhaps the one in row {largest.argmax()}"


def blend(
    views: Sequence[View], backgrounds: Floats, depth: bool, median_depth: bool = False
) -> tuple[Pictures, Floats]:
    """Pictures with the cameras in front (rgb [C,3,H,W], the others [C,H,W]), and the transmittances [C,H * W]."""
    count, height, width = len(views), views[0].height, views[0].width
    shape = (count, height, width)
    rgb, alpha = take((count, 3, height, width), np.float32), take(shape, np.float32)
    expected, median = (take(shape, np.float32) if wanted else None for wanted in (depth, median_depth))
    transmittances = take((count, height * width), np.float32)
    for i, view in enumerate(views):
        of_depth = (None if picture is None else picture[i] for picture in (expected, median))
        blend_view(view, backgrounds[i], Pictures(rgb[i], alpha[i], *of_depth), transmittances[i])
    return Pictures(rgb, alpha, expected, median), transmittances


def as_tensors(pictures: Pictures) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The colour, alpha, depth and median depth of `RenderOutput`."""
    rgb = torch.from_numpy(pictures.rgb.transpose(0, 2, 3, 1))
    assert pictures.alpha is not None
    alpha = torch.from_numpy(pictures.alpha[..., None])
    depths = (pictures.depth, pictures.median_depth)
    depth, median = (None if picture is None else torch.from_numpy(picture[..., None]) for picture in depths)
    return rgb, alpha, depth, median
