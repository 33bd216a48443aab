"""One step of Adam (Kingma & Ba 2015, algorithm 1) on many arrays at once, in place, for all or for some of the rows.

The step is bound by memory: values and both moments are read and written once, gradients are read once. Where whole
vectors of elements are not visible they are not even read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from recon.kernels.lanes import any_set, atomic_add, load_first, store_first
from recon.kernels.runtime import get_threads, kernel, launch
from recon.kernels.simd import LANES, broadcast, get, inline, load, put, select, sqrt, store

PIECE = 1 << 14  # about as many elements does a thread take at a time

_COLUMNS = 8  # of the kernel's table: four addresses, number of elements, row width, rows per piece, first piece
SETTINGS = 5  # see `settings_of`
_ZERO, _ONE, _NAN = np.float32(0), np.float32(1), np.float32(np.nan)


class AdamUpdate(NamedTuple):
    """An array [N,...] with its gradient, moments and settings. The four are contiguous float32 of one shape."""

    values: NDArray[np.float32]
    gradient: NDArray[np.float32]
    exp_avg: NDArray[np.float32]
    exp_avg_sq: NDArray[np.float32]
    step: int  # the first one is 1
    lr: float
    betas: tuple[float, float]
    eps: float


def adam_update(updates: Sequence[AdamUpdate], visible: NDArray[np.uint8] | None = None) -> list[bool]:
    """Take a step: changes `values`, `exp_avg` and `exp_avg_sq` in the rows where `visible` [N] is not 0.

    Elements whose gradient is not finite stay as they are. Tells for each update whether all that were to be updated
    had finite gradients.
    """
    table: list[int] = []
    pieces, scratch = 0, LANES
    for update in updates:
        arrays = update[:4]
        values = update.values
        if any(a.shape != values.shape or a.dtype != np.float32 or not a.flags.c_contiguous for a in arrays):
            raise ValueError(f"not contiguous float32 arrays of one shape: {[(a.shape, a.dtype) for a in arrays]}")
        width = 1
        if visible is not None:
            if values.shape[:1] != visible.shape:
                raise ValueError(f"{visible.shape} flags of rows do not fit an array {values.shape}")
            width = max(1, math.prod(values.shape[1:]))
        rows_per_piece = -(-PIECE // (width * LANES)) * LANES
        table += [*(a.ctypes.data for a in arrays), values.size, width, rows_per_piece, pieces]
        pieces += -(-values.size // (width * rows_per_piece))
        scratch = max(scratch, (width + 1) * LANES)
    finite = np.ones(len(updates), np.uint8)
    if pieces > 0:
        launch(
            _adam,
            *(np.array(table, np.int64), np.array([settings_of(*u[4:]) for u in updates], np.float32).reshape(-1)),
            np.empty(0, np.uint8) if visible is None else visible,
            *(pieces, finite, scratch, np.empty(get_threads() * scratch, np.float32)),
            threads=pieces,
        )
    return [bool(flag) for flag in finite]


def settings_of(step: int, lr: float, betas: tuple[float, float], eps: float) -> list[float]:
    """Size of the step, 1 - beta1, 1 - beta2, factor of sqrt(exp_avg_sq), epsilon; bias corrections included."""
    beta1, beta2 = betas
    return [lr / (1 - beta1**step), 1 - beta1, 1 - beta2, 1 / math.sqrt(1 - beta2**step), eps]


@intrinsic
def _floats_at(typing_context: Any, address: Any) -> Any:
    """The floats at an address: what `load` and `store` take, never checked."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return types.CPointer(types.float32)(address), generate


@kernel("i8[::1], f4[::1], u1[::1], i8, u1[::1], i8, f4[::1]")
def _adam(
    table: Any,
    settings: Any,
    visible: Any,  # [N], or empty: all rows
    pieces: int,
    finite: Any,  # [updates] made 0 where a gradient is not
    scratch_size: int,
    scratch: Any,
    counter: Any,
    thread: int,
) -> None:
    flags = scratch[thread * scratch_size : (thread + 1) * scratch_size]
    while True:
        piece = atomic_add(counter, 0, 1)
        if piece >= pieces:
            break
        entry = table.size // _COLUMNS - 1
        while table[entry * _COLUMNS + 7] > piece:
            entry -= 1
        at = entry * _COLUMNS
        arrays = (
            _floats_at(table[at]),
            _floats_at(table[at + 1]),
            _floats_at(table[at + 2]),
            _floats_at(table[at + 3]),
        )
        size, width, rows = table[at + 4], table[at + 5], table[at + 6]
        first = (piece - table[at + 7]) * rows * width
        last = min(first + rows * width, size)
        factors = factors_of(settings, entry)
        everything = broadcast(_ONE) > _ZERO
        broken = broadcast(_ZERO) > _ZERO
        if visible.size == 0:
            for element in range(first, last, LANES):
                broken = broken | _update(arrays, factors, element, last - element, everything)
        else:
            for start in range(first, last, LANES * width):
                end = min(start + LANES * width, last)
                seen = _count(visible, start // width)
                if seen == LANES:
                    for element in range(start, end, LANES):
                        broken = broken | _update(arrays, factors, element, last - element, everything)
                elif seen > 0:
                    _spread(visible, start // width, width, flags)
                    for element in range(start, end, LANES):
                        chosen = load(flags, element - start) != _ZERO
                        if any_set(chosen):
                            broken = broken | _update(arrays, factors, element, last - element, chosen)
        if any_set(broken):
            put(finite, entry, 0)


@inline
def factors_of(settings: Any, update: int) -> Any:
    """What `moved` needs of a row of `settings_of`."""
    at = update * SETTINGS
    step, gain1, gain2 = get(settings, at), get(settings, at + 1), get(settings, at + 2)
    return broadcast(step), broadcast(gain1), broadcast(gain2), broadcast(get(settings, at + 3)), get(settings, at + 4)


@inline
def moved(value: Any, gradient: Any, mean: Any, square: Any, factors: Any) -> Any:
    """Adam on a vector: the new value and moments; nothing changes where the gradient is not finite."""
    step, gain1, gain2, correction, eps = factors
    good = gradient - gradient == _ZERO
    new_mean = mean + gain1 * (gradient - mean)
    new_square = square + gain2 * (gradient * gradient - square)
    new_value = value - step * new_mean / (sqrt(new_square) * correction + eps)
    new_value, new_mean = select(good, new_value, value), select(good, new_mean, mean)
    return new_value, new_mean, select(good, new_square, square)


@inline
def _count(visible: Any, first_row: int) -> int:
    """How many of LANES rows are visible."""
    seen = 0
    for row in range(first_row, min(first_row + LANES, visible.size)):
        seen += get(visible, row) != 0
    return seen


@inline
def _spread(visible: Any, first_row: int, width: int, flags: Any) -> None:
    """A flag for each element of LANES rows: 1 where its row is visible."""
    for row in range(LANES):
        flag = np.float32(0)
        if first_row + row < visible.size and get(visible, first_row + row) != 0:
            flag = np.float32(1)
        for at in range(row * width, (row + 1) * width, LANES):
            store(flags, at, flag)  # reaches into the next rows, which are written later


@inline
def _update(arrays: Any, factors: Any, element: int, count: int, chosen: Any) -> Any:
    """Adam on a vector of elements, of which `count` belong to the array. Tells which chosen ones had to be skipped."""
    values, gradients, exp_avg, exp_avg_sq = arrays
    gradient, value = load_first(gradients, element, count), load_first(values, element, count)
    mean, square = load_first(exp_avg, element, count), load_first(exp_avg_sq, element, count)
    broken = chosen & ~(gradient - gradient == _ZERO)
    value, mean, square = moved(value, select(chosen, gradient, _NAN), mean, square, factors)
    store_first(exp_avg, element, mean, count)
    store_first(exp_avg_sq, element, square, count)
    store_first(values, element, value, count)
    return broken
