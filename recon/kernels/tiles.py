"""Which tiles an ellipse touches, and which of their rows.

The ellipses are cut exactly: by the rows of a row of tiles to find its tiles, then by the columns of a tile to find its
rows. Between two lines an ellipse reaches furthest at its own extreme point, or on the line nearest to that.

Coordinates are those of pixels: the centre of pixel (i, j) is at (i + 0.5, j + 0.5). All numbers are floats, LANES
ellipses at a time; the lanes go through rows and columns of tiles together, each from its own first one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from recon.kernels.lanes import any_set, atomic_add, lowest_bit, mask_bits
from recon.kernels.simd import (
    LANES,
    broadcast,
    ceil,
    floor,
    get,
    inline,
    maximum,
    minimum,
    put,
    select,
    sqrt,
    stack,
    store,
)
from recon.kernels.splat import ROW_BITS, TILE

SLOTS = 0  # index into `state`: how many slots were reserved
PAGE = 1024  # slots that a thread reserves at a time


class Ellipse(NamedTuple):
    """The points with d^T cov^-1 d <= reach2 around a centre, for cov = [[a, b], [b, c]]."""

    x: Any  # centre
    y: Any
    slope_x: Any  # b / c: the middle of the points at dy is dx = slope_x dy
    slope_y: Any  # b / a: the middle of the points at dx is dy = slope_y dx
    half_x2: Any  # half_x2 - curve_x dy^2 is the square of half their distance at dy
    half_y2: Any
    curve_x: Any
    curve_y: Any
    right_dy: Any  # where the point furthest right is; the one furthest left is opposite
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
        slope_x=b / c,
        slope_y=b / a,
        half_x2=reach2 * determinant / c,
        half_y2=reach2 * determinant / a,
        curve_x=determinant / (c * c),
        curve_y=determinant / (a * a),
        right_dy=b / a * extent_x,
        bottom_dx=b / c * extent_y,
        left=maximum(ceil(x - extent_x - 0.5), 0.0),
        right=minimum(floor(x + extent_x - 0.5), width - 1),
        top=maximum(ceil(y - extent_y - 0.5), 0.0),
        bottom=minimum(floor(y + extent_y - 0.5), height - 1),
    )


@inline
def columns_in_rows(e: Any, top: Any, bottom: Any) -> Any:
    """The first and the last column with pixel centres inside, in rows top ... bottom."""
    low, high = top + 0.5 - e.y, bottom + 0.5 - e.y
    at_left, at_right = minimum(maximum(-e.right_dy, low), high), minimum(maximum(e.right_dy, low), high)
    left = e.x + e.slope_x * at_left - sqrt(maximum(e.half_x2 - e.curve_x * at_left * at_left, 0.0))
    right = e.x + e.slope_x * at_right + sqrt(maximum(e.half_x2 - e.curve_x * at_right * at_right, 0.0))
    return maximum(ceil(left - 0.5), e.left), minimum(floor(right - 0.5), e.right)


@inline
def rows_in_columns(e: Any, left: Any, right: Any, first: Any, last: Any) -> Any:
    """The first and the last of the rows first ... last with pixel centres inside, in columns left ... right."""
    low, high = left + 0.5 - e.x, right + 0.5 - e.x
    at_top, at_bottom = minimum(maximum(-e.bottom_dx, low), high), minimum(maximum(e.bottom_dx, low), high)
    top = e.y + e.slope_y * at_top - sqrt(maximum(e.half_y2 - e.curve_y * at_top * at_top, 0.0))
    bottom = e.y + e.slope_y * at_bottom + sqrt(maximum(e.half_y2 - e.curve_y * at_bottom * at_bottom, 0.0))
    return maximum(ceil(top - 0.5), first), minimum(floor(bottom - 0.5), last)


@inline
def count_tiles(e: Any, seen: Any) -> Any:
    """How many tiles there are between the leftmost and the rightmost one of each row of tiles."""
    count, row, last_row = broadcast(0.0), floor(e.top / TILE), floor(e.bottom / TILE)
    while True:
        active = seen & (row <= last_row)
        if not any_set(active):
            return count
        left, right = columns_in_rows(e, maximum(e.top, row * TILE), minimum(e.bottom, row * TILE + (TILE - 1)))
        tiles = floor(right / TILE) - floor(left / TILE) + 1
        count = count + select(active & (left <= right), tiles, 0.0)
        row = row + 1


@inline
def list_tiles(
    e: Any, seen: Any, first: Any, tiles_x: Any, slot_words: Any, slots: Any, page: Any, page_end: Any, state: Any
) -> Any:
    """Write a slot for every tile that the ellipses of Gaussians first ... first + LANES - 1 touch.

    Args:
        seen: mask of the Gaussians that matter.
        tiles_x: tiles in a row of tiles.
        slot_words [S]: the tile and its rows are written, see `ROW_BITS`.
        slots [N,2]: the first slot of each Gaussian, and how many follow one another, are written. The count was 0.
        page, page_end: slots that the thread has reserved.
        state: state[SLOTS] of S are reserved. If more than S are, nothing is written.
    Returns:
        the first reserved slot that is left, and the end of those.
    """
    seen = seen & (e.left <= e.right) & (e.top <= e.bottom)
    if not any_set(seen):
        return page, page_end
    counts, tiles, rows = stack(LANES), stack(LANES), stack(LANES)
    store(counts, 0, count_tiles(e, seen))
    needed = 0
    for lane in range(LANES):
        needed += int(get(counts, lane))
    if page + needed > page_end:
        page = atomic_add(state, SLOTS, max(PAGE, needed))
        page_end = page + max(PAGE, needed)
    if page_end > len(slot_words):
        return page + needed, page_end
    bits = mask_bits(seen)
    while bits:
        lane = lowest_bit(bits)
        put(slots, 2 * (first + lane), page)
        page += int(get(counts, lane))
        bits &= bits - 1

    row, last_row = floor(e.top / TILE), floor(e.bottom / TILE)
    while True:
        active = seen & (row <= last_row)
        if not any_set(active):
            return page, page_end
        top, bottom = maximum(e.top, row * TILE), minimum(e.bottom, row * TILE + (TILE - 1))
        left, right = columns_in_rows(e, top, bottom)
        active = active & (left <= right)
        column, last_column = floor(left / TILE), floor(right / TILE)
        while True:
            active = active & (column <= last_column)
            if not any_set(active):
                break
            inside = maximum(left, column * TILE), minimum(right, column * TILE + (TILE - 1))
            first_row, end_row = rows_in_columns(e, inside[0], inside[1], top, bottom)
            store(tiles, 0, row * tiles_x + column)
            store(rows, 0, first_row - row * TILE + (end_row - row * TILE) * TILE)
            bits = mask_bits(active & (first_row <= end_row))
            while bits:
                lane = lowest_bit(bits)
                i = 2 * (first + lane)
                count = get(slots, i + 1)
                put(slot_words, get(slots, i) + count, int(get(tiles, lane)) << ROW_BITS | int(get(rows, lane)))
                put(slots, i + 1, count + 1)
                bits &= bits - 1
            column = column + 1
        row = row + 1
