"""The multiresolution hash encoding (Instant-NGP, Müller et al. 2022, section 3), to tiny-cuda-nn's conventions.

Space 0..1 is covered by grids, one for each level, each finer than the one before. At the corners of their cells stand
features, which are interpolated in between. A level whose corners are few has a row of the table for each; of others
several share one, which a hash of the corner tells. Position x is at x scale + 1/2 of a level's grid, so a point at the
upper border needs corners beyond the last: they wrap around.

A level's rows stay in the cache while all points are looked at. A row of the gradient is summed by one thread, in the
order of the points: for any number of threads the same bits.

Shape letters: P points, L levels, F features of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.kernels.buffers import take
from recon.kernels.four import FOUR, add_weighted, put_mixed
from recon.kernels.lanes import atomic_add, prefetch
from recon.kernels.runtime import get_threads, kernel, launch
from recon.kernels.simd import get, inline, put

Floats = NDArray[np.float32]

PRIMES = (1, 2654435761, 805459861)
HALF = 0.5  # a cell: the shift of positions that is tiny-cuda-nn's
ALIGNED = 8  # a level's rows are a multiple of it
BLOCK = 1 << 13  # points that a thread takes at a time
AHEAD = 8  # points between asking for the rows of one and their use
CACHED = 1 << 17  # floats of a level, which the second cache holds

_Y, _Z = PRIMES[1:]


@dataclass(frozen=True)
class Layout:
    """Where the rows of each level are.

    Attributes:
        features: F, of each level: an even number.
        log2_rows, base, finest: as `layout` was given them.
        scales: [L] what positions are multiplied by.
        resolutions: [L] corners along a side.
        offsets: [L+1] the first row of each level, and the number of all rows.
        hashed: [L] uint8, whether corners share rows; then a level has a power of two of these.
        shift: of positions in the grids, in cells.
    """

    features: int
    log2_rows: int
    base: int
    finest: int
    scales: Floats
    resolutions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    hashed: NDArray[np.uint8]
    shift: float = HALF

    @property
    def levels(self) -> int:
        return len(self.scales)

    @property
    def rows(self) -> int:
        return int(self.offsets[-1])

    @property
    def width(self) -> int:
        """How many numbers a point becomes."""
        return self.levels * self.features


def growth_of(levels: int, base: int, finest: int) -> float:
    """How much finer each level is than the one before (eq. 3): tiny-cuda-nn's `per_level_scale`."""
    return (finest / base) ** (1 / (levels - 1)) if levels > 1 else 1.0


def layout(levels: int, features: int, log2_rows: int, base: int, finest: int) -> Layout:
    """The grids of an encoding.

    Args:
        log2_rows: of the most rows that a level may have.
        base, finest: corners along a side of the first and the last level.
    """
    if features % 2 or min(levels, features, log2_rows - 2, base, finest - base + 1) < 1:
        raise ValueError(
            f"{levels} levels of {features} features, 2^{log2_rows} rows, {base} to {finest}: not a hash grid"
        )
    growth = np.log2(np.float32(growth_of(levels, base, finest)))  # single precision, as there
    scales = np.exp2(np.arange(levels, dtype=np.float32) * growth) * np.float32(base) - np.float32(1)
    resolutions = np.ceil(scales).astype(np.int64) + 1
    corners = resolutions**3
    sizes = np.minimum(-(-corners // ALIGNED) * ALIGNED, 1 << log2_rows)
    return Layout(
        *(features, log2_rows, base, finest, scales, resolutions),
        *(np.concatenate([[0], sizes.cumsum()]), (corners > sizes).astype(np.uint8)),
    )


def encode(layout: Layout, positions: Floats, table: Floats) -> Floats:
    """[P,L*F] features of positions [P,3], from a table [rows,F]; what is outside of 0..1 is as at its border."""
    count = len(positions)
    out = take((count, layout.width), np.float32)
    launch(_encode, *_arguments(layout, positions), table.reshape(-1), out.reshape(-1))
    return out


def encode_back(layout: Layout, positions: Floats, gradient: Floats) -> Floats:
    """The gradient [rows,F] of the table, given that of the features [P,L*F]."""
    out = take((layout.rows, layout.features), np.float32)
    slices = -(-get_threads() // layout.levels)  # so that there is work for all threads
    launch(_encode_back, *_arguments(layout, positions), gradient.reshape(-1), slices, out.reshape(-1))
    return out


def _arguments(layout: Layout, positions: Floats) -> tuple[Any, ...]:
    shift = np.float32(layout.shift)
    levels = layout.scales, layout.resolutions, layout.offsets, layout.hashed
    return positions.reshape(-1), layout.features, shift, *levels


@inline
def _place(x: Any, scale: Any, shift: Any) -> Any:
    """The corner before a coordinate of 0..1, and how far it is from there."""
    x = x if x > 0 else np.float32(0)  # not a number, too
    x = (x if x < 1 else np.float32(1)) * scale + shift
    corner = np.int64(x)
    return corner, x - np.float32(corner)


@inline
def _wrapped(row: Any, size: Any) -> Any:
    return row - size if row >= size else row


@inline
def _rows(i: Any, j: Any, k: Any, hashed: Any, resolution: Any, size: Any) -> Any:
    """Those of the 8 corners of a cell, within the level; the first axis changes fastest."""
    if hashed:
        last = size - 1
        j0, k0 = j * _Y, k * _Z
        j1, k1 = j0 + _Y, k0 + _Z
        a, b, c, d = j0 ^ k0, j1 ^ k0, j0 ^ k1, j1 ^ k1
        i1 = i + 1
        return (
            (i ^ a) & last,
            (i1 ^ a) & last,
            (i ^ b) & last,
            (i1 ^ b) & last,
            (i ^ c) & last,
            (i1 ^ c) & last,
            (i ^ d) & last,
            (i1 ^ d) & last,
        )
    a = (k * resolution + j) * resolution + i
    b = a + resolution
    c, d = a + resolution * resolution, b + resolution * resolution
    return (
        _wrapped(a, size),
        _wrapped(a + 1, size),
        _wrapped(b, size),
        _wrapped(b + 1, size),
        _wrapped(c, size),
        _wrapped(c + 1, size),
        _wrapped(d, size),
        _wrapped(d + 1, size),
    )


@inline
def _places(rows: Any, offset: Any, features: Any, feature: Any) -> Any:
    """Where the table has a feature of each corner."""
    a, b, c, d, e, f, g, h = rows
    at = offset * features + feature
    first = at + a * features, at + b * features, at + c * features, at + d * features
    return *first, at + e * features, at + f * features, at + g * features, at + h * features


@inline
def _weights(x: Any, y: Any, z: Any) -> Any:
    """Those of the 8 corners, in the same order."""
    one = np.float32(1)
    a, b, c, d = (one - y) * (one - z), y * (one - z), (one - y) * z, y * z
    u = one - x
    return u * a, x * a, u * b, x * b, u * c, x * c, u * d, x * d


@inline
def _fetch(
    positions: Any,
    point: Any,
    scale: Any,
    shift: Any,
    hashed: Any,
    resolution: Any,
    offset: Any,
    size: Any,
    features: Any,
    table: Any,
) -> None:
    """Ask for the rows that a point is made of."""
    i, _ = _place(get(positions, 3 * point), scale, shift)
    j, _ = _place(get(positions, 3 * point + 1), scale, shift)
    k, _ = _place(get(positions, 3 * point + 2), scale, shift)
    a, b, c, d, e, f, g, h = _places(_rows(i, j, k, hashed, resolution, size), offset, features, 0)
    prefetch(table, a)
    prefetch(table, b)
    prefetch(table, c)
    prefetch(table, d)
    prefetch(table, e)
    prefetch(table, f)
    prefetch(table, g)
    prefetch(table, h)


@kernel("f4[::1], i8, f4, f4[::1], i8[::1], i8[::1], u1[::1], f4[::1], f4[::1]")
def _encode(
    positions: Any,
    features: int,
    shift: Any,
    scales: Any,
    resolutions: Any,
    offsets: Any,
    hashed: Any,
    table: Any,
    out: Any,
    counter: Any,
    thread: int,
) -> None:
    count, levels = positions.size // 3, scales.size
    width = levels * features
    blocks = (count + BLOCK - 1) // BLOCK
    while True:
        piece = atomic_add(counter, 0, 1)
        if piece >= blocks * levels:
            break
        first, level = piece % blocks * BLOCK, piece // blocks
        scale, resolution, offset = scales[level], resolutions[level], offsets[level]
        size, shared = offsets[level + 1] - offset, hashed[level] != 0
        end, large = min(first + BLOCK, count), size * features > CACHED
        for point in range(first, end):
            if large and point + AHEAD < end:
                _fetch(positions, point + AHEAD, scale, shift, shared, resolution, offset, size, features, table)
            i, x = _place(get(positions, 3 * point), scale, shift)
            j, y = _place(get(positions, 3 * point + 1), scale, shift)
            k, z = _place(get(positions, 3 * point + 2), scale, shift)
            rows, weights = _rows(i, j, k, shared, resolution, size), _weights(x, y, z)
            to = point * width + level * features
            for feature in range(0, features - features % FOUR, FOUR):
                put_mixed(out, to + feature, table, _places(rows, offset, features, feature), weights)
            for feature in range(features - features % FOUR, features, 2):
                a, b = np.float32(0), np.float32(0)
                for corner in range(8):
                    at = (offset + rows[corner]) * features + feature
                    a += weights[corner] * get(table, at)
                    b += weights[corner] * get(table, at + 1)
                put(out, to + feature, a)
                put(out, to + feature + 1, b)


@kernel("f4[::1], i8, f4, f4[::1], i8[::1], i8[::1], u1[::1], f4[::1], i8, f4[::1]")
def _encode_back(
    positions: Any,
    features: int,
    shift: Any,
    scales: Any,
    resolutions: Any,
    offsets: Any,
    hashed: Any,
    gradient: Any,
    slices: int,
    out: Any,
    counter: Any,
    thread: int,
) -> None:
    count, levels = positions.size // 3, scales.size
    width = levels * features
    while True:
        piece = atomic_add(counter, 0, 1)
        if piece >= levels * slices:
            break
        level = piece // slices
        scale, resolution, offset = scales[level], resolutions[level], offsets[level]
        size, shared = offsets[level + 1] - offset, hashed[level] != 0
        low = size * (piece % slices) // slices
        high = size * (piece % slices + 1) // slices
        for at in range((offset + low) * features, (offset + high) * features):
            put(out, at, np.float32(0))
        large = size * features > CACHED
        for point in range(count):
            if large and point + AHEAD < count:
                _fetch(positions, point + AHEAD, scale, shift, shared, resolution, offset, size, features, out)
            i, x = _place(get(positions, 3 * point), scale, shift)
            j, y = _place(get(positions, 3 * point + 1), scale, shift)
            k, z = _place(get(positions, 3 * point + 2), scale, shift)
            rows, weights = _rows(i, j, k, shared, resolution, size), _weights(x, y, z)
            for feature in range(0, features - features % FOUR, FOUR):
                source = point * width + level * features + feature
                for corner in range(8):
                    if low <= rows[corner] and rows[corner] < high:
                        at = (offset + rows[corner]) * features + feature
                        add_weighted(out, at, weights[corner], gradient, source)
            for feature in range(features - features % FOUR, features, 2):
                source = point * width + level * features + feature
                a, b = get(gradient, source), get(gradient, source + 1)
                if a == 0 and b == 0:
                    continue
                for corner in range(8):
                    if low <= rows[corner] and rows[corner] < high:
                        at = (offset + rows[corner]) * features + feature
                        put(out, at, get(out, at) + weights[corner] * a)
                        put(out, at + 1, get(out, at + 1) + weights[corner] * b)
