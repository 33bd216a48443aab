"""The gradient of the projection and the step of Adam in one pass: gradients of parameters never reach memory.

For each block of Gaussians that has a row to be updated, the gradients are made as in `project_backward` and used up at
once, as in `adam`. Beside the time for writing and reading 59 floats of gradient for each Gaussian, this saves the
bands of spherical harmonics that are not in use yet: they have neither gradient nor moments.
"""

from __future__ import annotations

from typing import Any

from recon.kernels.adam import factors_of, moved
from recon.kernels.geometry import load_pairs, load_quads, load_scalars, load_triples, store_scalars, store_tuples
from recon.kernels.harmonics import COEFFICIENTS, FUNCTIONS, load_rows
from recon.kernels.lanes import any_set, atomic_add, copy_transposed, load_first, lowest_bit, mask_bits, store_first
from recon.kernels.project_backward import block_gradient, load_shape
from recon.kernels.runtime import kernel
from recon.kernels.simd import LANES, get, inline, lane_index, load, put, select, stack
from recon.kernels.splat import CHUNK, UNSEEN

MEANS, QUATS, LOG_SCALES, LOGITS, SH0, SHN = range(6)  # of tuples of arrays
UPDATES = 6

_WIDTH = COEFFICIENTS // LANES  # of a row of coefficients in scratch memory


@inline
def seen_lanes(slots: Any, first: Any, rows: Any) -> Any:
    """Mask of the Gaussians that the camera sees."""
    flags = stack(LANES)
    for lane in range(LANES):
        put(flags, lane, 1.0 if first + lane < rows and get(slots, 2 * (first + lane)) != UNSEEN else 0.0)
    return load(flags, 0) > 0.0


@inline
def visible_lanes(visible: Any, first: Any, rows: Any) -> Any:
    """Mask of the Gaussians that are to be updated."""
    flags = stack(LANES)
    for lane in range(LANES):
        put(flags, lane, 1.0 if first + lane < rows and get(visible, first + lane) != 0 else 0.0)
    return load(flags, 0) > 0.0


@inline
def note(finite: Any, update: Any, broken: Any) -> None:
    if any_set(broken):
        put(finite, update, 0)


@inline
def step_scalars(
    values: Any, means: Any, squares: Any, first: Any, rows: Any, g: Any, value: Any, factors: Any, chosen: Any
) -> Any:
    """Adam on a number of each Gaussian; tells where it could not be, see `moved`."""
    mean, square = load_scalars(means, first, rows), load_scalars(squares, first, rows)
    value, mean, square, broken = moved(value, g, mean, square, factors, chosen)
    store_scalars(values, first, rows, value)
    store_scalars(means, first, rows, mean)
    store_scalars(squares, first, rows, square)
    return broken


@inline
def step_triples(
    values: Any, means: Any, squares: Any, first: Any, rows: Any, g: Any, value: Any, factors: Any, chosen: Any
) -> Any:
    """Adam on three numbers of each Gaussian."""
    m, s = load_triples(means, first, rows), load_triples(squares, first, rows)
    v0, m0, s0, broken0 = moved(value[0], g[0], m[0], s[0], factors, chosen)
    v1, m1, s1, broken1 = moved(value[1], g[1], m[1], s[1], factors, chosen)
    v2, m2, s2, broken2 = moved(value[2], g[2], m[2], s[2], factors, chosen)
    store_tuples(values, first, rows, (v0, v1, v2))
    store_tuples(means, first, rows, (m0, m1, m2))
    store_tuples(squares, first, rows, (s0, s1, s2))
    return broken0 | broken1 | broken2


@inline
def step_quads(
    values: Any, means: Any, squares: Any, first: Any, rows: Any, g: Any, value: Any, factors: Any, chosen: Any
) -> Any:
    """Adam on four numbers of each Gaussian."""
    m, s = load_quads(means, first, rows), load_quads(squares, first, rows)
    v0, m0, s0, broken0 = moved(value[0], g[0], m[0], s[0], factors, chosen)
    v1, m1, s1, broken1 = moved(value[1], g[1], m[1], s[1], factors, chosen)
    v2, m2, s2, broken2 = moved(value[2], g[2], m[2], s[2], factors, chosen)
    v3, m3, s3, broken3 = moved(value[3], g[3], m[3], s[3], factors, chosen)
    store_tuples(values, first, rows, (v0, v1, v2, v3))
    store_tuples(means, first, rows, (m0, m1, m2, m3))
    store_tuples(squares, first, rows, (s0, s1, s2, s3))
    return broken0 | broken1 | broken2 | broken3


@inline
def step_rows(
    values: Any, means: Any, squares: Any, first: Any, width: Any, count: Any, gradients: Any, factors: Any, chosen: Any
) -> Any:
    """Adam on the first `count` of the `width` numbers of each chosen Gaussian; gradients are [LANES,_WIDTH].

    No vector reaches into another row, which may be another thread's: the last one begins early.
    """
    broken = chosen & ~chosen
    bits = mask_bits(chosen)
    while bits:
        lane = lowest_bit(bits)
        bits &= bits - 1
        row, own = (first + lane) * width, lane * _WIDTH
        for column in range(0, count, LANES):
            start = max(0, min(column, width - LANES))
            at = row + start
            wanted = (lane_index() >= column - start) & (lane_index() < count - start)
            value, g = load_first(values, at, width - start), load(gradients, own + start)
            mean, square = load_first(means, at, width - start), load_first(squares, at, width - start)
            value, mean, square, bad = moved(value, g, mean, square, factors, wanted)
            store_first(values, at, value, width - start)
            store_first(means, at, mean, width - start)
            store_first(squares, at, square, width - start)
            broken = broken | bad
    return broken


@kernel(
    "f4[::1], UniTuple(f4[::1], 6), UniTuple(f4[::1], 6), UniTuple(f4[::1], 6), i8, i8, i8, u4[::1], f4[::1],"
    " f4[::1], u1[::1], f4[::1], u1[::1]"
)
def project_gaussians_step(
    camera: Any,
    values: Any,
    exp_avgs: Any,
    exp_avg_sqs: Any,
    rows: int,
    degree: int,
    stored: int,
    slots: Any,
    gradients: Any,
    g_means2d: Any,
    visible: Any,
    settings: Any,
    finite: Any,
    counter: Any,
    thread: int,
) -> None:
    """Take a step with the gradients from one camera.

    Args:
        camera, rows, degree, stored, slots: of `project_gaussians`.
        values, exp_avgs, exp_avg_sqs: the six parameters in the order of MEANS ... SHN, and their moments; all flat.
        gradients, g_means2d: of `project_gaussians_backward`.
        visible: [N] 0 for rows that are not to change.
        settings: [UPDATES,SETTINGS] of `settings_of`.
        finite: [UPDATES] made 0 where a gradient is not.
    """
    count, width = (degree + 1) * (degree + 1) * 3 - 3, stored * 3 - 3
    functions, slopes, rest, turned = stack(FUNCTIONS), stack(FUNCTIONS), stack(COEFFICIENTS), stack(COEFFICIENTS)
    while True:
        start = atomic_add(counter, 0, CHUNK // 4)
        if start >= rows:
            break
        for first in range(start, min(start + CHUNK // 4, rows), LANES):
            chosen = visible_lanes(visible, first, rows)
            if not any_set(chosen):
                continue
            shape = load_shape(first, rows, values[MEANS], values[QUATS], values[LOG_SCALES], values[LOGITS])
            load_rows(values[SHN], first, width, count, rows, rest)
            g_centre = load_pairs(g_means2d, first, rows)
            g = block_gradient(camera, shape, degree, gradients, first, g_centre, functions, slopes, rest)

            seen = seen_lanes(slots, first, rows)
            x, y, z = g.mean
            g_mean = select(seen, x, 0.0), select(seen, y, 0.0), select(seen, z, 0.0)
            x, y, z = g.log_scale
            g_log_scale = select(seen, x, 0.0), select(seen, y, 0.0), select(seen, z, 0.0)
            w, x, y, z = g.quat
            g_quat = select(seen, w, 0.0), select(seen, x, 0.0), select(seen, y, 0.0), select(seen, z, 0.0)
            g_logit = select(seen, g.logit, 0.0)
            sh0 = load_triples(values[SH0], first, rows)

            broken = step_triples(
                *(values[MEANS], exp_avgs[MEANS], exp_avg_sqs[MEANS], first, rows),
                *(g_mean, shape.mean, factors_of(settings, MEANS), chosen),
            )
            note(finite, MEANS, broken)
            broken = step_quads(
                *(values[QUATS], exp_avgs[QUATS], exp_avg_sqs[QUATS], first, rows),
                *(g_quat, shape.quat, factors_of(settings, QUATS), chosen),
            )
            note(finite, QUATS, broken)
            broken = step_triples(
                *(values[LOG_SCALES], exp_avgs[LOG_SCALES], exp_avg_sqs[LOG_SCALES], first, rows),
                *(g_log_scale, shape.log_scale, factors_of(settings, LOG_SCALES), chosen),
            )
            note(finite, LOG_SCALES, broken)
            broken = step_scalars(
                *(values[LOGITS], exp_avgs[LOGITS], exp_avg_sqs[LOGITS], first, rows),
                *(g_logit, shape.logit, factors_of(settings, LOGITS), chosen),
            )
            note(finite, LOGITS, broken)
            broken = step_triples(
                *(values[SH0], exp_avgs[SH0], exp_avg_sqs[SH0], first, rows),
                *(g.sh0, sh0, factors_of(settings, SH0), chosen),
            )
            note(finite, SH0, broken)
            if count > 0:
                for column in range(0, count, LANES):
                    copy_transposed(rest, column * LANES, LANES, turned, column, _WIDTH)
                broken = step_rows(
                    *(values[SHN], exp_avgs[SHN], exp_avg_sqs[SHN], first, width, count),
                    *(turned, factors_of(settings, SHN), chosen),
                )
                note(finite, SHN, broken)
