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
SPARE = 1 << 28  # bytes of free memory above which the longest unused is returned to the system

_lock = threading.Lock()
_buffers: list[NDArray[np.uint8]] = []  # the most recently handed out last


def _references(buffers: list[NDArray[np.uint8]], index: int) -> int:
    buffer = buffers[index]
    return sys.getrefcount(buffer)


_FREE = _references([np.empty(1, np.uint8)], 0)  # the count of an array that only its list holds, seen in the same way


def take(count: int, dtype: Any) -> NDArray[Any]:
    """An uninitialised flat array of `count` elements that starts at a cache line."""
    dtype = np.dtype(dtype)
    size = count * dtype.itemsize
    if size < SMALL:
        return np.empty(count, dtype)
    with _lock:
        best = -1
        for i in range(len(_buffers)):
            fits = size + ALIGNMENT <= _buffers[i].size <= 2 * size
            if fits and (best < 0 or _buffers[i].size < _buffers[best].size) and _references(_buffers, i) == _FREE:
                best = i
        if best < 0:
            _release()
            owner = np.empty(size + size // 8 + ALIGNMENT, np.uint8)  # a little more, for a scene that grows
        else:
            owner = _buffers.pop(best)
        _buffers.append(owner)
        start = -owner.ctypes.data % ALIGNMENT
        return owner[start : start + size].view(dtype)  # holds a reference to `owner`, as do all views of it


def _release() -> None:
    """Drop free buffers, the longest unused first, until no more than SPARE bytes are free."""
    free = [i for i in range(len(_buffers)) if _references(_buffers, i) == _FREE]
    excess = sum(_buffers[i].size for i in free) - SPARE
    dropped = []
    for i in free:
        if excess <= 0:
            break
        excess -= _buffers[i].size
        dropped.append(i)
    for i in reversed(dropped):
        del _buffers[i]
