"""Scratch memory that is used again: the operating system clears fresh pages one by one, which takes milliseconds.

`take` hands out an array that nobody else holds. Nothing has to be given back: an array is free again when its last
user is gone, which its reference count tells (a view and a tensor that share its memory hold a reference to it).
"""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
SMALL = 1 << 12  # bytes below which reuse does not pay
SPARE = 1 << 28  # bytes of free memory that may be kept

_Buffer = tuple[NDArray[np.uint8], int]  # the owner of memory, and where in it that is aligned

_lock = threading.Lock()
_buffers: dict[int, list[_Buffer]] = {}  # by size class; the most recently used class last


def _allocate(size: int) -> _Buffer:
    owner = np.empty(size + ALIGNMENT, np.uint8)
    return owner, -owner.ctypes.data % ALIGNMENT


def _references(buffers: list[_Buffer], index: int) -> int:
    return sys.getrefcount(buffers[index][0])


_FREE = _references([_allocate(1)], 0)  # of an owner that nothing but its buffer holds, counted in the same way


def take(shape: int | tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An uninitialised array that starts at a cache line."""
    dtype = np.dtype(dtype)
    size = (math.prod(shape) if isinstance(shape, tuple) else shape) * dtype.itemsize
    if size < SMALL:
        return np.empty(shape, dtype)
    step = 1 << max(12, size.bit_length() - 4)  # classes are 1/8 to 1/16 apart: a scene that grows finds its buffers
    length = -(-size // step) * step
    with _lock:
        same = _buffers[length] = _buffers.pop(length, [])
        for i in range(len(same)):
            if sys.getrefcount(same[i][0]) == _FREE:
                break
        else:
            _release()
            i = len(same)
            same.append(_allocate(length))
        return np.ndarray(shape, dtype, *same[i])  # holds a reference to the owner, as do all views of it


def _release() -> None:
    """Return free buffers to the system, the longest unused classes first, until no more than SPARE bytes are free."""
    free = [(length, i) for length, same in _buffers.items() for i in range(len(same)) if _references(same, i) == _FREE]
    excess = sum(length for length, _ in free) - SPARE
    dropped = []
    for length, i in free:
        if excess <= 0:
            break
        excess -= length
        dropped.append((length, i))
    for length, i in reversed(dropped):
        del _buffers[length][i]
