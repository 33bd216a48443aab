"""Total variation of a sparse grid (Fridovich-Keil et al. 2022, eq. 3), added to the gradient of some of its rows.

The variation of a corner is the root of the sum of squares of the differences to the next corners along x, y and z; to
one that is not kept there is none. A row gets all of its own gradient, from its own variation and from those of the
three corners before it, so no two threads write one row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.kernels.lanes import atomic_add
from recon.kernels.runtime import kernel, launch
from recon.kernels.simd import LANES, get, inline, load, sqrt, store
from recon.kernels.voxel_gradient import Gradient
from recon.kernels.voxels import ROW, Grid

PIECE = 64  # rows that a thread takes at a time
EPS = 1e-9  # keeps the root's slope finite


def add_variation(
    grid: Grid, cells: NDArray[np.int32], first: int, count: int, weights: tuple[float, float], gradient: Gradient
) -> None:
    """Add the gradient of weight times variation, summed over all corners and channels, in `count` rows from `first`.

    Args:
        cells: [V] the corner of each row, as in `links`.
        weights: of levels and of harmonics.
    """
    launch(
        *(_vary, grid.side, grid.links, cells, grid.levels, grid.harmonics.reshape(-1), first, count, *weights),
        *(gradient.levels, gradient.harmonics.reshape(-1), gradient.seen),
    )


@inline
def _row(links: Any, there: Any, corner: Any, otherwise: Any) -> Any:
    """The row of a corner; another one's where it is not there, which makes no difference then."""
    if not there:
        return otherwise
    link = get(links, corner)
    return link if link >= 0 else otherwise


@inline
def _slope(value: Any, own: Any, x: Any, y: Any, z: Any) -> Any:
    """`value` over the variation of a corner that has the value `own`, and the next ones x, y and z."""
    dx, dy, dz = x - own, y - own, z - own
    return value / sqrt(dx * dx + dy * dy + dz * dz + EPS)


@inline
def _scalar_slope(value: Any, own: Any, x: Any, y: Any, z: Any) -> Any:
    dx, dy, dz = x - own, y - own, z - own
    return value / math.sqrt(dx * dx + dy * dy + dz * dz + EPS)


@kernel("i8, i4[::1], i4[::1], f4[::1], f4[::1], i8, i8, f8, f8, f4[::1], f4[::1], u1[::1]")
def _vary(
    side: int,
    links: Any,
    cells: Any,
    levels: Any,
    harmonics: Any,
    first: int,
    count: int,
    of_levels: float,
    of_harmonics: float,
    g_levels: Any,
    g_harmonics: Any,
    seen: Any,
    counter: Any,
    thread: int,
) -> None:
    sx, sy, sz = side * side, side, 1
    while True:
        begin = atomic_add(counter, 0, 1) * PIECE
        if begin >= count:
            break
        for row in range(first + begin, first + min(begin + PIECE, count)):
            cell = get(cells, row)
            i, j, k = cell // sx, cell // sy % side, cell % side
            up_x, up_y, up_z = i + 1 < side, j + 1 < side, k + 1 < side
            x, y = _row(links, up_x, cell + sx, row), _row(links, up_y, cell + sy, row)
            z, bx = _row(links, up_z, cell + sz, row), _row(links, i > 0, cell - sx, row)
            by, bz = _row(links, j > 0, cell - sy, row), _row(links, k > 0, cell - sz, row)
            # What comes next to the corners before it in the other two directions.
            bxy, bxz = _row(links, i > 0 and up_y, cell - sx + sy, bx), _row(links, i > 0 and up_z, cell - sx + sz, bx)
            byx, byz = _row(links, j > 0 and up_x, cell - sy + sx, by), _row(links, j > 0 and up_z, cell - sy + sz, by)
            bzx, bzy = _row(links, k > 0 and up_x, cell - sz + sx, bz), _row(links, k > 0 and up_y, cell - sz + sy, bz)
            if seen[row] == 0:
                seen[row] = 1
                g_levels[row] = 0
                for at in range(0, ROW, LANES):
                    store(g_harmonics, row * ROW + at, 0.0)
            d = levels
            v = d[row]
            total = _scalar_slope(3 * v - d[x] - d[y] - d[z], v, d[x], d[y], d[z])
            total += _scalar_slope(v - d[bx], d[bx], v, d[bxy], d[bxz])
            total += _scalar_slope(v - d[by], d[by], d[byx], v, d[byz])
            total += _scalar_slope(v - d[bz], d[bz], d[bzx], d[bzy], v)
            g_levels[row] += np.float32(of_levels * total)
            for at in range(0, ROW, LANES):
                u, p = load(harmonics, row * ROW + at), load(harmonics, x * ROW + at)
                q, r = load(harmonics, y * ROW + at), load(harmonics, z * ROW + at)
                change = _slope(3.0 * u - p - q - r, u, p, q, r)
                p, q = load(harmonics, bx * ROW + at), load(harmonics, bxy * ROW + at)
                r = load(harmonics, bxz * ROW + at)
                change = change + _slope(u - p, p, u, q, r)
                p, q = load(harmonics, by * ROW + at), load(harmonics, byx * ROW + at)
                r = load(harmonics, byz * ROW + at)
                change = change + _slope(u - p, p, q, u, r)
                p, q = load(harmonics, bz * ROW + at), load(harmonics, bzx * ROW + at)
                r = load(harmonics, bzy * ROW + at)
                change = change + _slope(u - p, p, q, r, u)
                to = row * ROW + at
                store(g_harmonics, to, load(g_harmonics, to) + change * of_harmonics)
