"""Sorting: the visible Gaussians by depth, then their slots into the lists of the tiles, which come out front to back.

Both are counting sorts. Every share of the items counts where its items go, the counts become positions (first by
place, then by share), and every share moves its items. Equal keys keep their order, so the result is that of a stable
sort of the parameters by depth, whatever the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.kernels.buffers import take
from recon.kernels.lanes import atomic_add, prefetch
from recon.kernels.runtime import get_threads, kernel, launch
from recon.kernels.simd import get, inline, put
from recon.kernels.splat import CHUNK, ROW_BITS, SLOT_BITS

DIGIT_BITS = 13  # of a key at a time: the counts of one share fit into the first cache
MAX_SHARES = 16  # more would make more counts than work
SHARE = 8192  # items that are worth a thread

COUNT, POSITIONS, MOVE = range(3)
AHEAD = 8  # items between a prefetch and the use of what it fetches


@inline
def to_positions(counts: Any, places: Any, shares: Any) -> Any:
    """Replace counts[share, place] by the number of items before them: of lower places, then of lower shares."""
    total = 0
    for place in range(places):
        for share in range(shares):
            count = get(counts, share * places + place)
            put(counts, share * places + place, total)
            total += count
    return total


@kernel("i8, i8, i8, i8[::1], u4[::1], u4[::1], u4[::1], u4[::1], i8, i8, i8, u4[::1]")
def sort_by_digit(
    step: int,
    shares: int,
    items: int,
    visible: Any,
    keys: Any,
    ids: Any,
    sorted_keys: Any,
    sorted_ids: Any,
    lowest: int,
    shift: int,
    bits: int,
    counts: Any,
    counter: Any,
    thread: int,
) -> None:
    """One step of one pass of the radix sort.

    The digit is `bits` bits of key - lowest, from bit `shift` on. In the first pass items are chunks, and `visible`
    says how many keys they hold; later they are keys, and `visible` is empty.
    """
    places = 1 << bits
    while True:
        share = atomic_add(counter, 0, 1)
        if share >= shares:
            break
        if step == POSITIONS:
            to_positions(counts, places, shares)
            break
        own, start, end = share * places, items * share // shares, items * (share + 1) // shares
        if step == COUNT:
            for i in range(places):
                put(counts, own + i, 0)
        parts = end - start if len(visible) else 1
        for part in range(parts):
            if len(visible):
                first = (start + part) * CHUNK
                last = first + get(visible, 3 * (start + part))
            else:
                first, last = start, end
            for i in range(first, last):
                key = get(keys, i)
                place = own + (((key - lowest) >> shift) & (places - 1))
                target = get(counts, place)
                put(counts, place, target + 1)
                if step == MOVE:
                    put(sorted_keys, target, key)
                    put(sorted_ids, target, get(ids, i))


@kernel("i8, i8, i8, i8, u4[::1], u4[::1], u4[::1], u4[::1], i8[::1], i8[::1]")
def fill_tiles(
    step: int,
    shares: int,
    items: int,
    tiles: int,
    ids: Any,
    slots: Any,
    slot_words: Any,
    counts: Any,
    entries: Any,
    starts: Any,
    counter: Any,
    thread: int,
) -> None:
    """One step of sorting the slots of Gaussians ids[0 : items] into `entries`; starts[tile] is the first of each."""
    while True:
        share = atomic_add(counter, 0, 1)
        if share >= shares:
            break
        own, start, end = share * tiles, items * share // shares, items * (share + 1) // shares
        if step == POSITIONS:
            total = to_positions(counts, tiles, shares)
            for tile in range(tiles):
                put(starts, tile, get(counts, tile))
            put(starts, tiles, total)
            break
        if step == COUNT:
            for i in range(tiles):
                put(counts, own + i, 0)
        for i in range(start, end):
            if i + 2 * AHEAD < end:
                prefetch(slots, 2 * get(ids, i + 2 * AHEAD))
            if i + AHEAD < end:
                prefetch(slot_words, get(slots, 2 * get(ids, i + AHEAD)))
            gaussian = get(ids, i)
            first = get(slots, 2 * gaussian)
            for slot in range(first, first + get(slots, 2 * gaussian + 1)):
                word = get(slot_words, slot)
                place = own + (word >> ROW_BITS)
                target = get(counts, place)
                put(counts, place, target + 1)
                if step == MOVE:
                    rows = word & ((1 << ROW_BITS) - 1)
                    put(entries, target, ((gaussian << SLOT_BITS) | slot) << ROW_BITS | rows)


def bin_gaussians(
    tiles: int,
    keys: NDArray[np.uint32],
    ids: NDArray[np.uint32],
    visible: NDArray[np.int64],
    slots: NDArray[np.uint32],
    slot_words: NDArray[np.uint32],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lists of the entries of all tiles, from what `project_gaussians` found (keys and ids are used up).

    Returns:
        entries [E] and starts [tiles + 1]: those of tile t are entries[starts[t] : starts[t + 1]], front to back.
    """
    count = int(visible[:, 0].sum())
    lowest, highest = int(visible[:, 1].min(initial=0xFFFFFFFF)), int(visible[:, 2].max(initial=0))
    width = max(1, (highest - lowest).bit_length()) if count else 1
    passes = -(-width // DIGIT_BITS)
    bits = -(-width // passes)
    shares = max(1, min(get_threads(), MAX_SHARES, count // SHARE))

    counts = take(shares << bits, np.uint32)
    items, chunks = len(visible), visible.reshape(-1)
    sorted_keys, sorted_ids = take(len(keys), np.uint32), take(len(keys), np.uint32)
    for number in range(passes):
        for step in (COUNT, POSITIONS, MOVE):
            launch(
                *(sort_by_digit, step, shares, items, chunks, keys, ids, sorted_keys, sorted_ids),
                *(lowest, number * bits, bits, counts),
                threads=1 if step == POSITIONS else shares,
            )
        keys, ids, sorted_keys, sorted_ids = sorted_keys, sorted_ids, keys, ids
        items, chunks = count, chunks[:0]

    counts, starts, entries = take(shares * tiles, np.uint32), take(tiles + 1, np.int64), take(0, np.int64)
    for step in (COUNT, POSITIONS, MOVE):
        launch(
            *(fill_tiles, step, shares, count, tiles, ids, slots, slot_words, counts, entries, starts),
            threads=1 if step == POSITIONS else shares,
        )
        if step == POSITIONS:
            entries = take(int(starts[tiles]), np.int64)
    return entries, starts
