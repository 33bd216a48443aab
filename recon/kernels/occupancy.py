"""Samples of rays where a grid says that something may be (Instant-NGP, appendix E.1).

The grid fills the cube [-2,2]^3 of a contracted space (Mip-NeRF 360, eq. 10): the unit ball is as it is in the world,
all the rest is the shell around it, out to infinity at radius 2. Steps have one length in contracted space, so in the
world they grow as the contraction shrinks it. Cells that are empty are jumped over.

Shape letters: R rays, N samples of all rays, G cells along a side.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recon.kernels.buffers import take
from recon.kernels.lanes import atomic_add
from recon.kernels.runtime import kernel, launch
from recon.kernels.simd import get, inline, put

Floats = NDArray[np.float32]

RAYS = 32  # that a thread takes at a time


class Samples(NamedTuple):
    """Those of all rays, one ray after the other.

    Attributes:
        starts: [R+1] int64, the first sample of each ray, and the number of all.
        positions: [N,3] in contracted space, whose cube is 0..1.
        distances: [N] along the ray, in lengths of its direction.
        lengths: [N] the way from the ray's beginning in contracted space, of which the whole cube is 4 wide.
    """

    starts: NDArray[np.int64]
    positions: Floats
    distances: Floats
    lengths: Floats


def march(
    rays: Floats, begin: float, end: float, step: float, cells: NDArray[np.uint8], side: int, jitter: Floats, most: int
) -> Samples:
    """Where rays are to be looked at.

    Args:
        rays: [R,6] origins and directions, of any length.
        begin, end: distances between which they are, in lengths of the direction; the end may be infinite.
        step: between samples, in contracted space.
        cells: [G^3] not 0 where something may be; x is the slowest.
        jitter: [R] 0..1, where the first sample is in its step.
        most: samples of a ray.
    """
    count = len(rays)
    counts, flat, pieces = np.empty(count, np.int64), rays.reshape(-1), -(-count // RAYS)
    found = take((2, count * most), np.float32)
    launch(*(_march, flat, begin, end, step, cells, side, jitter, most, counts, found[0], found[1]), threads=pieces)
    starts = np.concatenate([[0], counts.cumsum()])
    total = int(starts[-1])
    samples = Samples(starts, take((total, 3), np.float32), take(total, np.float32), take(total, np.float32))
    launch(*(_pack, flat, most, *found, *samples[:1], samples.positions.reshape(-1), *samples[2:]), threads=pieces)
    return samples


@inline
def _contraction(r: Any) -> Any:
    """What a point at distance `r` is multiplied by."""
    return (2 - 1 / r) / r if r > 1 else 1.0


@kernel("f4[::1], f8, f8, f8, u1[::1], i8, f4[::1], i8, i8[::1], f4[::1], f4[::1]")
def _march(
    rays: Any,
    begin: float,
    end: float,
    step: float,
    cells: Any,
    side: int,
    jitter: Any,
    most: int,
    counts: Any,
    distances: Any,  # [R,most]
    lengths: Any,  # [R,most]
    counter: Any,
    thread: int,
) -> None:
    total = rays.size // 6
    per_unit = side / 4.0
    farthest = 2 / step  # from there to infinity is half a step
    while True:
        first = atomic_add(counter, 0, 1) * RAYS
        if first >= total:
            break
        for ray in range(first, min(first + RAYS, total)):
            at = 6 * ray  # (float() would leave them in single precision)
            ox, oy, oz = np.float64(rays[at]), np.float64(rays[at + 1]), np.float64(rays[at + 2])
            dx, dy, dz = np.float64(rays[at + 3]), np.float64(rays[at + 4]), np.float64(rays[at + 5])
            fast = dx * dx + dy * dy + dz * dz
            inner = step / math.sqrt(fast)  # a step within the ball
            t, way, count, begun = begin, 0.0, 0, False
            while count < most:
                x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
                r2 = x * x + y * y + z * z
                length = inner
                if r2 > 1:
                    r = math.sqrt(r2)
                    if r > farthest:
                        break
                    factor = _contraction(r)
                    radial = (x * dx + y * dy + z * dz) / r
                    speed2 = radial * radial / (r2 * r2) + factor * factor * (fast - radial * radial)
                    length = step / math.sqrt(speed2)
                    x, y, z = x * factor, y * factor, z * factor
                if not begun:
                    begun = True
                    t += length * jitter[ray]
                    way = step * jitter[ray]
                    continue
                if t >= end:
                    break
                x, y, z = (x + 2) * per_unit, (y + 2) * per_unit, (z + 2) * per_unit
                i, j, k = min(int(x), side - 1), min(int(y), side - 1), min(int(z), side - 1)
                if get(cells, (i * side + j) * side + k) != 0:
                    put(distances, ray * most + count, np.float32(t))
                    put(lengths, ray * most + count, np.float32(way))
                    count += 1
                    t += length
                    way += step
                    continue
                steps = 1.0
                if r2 < 1:  # as many as lead out of the cell
                    leave = 1e9
                    if dx != 0:
                        leave = min(leave, (i + (dx > 0) - x) / (per_unit * dx))
                    if dy != 0:
                        leave = min(leave, (j + (dy > 0) - y) / (per_unit * dy))
                    if dz != 0:
                        leave = min(leave, (k + (dz > 0) - z) / (per_unit * dz))
                    steps = max(1.0, math.ceil(leave / inner))
                t += steps * length
                way += steps * step
            counts[ray] = count


@kernel("f4[::1], i8, f4[::1], f4[::1], i8[::1], f4[::1], f4[::1], f4[::1]")
def _pack(
    rays: Any,
    most: int,
    found: Any,
    ways: Any,
    starts: Any,
    positions: Any,
    distances: Any,
    lengths: Any,
    counter: Any,
    thread: int,
) -> None:
    """The samples of all rays together."""
    total = rays.size // 6
    while True:
        first = atomic_add(counter, 0, 1) * RAYS
        if first >= total:
            break
        for ray in range(first, min(first + RAYS, total)):
            ox, oy, oz = rays[6 * ray], rays[6 * ray + 1], rays[6 * ray + 2]
            dx, dy, dz = rays[6 * ray + 3], rays[6 * ray + 4], rays[6 * ray + 5]
            for at in range(starts[ray], starts[ray + 1]):
                source = ray * most + at - starts[ray]
                t = get(found, source)
                x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
                factor = np.float32(_contraction(math.sqrt(x * x + y * y + z * z)) / 4)
                put(positions, 3 * at, x * factor + np.float32(0.5))
                put(positions, 3 * at + 1, y * factor + np.float32(0.5))
                put(positions, 3 * at + 2, z * factor + np.float32(0.5))
                put(distances, at, t)
                put(lengths, at, get(ways, source))
