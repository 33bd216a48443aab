"""Which tiles an ellipse touches, and which of their cells.

The ellipses are cut exactly, by the borders of a column of cells, to find their rows there: between two lines an
ellipse reaches furthest at its own extreme point, or on the line nearest to that.

Coordinates are those of pixels: the centre of pixel (i, j) is at (i + 0.5, j + 0.5). All numbers are floats, LANES
ellipses at a time; the lanes go through columns of cells together, each from its own first one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from recon.kernels.lanes import any_set, atomic_add, float_bits, lowest_bit, mask_bits
from recon.kernels.simd import (
    LANES,
    ceil,
    floor,
    get,
    inline,
    integer_bits,
    maximum,
    minimum,
    put,
    select,
    sqrt,
    stack,
    store,
)
from recon.kernels.splat import CELL_HEIGHT, CELL_WIDTH, COLUMNS, ROWS, TILE_HEIGHT, TILE_WIDTH

SLOTS = 0  # index into `state`: how many slots were reserved
PAGE = 1024  # slots that a thread reserves at a time


class Ellipse(NamedTuple):
    """The points with d^T cov^-1 d <= reach2 around a centre, for cov = [[a, b], [b, c]]."""

    x: Any  # centre
    y: Any
    slope: Any  # b / a: the middle of the points at dx is dy = slope dx
    half2: Any  # half2 - curve dx^2 is the square of half their distance at dx
    curve: Any
    bottom_dx: Any  # where the lowest point is; the highest one is opposite
    left: Any  # pixels of the bounding box, cut by the image; empty if right < left or bottom < top
    right: Any
    top: Any
    bottom: Any


@inline
def ellipse(centre: Any, covariance: Any, determinant: Any, reach2: Any, width: Any, height: Any) -> Any:
    (x, y), (a, b, c) = centre, covariance
    extent_x, extent_y = sqrt(reach2 * a), sqrt(reach2 * c)
    return Ellipse(
        x=x,
        y=y,
        slope=b / a,
        half2=reach2 * determinant / a,
        curve=determinant / (a * a),
        bottom_dx=b / c * extent_y,
        left=maximum(ceil(x - extent_x - 0.5), 0.0),
        right=minimum(floor(x + extent_x - 0.5), width - 1),
        top=maximum(ceil(y - extent_y - 0.5), 0.0),
        bottom=minimum(floor(y + extent_y - 0.5), height - 1),
    )


@inline
def rows_in_columns(e: Any, left: Any, right: Any) -> Any:
    """The first and the last row with pixel centres inside, in columns left ... right."""
    low, high = left + 0.5 - e.x, right + 0.5 - e.x
    at_top, at_bottom = minimum(maximum(-e.bottom_dx, low), high), minimum(maximum(e.bottom_dx, low), high)
    top = e.y + e.slope * at_top - sqrt(maximum(e.half2 - e.curve * at_top * at_top, 0.0))
    bottom = e.y + e.slope * at_bottom + sqrt(maximum(e.half2 - e.curve * at_bottom * at_bottom, 0.0))
    return maximum(ceil(top - 0.5), e.top), minimum(floor(bottom - 0.5), e.bottom)


@inline
def note_cells(slot_tiles: Any, slot_cells: Any, slots: Any, at: Any, tile: Any, touched: Any, high: Any) -> None:
    """Add cells of a tile to the slots of a Gaussian, slots[at : at + 2].

    Tiles come column by column, each of which is `high` tiles at most: a tile that is there already is not far back.
    """
    first, count = get(slots, at), get(slots, at + 1)
    end = first + count
    for slot in range(end - 1, max(first, end - high) - 1, -1):
        if get(slot_tiles, slot) == tile:
            put(slot_cells, slot, get(slot_cells, slot) | touched)
            return
    put(slot_tiles, end, tile)
    put(slot_cells, end, touched)
    put(slots, at + 1, count + 1)


@inline
def list_tiles(
    e: Any,
    seen: Any,
    first: Any,
    tiles_x: Any,
    slot_tiles: Any,
    slot_cells: Any,
    slots: Any,
    page: Any,
    page_end: Any,
    state: Any,
) -> Any:
    """Write a slot for every tile that the ellipses of Gaussians first ... first + LANES - 1 touch.

    Args:
        seen: mask of the Gaussians that matter.
        tiles_x: tiles in a row of tiles.
        slot_tiles, slot_cells [S]: the tile and its cells, a bit for each, are written.
        slots [N,2]: the first slot of each Gaussian, and how many follow one another, are written. The count was 0.
        page, page_end: slots that the thread has reserved.
        state: state[SLOTS] of S are reserved. If more than S are, nothing is written.
    Returns:
        the first reserved slot that is left, and the end of those.
    """
    seen = seen & (e.left <= e.right) & (e.top <= e.bottom)
    if not any_set(seen):
        return page, page_end
    heights, needs, tiles_across = stack(LANES), stack(LANES), stack(LANES)
    first_cells, last_cells, shifts = stack(LANES), stack(LANES), stack(LANES)
    high = floor(e.bottom / TILE_HEIGHT) - floor(e.top / TILE_HEIGHT) + 1
    store(heights, 0, integer_bits(high))
    across = floor(e.right / TILE_WIDTH) - floor(e.left / TILE_WIDTH) + 1
    store(needs, 0, integer_bits(select(seen, high * across, 0.0)))
    needed = 0
    for lane in range(LANES):
        needed += float_bits(get(needs, lane))
    if page + needed > page_end:
        page = atomic_add(state, SLOTS, max(PAGE, needed))
        page_end = page + max(PAGE, needed)
    if page_end > len(slot_tiles):
        return page + needed, page_end
    bits = mask_bits(seen)
    while bits:
        lane = lowest_bit(bits)
        put(slots, 2 * (first + lane), page)
        page += float_bits(get(needs, lane))
        bits &= bits - 1

    column, last_column = floor(e.left / CELL_WIDTH), floor(e.right / CELL_WIDTH)
    while True:
        active = seen & (column <= last_column)
        if not any_set(active):
            return page, page_end
        left, right = maximum(e.left, column * CELL_WIDTH), minimum(e.right, column * CELL_WIDTH + (CELL_WIDTH - 1))
        first_row, last_row = rows_in_columns(e, left, right)
        across = floor(column / COLUMNS)
        store(tiles_across, 0, integer_bits(across))
        store(shifts, 0, integer_bits((column - across * COLUMNS) * ROWS))
        store(first_cells, 0, integer_bits(first_row / CELL_HEIGHT))
        store(last_cells, 0, integer_bits(last_row / CELL_HEIGHT))
        bits = mask_bits(active & (first_row <= last_row))
        while bits:
            lane = lowest_bit(bits)
            bits &= bits - 1
            first_cell, last_cell = float_bits(get(first_cells, lane)), float_bits(get(last_cells, lane))
            tile_x, shift = float_bits(get(tiles_across, lane)), float_bits(get(shifts, lane))
            for tile_y in range(first_cell // ROWS, last_cell // ROWS + 1):
                low, upto = max(first_cell - tile_y * ROWS, 0), min(last_cell - tile_y * ROWS, ROWS - 1)
                touched, tile = ((2 << upto) - (1 << low)) << shift, tile_y * tiles_x + tile_x
                note_cells(
                    slot_tiles, slot_cells, slots, 2 * (first + lane), tile, touched, float_bits(get(heights, lane))
                )
        column = column + 1
