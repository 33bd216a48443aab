"""Which tiles an ellipse touches, and which of their cells.

The ellipses are cut exactly, by the borders of a column of cells, to find their rows there: between two lines an
ellipse reaches furthest at its own extreme point, or on the line nearest to that.

Most Gaussians are small, and are in one tile. So the first tile of LANES ellipses is looked at for all of them
together, and then the others that they may touch, LANES at a time as well, whichever ellipses they belong to.

Coordinates are those of pixels: the centre of pixel (i, j) is at (i + 0.5, j + 0.5). All numbers are floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from recon.kernels.lanes import any_set, atomic_add, float_bits, lowest_bit, mask_bits
from recon.kernels.simd import (
    LANES,
    broadcast,
    ceil,
    floor,
    get,
    inline,
    integer_bits,
    lane_index,
    load,
    maximum,
    minimum,
    put,
    select,
    sqrt,
    stack,
    store,
    vector,
)
from recon.kernels.splat import (
    CELL_HEIGHT,
    CELL_WIDTH,
    COLUMNS,
    ENTRY,
    MAX_SLOTS,
    ROWS,
    SLOT_BITS,
    TILE_HEIGHT,
    TILE_WIDTH,
)

SLOTS = 0  # index into `state`: how many slots were reserved
PAGE = 1024  # slots that a thread reserves at a time

_HALF = 32  # bits of the cells of a tile
_ZERO, _ONE = np.float32(0), np.float32(1)


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


@intrinsic
def bits_between(typing_context: Any, where: Any, first: Any, last: Any, place: Any) -> Any:
    """Bits `place` + first ... `place` + last of an int64 where the mask is set, none elsewhere.

    All are whole numbers, first <= last. The lower and the upper halves of the integers come in the place of floats.
    """
    kind = ir.VectorType(ir.IntType(32), LANES)

    def constant(value: int) -> ir.Constant:
        return ir.Constant(kind, [value] * LANES)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        low, high, at = (builder.fptosi(value, kind) for value in args[1:])
        between = builder.sub(builder.shl(constant(2), high), builder.shl(constant(1), low))
        placed = builder.shl(between, builder.and_(at, constant(31)))
        above = builder.icmp_signed(">", at, constant(31))
        halves = []
        for here in (builder.not_(above), above):
            chosen = builder.select(builder.and_(args[0], here), placed, constant(0))
            halves.append(builder.bitcast(chosen, args[1].type))
        return context.make_tuple(builder, sig.return_type, halves)

    return types.UniTuple(vector, 2)(where, first, last, place), generate


@intrinsic
def bits_of_both(typing_context: Any, a: Any, b: Any) -> Any:
    """The bits that are set in one of two vectors."""
    kind = ir.VectorType(ir.IntType(32), LANES)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        both = builder.or_(*(builder.bitcast(value, kind) for value in args))
        return builder.bitcast(both, args[0].type)

    return vector(vector, vector), generate


@inline
def cells_in_tile(e: Any, seen: Any, tile_x: Any, tile_y: Any) -> Any:
    """The cells that the ellipses that matter touch, each of a tile of its own.

    Returns the bits of the left and of the right half of the tile.
    """
    top, first_column = tile_y * TILE_HEIGHT, tile_x * COLUMNS
    column = maximum(floor(e.left / CELL_WIDTH), first_column)
    last_column = minimum(floor(e.right / CELL_WIDTH), first_column + (COLUMNS - 1))
    lower, upper = broadcast(_ZERO), broadcast(_ZERO)
    while True:  # each from its own first column on
        active = seen & (column <= last_column)
        if not any_set(active):
            return lower, upper
        left, right = maximum(e.left, column * CELL_WIDTH), minimum(e.right, column * CELL_WIDTH + (CELL_WIDTH - 1))
        first_row, last_row = rows_in_columns(e, left, right)
        first = maximum(floor((first_row - top) / CELL_HEIGHT), 0.0)
        last = minimum(floor((last_row - top) / CELL_HEIGHT), ROWS - 1)
        where = active & (first_row <= last_row) & (first <= last)
        below, above = bits_between(where, first, last, (column - first_column) * ROWS)
        lower, upper = bits_of_both(lower, below), bits_of_both(upper, above)
        column = column + 1


# Where ellipses and the tiles they may touch are kept, a vector for each: the ellipse's fields come first.
_FIELDS = len(Ellipse._fields)
_TILE_X, _TILE_Y, _LANE = (number * LANES for number in range(_FIELDS, _FIELDS + 3))
_KEPT = (_FIELDS + 3) * LANES
_FIRST_Y, _LAST_X, _LAST_Y, _NEED = (number * LANES for number in range(4))
_LIMITS = 4 * LANES


@inline
def keep_ellipses(e: Any, kept: Any) -> None:
    store(kept, 0, e.x)
    store(kept, LANES, e.y)
    store(kept, 2 * LANES, e.slope)
    store(kept, 3 * LANES, e.half2)
    store(kept, 4 * LANES, e.curve)
    store(kept, 5 * LANES, e.bottom_dx)
    store(kept, 6 * LANES, e.left)
    store(kept, 7 * LANES, e.right)
    store(kept, 8 * LANES, e.top)
    store(kept, 9 * LANES, e.bottom)


@inline
def kept_ellipses(kept: Any) -> Any:
    upper = (load(kept, 0), load(kept, LANES), load(kept, 2 * LANES), load(kept, 3 * LANES), load(kept, 4 * LANES))
    lower = (load(kept, 5 * LANES), load(kept, 6 * LANES), load(kept, 7 * LANES), load(kept, 8 * LANES))
    return Ellipse(*upper, *lower, load(kept, 9 * LANES))


@inline
def fill_slot(slots: Any, slot_tiles: Any, slot_entries: Any, tile: Any, cells: Any, key: Any) -> None:
    """Add a tile to the slots of the Gaussian in the lower half of `key`, if cells of it are touched."""
    at = 2 * (key & (MAX_SLOTS - 1))
    count = get(slots, at + 1)
    slot = get(slots, at) + count
    if cells != 0:
        put(slot_tiles, slot, tile)
        put(slot_entries, ENTRY * slot, key)
        put(slot_entries, ENTRY * slot + 1, cells)
        put(slots, at + 1, count + 1)


@inline
def collect_tiles(more: Any, kept: Any, limits: Any, packed: Any) -> Any:
    """Take the next tile of the ellipses in the lanes `more`, LANES tiles at most, each with its ellipse, to `packed`.

    Returns how many, and the lanes that have more.
    """
    count = 0
    while more and count < LANES:
        lane = lowest_bit(more)
        tile_x, tile_y = get(kept, _TILE_X + lane), get(kept, _TILE_Y + lane)
        if tile_y < get(limits, _LAST_Y + lane):
            tile_y += _ONE
        else:
            tile_x, tile_y = tile_x + _ONE, get(limits, _FIRST_Y + lane)
        put(kept, _TILE_X + lane, tile_x)
        put(kept, _TILE_Y + lane, tile_y)
        if tile_x >= get(limits, _LAST_X + lane) and tile_y >= get(limits, _LAST_Y + lane):
            more &= more - 1
        for field in range(0, _KEPT, LANES):
            put(packed, field + count, get(kept, field + lane))
        count += 1
    return count, more


@inline
def list_tiles(
    e: Any,
    seen: Any,
    depth: Any,
    first: Any,
    tiles_x: Any,
    tiles: Any,
    slot_tiles: Any,
    slot_entries: Any,
    slots: Any,
    ranges: Any,
    page: Any,
    page_end: Any,
    state: Any,
) -> Any:
    """Write a slot for every tile that the ellipses of Gaussians first ... first + LANES - 1 touch.

    Args:
        seen: mask of the Gaussians that matter.
        depth: of them, positive.
        tiles_x, tiles: in a row of tiles, and in all.
        slot_tiles [S]: the tile is written; `tiles` where a slot is left over.
        slot_entries [S,ENTRY]: the bits of the depth are written, with the number of the Gaussian in the lower half,
            and a bit for each cell that is touched.
        slots [N,2]: the first slot of each Gaussian, and how many follow one another, are written. The count was 0.
        ranges [blocks,2]: where the slots of these Gaussians begin, and how many there are with those left over. The
            count was 0.
        page, page_end: slots that the thread has reserved.
        state: state[SLOTS] of S are reserved. If more than S are, nothing is written.
    Returns:
        the first reserved slot that is left, and the end of those.
    """
    seen = seen & (e.left <= e.right) & (e.top <= e.bottom)
    if not any_set(seen):
        return page, page_end
    kept, limits, packed = stack(_KEPT), stack(_LIMITS), stack(_KEPT)
    lower, upper, keys = stack(LANES), stack(LANES), stack(LANES)
    tile_x, tile_y = floor(e.left / TILE_WIDTH), floor(e.top / TILE_HEIGHT)
    last_x, last_y = floor(e.right / TILE_WIDTH), floor(e.bottom / TILE_HEIGHT)
    need = (last_x - tile_x + 1) * (last_y - tile_y + 1)
    store(limits, _NEED, integer_bits(select(seen, need, 0.0)))
    needed = 0
    for lane in range(LANES):
        needed += float_bits(get(limits, _NEED + lane))
    if page + needed > page_end:
        page = atomic_add(state, SLOTS, max(PAGE, needed))
        page_end = page + max(PAGE, needed)
    if page_end > len(slot_tiles):
        return page + needed, page_end
    put(ranges, 2 * (first // LANES), page)
    put(ranges, 2 * (first // LANES) + 1, needed)
    for slot in range(page, page + needed):
        put(slot_tiles, slot, tiles)

    store(keys, 0, depth)
    store(kept, _TILE_X, tile_x)
    store(kept, _TILE_Y, tile_y)
    left_half, right_half = cells_in_tile(e, seen, tile_x, tile_y)
    store(lower, 0, left_half)
    store(upper, 0, right_half)
    bits, more = mask_bits(seen), mask_bits(seen & (need > _ONE))
    while bits:
        lane = lowest_bit(bits)
        put(slots, 2 * (first + lane), page)
        page += float_bits(get(limits, _NEED + lane))
        tile = int(get(kept, _TILE_Y + lane)) * tiles_x + int(get(kept, _TILE_X + lane))
        cells = float_bits(get(upper, lane)) << _HALF | float_bits(get(lower, lane))
        key = float_bits(get(keys, lane)) << SLOT_BITS | (first + lane)
        fill_slot(slots, slot_tiles, slot_entries, tile, cells, key)
        bits &= bits - 1
    if more == 0:
        return page, page_end

    keep_ellipses(e, kept)
    store(kept, _LANE, lane_index())
    store(limits, _FIRST_Y, tile_y)
    store(limits, _LAST_X, last_x)
    store(limits, _LAST_Y, last_y)
    while more:
        count, more = collect_tiles(more, kept, limits, packed)
        own, tile_x, tile_y = lane_index() < count, load(packed, _TILE_X), load(packed, _TILE_Y)
        left_half, right_half = cells_in_tile(kept_ellipses(packed), own, tile_x, tile_y)
        store(lower, 0, left_half)
        store(upper, 0, right_half)
        for i in range(count):
            lane = int(get(packed, _LANE + i))
            tile = int(get(packed, _TILE_Y + i)) * tiles_x + int(get(packed, _TILE_X + i))
            cells = float_bits(get(upper, i)) << _HALF | float_bits(get(lower, i))
            key = float_bits(get(keys, lane)) << SLOT_BITS | (first + lane)
            fill_slot(slots, slot_tiles, slot_entries, tile, cells, key)
    return page, page_end
