"""Gradients of the values of a sparse grid, from the records of `voxels.py`: for any number of threads the same bits.

The corners of the grid are shared out in slabs of planes across its first axis, and a thread adds up what one slab
gets, from records in the order of their rays. For that the records are put in the order of their planes by a counting
sort whose pieces are groups of rays. A cell between two slabs is looked at for both.

Shape letters: R rays, V rows, S records.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recon.kernels.buffers import take
from recon.kernels.lanes import atomic_add
from recon.kernels.runtime import kernel, launch
from recon.kernels.simd import LANES, get, load, put, stack, store
from recon.kernels.voxels import COEFFICIENTS, RECORD, ROW, Floats, Grid, Records

GROUP = 64  # rays of a piece of the sort
SLAB = 4  # planes


class Gradient(NamedTuple):
    """Of the rows that are seen; others hold anything."""

    levels: Floats  # [V]
    harmonics: Floats  # [V,ROW]
    seen: NDArray[np.uint8]  # [V]


def gradient_of(grid: Grid, records: Records, basis: Floats) -> Gradient:
    """The gradient that `march_back` or `march_to` left records of.

    Args:
        basis: [R,9] of the harmonics in the directions of the rays.
    """
    rows = len(grid.levels)
    found = Gradient(take(rows, np.float32), take((rows, ROW), np.float32), np.zeros(rows, np.uint8))
    _scatter_to(grid, records, basis, found, False)
    return found


def most_seen(grid: Grid, records: Records) -> Floats:
    """[V] the most that any ray of `march_weights` has seen of a row: its weight, times its share in the cell."""
    rows = len(grid.levels)
    found = Gradient(np.zeros(rows, np.float32), take((0, ROW), np.float32), np.zeros(rows, np.uint8))
    _scatter_to(grid, records, np.empty((0, COEFFICIENTS), np.float32), found, True)
    return found.levels


def _scatter_to(grid: Grid, records: Records, basis: Floats, target: Gradient, largest: bool) -> None:
    side, groups = grid.side, -(-len(records.starts) // GROUP)
    where = (records.starts, records.counts, records.cells, side)
    table = np.zeros((groups, side), np.int64)
    launch(_count, *where, table.reshape(-1), threads=groups)
    flat = table.T.reshape(-1)  # plane by plane, and in each group by group
    ends = flat.cumsum()
    firsts = np.ascontiguousarray((ends - flat).reshape(side, groups).T)
    order = take(int(ends[-1]), np.int32)
    planes = np.append(ends.reshape(side, groups)[:, -1] - table.sum(axis=0), ends[-1])  # where each plane begins
    launch(_place, *where, firsts.reshape(-1), order, threads=groups)
    launch(
        *(_scatter, side, grid.links, records.cells, records.values.reshape(-1), basis.reshape(-1)),
        *(planes, order, largest, target.levels, target.harmonics.reshape(-1), target.seen),
    )


@kernel("i8[::1], i8[::1], i4[::1], i8, i8[::1]")
def _count(starts: Any, counts: Any, cells: Any, side: int, table: Any, counter: Any, thread: int) -> None:
    """How many records of each group of rays are in each plane."""
    rays = starts.size
    while True:
        group = atomic_add(counter, 0, 1)
        if group * GROUP >= rays:
            break
        for ray in range(group * GROUP, min((group + 1) * GROUP, rays)):
            for at in range(starts[ray], starts[ray] + counts[ray]):
                table[group * side + get(cells, at) // (side * side)] += 1


@kernel("i8[::1], i8[::1], i4[::1], i8, i8[::1], i4[::1]")
def _place(starts: Any, counts: Any, cells: Any, side: int, firsts: Any, order: Any, counter: Any, thread: int) -> None:
    """The records in order; `firsts` is where the next of each group and plane goes."""
    rays = starts.size
    while True:
        group = atomic_add(counter, 0, 1)
        if group * GROUP >= rays:
            break
        for ray in range(group * GROUP, min((group + 1) * GROUP, rays)):
            for at in range(starts[ray], starts[ray] + counts[ray]):
                plane = group * side + get(cells, at) // (side * side)
                put(order, firsts[plane], at)
                firsts[plane] += 1


@kernel("i8, i4[::1], i4[::1], f4[::1], f4[::1], i8[::1], i4[::1], b1, f4[::1], f4[::1], u1[::1]")
def _scatter(
    side: int,
    links: Any,
    cells: Any,
    values: Any,
    basis: Any,
    planes: Any,
    order: Any,
    largest: bool,  # the most of what is in their place is kept, not the sum, and of nothing else
    g_levels: Any,
    g_harmonics: Any,
    seen: Any,
    counter: Any,
    thread: int,
) -> None:
    colours = stack(ROW)
    for at in range(0, ROW, LANES):
        store(colours, at, 0.0)
    while True:
        low = atomic_add(counter, 0, 1) * SLAB
        if low >= side:
            break
        high = min(low + SLAB, side)
        for place in range(planes[max(low - 1, 0)], planes[high]):
            record = get(order, place)
            cell, v = get(cells, record), record * RECORD
            plane = cell // (side * side)
            fx, fy, fz, of_level = values[v], values[v + 1], values[v + 2], values[v + 3]
            if not largest:
                ray = int(values[v + 7])
                for n in range(COEFFICIENTS):
                    value = basis[COEFFICIENTS * ray + n]
                    put(colours, n, value * values[v + 4])
                    put(colours, COEFFICIENTS + n, value * values[v + 5])
                    put(colours, 2 * COEFFICIENTS + n, value * values[v + 6])
            for corner in range(8):
                a, b, c = corner >> 2, (corner >> 1) & 1, corner & 1
                if plane + a < low or plane + a >= high:
                    continue
                link = get(links, cell + (a * side + b) * side + c)
                if link < 0:
                    continue
                w = (fx if a else 1 - fx) * (fy if b else 1 - fy) * (fz if c else 1 - fz)
                if largest:
                    g_levels[link] = max(g_levels[link], np.float32(w * of_level))
                    continue
                if seen[link] == 0:
                    seen[link] = 1
                    g_levels[link] = 0
                    for at in range(0, ROW, LANES):
                        store(g_harmonics, link * ROW + at, 0.0)
                g_levels[link] += np.float32(w * of_level)
                for at in range(0, ROW, LANES):
                    to = link * ROW + at
                    store(g_harmonics, to, load(g_harmonics, to) + load(colours, at) * w)
