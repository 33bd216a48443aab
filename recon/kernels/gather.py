"""The gradients of records: the sums that tiles have left in the slots of each Gaussian, brought together."""

from __future__ import annotations

from typing import Any

import numpy as np

from recon.kernels.geometry import load_pairs, store_tuples
from recon.kernels.lanes import atomic_add, copy_transposed
from recon.kernels.runtime import kernel
from recon.kernels.simd import LANES, broadcast, get, inline, load, put, select, stack, store
from recon.kernels.splat import (
    ABS_X,
    ABS_Y,
    BLUE,
    CHUNK,
    CURVE,
    D_A,
    D_B,
    D_BLUE,
    D_C,
    D_DEPTH,
    D_GREEN,
    D_LOG_OPACITY,
    D_RED,
    GRADIENT,
    GREEN,
    HALF_LOG2E,
    RECORD,
    RED,
    S_BLUE,
    S_DEPTH,
    S_GREEN,
    S_RED,
    SHEAR,
    SLOT,
    STRETCH,
    V_U,
    V_UU,
    V_X,
    V_XU,
    V_XX,
    V,
)

f32 = np.float32

_BUFFER = SLOT * LANES  # SLOT and RECORD are the same
UNIT = f32(1) / HALF_LOG2E


@inline
def combine(
    first: Any,
    rows: Any,
    sums: Any,
    record: Any,
    present: Any,
    with_depth: Any,
    with_absolute: Any,
    gradients: Any,
    g_means2d: Any,
    absolute: Any,
) -> None:
    """Gradients of centre, covariance, opacity, colour and depth from the sums over pixels.

    With (p, q) = cov^-1 (dx, dy) and v the gradient of the exponent E = 1/2 d^T cov^-1 d at a pixel,
    dE/dcentre = -(p, q) and dE/dcov = -1/2 (p, q)(p, q)^T. In the terms of the record,
    q = stretch u / HALF_LOG2E and p = (curve dx - shear u) / HALF_LOG2E.
    """
    stretch = select(present, load(record, STRETCH * LANES) * UNIT, 0.0)
    shear = select(present, load(record, SHEAR * LANES) * UNIT, 0.0)
    curve = select(present, load(record, CURVE * LANES) * UNIT, 0.0)
    v_x, v_u = load(sums, V_X * LANES), load(sums, V_U * LANES)
    v_xx, v_xu, v_uu = load(sums, V_XX * LANES), load(sums, V_XU * LANES), load(sums, V_UU * LANES)
    v_p, v_q = curve * v_x - shear * v_u, stretch * v_u
    v_pp = curve * (curve * v_xx - 2 * shear * v_xu) + shear * shear * v_uu
    v_pq, v_qq = stretch * (curve * v_xu - shear * v_uu), stretch * stretch * v_uu
    store_tuples(g_means2d, first, rows, (-v_p, -v_q))

    to = first * GRADIENT
    store(gradients, to + D_A * LANES, -0.5 * v_pp)
    store(gradients, to + D_B * LANES, -v_pq)
    store(gradients, to + D_C * LANES, -0.5 * v_qq)
    store(gradients, to + D_LOG_OPACITY * LANES, -load(sums, V * LANES))
    store(gradients, to + D_RED * LANES, select(load(record, RED * LANES) < 0.0, 0.0, load(sums, S_RED * LANES)))
    store(gradients, to + D_GREEN * LANES, select(load(record, GREEN * LANES) < 0.0, 0.0, load(sums, S_GREEN * LANES)))
    store(gradients, to + D_BLUE * LANES, select(load(record, BLUE * LANES) < 0.0, 0.0, load(sums, S_BLUE * LANES)))
    if with_depth:
        store(gradients, to + D_DEPTH * LANES, load(sums, S_DEPTH * LANES))
    else:
        store(gradients, to + D_DEPTH * LANES, 0.0)
    if with_absolute:
        before = load_pairs(absolute, first, rows)
        own_x, own_y = load(sums, ABS_X * LANES) * UNIT, load(sums, ABS_Y * LANES) * stretch
        store_tuples(absolute, first, rows, (before[0] + own_x, before[1] + own_y))


@kernel("i8, f4[::1], u4[::1], f4[::1], i8, i8, f4[::1], f4[::1], f4[::1]")
def gather(
    rows: int,
    records: Any,
    slots: Any,
    sums: Any,
    with_depth: int,
    with_absolute: int,
    gradients: Any,
    g_means2d: Any,
    absolute: Any,
    counter: Any,
    thread: int,
) -> None:
    """Gradients of all records of a camera.

    Args:
        rows: N.
        records [N rounded up to LANES, RECORD], slots [N,2], sums [S,SLOT]: of the passes before.
        with_depth, with_absolute: whether the slots hold sums for the depth, and of absolute gradients.
        gradients: [blocks,GRADIENT,LANES] written, 0 for Gaussians without a slot.
        g_means2d: [N,2] written for all; 0 for Gaussians without a slot.
        absolute: [N,2] sums of absolute gradients of the centres are added, if with_absolute.
    """
    rows_of_sums, sums_of, record, present = stack(_BUFFER), stack(_BUFFER), stack(_BUFFER), stack(LANES)
    while True:
        start = atomic_add(counter, 0, CHUNK)
        if start >= rows:
            break
        for first in range(start, min(start + CHUNK, rows), LANES):
            found = 0
            for lane in range(LANES):
                slot = count = 0
                if first + lane < rows:
                    slot, count = get(slots, 2 * (first + lane)), get(slots, 2 * (first + lane) + 1)
                found += count
                put(present, lane, f32(count))
                for part in range(0, SLOT, LANES):
                    total = broadcast(0.0)
                    for i in range(slot, slot + count):
                        total = total + load(sums, i * SLOT + part)
                    store(rows_of_sums, lane * SLOT + part, total)
            if found == 0:
                store_tuples(g_means2d, first, rows, (broadcast(0.0), broadcast(0.0)))
                for field in range(GRADIENT):
                    store(gradients, (first * GRADIENT) + field * LANES, 0.0)
                continue
            for part in range(0, SLOT, LANES):
                copy_transposed(rows_of_sums, part, SLOT, sums_of, part * LANES, LANES)
                copy_transposed(records, first * RECORD + part, RECORD, record, part * LANES, LANES)
            combine(
                *(first, rows, sums_of, record, load(present, 0) > 0.0),
                *(with_depth, with_absolute, gradients, g_means2d, absolute),
            )
