"""The gradient of the projection: from records back to the parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

from recon.kernels.camera_gradient import CAMERA_SCRATCH, add_to_camera, keep_sums
from recon.kernels.geometry import (
    compensation_gradient,
    load_pairs,
    load_quads,
    load_scalars,
    load_triples,
    project,
    store_scalars,
    store_tuples,
    to_world,
)
from recon.kernels.harmonics import (
    C0,
    COEFFICIENTS,
    FUNCTIONS,
    basis,
    colour_gradient,
    direction_gradient,
    load_rows,
    store_rows,
    view_direction,
)
from recon.kernels.lanes import any_set, atomic_add, load_flags
from recon.kernels.runtime import kernel
from recon.kernels.simd import LANES, exp2, get, inline, load, minimum, put, select, stack, store
from recon.kernels.splat import (
    ANTIALIASED,
    CHUNK,
    D_A,
    D_B,
    D_BLUE,
    D_C,
    D_DEPTH,
    D_GREEN,
    D_LOG_OPACITY,
    D_RED,
    FX,
    FY,
    GRADIENT,
    LOG2E,
)


@inline
def clear(array: Any, start: Any, count: Any) -> None:
    """array[start : start + count] = 0"""
    whole = count // LANES * LANES
    for i in range(start, start + whole, LANES):
        store(array, i, 0.0)
    for i in range(start + whole, start + count):
        put(array, i, 0.0)


class GeometryGradient(NamedTuple):
    """Gradients of LANES Gaussians through `project`."""

    mean: Any  # in the world
    quat: Any
    log_scale: Any
    place: Any  # of the mean, in the camera
    axes: Any  # of `Projection.axes`
    image_axes: Any  # of `Projection.image_axes`


@inline
def image_axes_gradient(p: Any, g_covariance: Any) -> Any:
    """Gradients of the `image_axes` from those of the covariance, see `geometry_gradient`."""
    f0, f1, f2, g0, g1, g2 = p.image_axes
    ga, gb, gc = g_covariance
    of_f = (2 * ga * f0 + gb * g0, 2 * ga * f1 + gb * g1, 2 * ga * f2 + gb * g2)
    return (*of_f, 2 * gc * g0 + gb * f0, 2 * gc * g1 + gb * f1, 2 * gc * g2 + gb * f2)


@inline
def geometry_gradient(camera: Any, p: Any, g_centre: Any, g_image_axes: Any, g_depth: Any) -> Any:
    """Gradients through `project`, whose result is `p`.

    The covariance is F F^T + e I with rows f and g of F (`image_axes`); F = diag(focal / z) (A_xy - (x/z, y/z)^T A_z)
    with A the `axes`, the rotation to the camera times the Gaussian's turn times its scales.
    """
    fx, fy = get(camera, FX), get(camera, FY)
    iz, (u, v), (cu, cv) = p.inverse_depth, p.slope, p.clamped
    a0, a1, a2, a3, a4, a5, a6, a7, a8 = p.axes
    f0, f1, f2, g0, g1, g2 = p.image_axes
    df0, df1, df2, dg0, dg1, dg2 = g_image_axes
    dz = g_depth - (df0 * f0 + df1 * f1 + df2 * f2 + dg0 * g0 + dg1 * g1 + dg2 * g2) * iz
    sx, sy = fx * iz, fy * iz
    d0, d1, d2 = sx * df0, sx * df1, sx * df2  # gradient of the axes
    d3, d4, d5 = sy * dg0, sy * dg1, sy * dg2
    d6, d7, d8 = -(cu * d0 + cv * d3), -(cu * d1 + cv * d4), -(cu * d2 + cv * d5)
    du = fx * g_centre[0] - select(u == cu, d0 * a6 + d1 * a7 + d2 * a8, 0.0)
    dv = fy * g_centre[1] - select(v == cv, d3 * a6 + d4 * a7 + d5 * a8, 0.0)
    dx, dy = du * iz, dv * iz
    dz = dz - (dx * u + dy * v)
    g_mean = to_world(camera, dx, dy, dz)
    g_log_scale = (d0 * a0 + d3 * a3 + d6 * a6, d1 * a1 + d4 * a4 + d7 * a7, d2 * a2 + d5 * a5 + d8 * a8)

    s0, s1, s2 = p.scale
    t0, t3, t6 = to_world(camera, d0 * s0, d3 * s0, d6 * s0)
    t1, t4, t7 = to_world(camera, d1 * s1, d4 * s1, d7 * s1)
    t2, t5, t8 = to_world(camera, d2 * s2, d5 * s2, d8 * s2)
    w, x, y, z = p.quat
    xy, xz, yz, wx, wy, wz = t1 + t3, t2 + t6, t5 + t7, t7 - t5, t2 - t6, t3 - t1
    qw = 2 * (x * wx + y * wy + z * wz)
    qx = 2 * (y * xy + z * xz + w * wx) - 4 * x * (t4 + t8)
    qy = 2 * (x * xy + z * yz + w * wy) - 4 * y * (t0 + t8)
    qz = 2 * (x * xz + y * yz + w * wz) - 4 * z * (t0 + t4)
    along, n = qw * w + qx * x + qy * y + qz * z, p.inverse_norm  # only what is across changes a unit quaternion
    g_quat = ((qw - along * w) * n, (qx - along * x) * n, (qy - along * y) * n, (qz - along * z) * n)
    axes = (d0, d1, d2, d3, d4, d5, d6, d7, d8)
    return GeometryGradient(g_mean, g_quat, g_log_scale, (dx, dy, dz), axes, g_image_axes)


class Shape(NamedTuple):
    """LANES Gaussians but for their colours: vectors or tuples of vectors."""

    mean: Any
    quat: Any
    log_scale: Any
    logit: Any


class BlockGradient(NamedTuple):
    """Gradients of LANES Gaussians, of undefined value for those that are not seen; zero there for `sh0`."""

    mean: Any
    quat: Any
    log_scale: Any
    logit: Any
    sh0: Any
    geometry: Any  # `GeometryGradient`
    projection: Any  # what it went through


@inline
def load_shape(first: Any, rows: Any, means: Any, quats: Any, log_scales: Any, logits: Any) -> Any:
    return Shape(
        mean=load_triples(means, first, rows),
        quat=load_quads(quats, first, rows),
        log_scale=load_triples(log_scales, first, rows),
        logit=load_scalars(logits, first, rows),
    )


@inline
def block_gradient(
    camera: Any,
    shape: Any,
    degree: Any,
    gradients: Any,
    first: Any,
    g_centre: Any,
    functions: Any,
    slopes: Any,
    rest: Any,
) -> Any:
    """Gradients of the Gaussians from row `first` on.

    Args:
        gradients, g_centre: of their records and centres.
        functions, slopes: scratch memory, FUNCTIONS each.
        rest: the coefficients of the bands in use but the constant one, which are replaced by their gradients.
    """
    p, at = project(camera, shape.mean, shape.quat, shape.log_scale), first * GRADIENT
    g_a, g_b = load(gradients, at + D_A * LANES), load(gradients, at + D_B * LANES)
    g_c, g_depth = load(gradients, at + D_C * LANES), load(gradients, at + D_DEPTH * LANES)
    g_log_opacity, g_axes = load(gradients, at + D_LOG_OPACITY * LANES), image_axes_gradient(p, (g_a, g_b, g_c))
    if get(camera, ANTIALIASED) > 0:
        g0, g1, g2, g3, g4, g5 = g_axes
        m0, m1, m2, m3, m4, m5 = compensation_gradient(p, g_log_opacity)
        g_axes = (g0 + m0, g1 + m1, g2 + m2, g3 + m3, g4 + m4, g5 + m5)
    g = geometry_gradient(camera, p, g_centre, g_axes, g_depth)
    miss = exp2(minimum(shape.logit * -LOG2E, 100.0))  # opacity is 1 / (1 + miss)
    g_logit = g_log_opacity * (miss / (1 + miss))

    red, green = load(gradients, at + D_RED * LANES), load(gradients, at + D_GREEN * LANES)
    blue = load(gradients, at + D_BLUE * LANES)
    (x, y, z), inverse = view_direction(camera, shape.mean)
    basis(degree, x, y, z, functions)
    colour_gradient((degree + 1) * (degree + 1), functions, (red, green, blue), rest, slopes)
    dx, dy, dz = direction_gradient(degree, x, y, z, slopes)
    along = dx * x + dy * y + dz * z  # only what is across turns a direction
    dx, dy, dz = (dx - along * x) * inverse, (dy - along * y) * inverse, (dz - along * z) * inverse
    return BlockGradient(
        mean=(g.mean[0] + dx, g.mean[1] + dy, g.mean[2] + dz),
        quat=g.quat,
        log_scale=g.log_scale,
        logit=g_logit,
        sh0=(C0 * red, C0 * green, C0 * blue),
        geometry=g,
        projection=p,
    )


@inline
def store_seen(array: Any, first: Any, rows: Any, seen: Any, columns: Any) -> None:
    """Write three columns, 0 for the Gaussians that are not seen."""
    x, y, z = columns
    store_tuples(array, first, rows, (select(seen, x, 0.0), select(seen, y, 0.0), select(seen, z, 0.0)))


PIECE = CHUNK // 4  # rows that a thread takes at a time


@kernel(
    "f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], i8, i8, i8, u1[::1], f4[::1], f4[::1],"
    " f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1]"
)
def project_gaussians_backward(
    camera: Any,
    means: Any,
    quats: Any,
    log_scales: Any,
    logits: Any,
    shN: Any,
    rows: int,
    degree: int,
    stored: int,
    seen_flags: Any,
    gradients: Any,
    g_means2d: Any,
    g_means: Any,
    g_quats: Any,
    g_log_scales: Any,
    g_logits: Any,
    g_sh0: Any,
    g_shN: Any,
    g_camera: Any,
    counter: Any,
    thread: int,
) -> None:
    """Gradients of all parameters, from one camera.

    Args:
        camera, means, quats, log_scales, logits, shN, rows, degree, stored, seen_flags: of `project_gaussians`.
        gradients, g_means2d: what `gather` wrote (to g_means2d may have been added).
        g_means, g_quats, g_log_scales, g_logits, g_sh0, g_shN: written for all, with the parameters' shapes.
        g_camera: [pieces of PIECE rows, CAMERA_GRADIENT] the camera's own gradient, a sum for each piece; empty if not
            wanted.
    """
    used, width = (degree + 1) * (degree + 1), stored * 3 - 3
    functions, slopes, rest = stack(FUNCTIONS), stack(FUNCTIONS), stack(COEFFICIENTS)
    of_camera, with_camera = stack(CAMERA_SCRATCH), len(g_camera) > 0
    while True:
        start = atomic_add(counter, 0, PIECE)
        if start >= rows:
            break
        clear(of_camera, 0, CAMERA_SCRATCH)
        for first in range(start, min(start + PIECE, rows), LANES):
            count, seen = min(LANES, rows - first), load_flags(seen_flags, first)
            if not any_set(seen):
                clear(g_means, 3 * first, 3 * count)
                clear(g_quats, 4 * first, 4 * count)
                clear(g_log_scales, 3 * first, 3 * count)
                clear(g_logits, first, count)
                clear(g_sh0, 3 * first, 3 * count)
                clear(g_shN, width * first, width * count)
                continue

            shape = load_shape(first, rows, means, quats, log_scales, logits)
            load_rows(shN, first, width, used * 3 - 3, rows, rest)
            g_centre = load_pairs(g_means2d, first, rows)
            g = block_gradient(camera, shape, degree, gradients, first, g_centre, functions, slopes, rest)
            if with_camera:
                add_to_camera(camera, g, g_centre, seen, of_camera)
            clear(rest, (used * 3 - 3) * LANES, (stored - used) * 3 * LANES)
            store_rows(rest, g_shN, first, width, rows)
            store_tuples(g_sh0, first, rows, g.sh0)
            store_seen(g_means, first, rows, seen, g.mean)
            store_seen(g_log_scales, first, rows, seen, g.log_scale)
            store_scalars(g_logits, first, rows, select(seen, g.logit, 0.0))
            qw, qx, qy, qz = g.quat
            qw, qx = select(seen, qw, 0.0), select(seen, qx, 0.0)
            store_tuples(g_quats, first, rows, (qw, qx, select(seen, qy, 0.0), select(seen, qz, 0.0)))
        if with_camera:
            keep_sums(of_camera, g_camera, start // PIECE)
