"""What a camera sees of a part of a scene, as bytes for the process that draws it, and what comes back from there.

A scene may be divided among processes: each projects the Gaussians that it has into the cameras of all, and whoever
draws a camera's picture gets what that sees of each part. Sorted together, in the order of the parts, these are drawn
as if all Gaussians were here, to the last bit. Gradients go back the same way.

Shape letters: N Gaussians of a part, M of them that touch tiles, S their slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recon.kernels.buffers import take
from recon.kernels.rasterize import Floats, Found, Lists, View, gradient_size, sorted_view
from recon.kernels.simd import LANES
from recon.kernels.splat import ENTRY, GRADIENT, RECORD, SLOT_BITS

Bytes = NDArray[np.uint8]

CENTRE = 2  # fields of a gradient before those of its record
SENT = (("i8", 1), ("u4", 1), ("u4", 1), ("u4", 1), ("f4", RECORD))  # cells, tiles, keys, counts, records


def touching(found: Found) -> NDArray[np.int64]:
    """[M] which Gaussians touch tiles, in order."""
    return np.flatnonzero(found.slots.reshape(-1, 2)[:, 1])


def seen_alone(found: Found) -> View:
    """What the way back through the projection needs: no lists of tiles."""
    nothing = np.empty(0, np.int64)
    lists = Lists(found.records, found.seen, found.slots, nothing, nothing)
    return View(found.camera, found.width, found.height, found.sh_degree, found.slot_count, lists)


def packed(found: Found, rows: NDArray[np.int64]) -> Bytes:
    """What a camera sees of the rows that touch tiles."""
    first, counts = found.slots.reshape(-1, 2)[rows].T.astype(np.int64)
    slots = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    entries = found.slot_entries.reshape(-1, ENTRY)
    keys = (entries[first, 0] >> SLOT_BITS).astype(np.uint32)
    records = found.records.reshape(-1, RECORD)[rows]
    parts = (entries[slots, 1], found.slot_tiles[slots], keys, counts.astype(np.uint32), records)
    sizes = np.array([len(rows), len(slots)], np.int64)
    return np.concatenate([part.reshape(-1).view(np.uint8) for part in (sizes, *parts)])


def together(camera: Found, parts: Sequence[Bytes]) -> tuple[View, list[int]]:
    """The view of a camera of which every part says what is seen of it, and how many Gaussians that are of each.

    Args:
        camera: of which the camera itself, its size and the degree are used.
    """
    unpacked = [_unpacked(part) for part in parts]
    each = [len(keys) for _, _, keys, _, _ in unpacked]
    cells, tiles, all_keys, counts, all_records = (np.concatenate(arrays) for arrays in zip(*unpacked, strict=True))
    total = len(all_keys)
    blocks = -(-total // LANES)
    records, slots = take((blocks * LANES, RECORD), np.float32), np.zeros((blocks * LANES, 2), np.uint32)
    records[:total], records[total:] = all_records, 0
    slots[:total, 0], slots[:total, 1] = np.cumsum(counts) - counts, counts
    seen = np.zeros(blocks * LANES, np.uint8)
    seen[:total] = 1
    entries = np.stack([np.repeat(all_keys.astype(np.int64) << SLOT_BITS | np.arange(total), counts), cells], axis=1)
    found = Found(
        *(camera.camera, camera.width, camera.height, camera.sh_degree, records.reshape(-1), seen, slots.reshape(-1)),
        *(slots[:total].reshape(-1), tiles, entries.reshape(-1), len(tiles)),
    )
    return sorted_view(found), each


def _unpacked(data: Bytes) -> list[NDArray[np.generic]]:
    rows, slots = data[:16].view(np.int64).tolist()
    arrays, at = [], 16
    for (kind, columns), count in zip(SENT, (slots, slots, rows, rows, rows), strict=True):
        end = at + count * columns * np.dtype(kind).itemsize
        array = data[at:end].view(kind)
        arrays.append(array.reshape(-1, columns) if columns > 1 else array)
        at = end
    return arrays


def rows_of_gradients(g_centres: Floats, g_records: Floats, absolute: Floats | None) -> Floats:
    """[M,K] the gradients of what was seen, row by row.

    Args:
        g_centres [M,2], g_records, absolute [M,2]: see `rasterize.blend_view_backward`.
    """
    of_records = g_records.reshape(-1, GRADIENT, LANES).transpose(0, 2, 1).reshape(-1, GRADIENT)[: len(g_centres)]
    return np.concatenate([g_centres, of_records] if absolute is None else [g_centres, of_records, absolute], axis=1)


def put_gradients(
    given: Floats, rows: NDArray[np.int64], g_centres: Floats, g_records: Floats, absolute: Floats | None
) -> None:
    """Put gradients [M,K] where they belong among those of all N Gaussians, which become 0 elsewhere."""
    count = len(g_centres)
    of_rows = np.zeros((-(-count // LANES) * LANES, GRADIENT), np.float32)
    of_rows[rows] = given[:, CENTRE : CENTRE + GRADIENT]
    assert g_records.size == gradient_size(count)
    g_records[:] = of_rows.reshape(-1, LANES, GRADIENT).transpose(0, 2, 1).reshape(-1)
    g_centres[:] = 0
    g_centres[rows] = given[:, :CENTRE]
    if absolute is not None:
        absolute[rows] = given[:, CENTRE + GRADIENT :]
