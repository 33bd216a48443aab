"""Sorting: the visible Gaussians by depth, then their slots into the lists of the tiles, which come out front to back.

Both are counting sorts. Every share of the items counts where its items go, the counts become positions (first by
place, then by share), and every share moves its items. Equal keys keep their order, so the result is that of a stable
sort of the parameters by depth, whatever the number of threads.

All steps of all sorts are one kernel, since starting one on several threads costs about as much as a step. Its pieces
are numbered in the order of the steps, and a thread that took a piece waits for the steps before to be done. It waits
for running threads only, so one that starts late or not at all holds up nobody.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.kernels.buffers import take
from recon.kernels.lanes import atomic_add, prefetch
from recon.kernels.runtime import get_threads, kernel, launch
from recon.kernels.simd import get, inline, put
from recon.kernels.splat import CHUNK, ENTRY, SLOT_BITS

DIGIT_BITS = 13  # of a key at a time: the counts of one share fit into the first cache
MAX_SHARES = 16  # more would make more counts than work
SHARE = 4096  # items that are worth a thread

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


@inline
def share_of(items: Any, share: Any, shares: Any) -> Any:
    """The first of the items of a share, and the end of them."""
    return items * share // shares, items * (share + 1) // shares


@inline
def clear(counts: Any, start: Any, count: Any) -> None:
    for i in range(start, start + count):
        put(counts, i, 0)


@inline
def sort_keys(
    step: Any, first: Any, last: Any, keys: Any, ids: Any, to_keys: Any, to_ids: Any, digit: Any, counts: Any, own: Any
) -> None:
    """Count or move keys first ... last - 1; `digit` is (what is subtracted from keys, shift, mask)."""
    lowest, shift, mask = digit
    for i in range(first, last):
        key = get(keys, i)
        place = own + (((key - lowest) >> shift) & mask)
        target = get(counts, place)
        put(counts, place, target + 1)
        if step == MOVE:
            put(to_keys, target, key)
            put(to_ids, target, get(ids, i))


@inline
def fill_tiles(
    step: Any,
    start: Any,
    end: Any,
    ids: Any,
    slots: Any,
    slot_tiles: Any,
    slot_cells: Any,
    entries: Any,
    counts: Any,
    own: Any,
) -> None:
    """Count or move the slots of Gaussians ids[start : end]."""
    for i in range(start, end):
        if i + 2 * AHEAD < end:
            prefetch(slots, 2 * get(ids, i + 2 * AHEAD))
        if i + AHEAD < end:
            slot = get(slots, 2 * get(ids, i + AHEAD))
            prefetch(slot_tiles, slot)
            if step == MOVE:
                prefetch(slot_cells, slot)
        gaussian = get(ids, i)
        first = get(slots, 2 * gaussian)
        for slot in range(first, first + get(slots, 2 * gaussian + 1)):
            place = own + get(slot_tiles, slot)
            target = get(counts, place)
            put(counts, place, target + 1)
            if step == MOVE:
                put(entries, ENTRY * target, gaussian << SLOT_BITS | slot)
                put(entries, ENTRY * target + 1, get(slot_cells, slot))


@kernel(
    "i8, i8, i8, i8, i8, i8, i8[::1], u4[::1], u4[::1], u4[::1], u4[::1], u4[::1], u4[::1], i8[::1], u4[::1],"
    " i8[::1], i8[::1]"
)
def sort_and_fill(
    shares: int,
    passes: int,
    bits: int,
    lowest: int,
    count: int,
    tiles: int,
    visible: Any,
    keys: Any,
    ids: Any,
    other_keys: Any,
    other_ids: Any,
    slots: Any,
    slot_tiles: Any,
    slot_cells: Any,
    counts: Any,
    entries: Any,
    starts: Any,
    counter: Any,
    thread: int,
) -> None:
    """Sort Gaussians by key, `bits` bits of key - lowest in each of `passes` passes; then fill the lists of the tiles.

    Args:
        count: of the visible Gaussians.
        visible [chunks,3], keys, ids [N rounded up to CHUNK], slots [N,2], slot_tiles, slot_cells [S]: of
            `project_gaussians`. Keys and ids are overwritten.
        other_keys, other_ids: scratch memory of the same sizes.
        counts: [shares, places or tiles, whichever is more] scratch memory.
        entries: [at most S, ENTRY] the slots in the order of the tiles, front to back.
        starts: [tiles + 1] where the list of each tile begins, and their end.
    """
    pieces = 2 * shares + 1  # of a sort
    while True:
        piece = atomic_add(counter, 0, 1)
        sort, number = piece // pieces, piece % pieces
        if sort > passes:
            break
        if number < shares:
            step, share, before = COUNT, number, 0
        elif number == shares:
            step, share, before = POSITIONS, 0, shares
        else:
            step, share, before = MOVE, number - shares - 1, shares + 1
        while atomic_add(counter, 1, 0) < sort * pieces + before:
            pass
        places = tiles if sort == passes else 1 << bits
        own = share * places
        if step == COUNT:
            clear(counts, own, places)
        if step == POSITIONS:
            total = to_positions(counts, places, shares)
            if sort == passes:
                for tile in range(tiles):
                    put(starts, tile, get(counts, tile))
                put(starts, tiles, total)
        elif sort == passes:
            start, end = share_of(count, share, shares)
            from_ids = ids if passes % 2 == 0 else other_ids
            fill_tiles(step, start, end, from_ids, slots, slot_tiles, slot_cells, entries, counts, own)
        else:
            digit = lowest, sort * bits, places - 1
            if sort == 0:  # keys lie at the beginnings of chunks
                start, end = share_of(len(visible) // 3, share, shares)
                for chunk in range(start, end):
                    first, last = chunk * CHUNK, chunk * CHUNK + get(visible, 3 * chunk)
                    sort_keys(step, first, last, keys, ids, other_keys, other_ids, digit, counts, own)
            else:
                start, end = share_of(count, share, shares)
                if sort % 2 == 0:
                    sort_keys(step, start, end, keys, ids, other_keys, other_ids, digit, counts, own)
                else:
                    sort_keys(step, start, end, other_keys, other_ids, keys, ids, digit, counts, own)
        atomic_add(counter, 1, 1)


def bin_gaussians(
    tiles: int,
    keys: NDArray[np.uint32],
    ids: NDArray[np.uint32],
    visible: NDArray[np.int64],
    slots: NDArray[np.uint32],
    slot_tiles: NDArray[np.uint32],
    slot_cells: NDArray[np.int64],
    slot_count: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lists of the entries of all tiles, from what `project_gaussians` found (keys and ids are used up).

    Args:
        slot_count: no more than so many of the slots are used.
    Returns:
        entries [E * ENTRY] and starts [tiles + 1]: those of tile t are numbers starts[t] ... starts[t + 1] - 1, front
        to back.
    """
    count = int(np.add.reduce(visible[:, 0]))  # the methods of arrays take three times as long
    lowest = int(np.minimum.reduce(visible[:, 1], initial=0xFFFFFFFF))
    highest = int(np.maximum.reduce(visible[:, 2], initial=0))
    width = max(1, (highest - lowest).bit_length()) if count else 1
    passes = -(-width // DIGIT_BITS)
    bits = -(-width // passes)
    shares = max(1, min(get_threads(), MAX_SHARES, count // SHARE))
    entries, starts = take(slot_count * ENTRY, np.int64), take(tiles + 1, np.int64)
    launch(
        *(sort_and_fill, shares, passes, bits, lowest, count, tiles),
        *(visible.reshape(-1), keys, ids, take(len(keys), np.uint32), take(len(ids), np.uint32)),
        *(slots, slot_tiles, slot_cells, take(shares * max(tiles, 1 << bits), np.uint32), entries, starts),
        threads=shares,
    )
    return entries[: ENTRY * int(starts[tiles])], starts
