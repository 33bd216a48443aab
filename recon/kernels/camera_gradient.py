"""The gradient of a camera itself: sums over the Gaussians that it sees, taken where their own gradients are made.

A camera moves by turning about its centre, by stepping, and by zooming. To turn it by a small vector w of its own axes
is p -> p + w x p for all that it sees, to step by s is p -> p + s, and a step changes the directions from which colours
are seen as well, so that its gradient is that of all means together.
"""

from __future__ import annotations

from typing import Any

from recon.kernels.lanes import sum_lanes
from recon.kernels.simd import LANES, get, inline, load, put, select, store
from recon.kernels.splat import FX, FY

CAMERA_GRADIENT = 10
# The sums: of a turn, in the axes of the camera; of a step, in the axes of the world; of fx, fy, cx and cy.
TURN, STEP, FOCAL, CENTRE = 0, 3, 6, 8
CAMERA_SCRATCH = CAMERA_GRADIENT * LANES  # floats in which a thread adds up


@inline
def add_to_camera(camera: Any, g: Any, g_centre: Any, seen: Any, sums: Any) -> None:
    """Add the share of LANES Gaussians to CAMERA_GRADIENT vectors.

    Args:
        g: their `BlockGradient`.
        g_centre: the gradient of their centres.
        seen: mask of those that count.
    """
    p, (x, y, z) = g.projection, g.geometry.place
    (u, v), (cu, cv) = p.slope, p.clamped
    fx, fy = get(camera, FX), get(camera, FY)
    # What turns: the mean, and the three half-axes, which are the columns of a 3x3 matrix, as their gradients are.
    a0, a1, a2, a3, a4, a5, a6, a7, a8 = p.axes
    d0, d1, d2, d3, d4, d5, d6, d7, d8 = g.geometry.axes
    turn_x = p.depth * (v * z - y) + a3 * d6 - a6 * d3 + a4 * d7 - a7 * d4 + a5 * d8 - a8 * d5
    turn_y = p.depth * (x - u * z) + a6 * d0 - a0 * d6 + a7 * d1 - a1 * d7 + a8 * d2 - a2 * d8
    turn_z = p.depth * (u * y - v * x) + a0 * d3 - a3 * d0 + a1 * d4 - a4 * d1 + a2 * d5 - a5 * d2
    # What a focal length scales: the way from the principal point, and one row of the covariance's factor. It also
    # moves the limits of the Jacobian, for what lies beyond them.
    f0, f1, f2, g0, g1, g2 = p.image_axes
    df0, df1, df2, dg0, dg1, dg2 = g.geometry.image_axes
    at_limit_x = select(u == cu, 0.0, -(d0 * a6 + d1 * a7 + d2 * a8)) / fx
    at_limit_y = select(v == cv, 0.0, -(d3 * a6 + d4 * a7 + d5 * a8)) / fy
    focal_x = g_centre[0] * u + (f0 * df0 + f1 * df1 + f2 * df2) / fx - at_limit_x * cu
    focal_y = g_centre[1] * v + (g0 * dg0 + g1 * dg1 + g2 * dg2) / fy - at_limit_y * cv
    step_x, step_y, step_z = g.mean
    _add(sums, TURN, seen, turn_x)
    _add(sums, TURN + 1, seen, turn_y)
    _add(sums, TURN + 2, seen, turn_z)
    _add(sums, STEP, seen, step_x)
    _add(sums, STEP + 1, seen, step_y)
    _add(sums, STEP + 2, seen, step_z)
    _add(sums, FOCAL, seen, focal_x)
    _add(sums, FOCAL + 1, seen, focal_y)
    _add(sums, CENTRE, seen, g_centre[0] - at_limit_x)
    _add(sums, CENTRE + 1, seen, g_centre[1] - at_limit_y)


@inline
def _add(sums: Any, field: Any, seen: Any, value: Any) -> None:
    store(sums, field * LANES, load(sums, field * LANES) + select(seen, value, 0.0))


@inline
def keep_sums(sums: Any, camera_gradients: Any, piece: Any) -> None:
    """Write the sums over all lanes to their row of an array."""
    for field in range(CAMERA_GRADIENT):
        put(camera_gradients, piece * CAMERA_GRADIENT + field, sum_lanes(load(sums, field * LANES)))
