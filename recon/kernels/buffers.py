"""Scratch memory that is used again: the operating system clears fresh pages one by one, which takes milliseconds.

`take` hands out an array that nobody else holds. Nothing has to be given back: an array is free again when its last
user is gone, which its reference count tells (a view and a tensor that share its memory hold a reference to it).
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
SMALL = 1 << 12  # bytes below which reuse does not pay
SPARE = 1 << 28  # bytes of free memory that may be kept

_lock = threading.Lock()
_buffers: dict[int, list[NDArray[np.uint8]]] = {}  # by size class; the most recently used class last


def _references(buffers: list[NDArray[np.uint8]], index: int) -> int:
    return sys.getrefcount(buffers[index])


_FREE = _references([np.empty(1, np.uint8)], 0)  # of an array that only its list holds, counted in the same way


def take(count: int, dtype: Any) -> NDArray[Any]:
    """An uninitialised flat array of `count` elements that starts at a cache line."""
    dtype = np.dtype(dtype)
    size = count * dtype.itemsize
    if size < SMALL:
        return np.empty(count, dtype)
    step = 1 << max(12, size.bit_length() - 4)  # classes are 1/8 to 1/16 apart: a scene that grows finds its buffers
    length = -(-size // step) * step + ALIGNMENT
    with _lock:
        same = _buffers[length] = _buffers.pop(length, [])
        for i in range(len(same)):
            if _references(same, i) == _FREE:
                owner = same[i]
                break
        else:
            _release()
            owner = np.empty(length, np.uint8)
            same.append(owner)
        start = -owner.ctypes.data % ALIGNMENT
        return owner[start : start + size].view(dtype)  # holds a reference to `owner`, as do all views of it


def _release() -> None:
    """Return free arrays to the system, the longest unused classes first, until no more than SPARE bytes are free."""
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
