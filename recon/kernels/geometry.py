"""The projection of LANES Gaussians into a camera, as forward and backward need it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from recon.kernels.lanes import load_columns, store_columns
from recon.kernels.simd import (
    LANES,
    exp2,
    get,
    inline,
    load,
    log2_positive,
    maximum,
    minimum,
    put,
    select,
    sqrt,
    stack,
    store,
)
from recon.kernels.splat import (
    CX,
    CY,
    EPS2D,
    FX,
    FY,
    LOG2E,
    NEAR,
    ROTATION,
    TRANSLATION,
    X_MAX,
    X_MIN,
    Y_MAX,
    Y_MIN,
)

_THREE, _FOUR = 3 * LANES, 4 * LANES  # `stack` wants a constant
TINY = np.float32(1e-30)  # what has less than this for its determinant shows nothing

# ------------------------------------------------------------------------------------------ rows of the parameters
# Past the last Gaussian, its values are repeated; writing leaves those lanes out.


@inline
def load_scalars(array: Any, first: Any, rows: Any) -> Any:
    """array[first : first + LANES]"""
    if first + LANES <= rows:
        return load(array, first)
    buffer = stack(LANES)
    for lane in range(LANES):
        put(buffer, lane, get(array, min(first + lane, rows - 1)))
    return load(buffer, 0)


@inline
def load_pairs(array: Any, first: Any, rows: Any) -> Any:
    """The columns of array[first : first + LANES] with two numbers in a row."""
    if first + LANES <= rows:
        return load_columns(array, first * 2, 2)
    buffer = stack(_FOUR)
    for i in range(2 * LANES):
        put(buffer, i, get(array, min(first + i // 2, rows - 1) * 2 + i % 2))
    return load_columns(buffer, 0, 2)


@inline
def load_triples(array: Any, first: Any, rows: Any) -> Any:
    """The columns of array[first : first + LANES] with three numbers in a row."""
    if first + LANES <= rows:
        return load_columns(array, first * 3, 3)
    buffer = stack(_THREE)
    for i in range(_THREE):
        put(buffer, i, get(array, min(first + i // 3, rows - 1) * 3 + i % 3))
    return load_columns(buffer, 0, 3)


@inline
def load_quads(array: Any, first: Any, rows: Any) -> Any:
    """The columns of array[first : first + LANES] with four numbers in a row."""
    if first + LANES <= rows:
        return load_columns(array, first * 4, 4)
    buffer = stack(_FOUR)
    for i in range(_FOUR):
        put(buffer, i, get(array, min(first + i // 4, rows - 1) * 4 + i % 4))
    return load_columns(buffer, 0, 4)


@inline
def store_scalars(array: Any, first: Any, rows: Any, values: Any) -> None:
    if first + LANES <= rows:
        store(array, first, values)
    else:
        buffer = stack(LANES)
        store(buffer, 0, values)
        for i in range(rows - first):
            put(array, first + i, get(buffer, i))


@inline
def store_tuples(array: Any, first: Any, rows: Any, values: Any) -> None:
    """array[first : first + LANES] = the rows whose columns are the vectors of a tuple of 2, 3 or 4."""
    width = len(values)
    if first + LANES <= rows:
        store_columns(array, first * width, values)
    else:
        buffer = stack(_FOUR)
        store_columns(buffer, 0, values)
        for i in range((rows - first) * width):
            put(array, first * width + i, get(buffer, i))


# ------------------------------------------------------------------------------------------ the projection


class Projection(NamedTuple):
    """The intermediate values of `project`, vectors or tuples of vectors."""

    depth: Any  # z in the camera
    in_front: Any  # mask: beyond the near plane
    inverse_depth: Any  # of 1 for the others
    slope: Any  # x/z and y/z
    clamped: Any  # the same, held inside the limits of the Jacobian
    quat: Any  # wxyz, of unit length
    inverse_norm: Any  # of the stored quaternion
    scale: Any  # 3
    axes: Any  # columns: the half-axes in the camera, 9
    image_axes: Any  # the same through the Jacobian: x of the three, then y of the three
    covariance: Any  # a, b, c: px^2
    determinant: Any
    sharp: Any  # the determinant without blur
    centre: Any  # px


@inline
def rotation(camera: Any) -> Any:
    """The nine numbers of the rotation to the camera, row by row."""
    k, r = camera, ROTATION
    upper = (get(k, r), get(k, r + 1), get(k, r + 2), get(k, r + 3), get(k, r + 4))
    return (*upper, get(k, r + 5), get(k, r + 6), get(k, r + 7), get(k, r + 8))


@inline
def to_camera(camera: Any, x: Any, y: Any, z: Any) -> Any:
    """A direction of the world, in the axes of the camera."""
    r0, r1, r2, r3, r4, r5, r6, r7, r8 = rotation(camera)
    return r0 * x + r1 * y + r2 * z, r3 * x + r4 * y + r5 * z, r6 * x + r7 * y + r8 * z


@inline
def to_world(camera: Any, x: Any, y: Any, z: Any) -> Any:
    """The inverse of `to_camera`."""
    r0, r1, r2, r3, r4, r5, r6, r7, r8 = rotation(camera)
    return r0 * x + r3 * y + r6 * z, r1 * x + r4 * y + r7 * z, r2 * x + r5 * y + r8 * z


@inline
def cross(a: Any, b: Any) -> Any:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@inline
def project(camera: Any, mean: Any, quat: Any, log_scale: Any) -> Any:
    """EWA projection: see `recon.raster.reference.project`, whose steps these are.

    The determinant of the covariance F F^T + e I (F: the 2x3 `image_axes`) is the sum of positive terms
    |f1 x f2|^2 + e (|f1|^2 + |f2|^2) + e^2. As a c - b^2, a needle's would drown in rounding errors.
    """
    k = camera
    fx, fy = get(k, FX), get(k, FY)
    x, y, z = to_camera(camera, mean[0], mean[1], mean[2])
    x, y, z = x + get(k, TRANSLATION), y + get(k, TRANSLATION + 1), z + get(k, TRANSLATION + 2)
    in_front = z > get(k, NEAR)
    iz = 1 / select(in_front, z, 1.0)

    qw, qx, qy, qz = quat
    inverse_norm = 1 / sqrt(maximum(qw * qw + qx * qx + qy * qy + qz * qz, 1e-24))
    qw, qx, qy, qz = qw * inverse_norm, qx * inverse_norm, qy * inverse_norm, qz * inverse_norm
    t0, t1, t2 = 1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy - qw * qz), 2 * (qx * qz + qw * qy)
    t3, t4, t5 = 2 * (qx * qy + qw * qz), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz - qw * qx)
    t6, t7, t8 = 2 * (qx * qz - qw * qy), 2 * (qy * qz + qw * qx), 1 - 2 * (qx * qx + qy * qy)

    s0, s1, s2 = exp2(log_scale[0] * LOG2E), exp2(log_scale[1] * LOG2E), exp2(log_scale[2] * LOG2E)
    a0, a3, a6 = to_camera(camera, t0 * s0, t3 * s0, t6 * s0)
    a1, a4, a7 = to_camera(camera, t1 * s1, t4 * s1, t7 * s1)
    a2, a5, a8 = to_camera(camera, t2 * s2, t5 * s2, t8 * s2)

    u, v = x * iz, y * iz
    cu = minimum(maximum(u, get(k, X_MIN)), get(k, X_MAX))
    cv = minimum(maximum(v, get(k, Y_MIN)), get(k, Y_MAX))
    gx, gy = fx * iz, fy * iz
    f0, f1, f2 = gx * (a0 - cu * a6), gx * (a1 - cu * a7), gx * (a2 - cu * a8)
    g0, g1, g2 = gy * (a3 - cv * a6), gy * (a4 - cv * a7), gy * (a5 - cv * a8)
    ff, gg = f0 * f0 + f1 * f1 + f2 * f2, g0 * g0 + g1 * g1 + g2 * g2
    n0, n1, n2 = cross((f0, f1, f2), (g0, g1, g2))
    sharp = n0 * n0 + n1 * n1 + n2 * n2
    return Projection(
        depth=z,
        in_front=in_front,
        inverse_depth=iz,
        slope=(u, v),
        clamped=(cu, cv),
        quat=(qw, qx, qy, qz),
        inverse_norm=inverse_norm,
        scale=(s0, s1, s2),
        axes=(a0, a1, a2, a3, a4, a5, a6, a7, a8),
        image_axes=(f0, f1, f2, g0, g1, g2),
        covariance=(ff + EPS2D, f0 * g0 + f1 * g1 + f2 * g2, gg + EPS2D),
        determinant=sharp + EPS2D * (ff + gg) + EPS2D * EPS2D,
        sharp=sharp,
        centre=(fx * u + get(k, CX), fy * v + get(k, CY)),
    )


@inline
def log2_compensation(p: Any) -> Any:
    """The logarithm of the factor by which opacities make up for the blur: it is to spread Gaussians, and not to make
    more of them. The factor is the root of the ratio of the determinants (Yu et al. 2024, "Mip-Splatting", eq. 9)."""
    return 0.5 * (log2_positive(maximum(p.sharp, TINY)) - log2_positive(p.determinant))


@inline
def compensation_gradient(p: Any, g_log: Any) -> Any:
    """Gradients of the `image_axes` from that of the logarithm of the factor of `log2_compensation`.

    With rows f and g, n = f x g, the blur e and D the determinant, that of f is (g x n) (D - n^2) / (n^2 D) - e f / D.
    Taken through the covariance it would be a difference of much larger numbers where a Gaussian is a needle.
    """
    a, _, c = p.covariance
    f0, f1, f2, g0, g1, g2 = p.image_axes
    f, g = (f0, f1, f2), (g0, g1, g2)
    n = cross(f, g)
    (u0, u1, u2), (v0, v1, v2) = cross(g, n), cross(n, f)
    less = EPS2D * g_log / p.determinant
    more = less * (a + c - EPS2D) / maximum(p.sharp, TINY)
    of_f = (more * u0 - less * f0, more * u1 - less * f1, more * u2 - less * f2)
    return (*of_f, more * v0 - less * g0, more * v1 - less * g1, more * v2 - less * g2)
