"""Sorting: the slots of the visible Gaussians into the lists of their tiles, then each list by depth, front to back.

The first is a counting sort. Every share of the slots counts how many go to each tile, the counts become positions
(first by tile, then by share), and every share moves its slots. They come in the order of the Gaussians and equal keys
keep it, so a list is that of a stable sort of the parameters by depth, whatever the number of threads.

A list fits into the second cache, so to sort each by itself costs less than to sort all Gaussians, of which a thread
would have to find the slots somewhere in memory. It is a radix sort by the depths' bits, and what it moves is but the
key of an entry and where the entry is; those follow in the last pass.

All steps are one kernel, since starting one on several threads costs about as much as a step. Its pieces are numbered
in the order of the steps, and a thread that took a piece waits for the steps before to be done. It waits for running
threads only, so one that starts late or not at all holds up nobody.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.kernels.buffers import take
from recon.kernels.lanes import atomic_add, prefetch
from recon.kernels.runtime import get_threads, kernel, launch
from recon.kernels.simd import get, inline, put
from recon.kernels.splat import ENTRY, MAX_SLOTS, SLOT, SLOT_BITS

MAX_SHARES = 16  # more would make more counts than work
SHARE = 4096  # slots that are worth a thread

KEY_BITS = 32
MOST_BITS, LEAST_BITS = 9, 4  # of a digit: more for longer lists, so that its counts are not more work than they
COUNTS = 4 << MOST_BITS  # of all digits: those of fewer bits are more, but with fewer counts in all

COUNT, POSITIONS, MOVE, SORT = range(4)


@inline
def to_positions(counts: Any, own: Any, places: Any, shares: Any, total: Any) -> Any:
    """Replace counts[own:][share, place] by `total` and the number of items before them: of lower places, then of lower
    shares."""
    for place in range(own, own + places):
        for share in range(shares):
            count = get(counts, share * places + place)
            put(counts, share * places + place, total)
            total += count


@inline
def next_of(counts: Any, place: Any) -> Any:
    """counts[place], which is one more then."""
    found = get(counts, place)
    put(counts, place, found + 1)
    return found


@inline
def clear(counts: Any, start: Any, count: Any) -> None:
    for i in range(start, start + count):
        put(counts, i, 0)


@inline
def bit_length(number: Any) -> Any:
    length = 0
    while number >> length:
        length += 1
    return length


@inline
def fill_tiles(
    step: Any,
    first: Any,
    last: Any,
    ranges: Any,
    slot_tiles: Any,
    slot_entries: Any,
    found: Any,
    order: Any,
    counts: Any,
    own: Any,
) -> None:
    """Count or move the slots of ranges first ... last - 1."""
    for i in range(first, last):
        begin = get(ranges, 2 * i)
        for slot in range(begin, begin + get(ranges, 2 * i + 1)):
            target = next_of(counts, own + get(slot_tiles, slot))
            if step == MOVE:
                key = get(slot_entries, ENTRY * slot)
                put(found, ENTRY * target, key << SLOT_BITS | slot)  # what is above the Gaussian's number falls off
                put(found, ENTRY * target + 1, get(slot_entries, ENTRY * slot + 1))
                put(order, target, key >> SLOT_BITS << SLOT_BITS | target)


@inline
def move_by_digit(
    start: Any, end: Any, order: Any, lowest: Any, shift: Any, mask: Any, counts: Any, own: Any, target: Any
) -> None:
    """One pass of the radix sort, from `order` to `target`."""
    for i in range(start, end):
        item = get(order, i)
        put(target, next_of(counts, own + (((item >> KEY_BITS) - lowest) >> shift & mask)), item)


@inline
def move_entries(
    start: Any, end: Any, order: Any, lowest: Any, shift: Any, counts: Any, own: Any, found: Any, entries: Any
) -> None:
    """The last pass of the radix sort: the entries themselves."""
    for i in range(start, end):
        item = get(order, i)
        to = next_of(counts, own + (((item >> KEY_BITS) - lowest) >> shift))
        here = item & (MAX_SLOTS - 1)
        put(entries, ENTRY * to, get(found, ENTRY * here))
        put(entries, ENTRY * to + 1, get(found, ENTRY * here + 1))


@inline
def sort_tile(start: Any, end: Any, found: Any, order: Any, other: Any, entries: Any, counts: Any, own: Any) -> None:
    """Write found[order] to entries[start : end], sorted by the keys in the upper halves of `order`; both are used up.

    counts[own : own + COUNTS] is scratch memory.
    """
    lowest = highest = get(order, start) >> KEY_BITS
    for i in range(start + 1, end):
        key = get(order, i) >> KEY_BITS
        lowest, highest = min(lowest, key), max(highest, key)
        prefetch(found, ENTRY * i)  # these three are used in no order that the processor would see
        prefetch(entries, ENTRY * i)
        prefetch(other, i)
    width, most = bit_length(highest - lowest), min(MOST_BITS, max(LEAST_BITS, bit_length(end - start)))
    passes = max(1, (width + most - 1) // most)
    bits = (width + passes - 1) // passes
    places = 1 << bits
    clear(counts, own, passes * places)
    for i in range(start, end):
        key = (get(order, i) >> KEY_BITS) - lowest
        for place in range(own, own + passes * places, places):
            next_of(counts, place + (key & (places - 1)))
            key >>= bits
    for digit in range(passes):
        at = own + digit * places
        to_positions(counts, at, places, 1, start)
        if digit == passes - 1:
            if digit % 2 == 0:
                move_entries(start, end, order, lowest, digit * bits, counts, at, found, entries)
            else:
                move_entries(start, end, other, lowest, digit * bits, counts, at, found, entries)
        elif digit % 2 == 0:
            move_by_digit(start, end, order, lowest, digit * bits, places - 1, counts, at, other)
        else:
            move_by_digit(start, end, other, lowest, digit * bits, places - 1, counts, at, order)


@kernel("i8, i8, u4[::1], u4[::1], i8[::1], u4[::1], i8[::1], i8[::1], i8[::1], i8[::1]")
def sort_and_fill(
    shares: int,
    tiles: int,
    ranges: Any,
    slot_tiles: Any,
    slot_entries: Any,
    counts: Any,
    found: Any,
    order: Any,
    other: Any,
    starts: Any,
    counter: Any,
    thread: int,
) -> None:
    """Fill the lists of the tiles, and sort them.

    Args:
        ranges [R,2], slot_tiles [S]: of `project_gaussians`.
        slot_entries [S,ENTRY]: the same; becomes the slots in the order of the tiles, front to back: see `ENTRY`.
        counts: [shares * (tiles + 1) + threads * COUNTS] scratch memory.
        found [S,ENTRY], order [S], other [S]: scratch memory.
        starts: [tiles + 1] where the list of each tile begins, and their end.
    """
    places, blocks = tiles + 1, len(ranges) // 2  # the last place is that of slots that are left over
    while True:
        piece = atomic_add(counter, 0, 1)
        if piece > 2 * shares + tiles:
            break
        if piece < shares:
            step, before = COUNT, 0
        elif piece == shares:
            step, before = POSITIONS, shares
        elif piece <= 2 * shares:
            step, before = MOVE, shares + 1
        else:
            step, before = SORT, 2 * shares + 1
        while atomic_add(counter, 1, 0) < before:
            pass
        if step == SORT:
            tile = piece - 2 * shares - 1
            start, end = get(starts, tile), get(starts, tile + 1)
            if start < end:
                sort_tile(start, end, found, order, other, slot_entries, counts, shares * places + thread * COUNTS)
        elif step == POSITIONS:
            to_positions(counts, 0, places, shares, 0)
            for place in range(places):
                put(starts, place, get(counts, place))
        else:
            share = piece if step == COUNT else piece - shares - 1
            if step == COUNT:
                clear(counts, share * places, places)
            first, last = blocks * share // shares, blocks * (share + 1) // shares
            fill_tiles(step, first, last, ranges, slot_tiles, slot_entries, found, order, counts, share * places)
        if step != SORT:
            atomic_add(counter, 1, 1)


def bin_gaussians(
    tiles: int,
    ranges: NDArray[np.uint32],
    slot_tiles: NDArray[np.uint32],
    slot_entries: NDArray[np.int64],
    slot_count: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lists of the entries of all tiles, from what `project_gaussians` found.

    Args:
        slot_entries: is used up.
        slot_count: no more than so many of the slots are used.
    Returns:
        entries [E * ENTRY] and starts [tiles + 1]: those of tile t are numbers starts[t] ... starts[t + 1] - 1, front
        to back.
    """
    shares = max(1, min(get_threads(), MAX_SHARES, slot_count // SHARE))
    starts = take(tiles + 1, np.int64)
    # Of the size of the sums that the way back makes, which are to lie in the same memory.
    scratch = take(slot_count * SLOT, np.float32).view(np.int64)
    found, order, other = np.split(scratch[: slot_count * (ENTRY + 2)], (slot_count * ENTRY, slot_count * (ENTRY + 1)))
    launch(
        *(sort_and_fill, shares, tiles, ranges, slot_tiles, slot_entries),
        *(take(shares * (tiles + 1 + COUNTS), np.uint32), found, order, other, starts),
        threads=shares,
    )
    return slot_entries[: ENTRY * int(starts[tiles])], starts
