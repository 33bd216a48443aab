"""The lists of tiles: a stable sort by tile and depth, whatever the depths, the tiles and the number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recon.kernels import runtime
from recon.kernels.bin import bin_gaussians
from recon.kernels.splat import ENTRY, MAX_SLOTS, SLOT_BITS


@pytest.fixture
def threads() -> Iterator[None]:
    before = runtime.get_threads()
    yield
    runtime.set_threads(before)


@pytest.mark.usefixtures("threads")
@settings(max_examples=40, deadline=None)
@given(
    tiles=st.integers(1, 40),
    counts=st.lists(st.integers(0, 9), max_size=300),
    distinct=st.integers(1, 1000),
    spread=st.sampled_from([0.0, 1e-6, 1.0, 30.0]),
    repeat=st.sampled_from([1, 30]),
    seed=st.integers(0, 2**16),
)
@example(tiles=1, counts=[0, 0], distinct=1, spread=1.0, repeat=1, seed=0)
@example(tiles=1, counts=[9] * 300, distinct=1000, spread=30.0, repeat=30, seed=0)
def test_lists_are_a_stable_sort_by_depth(
    tiles: int, counts: list[int], distinct: int, spread: float, repeat: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    each = np.array(counts * repeat, np.int64)
    slots, gaussians = int(each.sum()), np.repeat(np.arange(len(each)), each)
    depths = np.exp2(spread * rng.uniform(-1, 1, distinct)).astype(np.float32)[rng.integers(0, distinct, len(each))]
    slot_tiles = rng.integers(0, tiles + 1, slots).astype(np.uint32)  # the last one: left over
    cells = rng.integers(-(2**63), 2**63, slots, np.int64)
    keys = depths[gaussians].view(np.uint32).astype(np.int64) << SLOT_BITS | gaussians
    ranges = np.stack([np.cumsum(each) - each, each], axis=1).astype(np.uint32).reshape(-1)
    for count in (1, 3):
        runtime.set_threads(count)
        slot_entries = np.stack([keys, cells], axis=1).reshape(-1)
        entries, starts = bin_gaussians(tiles, ranges, slot_tiles, slot_entries, slots)
        entries = entries.reshape(-1, ENTRY)
        used = slot_tiles < tiles
        np.testing.assert_array_equal(starts, np.searchsorted(np.sort(slot_tiles), np.arange(tiles + 1)))
        order = np.lexsort((np.arange(slots), depths[gaussians], slot_tiles))
        order = order[used[order]]
        np.testing.assert_array_equal(entries[:, 0] >> SLOT_BITS, gaussians[order])
        np.testing.assert_array_equal(entries[:, 0] & (MAX_SLOTS - 1), order)
        np.testing.assert_array_equal(entries[:, 1], cells[order])
