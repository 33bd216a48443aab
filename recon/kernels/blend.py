"""Blending the records of a camera into pictures, front to back (Kerbl et al. 2023, eq. 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from recon.kernels.lanes import any_set, atomic_add, lowest_bit, prefetch, scalar_max, store_first
from recon.kernels.runtime import kernel
from recon.kernels.simd import (
    LANES,
    absolute,
    exp2_bounded,
    get,
    inline,
    lane_index,
    load,
    maximum,
    minimum,
    negative_absolute,
    select,
    stack,
    store,
)
from recon.kernels.splat import (
    ALPHA_MAX,
    BLUE,
    CURVE,
    DEPTH,
    GREEN,
    HALF,
    LOG2_ALPHA_MIN,
    LOG2_OPACITY,
    RECORD,
    RED,
    ROW_BITS,
    SHEAR,
    SLOT_BITS,
    STRETCH,
    TILE,
    TRANSMITTANCE_MIN,
    ZERO,
    X,
    Y,
)

f32 = np.float32

VECTORS = TILE // LANES  # vectors in a row of a tile
PLANE = TILE * TILE
LOOK_EVERY = 16  # entries between looks for rows that are finished
AHEAD = 4  # entries between the prefetch of a record and its use

# Planes of the state of a tile, TILE x TILE floats each
T, SUM_RED, SUM_GREEN, SUM_BLUE, SUM_DEPTH, SUM_WEIGHT = (plane * PLANE for plane in range(6))
_STATE = 6 * PLANE
OFFSETS = max(TILE, LANES)  # floats that `row_offsets` writes


@inline
def entry_gaussian(entry: Any) -> Any:
    return entry >> (SLOT_BITS + ROW_BITS)


@inline
def entry_slot(entry: Any) -> Any:
    return (entry >> ROW_BITS) & ((1 << SLOT_BITS) - 1)


@inline
def entry_rows(entry: Any) -> Any:
    """A bit for every row of the tile that the Gaussian touches."""
    first, last = entry & (TILE - 1), entry >> 4 & (TILE - 1)
    return (2 << last) - (1 << first)


@inline
def start_tile(left: Any, top: Any, width: Any, height: Any, state: Any) -> None:
    """Set the transmittance of a tile to 1, outside the image to -1.

    A negative transmittance means that the pixel is finished; the value stays for the end.
    """
    for v in range(VECTORS):
        inside = lane_index() < f32(width - left - v * LANES)
        for row in range(TILE):
            store(state, T + row * TILE + v * LANES, select(inside, f32(1 if row < height - top else -1), -1.0))


@inline
def unfinished(state: Any) -> Any:
    """A bit for every vector of a tile that has unfinished pixels: bit v * TILE + row."""
    bits = 0
    for v in range(VECTORS):
        for row in range(TILE):
            if any_set(load(state, T + row * TILE + v * LANES) > 0.0):
                bits |= 1 << (v * TILE + row)
    return bits


@inline
def row_offsets(record_y: Any, stretch: Any, top: Any, offsets: Any) -> None:
    """offsets[row] = stretch dy of the rows of a tile."""
    for row in range(0, TILE, LANES):
        store(offsets, row, stretch * (lane_index() + (f32(top + row) + HALF - record_y)))


@inline
def finish_tile(
    left: Any,
    top: Any,
    width: Any,
    height: Any,
    state: Any,
    background: Any,
    rgb: Any,
    alpha: Any,
    transmittance: Any,
    depth: Any,
    with_depth: Any,
) -> None:
    """Write a tile into the pictures."""
    pixels = width * height
    red, green, blue = get(background, 0), get(background, 1), get(background, 2)
    for row in range(min(TILE, height - top)):
        for v in range(VECTORS):
            i, pixel, count = row * TILE + v * LANES, (top + row) * width + left + v * LANES, width - left - v * LANES
            rest = absolute(load(state, T + i))
            store_first(transmittance, pixel, rest, count)
            store_first(alpha, pixel, 1 - rest, count)
            store_first(rgb, pixel, load(state, SUM_RED + i) + rest * red, count)
            store_first(rgb, pixels + pixel, load(state, SUM_GREEN + i) + rest * green, count)
            store_first(rgb, 2 * pixels + pixel, load(state, SUM_BLUE + i) + rest * blue, count)
            if with_depth:
                # The sum of the weights is alpha, and more exact than 1 - T where there is little of it.
                expected = load(state, SUM_DEPTH + i) / maximum(load(state, SUM_WEIGHT + i), 1e-10)
                store_first(depth, pixel, expected, count)


@inline
def blend_tiles(
    width: Any,
    height: Any,
    records: Any,
    entries: Any,
    starts: Any,
    background: Any,
    rgb: Any,
    alpha: Any,
    transmittance: Any,
    depth: Any,
    with_depth: Any,
    counter: Any,
) -> None:
    """The kernels below; `with_depth` is a constant, so the compiler leaves out what is not wanted."""
    state, offsets = stack(_STATE), stack(OFFSETS)
    tiles, tiles_x = len(starts) - 1, (width + TILE - 1) // TILE
    while True:
        tile = atomic_add(counter, 0, 1)
        if tile >= tiles:
            break
        left, top = tile % tiles_x * TILE, tile // tiles_x * TILE
        start_tile(left, top, width, height, state)
        for i in range(SUM_RED, SUM_DEPTH + 2 * PLANE if with_depth else SUM_DEPTH, LANES):
            store(state, i, 0.0)
        at, end = get(starts, tile), get(starts, tile + 1)
        while at < end:
            live = unfinished(state)
            if live == 0:
                break
            pause = min(at + LOOK_EVERY, end)
            while at < pause:
                entry = get(entries, at)
                prefetch(records, entry_gaussian(get(entries, min(at + AHEAD, end - 1))) * RECORD)
                at += 1
                record, touched = entry_gaussian(entry) * RECORD, entry_rows(entry)
                row_offsets(get(records, record + Y), get(records, record + STRETCH), top, offsets)
                shear, curve = get(records, record + SHEAR), get(records, record + CURVE)
                red = scalar_max(get(records, record + RED), ZERO)
                green = scalar_max(get(records, record + GREEN), ZERO)
                blue = scalar_max(get(records, record + BLUE), ZERO)
                distance = get(records, record + DEPTH)
                for v in range(VECTORS):
                    dx = lane_index() + (f32(left + v * LANES) + HALF - get(records, record + X))
                    peak = get(records, record + LOG2_OPACITY) - curve * dx * dx  # the exponent where u = 0
                    if VECTORS > 1 and not any_set(peak >= LOG2_ALPHA_MIN):
                        continue
                    sheared = shear * dx
                    rows = touched & (live >> (v * TILE))
                    while rows:
                        row = lowest_bit(rows)
                        rows &= rows - 1
                        i = row * TILE + v * LANES
                        u = get(offsets, row) - sheared
                        exponent = peak - u * u
                        opacity = minimum(exp2_bounded(exponent), ALPHA_MAX)
                        opacity = select(exponent >= LOG2_ALPHA_MIN, opacity, 0.0)
                        before = load(state, T + i)
                        after = before - opacity * before
                        drawn = after > TRANSMITTANCE_MIN
                        weight = select(drawn, opacity * before, 0.0)
                        store(state, T + i, select(drawn, after, negative_absolute(before)))
                        store(state, SUM_RED + i, load(state, SUM_RED + i) + weight * red)
                        store(state, SUM_GREEN + i, load(state, SUM_GREEN + i) + weight * green)
                        store(state, SUM_BLUE + i, load(state, SUM_BLUE + i) + weight * blue)
                        if with_depth:
                            store(state, SUM_DEPTH + i, load(state, SUM_DEPTH + i) + weight * distance)
                            store(state, SUM_WEIGHT + i, load(state, SUM_WEIGHT + i) + weight)
        finish_tile(left, top, width, height, state, background, rgb, alpha, transmittance, depth, with_depth)


_SIGNATURE = "i8, i8, f4[::1], i8[::1], i8[::1], f4[::1], f4[::1], f4[::1], f4[::1]"


@kernel(_SIGNATURE)
def blend(
    width: int,
    height: int,
    records: Any,
    entries: Any,
    starts: Any,
    background: Any,
    rgb: Any,
    alpha: Any,
    transmittance: Any,
    counter: Any,
    thread: int,
) -> None:
    """Blend all tiles.

    Args:
        width, height: of the image, px.
        records [N,RECORD], entries [E], starts [tiles + 1]: see `splat` and `bin_gaussians`.
        background: [3].
        rgb [3,H,W], alpha [H,W], transmittance [H,W]: are written.
    """
    blend_tiles(
        *(width, height, records, entries, starts, background),
        *(rgb, alpha, transmittance, alpha, False, counter),
    )


@kernel(_SIGNATURE + ", f4[::1]")
def blend_with_depth(
    width: int,
    height: int,
    records: Any,
    entries: Any,
    starts: Any,
    background: Any,
    rgb: Any,
    alpha: Any,
    transmittance: Any,
    depth: Any,
    counter: Any,
    thread: int,
) -> None:
    """`blend`, and expected depths [H,W]: the mean of the depths, weighted as the colours are."""
    blend_tiles(
        *(width, height, records, entries, starts, background),
        *(rgb, alpha, transmittance, depth, True, counter),
    )
