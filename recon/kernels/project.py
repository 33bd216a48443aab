"""Projection of Gaussians into one camera: records for blending, and the tiles that each of them touches."""

from __future__ import annotations

from typing import Any

from recon.kernels.geometry import (
    load_quads,
    load_scalars,
    load_triples,
    log2_compensation,
    project,
    store_tuples,
)
from recon.kernels.harmonics import COEFFICIENTS, FUNCTIONS, basis, colour, load_rows, view_direction
from recon.kernels.lanes import (
    any_set,
    atomic_add,
    copy_transposed,
    fetch_rows,
    store_flags,
)
from recon.kernels.runtime import kernel
from recon.kernels.simd import (
    LANES,
    ceil,
    exp2,
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
    ANTIALIASED,
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
    RECORD,
    RED,
    SHEAR,
    STRETCH,
    TILE_HEIGHT,
    TILE_WIDTH,
    WIDTH,
    X,
    Y,
)
from recon.kernels.tiles import SLOTS, ellipse, list_tiles

NOT_FINITE = SLOTS + 1  # index into `state`, what the threads find out together
STATE = 2

AHEAD = 2  # blocks between asking for their coefficients and using these
_FIELDS = RECORD * LANES


@inline
def is_finite(x: Any) -> Any:
    """Mask; a sum is finite only if all its terms are."""
    return x * 0.0 == 0.0


@inline
def store_records(records: Any, first: Any, p: Any, log2_opacity: Any, rgb: Any) -> None:
    """Write the records of LANES Gaussians from their projection `p`."""
    fields = stack(_FIELDS)
    a, b, _ = p.covariance
    stretch = sqrt(HALF_LOG2E * a / p.determinant)
    store(fields, X * LANES, p.centre[0])
    store(fields, Y * LANES, p.centre[1])
    store(fields, STRETCH * LANES, stretch)
    store(fields, SHEAR * LANES, stretch * b / a)
    store(fields, CURVE * LANES, HALF_LOG2E / a)
    store(fields, LOG2_OPACITY * LANES, log2_opacity)
    store(fields, RED * LANES, rgb[0])
    store(fields, GREEN * LANES, rgb[1])
    store(fields, BLUE * LANES, rgb[2])
    store(fields, DEPTH * LANES, p.depth)
    for part in range(0, RECORD, LANES):
        copy_transposed(fields, part * LANES, LANES, records, first * RECORD + part, RECORD)


@kernel(
    "f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], i8, i8, i8, f4[::1], f4[::1], f4[::1],"
    " u1[::1], u4[::1], i8[::1], u4[::1], u4[::1], i8[::1]"
)
def project_gaussians(
    camera: Any,
    means: Any,
    quats: Any,
    log_scales: Any,
    logits: Any,
    sh0: Any,
    shN: Any,
    rows: int,
    degree: int,
    stored: int,
    records: Any,
    means2d: Any,
    radii: Any,
    seen_flags: Any,
    slot_tiles: Any,
    slot_entries: Any,
    slots: Any,
    ranges: Any,
    state: Any,
    counter: Any,
    thread: int,
) -> None:
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
        seen_flags: [N rounded up to LANES] 1 for the Gaussians that are visible, 0 for others.
        slot_tiles [S], slot_entries [S,ENTRY]: see `list_tiles`.
        slots: [N rounded up to LANES, 2] the first slot of each Gaussian and their count, 0 if it is not visible.
        ranges: [blocks,2] the first slot of each LANES Gaussians and how many follow, those left over included.
        state: [STATE] zeros; state[SLOTS] becomes how many slots were needed: if more than S, nothing is valid.
            state[NOT_FINITE] becomes 1 if a parameter is not finite or a size overflows.
    """
    width, height, far = get(camera, WIDTH), get(camera, HEIGHT), get(camera, FAR)
    antialiased = get(camera, ANTIALIASED) > 0
    tiles_x, used = (int(width) + TILE_WIDTH - 1) // TILE_WIDTH, (degree + 1) * (degree + 1)
    tiles = tiles_x * ((int(height) + TILE_HEIGHT - 1) // TILE_HEIGHT)
    functions, coefficients = stack(FUNCTIONS), stack(COEFFICIENTS)
    page = page_end = 0
    while True:
        start = atomic_add(counter, 0, CHUNK)
        if start >= rows:
            break
        for first in range(start, min(start + CHUNK, rows), LANES):
            if 2 * used > stored:  # with fewer, most of it is not read
                fetch_rows(shN, first + AHEAD * LANES, stored * 3 - 3)
            # Past the last row, the last one is repeated.
            mean, quat = load_triples(means, first, rows), load_quads(quats, first, rows)
            log_scale, logit = load_triples(log_scales, first, rows), load_scalars(logits, first, rows)
            p = project(camera, mean, quat, log_scale)
            (x, y), (a, _, c) = p.centre, p.covariance
            log2_opacity = -log2_positive(1 + exp2(minimum(logit * -LOG2E, 100.0)))
            if antialiased:
                log2_opacity = log2_opacity + log2_compensation(p)
            reach2 = 2 * LN2 * (log2_opacity - LOG2_ALPHA_MIN)  # alpha is 1/255 at so many standard deviations, squared
            reach = sqrt(maximum(reach2, 0.0))
            rx, ry = ceil(reach * sqrt(a)), ceil(reach * sqrt(c))
            seen = p.in_front & (p.depth < far) & (reach2 > 0)
            seen = seen & (x + rx > 0) & (x - rx < width) & (y + ry > 0) & (y - ry < height)
            seen = seen & (lane_index() < rows - first)
            store_tuples(means2d, first, rows, (x, y))
            store_tuples(radii, first, rows, (integer_bits(select(seen, rx, 0.0)), integer_bits(select(seen, ry, 0.0))))
            store_flags(seen_flags, first, seen)
            store(slots, 2 * first, 0.0)
            store(slots, 2 * first + LANES, 0.0)
            put(ranges, 2 * (first // LANES) + 1, 0)

            finite = is_finite(mean[0] + mean[1] + mean[2] + quat[0] + quat[1] + quat[2] + quat[3])
            finite = finite & is_finite(log_scale[0] + log_scale[1] + log_scale[2] + logit) & (p.inverse_norm > 0)
            finite = finite & (is_finite(p.determinant) | ~p.in_front)
            if any_set(seen):
                direction, _ = view_direction(camera, mean)
                load_rows(shN, first, stored * 3 - 3, used * 3 - 3, rows, coefficients)
                basis(degree, direction[0], direction[1], direction[2], functions)
                rgb = colour(used, functions, load_triples(sh0, first, rows), coefficients)
                finite = finite & (is_finite(rgb[0] + rgb[1] + rgb[2]) | ~seen)
                store_records(records, first, p, log2_opacity, rgb)

                # A little more than alpha >= 1/255, so that no rounding error loses a pixel that blending would draw.
                outline = ellipse(p.centre, p.covariance, p.determinant, reach2 * 1.001 + 0.001, width, height)
                page, page_end = list_tiles(
                    *(outline, seen, p.depth, first, tiles_x, tiles, slot_tiles, slot_entries, slots, ranges),
                    *(page, page_end, state),
                )
            if any_set(~finite):
                put(state, NOT_FINITE, 1)
