"""The gradient of blending: every tile is blended once more, front to back, with the gradients of its pixels at hand.

With w_i = T_i alpha_i the weight of Gaussian i at a pixel, and value_i the sum of its channels (colour, depth) times
the gradients of the channels, the gradient of its alpha is

    T_i value_i - rest_i / (1 - alpha_i),    rest_i = sum over j > i of w_j value_j, and what the background adds.

`rest` starts as its total, which is known from the pictures, and loses w_i value_i with every Gaussian. So the pass
needs no list of what was drawn, and takes the same decisions as the forward pass.

Each entry of a tile writes its sums to a slot of its own; `gather` adds the slots of a Gaussian in their order. There
are no atomic additions of floats, hence no differences between runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recon.kernels.blend import (
    AHEAD,
    CELL,
    DOWN,
    LOOK_EVERY,
    STATE,
    T,
    across,
    entry_gaussian,
    entry_slot,
    load_cell,
    next_column,
    start_tile,
    unfinished,
)
from recon.kernels.lanes import atomic_add, lowest_bit, prefetch, scalar_max, store_sums
from recon.kernels.runtime import kernel
from recon.kernels.simd import (
    LANES,
    absolute,
    broadcast,
    exp2_bounded,
    get,
    inline,
    load,
    minimum,
    negative_absolute,
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
    CURVE,
    DEPTH,
    ENTRY,
    GREEN,
    HALF,
    LOG2_ALPHA_MIN,
    LOG2_OPACITY,
    RECORD,
    RED,
    ROWS,
    SHEAR,
    SLOT,
    STRETCH,
    TILE_HEIGHT,
    TILE_WIDTH,
    TRANSMITTANCE_MIN,
    ZERO,
    X,
    Y,
)

f32 = np.float32

# Vectors of a cell's state beside the transmittance `T`: gradients of the channels, and `rest`
G_RED, G_GREEN, G_BLUE, REST, G_DEPTH = (number * LANES for number in range(1, 6))


@inline
def load_gradients(
    left: Any,
    top: Any,
    width: Any,
    height: Any,
    rgb: Any,
    alpha: Any,
    transmittance: Any,
    depth: Any,
    g_rgb: Any,
    g_alpha: Any,
    g_depth: Any,
    state: Any,
    with_alpha: Any,
    with_depth: Any,
) -> None:
    """Fill the planes of a tile, from the pictures and their gradients.

    `rest` begins as the sum over all Gaussians of w value, plus T times the gradient of T: what the colour of the
    background and -alpha give. For the depth, sum / alpha with sum = sum of w z, let g be the gradient of the sum. Then
    w value adds up to g sum = alpha g depth, and the gradient of T is g depth, since alpha divides: both together are
    (alpha + T) g depth = g depth.
    """
    pixels = width * height
    for cell in range(CELLS):
        x, y = left + cell // ROWS * CELL_WIDTH, top + cell % ROWS * CELL_HEIGHT
        if x >= width or y >= height:
            continue
        i, pixel, area = cell * CELL, y * width + x, (width, width - x, height - y)
        red = load_cell(g_rgb, pixel, *area)
        green = load_cell(g_rgb, pixels + pixel, *area)
        blue = load_cell(g_rgb, 2 * pixels + pixel, *area)
        rest = red * load_cell(rgb, pixel, *area) + green * load_cell(rgb, pixels + pixel, *area)
        rest = rest + blue * load_cell(rgb, 2 * pixels + pixel, *area)
        if with_alpha:
            rest = rest - load_cell(transmittance, pixel, *area) * load_cell(g_alpha, pixel, *area)
        if with_depth:
            opaque = load_cell(alpha, pixel, *area)
            g_sum = select(opaque > 0.0, load_cell(g_depth, pixel, *area) / opaque, 0.0)
            store(state, G_DEPTH + i, g_sum)
            rest = rest + g_sum * load_cell(depth, pixel, *area)
        store(state, G_RED + i, red)
        store(state, G_GREEN + i, green)
        store(state, G_BLUE + i, blue)
        store(state, REST + i, rest)


@inline
def blend_tiles_backward(
    width: Any,
    height: Any,
    records: Any,
    entries: Any,
    starts: Any,
    rgb: Any,
    alpha: Any,
    transmittance: Any,
    depth: Any,
    g_rgb: Any,
    g_alpha: Any,
    g_depth: Any,
    slots: Any,
    with_alpha: Any,
    with_depth: Any,
    with_absolute: Any,
    counter: Any,
) -> None:
    """The kernels below; `with_depth` and `with_absolute` are constants: the compiler leaves out what is not wanted."""
    state = stack(STATE)
    tiles, tiles_x, zero = len(starts) - 1, (width + TILE_WIDTH - 1) // TILE_WIDTH, broadcast(0.0)
    while True:
        tile = atomic_add(counter, 0, 1)
        if tile >= tiles:
            break
        left, top = tile % tiles_x * TILE_WIDTH, tile // tiles_x * TILE_HEIGHT
        start_tile(left, top, width, height, state)
        load_gradients(
            *(left, top, width, height, rgb, alpha, transmittance, depth),
            *(g_rgb, g_alpha, g_depth, state, with_alpha, with_depth),
        )
        at, end = get(starts, tile), get(starts, tile + 1)
        while at < end:
            live = unfinished(state)
            if live == 0:
                break
            pause = min(at + LOOK_EVERY, end)
            while at < pause:
                entry, touched = get(entries, ENTRY * at), get(entries, ENTRY * at + 1) & live
                record = entry_gaussian(entry) * RECORD
                ahead = get(entries, ENTRY * min(at + AHEAD, end - 1))
                prefetch(records, entry_gaussian(ahead) * RECORD)
                prefetch(slots, entry_slot(ahead) * SLOT)  # or the stores would fill up their queue
                at += 1
                x, y, stretch = get(records, record + X), get(records, record + Y), get(records, record + STRETCH)
                shear, curve = get(records, record + SHEAR), get(records, record + CURVE)
                log2_opacity, distance = get(records, record + LOG2_OPACITY), get(records, record + DEPTH)
                red = scalar_max(get(records, record + RED), ZERO)
                green = scalar_max(get(records, record + GREEN), ZERO)
                blue = scalar_max(get(records, record + BLUE), ZERO)
                v_sum, v_x, v_xx, v_u, v_xu, v_uu = zero, zero, zero, zero, zero, zero
                sum_red, sum_green, sum_blue, sum_depth, abs_x, abs_y = zero, zero, zero, zero, zero, zero
                while touched:
                    cells = next_column(touched)
                    touched ^= cells
                    dx = across() + (f32(left + lowest_bit(cells) // ROWS * CELL_WIDTH) + HALF - x)
                    peak, sheared = log2_opacity - curve * dx * dx, shear * dx
                    column_v, column_u, column_uu = zero, zero, zero  # sums over the cells, in which dx is the same
                    while cells:
                        cell = lowest_bit(cells)
                        cells &= cells - 1
                        i = cell * CELL
                        u = stretch * (load(state, DOWN + cell % ROWS * LANES) - y) - sheared
                        exponent = peak - u * u
                        uncapped = exp2_bounded(exponent)
                        opacity = select(exponent >= LOG2_ALPHA_MIN, minimum(uncapped, ALPHA_MAX), 0.0)
                        before = load(state, T + i)
                        after = before - opacity * before
                        drawn = after > TRANSMITTANCE_MIN
                        weight = select(drawn, opacity * before, 0.0)
                        store(state, T + i, select(drawn, after, negative_absolute(before)))
                        g_red, g_green = load(state, G_RED + i), load(state, G_GREEN + i)
                        g_blue = load(state, G_BLUE + i)
                        value = g_red * red + g_green * green + g_blue * blue
                        sum_red = sum_red + weight * g_red
                        sum_green = sum_green + weight * g_green
                        sum_blue = sum_blue + weight * g_blue
                        if with_depth:
                            g_sum = load(state, G_DEPTH + i)
                            value = value + g_sum * distance
                            sum_depth = sum_depth + weight * g_sum
                        value = weight * value
                        rest = load(state, REST + i) - value
                        store(state, REST + i, rest)
                        # v, the gradient of the exponent 1/2 d^T cov^-1 d, is that of alpha times -alpha
                        v_pixel = rest * (opacity / (1 - opacity)) - value
                        v_pixel = select(drawn & (uncapped <= ALPHA_MAX), v_pixel, 0.0)
                        v_pixel_u = v_pixel * u
                        column_v = column_v + v_pixel
                        column_u = column_u + v_pixel_u
                        column_uu = column_uu + v_pixel_u * u
                        if with_absolute:
                            abs_x = abs_x + absolute(v_pixel * (curve * dx - shear * u))
                            abs_y = abs_y + absolute(v_pixel_u)
                    column_x = column_v * dx
                    v_sum, v_x, v_xx = v_sum + column_v, v_x + column_x, v_xx + column_x * dx
                    v_u, v_xu, v_uu = v_u + column_u, v_xu + column_u * dx, v_uu + column_uu
                shape, colours = (v_sum, v_x, v_xx, v_u, v_xu, v_uu), (sum_red, sum_green, sum_blue)
                if with_depth or with_absolute:
                    store_sums(slots, entry_slot(entry) * SLOT, (*shape, *colours, sum_depth, abs_x, abs_y))
                else:
                    store_sums(slots, entry_slot(entry) * SLOT, (*shape, *colours))
        while at < end:  # hidden behind finished pixels
            for i in range(0, SLOT, LANES):
                store(slots, entry_slot(get(entries, ENTRY * at)) * SLOT + i, zero)
            at += 1


_SIGNATURE = "i8, i8, f4[::1], i8[::1], i8[::1], f4[::1], f4[::1], f4[::1], i8, f4[::1], f4[::1]"


@kernel(_SIGNATURE)
def blend_backward(
    width: int,
    height: int,
    records: Any,
    entries: Any,
    starts: Any,
    rgb: Any,
    transmittance: Any,
    g_rgb: Any,
    with_alpha: int,
    g_alpha: Any,
    slots: Any,
    counter: Any,
    thread: int,
) -> None:
    """Gradients of all tiles, from pictures without depth.

    Args:
        width, height, records, entries, starts, rgb, transmittance: of `blend`, as it left them.
        g_rgb [3,H,W], g_alpha [H,W]: gradients of the pictures; g_alpha counts only if `with_alpha` is not 0.
        slots: [S,SLOT] the slot of every entry is written.
    """
    blend_tiles_backward(
        *(width, height, records, entries, starts, rgb, rgb, transmittance, rgb),
        *(g_rgb, g_alpha, g_rgb, slots, with_alpha, False, False, counter),
    )


@kernel(_SIGNATURE)
def blend_backward_absolute(
    width: int,
    height: int,
    records: Any,
    entries: Any,
    starts: Any,
    rgb: Any,
    transmittance: Any,
    g_rgb: Any,
    with_alpha: int,
    g_alpha: Any,
    slots: Any,
    counter: Any,
    thread: int,
) -> None:
    """`blend_backward`, and sums of absolute gradients of the centres."""
    blend_tiles_backward(
        *(width, height, records, entries, starts, rgb, rgb, transmittance, rgb),
        *(g_rgb, g_alpha, g_rgb, slots, with_alpha, False, True, counter),
    )


@kernel(_SIGNATURE + ", f4[::1], f4[::1], f4[::1]")
def blend_backward_full(
    width: int,
    height: int,
    records: Any,
    entries: Any,
    starts: Any,
    rgb: Any,
    transmittance: Any,
    g_rgb: Any,
    with_alpha: int,
    g_alpha: Any,
    slots: Any,
    alpha: Any,
    depth: Any,
    g_depth: Any,
    counter: Any,
    thread: int,
) -> None:
    """`blend_backward_absolute` for pictures with depth [H,W] and alpha [H,W], and the gradient of the depth."""
    blend_tiles_backward(
        *(width, height, records, entries, starts, rgb, alpha, transmittance, depth),
        *(g_rgb, g_alpha, g_depth, slots, with_alpha, True, True, counter),
    )
