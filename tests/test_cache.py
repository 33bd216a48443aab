"""The cache of decoded images keeps to its bound, for many threads at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from recon.datasets.cache import ByteCache


def test_the_cache_keeps_to_its_bound_and_drops_the_least_recently_used() -> None:
    held = ByteCache(limit=1000)
    made = []

    def get(key: int, size: int = 300) -> np.ndarray:
        def make() -> np.ndarray:
            made.append(key)
            return np.full(size, key, np.uint8)

        return held.get(key, make)

    for key in (1, 2, 3):
        get(key)
    get(1)
    get(4)  # 2 goes
    assert held.held_bytes == 900
    assert made == [1, 2, 3, 4]
    get(1)
    assert made == [1, 2, 3, 4]
    get(2)
    assert made == [1, 2, 3, 4, 2]
    get(5, 2000)  # too large to keep, and nothing has to go for it
    assert held.held_bytes == 900
    held.limit = 500
    assert held.held_bytes == 300
    with pytest.raises(ValueError, match="read-only"):
        get(2)[0] = 1


def test_the_cache_bears_many_threads() -> None:
    held = ByteCache(limit=5000)
    with ThreadPoolExecutor(8) as pool:
        keys = [i * 7919 % 40 for i in range(4000)]
        results = list(pool.map(lambda key: held.get(key, lambda: np.full(100 + key, key, np.uint8)), keys))
    assert all(len(result) == 100 + key and (result == key).all() for key, result in zip(keys, results, strict=True))
    assert 0 < held.held_bytes <= 5000


def test_one_thread_makes_what_many_ask_for() -> None:
    held = ByteCache(limit=1000)
    made = []

    def make() -> np.ndarray:
        made.append(threading.get_ident())
        time.sleep(0.1)  # the others come meanwhile
        return np.zeros(10, np.uint8)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: held.get("one", make), range(8)))
    assert len(made) == 1
    assert all(result is results[0] for result in results)


def test_an_array_that_cannot_be_made_is_tried_again() -> None:
    held = ByteCache(limit=1000)
    with pytest.raises(ZeroDivisionError):
        held.get("one", lambda: np.zeros(1 // 0))
    assert len(held.get("one", lambda: np.zeros(3))) == 3
