"""Blending the records of a camera into pictures, front to back (Kerbl et al. 2023, eq. 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from recon.kernels.lanes import (
    any_set,
    atomic_add,
    load_halves,
    lowest_bit,
    prefetch,
    scalar_max,
    store_halves,
)
from recon.kernels.runtime import kernel
from recon.kernels.simd import (
    LANES,
    absolute,
    exp2_bounded,
    floor,
    get,
    inline,
    lane_index,
    load,
    maximum,
    minimum,
    negative_absolute,
    put,
    select,
    stack,
    store,
)
from recon.kernels.splat import (
    ALPHA_MAX,
    BLUE,
    CELL_HEIGHT,
    CELL_WIDTH,
    CELLS,
    COLUMNS,
    CURVE,
    DEPTH,
    ENTRY,
    GREEN,
    HALF,
    LOG2_ALPHA_MIN,
    LOG2_OPACITY,
    MAX_SLOTS,
    RECORD,
    RED,
    ROWS,
    SHEAR,
    SLOPE_X,
    SLOPE_Y,
    SLOT_BITS,
    STRETCH,
    TILE_HEIGHT,
    TILE_WIDTH,
    TRANSMITTANCE_MIN,
    ZERO,
    X,
    Y,
)

f32 = np.float32

LOOK_EVERY = 32  # entries between looks for cells that are finished
AHEAD = 8  # entries between a prefetch and the use of what it fetches

# The state of a tile: some vectors for each cell, then how far down in the picture the pixels of each row of cells are.
# A processor takes a load for one of what it has just stored where their addresses differ by a multiple of 4096 bytes,
# and waits. So the vectors of a cell lie together, and their number is odd.
CELL = 7 * LANES
T, SUM_RED, SUM_GREEN, SUM_BLUE, SUM_DEPTH, SUM_WEIGHT, MEDIAN = (number * LANES for number in range(7))
DOWN = CELLS * CELL
STATE = DOWN + ROWS * LANES

_COLUMN = (1 << ROWS) - 1  # bits of the first column of cells


@inline
def entry_gaussian(entry: Any) -> Any:
    return entry >> SLOT_BITS


@inline
def entry_slot(entry: Any) -> Any:
    return entry & (MAX_SLOTS - 1)


@inline
def next_column(touched: Any) -> Any:
    """Of a bit for each cell: those in the first column that has any."""
    return touched & (_COLUMN << (lowest_bit(touched) // ROWS * ROWS))


@inline
def across() -> Any:
    """How far right each lane's pixel is in its cell."""
    return lane_index() - floor(lane_index() / CELL_WIDTH) * CELL_WIDTH


@inline
def start_tile(left: Any, top: Any, width: Any, height: Any, state: Any) -> None:
    """Set the transmittance of a tile to 1, outside the image to -1; and write how far down its rows are.

    A negative transmittance means that the pixel is finished; the value stays for the end.
    """
    down = floor(lane_index() / CELL_WIDTH)
    for row in range(ROWS):
        store(state, DOWN + row * LANES, down + (f32(top + row * CELL_HEIGHT) + HALF))
        above = down < f32(height - top - row * CELL_HEIGHT)
        for column in range(COLUMNS):
            inside = above & (across() < f32(width - left - column * CELL_WIDTH))
            store(state, T + (column * ROWS + row) * CELL, select(inside, 1.0, -1.0))


@inline
def unfinished(state: Any) -> Any:
    """A bit for every cell of a tile that has unfinished pixels."""
    bits = 0
    for cell in range(CELLS):
        if any_set(load(state, T + cell * CELL) > 0.0):
            bits |= 1 << cell
    return bits


@inline
def load_cell(array: Any, pixel: Any, width: Any, columns: Any, rows: Any) -> Any:
    """The pixels of a cell of an image, of which there are so many columns and rows from the first pixel on.

    Zero beyond the image.
    """
    if columns >= CELL_WIDTH and rows >= CELL_HEIGHT:
        return load_halves(array, pixel, pixel + width) if CELL_HEIGHT == 2 else load(array, pixel)
    buffer = stack(LANES)
    store(buffer, 0, 0.0)
    for row in range(min(CELL_HEIGHT, rows)):
        for column in range(min(CELL_WIDTH, columns)):
            put(buffer, row * CELL_WIDTH + column, get(array, pixel + row * width + column))
    return load(buffer, 0)


@inline
def store_cell(array: Any, pixel: Any, width: Any, columns: Any, rows: Any, value: Any) -> None:
    """The inverse of `load_cell`."""
    if columns >= CELL_WIDTH and rows >= CELL_HEIGHT:
        if CELL_HEIGHT == 2:
            store_halves(array, pixel, pixel + width, value)
        else:
            store(array, pixel, value)
    else:
        buffer = stack(LANES)
        store(buffer, 0, value)
        for row in range(min(CELL_HEIGHT, rows)):
            for column in range(min(CELL_WIDTH, columns)):
                put(array, pixel + row * width + column, get(buffer, row * CELL_WIDTH + column))


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
    median: Any,
    with_depth: Any,
    with_median: Any,
) -> None:
    """Write a tile into the pictures."""
    pixels = width * height
    red, green, blue = get(background, 0), get(background, 1), get(background, 2)
    for cell in range(CELLS):
        x, y = left + cell // ROWS * CELL_WIDTH, top + cell % ROWS * CELL_HEIGHT
        if x >= width or y >= height:
            continue
        i, pixel, area = cell * CELL, y * width + x, (width, width - x, height - y)
        rest = absolute(load(state, T + i))
        store_cell(transmittance, pixel, *area, rest)
        store_cell(alpha, pixel, *area, 1 - rest)
        store_cell(rgb, pixel, *area, load(state, SUM_RED + i) + rest * red)
        store_cell(rgb, pixels + pixel, *area, load(state, SUM_GREEN + i) + rest * green)
        store_cell(rgb, 2 * pixels + pixel, *area, load(state, SUM_BLUE + i) + rest * blue)
        if with_depth:
            # The sum of the weights is alpha, and more exact than 1 - T where there is little of it.
            expected = load(state, SUM_DEPTH + i) / maximum(load(state, SUM_WEIGHT + i), 1e-10)
            store_cell(depth, pixel, *area, expected)
        if with_median:
            store_cell(median, pixel, *area, load(state, MEDIAN + i))


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
    median: Any,
    with_depth: Any,
    with_median: Any,
    counter: Any,
) -> None:
    """The kernels below; `with_depth` and `with_median` are constants: the compiler leaves out what is not wanted."""
    state = stack(STATE)
    tiles, tiles_x = len(starts) - 1, (width + TILE_WIDTH - 1) // TILE_WIDTH
    while True:
        tile = atomic_add(counter, 0, 1)
        if tile >= tiles:
            break
        left, top = tile % tiles_x * TILE_WIDTH, tile // tiles_x * TILE_HEIGHT
        start_tile(left, top, width, height, state)
        for cell in range(0, CELLS * CELL, CELL):
            for i in range(cell + SUM_RED, cell + (CELL if with_depth else SUM_DEPTH), LANES):
                store(state, i, 0.0)
        at, end = get(starts, tile), get(starts, tile + 1)
        while at < end:
            live = unfinished(state)
            if live == 0:
                break
            pause = min(at + LOOK_EVERY, end)
            while at < pause:
                record = entry_gaussian(get(entries, ENTRY * at)) * RECORD
                touched = get(entries, ENTRY * at + 1) & live
                prefetch(records, entry_gaussian(get(entries, ENTRY * min(at + AHEAD, end - 1))) * RECORD)
                at += 1
                x, y, stretch = get(records, record + X), get(records, record + Y), get(records, record + STRETCH)
                shear, curve = get(records, record + SHEAR), get(records, record + CURVE)
                log2_opacity, distance = get(records, record + LOG2_OPACITY), get(records, record + DEPTH)
                slope_x, slope_y = get(records, record + SLOPE_X), get(records, record + SLOPE_Y)
                red = scalar_max(get(records, record + RED), ZERO)
                green = scalar_max(get(records, record + GREEN), ZERO)
                blue = scalar_max(get(records, record + BLUE), ZERO)
                while touched:
                    cells = next_column(touched)
                    touched ^= cells
                    dx = across() + (f32(left + lowest_bit(cells) // ROWS * CELL_WIDTH) + HALF - x)
                    peak = log2_opacity - curve * dx * dx  # the exponent where u = 0
                    sheared = shear * dx
                    while cells:
                        cell = lowest_bit(cells)
                        cells &= cells - 1
                        i = cell * CELL
                        u = stretch * (load(state, DOWN + cell % ROWS * LANES) - y) - sheared
                        exponent = peak - u * u
                        opacity = minimum(exp2_bounded(exponent), ALPHA_MAX)
                        opacity = select(exponent >= LOG2_ALPHA_MIN, opacity, 0.0)
                        before = load(state, T + i)
                        after = before - opacity * before
                        drawn = after > TRANSMITTANCE_MIN
                        if with_median:
                            surface = distance + slope_x * dx + slope_y * (load(state, DOWN + cell % ROWS * LANES) - y)
                            here = (before > HALF) & (after <= HALF)
                            store(state, MEDIAN + i, select(here, surface, load(state, MEDIAN + i)))
                        weight = select(drawn, opacity * before, 0.0)
                        store(state, T + i, select(drawn, after, negative_absolute(before)))
                        store(state, SUM_RED + i, load(state, SUM_RED + i) + weight * red)
                        store(state, SUM_GREEN + i, load(state, SUM_GREEN + i) + weight * green)
                        store(state, SUM_BLUE + i, load(state, SUM_BLUE + i) + weight * blue)
                        if with_depth:
                            store(state, SUM_DEPTH + i, load(state, SUM_DEPTH + i) + weight * distance)
                            store(state, SUM_WEIGHT + i, load(state, SUM_WEIGHT + i) + weight)
        finish_tile(
            *(left, top, width, height, state, background, rgb, alpha, transmittance),
            *(depth, median, with_depth, with_median),
        )


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
        records [N,RECORD], entries [E,ENTRY], starts [tiles + 1]: see `splat` and `bin_gaussians`.
        background: [3].
        rgb [3,H,W], alpha [H,W], transmittance [H,W]: are written.
    """
    blend_tiles(
        *(width, height, records, entries, starts, background),
        *(rgb, alpha, transmittance, alpha, alpha, False, False, counter),
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
        *(rgb, alpha, transmittance, depth, depth, True, False, counter),
    )


@kernel(_SIGNATURE + ", f4[::1], f4[::1]")
def blend_with_depths(
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
    median: Any,
    counter: Any,
    thread: int,
) -> None:
    """`blend_with_depth`, and median depths [H,W]: where T falls to a half, 0 where it does not."""
    blend_tiles(
        *(width, height, records, entries, starts, background),
        *(rgb, alpha, transmittance, depth, median, True, True, counter),
    )
