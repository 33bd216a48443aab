"""Projection of Gaussians into one camera: records for blending, and the tiles that each of them touches."""

from __future__ import annotations

from typing import Any

from recon.kernels.geometry import load_quads, load_scalars, load_triples, project, store_tuples
from recon.kernels.harmonics import COEFFICIENTS, FUNCTIONS, basis, colour, load_rows
from recon.kernels.lanes import (
    any_set,
    atomic_add,
    copy_transposed,
    float_bits,
    lowest_bit,
    mask_bits,
)
from recon.kernels.runtime import kernel
from recon.kernels.simd import (
    LANES,
    broadcast,
    ceil,
    exp2,
    floor,
    get,
    inline,
    integer_bits,
    lane_index,
    log2_positive,
    maximum,
    minimum,
    put,
    select,
    sqrt,
    stack,
    store,
)
from recon.kernels.splat import (
    BLUE,
    CHUNK,
    CURVE,
    DEPTH,
    FAR,
    GREEN,
    HALF_LOG2E,
    HEIGHT,
    LN2,
    LOG2_ALPHA_MIN,
    LOG2_OPACITY,
    LOG2E,
    POSITION,
    RECORD,
    RED,
    ROW_BITS,
    SHEAR,
    STRETCH,
    TILE,
    UNSEEN,
    WIDTH,
    X,
    Y,
)

SLOTS, NOT_FINITE = 0, 1  # indices into `state`, what the threads find out together
STATE = 2
PAGE = 1024  # slots that a thread reserves at a time

_FIELDS = RECORD * LANES


@inline
def touched_tiles(
    camera: Any, centre: Any, covariance: Any, determinant: Any, reach2: Any, seen: Any, slot_words: Any, slots: Any,
    first: Any, page: Any, page_end: Any, state: Any
) -> Any:  # fmt: skip
    """List the tiles with pixel centres inside the ellipses d^T cov^-1 d <= reach2, and which of their rows are inside.

    The ellipses are cut exactly: by the rows of a row of tiles to find the tiles, then by the columns of a tile to find
    its rows. Between two lines, an ellipse reaches furthest at its own extreme point, or on the line nearest to that.
    All lanes go through the rows and columns of tiles together, each from its own first one.

    A Gaussian's slots are consecutive: slots[2 i] is the first, slots[2 i + 1] their count. As many are taken from the
    thread's page as the bounding box has tiles.

    Returns:
        the page's first free slot, and its end.
    """
    tiles_x = (int(get(camera, WIDTH)) + TILE - 1) // TILE
    right, bottom = get(camera, WIDTH) - 1, get(camera, HEIGHT) - 1
    (mx, my), (a, b, c) = centre, covariance
    extent_x, extent_y = sqrt(reach2 * a), sqrt(reach2 * c)
    slope_x, slope_y = b / c, b / a  # of the line of the extreme points left and right at each y; above and below, x
    curve_x, curve_y = determinant / (c * c), determinant / (a * a)
    half_x2, half_y2 = reach2 * determinant / c, reach2 * determinant / a  # squared half-widths through the centre
    left, top = maximum(ceil(mx - extent_x - 0.5), 0.0), maximum(ceil(my - extent_y - 0.5), 0.0)
    x_end, y_end = minimum(floor(mx + extent_x - 0.5), right), minimum(floor(my + extent_y - 0.5), bottom)
    seen = seen & (left <= x_end) & (top <= y_end)
    if not any_set(seen):
        return page, page_end
    tile_top, tile_bottom = floor(top / TILE), floor(y_end / TILE)
    boxes = (tile_bottom - tile_top + 1) * (floor(x_end / TILE) - floor(left / TILE) + 1)

    counts, tiles, rows = stack(LANES), stack(LANES), stack(LANES)
    store(counts, 0, select(seen, boxes, 0.0))
    needed = 0
    for lane in range(LANES):
        needed += int(get(counts, lane))
    if page + needed > page_end:
        page = atomic_add(state, SLOTS, max(PAGE, needed))
        page_end = page + max(PAGE, needed)
    if page_end > len(slot_words):  # the caller sees in `state` how many are missing, and tries again with more
        return page + needed, page_end
    bits = mask_bits(seen)
    while bits:
        lane = lowest_bit(bits)
        put(slots, 2 * (first + lane), page)
        page += int(get(counts, lane))
        bits &= bits - 1

    row = broadcast(0.0) + tile_top
    while True:
        active = seen & (row <= tile_bottom)
        if not any_set(active):
            break
        y0, y1 = maximum(top, row * TILE), minimum(y_end, row * TILE + (TILE - 1))
        d0, d1 = y0 + 0.5 - my, y1 + 0.5 - my
        at_right = minimum(maximum(slope_y * extent_x, d0), d1)
        at_left = minimum(maximum(-slope_y * extent_x, d0), d1)
        x0 = mx + slope_x * at_left - sqrt(maximum(half_x2 - curve_x * at_left * at_left, 0.0))
        x1 = mx + slope_x * at_right + sqrt(maximum(half_x2 - curve_x * at_right * at_right, 0.0))
        x0, x1 = maximum(ceil(x0 - 0.5), left), minimum(floor(x1 - 0.5), x_end)
        active = active & (x0 <= x1)
        column, last_column = floor(x0 / TILE), floor(x1 / TILE)
        while True:
            active = active & (column <= last_column)
            if not any_set(active):
                break
            d0, d1 = maximum(x0, column * TILE) + 0.5 - mx, minimum(x1, column * TILE + (TILE - 1)) + 0.5 - mx
            at_bottom = minimum(maximum(slope_x * extent_y, d0), d1)
            at_top = minimum(maximum(-slope_x * extent_y, d0), d1)
            r0 = my + slope_y * at_top - sqrt(maximum(half_y2 - curve_y * at_top * at_top, 0.0))
            r1 = my + slope_y * at_bottom + sqrt(maximum(half_y2 - curve_y * at_bottom * at_bottom, 0.0))
            r0, r1 = maximum(ceil(r0 - 0.5), y0), minimum(floor(r1 - 0.5), y1)
            store(tiles, 0, row * tiles_x + column)
            store(rows, 0, r0 - row * TILE + (r1 - row * TILE) * TILE)
            bits = mask_bits(active & (r0 <= r1))
            while bits:
                lane = lowest_bit(bits)
                i = 2 * (first + lane)
                count = get(slots, i + 1)
                put(slot_words, get(slots, i) + count, int(get(tiles, lane)) << ROW_BITS | int(get(rows, lane)))
                put(slots, i + 1, count + 1)
                bits &= bits - 1
            column = column + 1
        row = row + 1
    return page, page_end


@inline
def project_block(
    camera: Any, means: Any, quats: Any, log_scales: Any, logits: Any, sh0: Any, shN: Any, rows: Any, first: Any,
    degree: Any, stored: Any, records: Any, means2d: Any, radii: Any, slot_words: Any, slots: Any, keys: Any, ids: Any,
    at: Any, lowest: Any, highest: Any, page: Any, page_end: Any, state: Any
) -> Any:  # fmt: skip
    """Project LANES Gaussians; append the visible ones to `ids` and their depths to `keys`, from `at` on.

    Returns:
        the next `at`, the lowest and the highest depth of the chunk so far, and the thread's page.
    """
    mean, quat = load_triples(means, first, rows), load_quads(quats, first, rows)
    log_scale, logit = load_triples(log_scales, first, rows), load_scalars(logits, first, rows)
    p = project(camera, mean, quat, log_scale)
    a, b, c = p.covariance
    mx, my = p.centre
    log2_opacity = -log2_positive(1 + exp2(minimum(logit * -LOG2E, 100.0)))
    reach2 = 2 * LN2 * (log2_opacity - LOG2_ALPHA_MIN)  # squared distance in standard deviations where alpha is 1/255
    sigmas = sqrt(maximum(reach2, 0.0))
    rx, ry = ceil(sigmas * sqrt(a)), ceil(sigmas * sqrt(c))
    seen = p.in_front & (p.depth < get(camera, FAR)) & (reach2 > 0)
    seen = seen & (mx + rx > 0) & (mx - rx < get(camera, WIDTH)) & (my + ry > 0) & (my - ry < get(camera, HEIGHT))
    store_tuples(means2d, first, rows, (mx, my))
    store_tuples(radii, first, rows, (integer_bits(select(seen, rx, 0.0)), integer_bits(select(seen, ry, 0.0))))
    bits = mask_bits(seen)
    for lane in range(min(LANES, rows - first)):
        put(slots, 2 * (first + lane), 0 if bits >> lane & 1 else UNSEEN)
        put(slots, 2 * (first + lane) + 1, 0)

    # x * 0 is NaN where x is not finite, and so is every sum with it. Past the last row, the last one is repeated.
    finite = (mean[0] + mean[1] + mean[2] + quat[0] + quat[1] + quat[2] + quat[3]) * 0.0 == 0.0
    finite = finite & ((log_scale[0] + log_scale[1] + log_scale[2] + logit) * 0.0 == 0.0) & (p.inverse_norm > 0)
    finite = finite & ((p.determinant * 0.0 == 0.0) | ~p.in_front)
    seen = seen & (lane_index() < rows - first)
    if any_set(seen):
        functions, coefficients = stack(FUNCTIONS), stack(COEFFICIENTS)
        x, y, z = (
            mean[0] - get(camera, POSITION),
            mean[1] - get(camera, POSITION + 1),
            mean[2] - get(camera, POSITION + 2),
        )
        inverse = 1 / sqrt(maximum(x * x + y * y + z * z, 1e-24))
        used = (degree + 1) * (degree + 1)
        load_rows(shN, first, stored * 3 - 3, used * 3 - 3, rows, coefficients)
        basis(degree, x * inverse, y * inverse, z * inverse, functions)
        red, green, blue = colour(used, functions, load_triples(sh0, first, rows), coefficients)
        finite = finite & (((red + green + blue) * 0.0 == 0.0) | ~seen)

        fields = stack(_FIELDS)
        stretch = sqrt(HALF_LOG2E * a / p.determinant)
        store(fields, X * LANES, mx)
        store(fields, Y * LANES, my)
        store(fields, STRETCH * LANES, stretch)
        store(fields, SHEAR * LANES, stretch * b / a)
        store(fields, CURVE * LANES, HALF_LOG2E / a)
        store(fields, LOG2_OPACITY * LANES, log2_opacity)
        store(fields, RED * LANES, red)
        store(fields, GREEN * LANES, green)
        store(fields, BLUE * LANES, blue)
        store(fields, DEPTH * LANES, p.depth)
        for part in range(0, RECORD, LANES):
            copy_transposed(fields, part * LANES, LANES, records, first * RECORD + part, RECORD)

        # A little more than alpha >= 1/255, so that no rounding error here can lose a pixel that blending would draw.
        page, page_end = touched_tiles(
            camera, p.centre, p.covariance, p.determinant, reach2 * 1.001 + 0.001, seen,
            slot_words, slots, first, page, page_end, state,
        )  # fmt: skip
        bits = mask_bits(seen)
        while bits:
            lane = lowest_bit(bits)
            if get(slots, 2 * (first + lane) + 1) > 0:
                key = float_bits(get(fields, DEPTH * LANES + lane))
                put(ids, at, first + lane)
                put(keys, at, key)
                at, lowest, highest = at + 1, min(lowest, key), max(highest, key)
            bits &= bits - 1
    if any_set(~finite):
        put(state, NOT_FINITE, 1)
    return at, lowest, highest, page, page_end


@kernel(
    "f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], i8, i8, i8, f4[::1], f4[::1], f4[::1],"
    " u4[::1], u4[::1], u4[::1], u4[::1], i8[::1], i8[::1]"
)
def project_gaussians(
        camera: Any, means: Any, quats: Any, log_scales: Any, logits: Any, sh0: Any, shN: Any, rows: int, degree:
    int, stored: int, records: Any, means2d: Any, radii: Any, slot_words: Any, slots: Any, keys: Any, ids: Any,
    visible: Any, state: Any, counter: Any, thread: int,
) -> None:  # fmt: skip
    """Project all Gaussians into one camera.

    Args:
        camera: see `splat`.
        means [N,3], quats [N,4], log_scales [N,3], logits [N], sh0 [N,3], shN [N,3 K - 3]: parameters, all flat.
        rows: N.
        degree: of the harmonics to use.
        stored: K.
        records: [N rounded up to LANES, RECORD] written for the visible Gaussians, undefined for others.
        means2d: [N,2] written for all.
        radii: [N,2] int32 as float32, written for all.
        slot_words: [S] written from the front: the tile and the rows of a slot, see `ROW_BITS`.
        slots: [N,2] the first slot of each Gaussian and their count; UNSEEN and 0 if it is not visible.
        keys, ids: [N rounded up to CHUNK] depth as bits, and number, of the Gaussians that touch tiles: those of a
            chunk from the beginning of that chunk.
        visible: [chunks,3] how many, the lowest and the highest key.
        state: [STATE] zeros; state[SLOTS] becomes how many slots were needed: if more than S, nothing is valid.
            state[NOT_FINITE] becomes 1 if a parameter is not finite or a size overflows.
    """
    page = page_end = 0
    while True:
        chunk = atomic_add(counter, 0, 1)
        start = chunk * CHUNK
        if start >= rows:
            break
        at, lowest, highest = start, 0xFFFFFFFF, 0
        for first in range(start, min(start + CHUNK, rows), LANES):
            at, lowest, highest, page, page_end = project_block(
                camera, means, quats, log_scales, logits, sh0, shN, rows, first, degree, stored,
                records, means2d, radii, slot_words, slots, keys, ids, at, lowest, highest, page, page_end, state,
            )  # fmt: skip
        put(visible, 3 * chunk, at - start)
        put(visible, 3 * chunk + 1, lowest)
        put(visible, 3 * chunk + 2, highest)
