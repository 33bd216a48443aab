"""The gradient of the projection and the step of Adam in one pass: gradients of parameters never reach memory.

A thread takes a piece of the Gaussians. First it makes the gradients of those blocks that have a row to be updated, as
in `project_backward`, and keeps them in scratch memory, which stays in the processor's second cache. Then it takes the
step of the piece of one parameter after the other, as in `adam`: these are long runs of memory, which the processor
sees coming, while it would wait for the short ones of a single block. Beside the time for writing and reading 59 floats
of gradient for each Gaussian, this saves the bands of spherical harmonics that are not in use yet: they have neither
gradient nor moments.

In the scratch memory NaN stands for the gradient of what is to stay as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recon.kernels.adam import factors_of, moved
from recon.kernels.camera_gradient import CAMERA_SCRATCH, add_to_camera, keep_sums
from recon.kernels.geometry import load_pairs
from recon.kernels.harmonics import COEFFICIENTS, FUNCTIONS, MAX_COEFFICIENTS, load_rows, store_rows
from recon.kernels.lanes import (
    any_set,
    atomic_add,
    copy_transposed,
    fetch_rows,
    load_first,
    load_flags,
    store_columns,
    store_first,
)
from recon.kernels.project import is_finite
from recon.kernels.project_backward import PIECE, block_gradient, clear, load_shape
from recon.kernels.runtime import kernel
from recon.kernels.simd import LANES, broadcast, get, inline, load, put, select, stack, store
from recon.kernels.splat import GRADIENT

MEANS, QUATS, LOG_SCALES, LOGITS, SH0, SHN = range(6)  # of tuples of arrays
UPDATES = 6

_BLOCKS = PIECE // LANES

# Where the gradients of each parameter are in the scratch memory, row by row: the bands first
_WIDTHS = (3, 4, 3, 1, 3)  # and the bands
_BANDS = 3 * MAX_COEFFICIENTS
_STARTS = (_BANDS * PIECE, (_BANDS + 3) * PIECE, (_BANDS + 7) * PIECE, (_BANDS + 10) * PIECE, (_BANDS + 11) * PIECE, 0)
_SCRATCH = (_BANDS + 14) * PIECE

AHEAD = 2  # blocks between asking for the parameters and their use

_ZERO, _NAN = np.float32(0), np.float32(np.nan)


@inline
def visible_lanes(visible: Any, first: Any, rows: Any) -> Any:
    """Mask of the Gaussians that are to be updated."""
    if first + LANES <= rows:
        return load_flags(visible, first)
    found = stack(LANES)
    for lane in range(LANES):
        put(found, lane, 1.0 if first + lane < rows and get(visible, first + lane) != 0 else 0.0)
    return load(found, 0) > _ZERO


@inline
def fetch(arrays: Any, widths: Any, count: Any, first: Any) -> None:
    """Ask for the rows of a block in the first `count` of a tuple of arrays, which may be past the end."""
    for i in range(count):
        fetch_rows(arrays[i], first, widths[i])


@inline
def note(finite: Any, update: Any, chosen: Any, total: Any) -> None:
    """Say so if a sum of gradients is not finite where it should be."""
    if any_set(chosen & ~is_finite(total)):
        put(finite, update, 0)


@inline
def keep_gradient(g: Any, chosen: Any, seen: Any, own: Any, scratch: Any, finite: Any) -> None:
    """Write the gradients of a block but for the bands: 0 for what is not seen, NaN for what is not chosen."""
    both, other = chosen & seen, select(chosen, 0.0, _NAN)
    x, y, z = g.mean
    note(finite, MEANS, both, x + y + z)
    x, y, z = select(both, x, other), select(both, y, other), select(both, z, other)
    store_columns(scratch, _STARTS[MEANS] + 3 * own, (x, y, z))
    w, x, y, z = g.quat
    note(finite, QUATS, both, w + x + y + z)
    w, x, y, z = select(both, w, other), select(both, x, other), select(both, y, other), select(both, z, other)
    store_columns(scratch, _STARTS[QUATS] + 4 * own, (w, x, y, z))
    x, y, z = g.log_scale
    note(finite, LOG_SCALES, both, x + y + z)
    x, y, z = select(both, x, other), select(both, y, other), select(both, z, other)
    store_columns(scratch, _STARTS[LOG_SCALES] + 3 * own, (x, y, z))
    note(finite, LOGITS, both, g.logit)
    store(scratch, _STARTS[LOGITS] + own, select(both, g.logit, other))
    x, y, z = g.sh0
    note(finite, SH0, both, x + y + z)
    x, y, z = select(both, x, other), select(both, y, other), select(both, z, other)
    store_columns(scratch, _STARTS[SH0] + 3 * own, (x, y, z))


@inline
def keep_bands(
    rest: Any, count: Any, width: Any, padded: Any, chosen: Any, own: Any, scratch: Any, finite: Any
) -> None:
    """Write the gradients of the bands of a block, `rest`, in rows: of `width` if all are in use, or else `padded`."""
    total = broadcast(_ZERO)
    for i in range(0, count * LANES, LANES):
        g = load(rest, i)
        total = total + g
        store(rest, i, select(chosen, g, _NAN))
    note(finite, SHN, chosen, total)
    if count == width:
        store_rows(rest, scratch, own, width, own + LANES)
    else:
        for i in range(count * LANES, padded * LANES, LANES):
            store(rest, i, _NAN)
        for column in range(0, padded, LANES):
            copy_transposed(rest, column * LANES, LANES, scratch, own * padded + column, padded)


@inline
def end_of_run(taken: Any, first: Any, stop: Any) -> Any:
    """The end of the blocks that are taken, from row `first` of a piece of `stop` rows on."""
    end = first
    while end < stop and get(taken, end // LANES) != _ZERO:
        end += LANES
    return min(end, stop)


@inline
def step_run(
    values: Any, means: Any, squares: Any, at: Any, count: Any, room: Any, gradients: Any, own: Any, factors: Any
) -> None:
    """Adam on values[at : at + count], in whole vectors as far as there is `room` from `at` on.

    Gradients are gradients[own : own + count], and NaN in the rest of the last vector.
    """
    for i in range(0, count, LANES):
        gradient, value = load(gradients, own + i), load_first(values, at + i, room - i)
        mean, square = load_first(means, at + i, room - i), load_first(squares, at + i, room - i)
        value, mean, square = moved(value, gradient, mean, square, factors)
        store_first(means, at + i, mean, room - i)
        store_first(squares, at + i, square, room - i)
        store_first(values, at + i, value, room - i)


@kernel(
    "f4[::1], UniTuple(f4[::1], 6), UniTuple(f4[::1], 6), UniTuple(f4[::1], 6), i8, i8, i8, u1[::1], f4[::1],"
    " f4[::1], u1[::1], f4[::1], u1[::1], f4[::1]"
)
def project_gaussians_step(
    camera: Any,
    values: Any,
    exp_avgs: Any,
    exp_avg_sqs: Any,
    rows: int,
    degree: int,
    stored: int,
    seen_flags: Any,
    gradients: Any,
    g_means2d: Any,
    visible: Any,
    settings: Any,
    finite: Any,
    g_camera: Any,
    counter: Any,
    thread: int,
) -> None:
    """Take a step with the gradients from one camera.

    Args:
        camera, rows, degree, stored, seen_flags: of `project_gaussians`.
        values, exp_avgs, exp_avg_sqs: the six parameters in the order of MEANS ... SHN, and their moments; all flat.
        gradients, g_means2d, g_camera: of `project_gaussians_backward`.
        visible: [N] 0 for rows that are not to change.
        settings: [UPDATES,SETTINGS] of `settings_of`.
        finite: [UPDATES] made 0 where a gradient is not.
    """
    count, width = (degree + 1) * (degree + 1) * 3 - 3, stored * 3 - 3
    whole, padded = count == width, (count + LANES - 1) // LANES * LANES
    widths = (*_WIDTHS, width)
    functions, slopes, rest = stack(FUNCTIONS), stack(FUNCTIONS), stack(COEFFICIENTS)
    scratch, taken = stack(_SCRATCH), stack(_BLOCKS)
    of_camera, with_camera = stack(CAMERA_SCRATCH), len(g_camera) > 0
    while True:
        start = atomic_add(counter, 0, PIECE)
        if start >= rows:
            break
        stop = min(start + PIECE, rows)
        clear(of_camera, 0, CAMERA_SCRATCH)
        for first in range(start, stop, LANES):
            chosen, own = visible_lanes(visible, first, rows), first - start
            put(taken, own // LANES, 1.0 if any_set(chosen) else 0.0)
            if not any_set(chosen):
                continue
            ahead = first + AHEAD * LANES
            fetch(values, widths, UPDATES if whole else SHN, ahead)
            fetch((gradients, g_means2d), (GRADIENT, 2), 2, ahead)
            fetch(exp_avgs, widths, UPDATES if whole else SHN, first)
            shape = load_shape(first, rows, values[MEANS], values[QUATS], values[LOG_SCALES], values[LOGITS])
            load_rows(values[SHN], first, width, count, rows, rest)
            g_centre = load_pairs(g_means2d, first, rows)
            g = block_gradient(camera, shape, degree, gradients, first, g_centre, functions, slopes, rest)
            fetch(exp_avg_sqs, widths, UPDATES if whole else SHN, first)
            seen = load_flags(seen_flags, first)
            keep_gradient(g, chosen, seen, own, scratch, finite)
            if with_camera:
                add_to_camera(camera, g, g_centre, seen, of_camera)
            if count > 0:
                keep_bands(rest, count, width, padded, chosen, own, scratch, finite)

        if with_camera:
            keep_sums(of_camera, g_camera, start // PIECE)
        for update in range(UPDATES if count > 0 else SHN):
            arrays = values[update], exp_avgs[update], exp_avg_sqs[update]
            each, factors = widths[update], factors_of(settings, update)
            first = start
            while first < stop:
                end = end_of_run(taken, first - start, stop - start) + start
                own = _STARTS[update] + (first - start) * each
                if whole or update < SHN:
                    step_run(*arrays, first * each, (end - first) * each, (end - first) * each, scratch, own, factors)
                else:
                    for row in range(first, end):
                        if get(visible, row) != 0:
                            own = (row - start) * padded
                            step_run(*arrays, row * each, padded, each, scratch, own, factors)
                first = max(end, first + LANES)
