"""Real spherical harmonics up to degree 3, in the order and with the signs of the 3DGS reference code.

Shape letters: N points, K = (degree + 1)^2 coefficients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

C0 = 0.28209479177387814  # 1 / (2 sqrt(pi))
MAX_DEGREE = 3


def num_coefficients(degree: int) -> int:
    return (degree + 1) ** 2


def degree_of(coefficients: int) -> int:
    """The degree that has this many coefficients; ValueError if none has."""
    degree = math.isqrt(coefficients) - 1
    if coefficients < 1 or num_coefficients(degree) != coefficients or degree > MAX_DEGREE:
        raise ValueError(f"{coefficients} SH coefficients: not 1, 4, 9 or 16")
    return degree


def basis(directions: Tensor, degree: int) -> Tensor:
    """The basis functions [...,K] at unit directions [...,3]."""
    x, y, z = directions.unbind(-1)
    functions = [torch.full_like(x, C0)]
    if degree >= 1:
        c1 = 0.4886025119029199
        functions += [-c1 * y, c1 * z, -c1 * x]
    if degree >= 2:
        xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
        functions += [
            1.0925484305920792 * xy,
            -1.0925484305920792 * yz,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * xz,
            0.5462742152960396 * (xx - yy),
        ]
    if degree >= 3:
        functions += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * xy * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    return torch.stack(functions, dim=-1)


def evaluate(coefficients: Tensor, directions: Tensor, degree: int) -> Tensor:
    """Colour [N,3] seen from unit directions [N,3] for coefficients [N,K,3]; 0.5 is added, negatives are cut (3DGS)."""
    used = coefficients[:, : num_coefficients(degree)]
    return (torch.einsum("nk,nkc->nc", basis(directions, degree), used) + 0.5).clamp_min(0.0)


def from_rgb(rgb: Tensor) -> Tensor:
    """The constant coefficient that shows the colour `rgb` 0..1 from everywhere."""
    return (rgb - 0.5) / C0


def to_rgb(sh0: Tensor) -> Tensor:
    """The view-independent colour of a constant coefficient; the inverse of `from_rgb`."""
    return sh0 * C0 + 0.5


def rotation_matrix(rotation: Tensor, degree: int) -> Tensor:
    """The matrix [K,K] (float64) that turns coefficients when the world turns by `rotation` [3,3].

    Each band is closed under rotation, so the matrix of a band is the exact solution of a small linear system over
    more sample directions than it has functions: basis(R d) M = basis(d) for all d. This follows the definition and
    leaves no convention to get wrong.
    """
    rotation = rotation.double().cpu()
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(64, 3, generator=generator, dtype=torch.float64), dim=-1)
    before, after = basis(directions, degree), basis(directions @ rotation.T, degree)
    matrix = torch.zeros(num_coefficients(degree), num_coefficients(degree), dtype=torch.float64)
    for band in range(degree + 1):
        own = slice(band**2, (band + 1) ** 2)
        matrix[own, own] = torch.linalg.lstsq(after[:, own], before[:, own]).solution
    return matrix


def rotate(coefficients: Tensor, rotation: Tensor) -> Tensor:
    """Coefficients [N,K,3] of the same appearance after the world is turned by `rotation` [3,3]."""
    matrix = rotation_matrix(rotation, degree_of(coefficients.shape[1])).to(coefficients)
    return matrix @ coefficients
