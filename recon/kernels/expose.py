"""A picture of the scene as a camera exposes it, and what that camera's exposure should have been.

The factor of a pixel in a colour is exp(c0 + c1 r^2 + c2 r^4 + c3 r^6), with r its distance from the centre. What makes
the picture p more like the photo t follows from one pass over both: with weights w = 1 / max(|t - p|, ROBUST), which
turn squares into absolute values, the change d of the coefficients solves sum_l d_l S(k + l) = T(k) for all k, where
S(k) = sum w p^2 r^2k and T(k) = sum w p (t - p) r^2k (Gauss-Newton, reweighted). Some of the rows are enough for that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.kernels.buffers import take
from recon.kernels.lanes import atomic_add, load_first, store_first, sum_lanes
from recon.kernels.runtime import kernel, launch
from recon.kernels.simd import LANES, absolute, broadcast, exp2, get, inline, lane_index, maximum, put, select
from recon.kernels.splat import LOG2E

Floats = NDArray[np.float32]
Shot = tuple[tuple[float, float, float], Floats]  # lens and coefficients of `expose`

COEFFICIENTS = 4
SQUARES, PRODUCTS = 7, 4  # S(0) ... S(6), T(0) ... T(3)
SUMS = SQUARES + PRODUCTS
ROBUST = 0.02  # differences below this count as squares
SATURATED = 0.98  # photos are cut off above: such a pixel says nothing of the exposure

EVERY = 4  # rows is one that is summed up: all would say no more

ROWS = 8  # of a plane that a thread takes at a time

_ROBUST, _SATURATED = np.float32(ROBUST), np.float32(SATURATED)
_ZERO, _HALF = np.float32(0), np.float32(0.5)


def expose(
    rgb: Floats, target: Floats, kept: Floats | None, lens: tuple[float, float, float], coefficients: Floats
) -> tuple[Floats, NDArray[np.float64]]:
    """A picture as exposed, and the sums for each colour that tell how it should have been.

    Args:
        rgb, target: [3,H,W] the picture and the photo, contiguous.
        kept: [H,W] 0 where a pixel of the photo does not count.
        lens: x and y of the centre and the distance at which r is 1, px.
        coefficients: [3,COEFFICIENTS].
    Returns:
        [3,H,W] and [3,SUMS].
    """
    planes, height, width = rgb.shape
    exposed, sums = take(rgb.shape, np.float32), take((planes, -(-height // EVERY), SUMS), np.float32)
    launch(
        *(_expose, rgb.reshape(-1), target.reshape(-1)),
        np.empty(0, np.float32) if kept is None else kept.reshape(-1),
        *(planes, height, width, pack(lens, coefficients), exposed.reshape(-1), sums.reshape(-1)),
    )
    return exposed, np.add.reduce(sums, axis=1, dtype=np.float64)


def pack(lens: tuple[float, float, float], coefficients: Floats) -> Floats:
    """What kernels take as `packed`."""
    x, y, radius = lens
    packed = np.empty(3 + coefficients.size, np.float32)
    packed[:3] = x, y, 1 / radius
    np.multiply(coefficients.reshape(-1), np.float32(LOG2E), out=packed[3:])
    return packed


@inline
def squared_radius(packed: Any, row: Any, column: Any) -> Any:
    """r^2 of the pixels from a column on."""
    scale = get(packed, 2)
    x, y = lane_index() + (np.float32(column) + _HALF - get(packed, 0)), np.float32(row) + _HALF - get(packed, 1)
    x, y = x * scale, y * scale
    return x * x + y * y


@inline
def factor_of(packed: Any, plane: Any, square: Any) -> Any:
    at = 3 + plane * COEFFICIENTS
    c0, c1, c2, c3 = get(packed, at), get(packed, at + 1), get(packed, at + 2), get(packed, at + 3)
    return exp2(c0 + square * (c1 + square * (c2 + square * c3)))


@kernel("f4[::1], f4[::1], f4[::1], i8, i8, i8, f4[::1], f4[::1], f4[::1]")
def _expose(
    rgb: Any,
    target: Any,
    kept: Any,  # empty: all
    planes: int,
    height: int,
    width: int,
    packed: Any,
    exposed: Any,
    sums: Any,
    counter: Any,
    thread: int,
) -> None:
    while True:
        start = atomic_add(counter, 0, ROWS)
        if start >= planes * height:
            break
        for line in range(start, min(start + ROWS, planes * height)):
            plane, row = line // height, line % height
            if row % EVERY != 0:
                for column in range(0, width, LANES):
                    factor = factor_of(packed, plane, squared_radius(packed, row, column))
                    at = line * width + column
                    store_first(exposed, at, load_first(rgb, at, width - column) * factor, width - column)
                continue
            s0 = s1 = s2 = s3 = s4 = s5 = s6 = t0 = t1 = t2 = t3 = broadcast(_ZERO)
            for column in range(0, width, LANES):
                left = width - column
                at = line * width + column
                square = squared_radius(packed, row, column)
                picture = load_first(rgb, at, left) * factor_of(packed, plane, square)
                store_first(exposed, at, picture, left)
                photo = load_first(target, at, left)
                difference = photo - picture
                counts = (photo < _SATURATED) & (lane_index() < left)
                if kept.size > 0:
                    counts = counts & (load_first(kept, row * width + column, left) != _ZERO)
                weighted = select(counts, picture / maximum(absolute(difference), _ROBUST), _ZERO)
                s, t = weighted * picture, weighted * difference
                s0, t0 = s0 + s, t0 + t
                s, t = s * square, t * square
                s1, t1 = s1 + s, t1 + t
                s, t = s * square, t * square
                s2, t2 = s2 + s, t2 + t
                s, t = s * square, t * square
                s3, t3 = s3 + s, t3 + t
                s = s * square
                s4 = s4 + s
                s = s * square
                s5 = s5 + s
                s6 = s6 + s * square
            at = (plane * ((height + EVERY - 1) // EVERY) + row // EVERY) * SUMS
            put(sums, at, sum_lanes(s0))
            put(sums, at + 1, sum_lanes(s1))
            put(sums, at + 2, sum_lanes(s2))
            put(sums, at + 3, sum_lanes(s3))
            put(sums, at + 4, sum_lanes(s4))
            put(sums, at + 5, sum_lanes(s5))
            put(sums, at + 6, sum_lanes(s6))
            put(sums, at + 7, sum_lanes(t0))
            put(sums, at + 8, sum_lanes(t1))
            put(sums, at + 9, sum_lanes(t2))
            put(sums, at + 10, sum_lanes(t3))
