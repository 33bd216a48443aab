"""Spherical harmonics of LANES directions at once: see `recon.sh` for the definition.

Coefficients of a block of Gaussians are a buffer in which each of their 3 K - 3 numbers takes LANES floats; the
constant one is kept apart, as it is in the parameters.
"""

from __future__ import annotations

from typing import Any

from recon.kernels.lanes import copy_transposed
from recon.kernels.simd import LANES, broadcast, get, inline, load, maximum, put, sqrt, store
from recon.kernels.splat import POSITION

MAX_COEFFICIENTS = 16

# Sizes of buffers: of functions; of coefficients beyond the constant, which are transposed LANES at a time.
FUNCTIONS = MAX_COEFFICIENTS * LANES
COEFFICIENTS = -(-3 * (MAX_COEFFICIENTS - 1) // LANES) * LANES * LANES

C0 = 0.28209479177387814
C1 = 0.4886025119029199
C2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
C3 = (0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154, 1.445305721320277)


@inline
def load_rows(source: Any, first: Any, stride: Any, count: Any, rows: Any, buffer: Any) -> None:
    """buffer[j * LANES + i] = number j < count of row first + i, for the rows before `rows` (others are left).

    Rows are `stride` numbers; whole vectors are read where none reaches past the end of the array.
    """
    start = first * stride
    if start + (LANES - 1) * stride + (count + LANES - 1) // LANES * LANES <= rows * stride:
        for column in range(0, count, LANES):
            copy_transposed(source, start + column, stride, buffer, column * LANES, LANES)
    else:
        for row in range(min(LANES, rows - first)):
            for column in range(count):
                put(buffer, column * LANES + row, get(source, start + row * stride + column))


@inline
def store_rows(buffer: Any, target: Any, first: Any, stride: Any, rows: Any) -> None:
    """The inverse of `load_rows` for whole rows of `stride` numbers."""
    start = first * stride
    if stride >= LANES and first + LANES <= rows:
        for column in range(0, stride, LANES):
            column = min(column, stride - LANES)  # the last block overlaps the one before: no other row is touched
            copy_transposed(buffer, column * LANES, LANES, target, start + column, stride)
    else:
        for row in range(min(LANES, rows - first)):
            for column in range(stride):
                put(target, start + row * stride + column, get(buffer, column * LANES + row))


@inline
def view_direction(camera: Any, mean: Any) -> Any:
    """The unit direction from the camera to a Gaussian, and the inverse of their distance."""
    x, y, z = mean
    x, y, z = x - get(camera, POSITION), y - get(camera, POSITION + 1), z - get(camera, POSITION + 2)
    inverse = 1 / sqrt(maximum(x * x + y * y + z * z, 1e-24))
    return (x * inverse, y * inverse, z * inverse), inverse


@inline
def basis(degree: Any, x: Any, y: Any, z: Any, functions: Any) -> None:
    """Write the basis functions 1, 2, ... of unit directions; function k at k * LANES."""
    if degree > 0:
        store(functions, LANES, -C1 * y)
        store(functions, 2 * LANES, C1 * z)
        store(functions, 3 * LANES, -C1 * x)
    if degree > 1:
        xx, yy, zz = x * x, y * y, z * z
        store(functions, 4 * LANES, C2[0] * x * y)
        store(functions, 5 * LANES, -C2[0] * y * z)
        store(functions, 6 * LANES, C2[1] * (2 * zz - xx - yy))
        store(functions, 7 * LANES, -C2[0] * x * z)
        store(functions, 8 * LANES, C2[2] * (xx - yy))
        if degree > 2:
            store(functions, 9 * LANES, -C3[0] * y * (3 * xx - yy))
            store(functions, 10 * LANES, C3[1] * x * y * z)
            store(functions, 11 * LANES, -C3[2] * y * (4 * zz - xx - yy))
            store(functions, 12 * LANES, C3[3] * z * (2 * zz - 3 * xx - 3 * yy))
            store(functions, 13 * LANES, -C3[2] * x * (4 * zz - xx - yy))
            store(functions, 14 * LANES, C3[4] * z * (xx - yy))
            store(functions, 15 * LANES, -C3[0] * x * (xx - 3 * yy))


@inline
def colour(coefficients: int, functions: Any, constant: Any, rest: Any) -> Any:
    """Sums of `coefficients` functions times their coefficients, plus 0.5: red, green, blue."""
    red, green, blue = C0 * constant[0] + 0.5, C0 * constant[1] + 0.5, C0 * constant[2] + 0.5
    for k in range(1, coefficients):
        value, at = load(functions, k * LANES), (3 * k - 3) * LANES
        red = red + value * load(rest, at)
        green = green + value * load(rest, at + LANES)
        blue = blue + value * load(rest, at + 2 * LANES)
    return red, green, blue


@inline
def colour_gradient(coefficients: int, functions: Any, gradient: Any, rest: Any, slopes: Any) -> None:
    """Replace the coefficients in `rest` by their gradients, given the gradient of the colour.

    slopes[k * LANES] becomes the gradient of function k, which `direction_gradient` needs.
    """
    red, green, blue = gradient
    for k in range(1, coefficients):
        value, at = load(functions, k * LANES), (3 * k - 3) * LANES
        slope = red * load(rest, at) + green * load(rest, at + LANES) + blue * load(rest, at + 2 * LANES)
        store(slopes, k * LANES, slope)
        store(rest, at, value * red)
        store(rest, at + LANES, value * green)
        store(rest, at + 2 * LANES, value * blue)


@inline
def direction_gradient(degree: Any, x: Any, y: Any, z: Any, slopes: Any) -> Any:
    """The gradient of the direction (x, y, z), as if it need not be of unit length."""
    gx, gy, gz = broadcast(0.0), broadcast(0.0), broadcast(0.0)
    if degree > 0:
        gx = -C1 * load(slopes, 3 * LANES)
        gy = -C1 * load(slopes, LANES)
        gz = C1 * load(slopes, 2 * LANES)
    if degree > 1:
        s4, s5, s6 = load(slopes, 4 * LANES), load(slopes, 5 * LANES), load(slopes, 6 * LANES)
        s7, s8 = load(slopes, 7 * LANES), load(slopes, 8 * LANES)
        gx = gx + C2[0] * (y * s4 - z * s7) + 2 * x * (C2[2] * s8 - C2[1] * s6)
        gy = gy + C2[0] * (x * s4 - z * s5) - 2 * y * (C2[2] * s8 + C2[1] * s6)
        gz = gz + 4 * C2[1] * z * s6 - C2[0] * (y * s5 + x * s7)
        if degree > 2:
            s9, s10, s11 = load(slopes, 9 * LANES), load(slopes, 10 * LANES), load(slopes, 11 * LANES)
            s12, s13 = load(slopes, 12 * LANES), load(slopes, 13 * LANES)
            s14, s15 = load(slopes, 14 * LANES), load(slopes, 15 * LANES)
            xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
            gx = gx - 6 * C3[0] * xy * s9 + C3[1] * yz * s10 + 2 * C3[2] * xy * s11 - 6 * C3[3] * xz * s12
            gx = gx - C3[2] * (4 * zz - 3 * xx - yy) * s13 + 2 * C3[4] * xz * s14 - 3 * C3[0] * (xx - yy) * s15
            gy = gy - 3 * C3[0] * (xx - yy) * s9 + C3[1] * xz * s10 - C3[2] * (4 * zz - xx - 3 * yy) * s11
            gy = gy - 6 * C3[3] * yz * s12 + 2 * C3[2] * xy * s13 - 2 * C3[4] * yz * s14 + 6 * C3[0] * xy * s15
            gz = gz + C3[1] * xy * s10 - 8 * C3[2] * yz * s11 + 3 * C3[3] * (2 * zz - xx - yy) * s12
            gz = gz - 8 * C3[2] * xz * s13 + C3[4] * (xx - yy) * s14
    return gx, gy, gz
