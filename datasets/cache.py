"""Keeping decoded images, and what was found out from them, within a bound in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import NDArray


class ByteCache:
    """Arrays by key; the least recently used go when the sum of their sizes would pass `limit` bytes. Thread-safe.

    Arrays come back read-only, because they are shared.
    """

    def __init__(self, limit: int | None = None) -> None:
        """Without `limit`, a quarter of the machine's memory but at most 4 GiB."""
        self._limit = default_limit() if limit is None else limit
        self._held = 0
        self._arrays: OrderedDict[Hashable, NDArray] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    @property
    def held_bytes(self) -> int:
        return self._held

    @property
    def limit(self) -> int:
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        with self._lock:
            self._limit = limit
            self._shrink()

    def get(self, key: Hashable, make: Callable[[], NDArray]) -> NDArray:
        """The array under `key`, made (outside the lock) and kept when it is not there.

        Where several threads ask for one that is not there, one makes it and the others wait.
        """
        with self._lock:
            if (array := self._kept(key)) is not None:
                return array
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if (array := self._kept(key)) is not None:
                    return array
            try:
                array = np.ascontiguousarray(make())
                array.flags.writeable = False
                with self._lock:
                    if key not in self._arrays and array.nbytes <= self._limit:
                        self._arrays[key] = array
                        self._held += array.nbytes
                        self._shrink()
                return array
            finally:
                with self._lock:
                    self._making.pop(key, None)

    def _kept(self, key: Hashable) -> NDArray | None:
        if key in self._arrays:
            self._arrays.move_to_end(key)
        return self._arrays.get(key)

    def clear(self) -> None:
        with self._lock:
            self._arrays.clear()
            self._held = 0

    def _shrink(self) -> None:
        while self._held > self._limit:
            _, array = self._arrays.popitem(last=False)
            self._held -= array.nbytes


def default_limit() -> int:
    import psutil  # type: ignore[import-untyped]

    return min(4 * 2**30, psutil.virtual_memory().total // 4)


# All images of the process. Set `images.limit` (bytes) to change the bound.
images = ByteCache()

# What is found out about points from photos or depth maps, for a capture that is opened again with another downscale.
points = ByteCache(2**28)
