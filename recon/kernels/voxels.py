"""Rays through a sparse grid of densities and spherical harmonics (Plenoxels, Fridovich-Keil et al. 2022).

Values stand at the corners of cubic cells, `side` of them along each axis, and are interpolated in between. Of a
corner that is kept `links` has the row of its values, of another -1, where the level is EMPTY and harmonics are 0. The
density is DENSE softplus(level), of the level that was interpolated: so a surface may be sharp within a cell (DVGO, Sun
et al. 2022), and no step of an optimiser makes what is empty full. The grid fills the cube [-1 - shell, 1 + shell]^3 of
a contracted space: within [-1, 1]^3 that is the world, and the shell around it is all the rest of space, out to
infinity, as layers of cubes: the point p with m = max |p| > 1 is at p (1 + shell - shell / m) / m.

A ray is sampled at steps of half a cell, as long as it is in a block of cells that holds any value; others are jumped
over. A sample of density s has opacity 1 - exp(-s step), with the step measured in contracted space. What a step in the
world is follows from how fast the ray moves there. One of less opacity than LEAST is taken for empty.

Each ray is one piece of work from end to end, so its samples are needed by no other: they stay in the memory of the
thread, and what leaves it is the colour, or a record for each sample with its gradient (see `voxel_gradient.py`).

Shape letters: R rays, V rows, S records.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recon.kernels.buffers import take
from recon.kernels.lanes import atomic_add
from recon.kernels.runtime import get_threads, kernel, launch
from recon.kernels.simd import LANES, get, inline, load, stack, store

Floats = NDArray[np.float32]

COEFFICIENTS = 9  # of each colour: harmonics up to degree 2
ROW = 32  # floats of a row: 3 x 9, and 5 that are 0, so that rows are whole cache lines
BLOCK = 4  # cells along the side of a block that is jumped over where it is empty
OUT = 5  # red, green, blue, opacity, sum of weight times distance
RAY = 8  # origin (3), direction (3), the distances at which it begins and ends
RECORD = 8  # place in the cell (3), gradient of level, gradient of colour (3), ray

MOST = 4096  # samples of a ray
RAYS = 16  # that a thread takes at a time
STEP = 0.5  # cells
DENSE = 50.0  # density of a level of 1, roughly
EMPTY = -12.0  # level of what is not kept
LEAST = 1e-3  # opacity of a sample
DARK = 1e-3  # light below which nothing more is looked at

_SAMPLE = 10  # place in the cell (3), weight, density, colour (3), cell, way to it in contracted space

FORWARD, GIVEN, SQUARED, WEIGHTS = range(4)
NOTHING = (0.0,) * 5  # of the constants of `march_to`, where there are none


class Grid(NamedTuple):
    """A sparse grid.

    Attributes:
        links: [side^3] int32 rows, -1 where nothing is kept; x is the slowest.
        blocks: [blocks^3] uint8, 0 where no corner of a block's cells is kept; see `blocks_of`.
        levels: [V], of which the density is made. harmonics: [V,ROW], coefficient k of colour c at 9 c + k.
    """

    side: int
    shell: float
    links: NDArray[np.int32]
    blocks: NDArray[np.uint8]
    levels: Floats
    harmonics: Floats

    @property
    def spacing(self) -> float:
        """Of the corners, in contracted space."""
        return 2 * (1 + self.shell) / (self.side - 1)


class Records(NamedTuple):
    """What rays leave for `voxel_gradient`: where the samples of each ray are, and what they hold."""

    starts: NDArray[np.int64]  # [R]
    counts: NDArray[np.int64]  # [R]
    cells: NDArray[np.int32]  # [S] the corner of each sample's cell with the lowest coordinates, as in `links`
    values: Floats  # [S,RECORD]


def blocks_of(links: NDArray[np.int32], side: int) -> NDArray[np.uint8]:
    """Which blocks of cells have a corner that is kept."""
    count = -(-(side - 1) // BLOCK)
    kept = np.zeros((count * BLOCK + 1,) * 3, bool)
    kept[:side, :side, :side] = links.reshape(side, side, side) >= 0
    for axis in range(3):  # a block's last cells end at the first corners of the next
        kept = np.moveaxis(kept, axis, 0)
        found = kept[:-1].reshape(count, BLOCK, *kept.shape[1:]).any(axis=1) | kept[BLOCK::BLOCK]
        kept = np.moveaxis(found, 0, axis)
    return np.ascontiguousarray(kept).view(np.uint8).reshape(-1)


def march(grid: Grid, rays: Floats, basis: Floats) -> Floats:
    """What rays show: [R,OUT].

    Args:
        rays: [R,RAY] in a world whose cube [-1,1]^3 is the middle of the grid; the directions are unit vectors.
        basis: [R,9] of the harmonics in the directions.
    """
    return _run(grid, rays, basis, FORWARD, rays[:0], NOTHING)[0]


def march_back(grid: Grid, rays: Floats, basis: Floats, gradient: Floats) -> Records:
    """The records of rays, given the gradient [R,4] of their colours and opacities."""
    return _run(grid, rays, basis, GIVEN, gradient, NOTHING)[1]


def march_to(
    grid: Grid,
    rays: Floats,
    basis: Floats,
    target: Floats,
    background: tuple[float, float, float],
    sparsity: float,
    distortion: float,
) -> tuple[Floats, Records]:
    """What rays show, and their records for the mean squared error of their colours to `target` [R,3], over a
    background, plus the mean over rays of `sparsity` times the sum over samples of log(1 + 2 density^2), and of
    `distortion` times what `volume.distortion` makes of the samples' weights and their way in contracted space."""
    return _run(grid, rays, basis, SQUARED, target, (*background, sparsity, distortion))


def march_weights(grid: Grid, rays: Floats, basis: Floats) -> Records:
    """Records that hold, in place of the gradient of the density, how much of each sample its ray sees."""
    return _run(grid, rays, basis, WEIGHTS, rays[:0], NOTHING)[1]


_room = [64]  # records for each ray that there is room for: as many as a batch has needed


def _run(
    grid: Grid,
    rays: Floats,
    basis: Floats,
    mode: int,
    given: Floats,
    constants: tuple[float, ...],
) -> tuple[Floats, Records]:
    count = len(rays)
    out, starts, counts = np.empty((count, OUT), np.float32), np.zeros(count, np.int64), np.zeros(count, np.int64)
    scratch = take(get_threads() * MOST * _SAMPLE, np.float64)
    while True:
        room = count * _room[0] if mode != FORWARD else 0
        cells, values, used = take(room, np.int32), take((room, RECORD), np.float32), np.zeros(1, np.int64)
        launch(
            *(_march, rays.reshape(-1), basis.reshape(-1), given.reshape(-1), np.array(constants)),
            *(
                mode,
                grid.side,
                grid.shell,
                grid.links,
                grid.blocks,
                grid.levels,
                grid.harmonics.reshape(-1),
            ),
            *(out.reshape(-1), starts, counts, cells, values.reshape(-1), used, scratch),
            threads=-(-count // RAYS),
        )
        if used[0] <= room:
            return out, Records(starts, counts, cells, values)
        _room[0] = -(-int(used[0]) * 5 // (4 * count))


@inline
def _axis_speed(p: Any, d: Any, m: Any, dm: Any, shell: Any) -> Any:
    """How fast a coordinate moves in contracted space, beyond the cube."""
    factor = (1 + shell - shell / m) / m
    slope = (2 * shell / m - 1 - shell) / (m * m)
    return d * factor + p * slope * dm


@inline
def _spread_out(own: Any, count: Any, step: Any, spread: Any) -> Any:
    """Put the slope of the distortion by each weight in place of the way to its sample; their sum, times the weights.

    Sums of the weights and their moments, of what is before a sample and what is behind it, are all it takes.
    """
    behind, moment_behind, before, moment, total = 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(count):
        s = n * _SAMPLE
        behind, moment_behind = behind + own[s + 3], moment_behind + own[s + 3] * own[s + 9]
    for n in range(count):
        s = n * _SAMPLE
        weight, way = own[s + 3], own[s + 9]
        behind, moment_behind = behind - weight, moment_behind - weight * way
        apart = way * before - moment + moment_behind - way * behind
        own[s + 9] = spread * (2 * apart + 2 / 3 * weight * step)
        total += weight * own[s + 9]
        before, moment = before + weight, moment + weight * way
    return total


@kernel(
    "f4[::1], f4[::1], f4[::1], f8[::1], i8, i8, f8, i4[::1], u1[::1], f4[::1], f4[::1],"
    "f4[::1], i8[::1], i8[::1], i4[::1], f4[::1], i8[::1], f8[::1]"
)
def _march(
    rays: Any,
    basis: Any,
    given: Any,
    constants: Any,  # the background, the weights of sparsity and of distortion
    mode: int,
    side: int,
    shell: float,
    links: Any,
    blocks: Any,
    levels: Any,
    harmonics: Any,
    out: Any,
    starts: Any,
    counts: Any,
    cells: Any,
    values: Any,
    used: Any,
    scratch: Any,
    counter: Any,
    thread: int,
) -> None:
    total = rays.size // RAY
    own = scratch[thread * MOST * _SAMPLE : (thread + 1) * MOST * _SAMPLE]
    half = 1 + shell
    per_unit = (side - 1) / (2 * half)  # cells
    step = STEP / per_unit
    farthest = 2 * shell * per_unit + 1  # of max |p|: from there to infinity is half a cell
    across = (side - 1 + BLOCK - 1) // BLOCK
    room = cells.size
    least = math.log(LEAST / (DENSE * step))  # of such levels softplus is exp
    row = stack(ROW)
    while True:
        first = atomic_add(counter, 0, 1) * RAYS
        if first >= total:
            break
        for ray in range(first, min(first + RAYS, total)):
            n = RAY * ray
            ox, oy, oz, dx, dy, dz = rays[n], rays[n + 1], rays[n + 2], rays[n + 3], rays[n + 4], rays[n + 5]
            ox, oy, oz, dx, dy, dz = float(ox), float(oy), float(oz), float(dx), float(dy), float(dz)
            light, t, end, way, count = 1.0, float(rays[n + 6]), float(rays[n + 7]), 0.0, 0
            red, green, blue, distance = 0.0, 0.0, 0.0, 0.0
            while count < MOST:
                x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
                ax, ay, az = abs(x), abs(y), abs(z)
                m = max(ax, max(ay, az))
                if m > farthest or t > end:
                    break
                speed, outside = 1.0, m > 1
                if outside:
                    # How fast max |p| grows is that of the coordinate that it is.
                    if m == ax:
                        dm = dx if x > 0 else -dx
                    elif m == ay:
                        dm = dy if y > 0 else -dy
                    else:
                        dm = dz if z > 0 else -dz
                    sx, sy = _axis_speed(x, dx, m, dm, shell), _axis_speed(y, dy, m, dm, shell)
                    sz = _axis_speed(z, dz, m, dm, shell)
                    speed = math.sqrt(sx * sx + sy * sy + sz * sz)
                    factor = (1 + shell - shell / m) / m
                    x, y, z = x * factor, y * factor, z * factor
                x, y, z = (x + half) * per_unit, (y + half) * per_unit, (z + half) * per_unit
                i, j, k = min(int(x), side - 2), min(int(y), side - 2), min(int(z), side - 2)
                length = step / speed
                bi, bj, bk = i // BLOCK, j // BLOCK, k // BLOCK
                if blocks[(bi * across + bj) * across + bk] == 0:
                    if not outside:  # as many steps as lead out of the block, but not out of the cube
                        leave = 1e9
                        if dx != 0:
                            leave = min(leave, ((BLOCK * (bi + (dx > 0)) - x) / (per_unit * dx)))
                            leave = min(leave, (1 - ax) / abs(dx) if (x > side / 2) == (dx > 0) else 1e9)
                        if dy != 0:
                            leave = min(leave, ((BLOCK * (bj + (dy > 0)) - y) / (per_unit * dy)))
                            leave = min(leave, (1 - ay) / abs(dy) if (y > side / 2) == (dy > 0) else 1e9)
                        if dz != 0:
                            leave = min(leave, ((BLOCK * (bk + (dz > 0)) - z) / (per_unit * dz)))
                            leave = min(leave, (1 - az) / abs(dz) if (z > side / 2) == (dz > 0) else 1e9)
                        length = max(1.0, math.ceil(leave / step)) * step
                    t, way = t + length, way + length * speed
                    continue
                fx, fy, fz = x - i, y - j, z - k
                cell = (i * side + j) * side + k
                level = 0.0
                for corner in range(8):
                    a, b, c = corner >> 2, (corner >> 1) & 1, corner & 1
                    link = get(links, cell + (a * side + b) * side + c)
                    w = (fx if a else 1 - fx) * (fy if b else 1 - fy) * (fz if c else 1 - fz)
                    level += w * (levels[link] if link >= 0 else EMPTY)
                if level < least:
                    t, way = t + length, way + step
                    continue
                # Of a high level softplus is the level.
                density = DENSE * (level if level > 30 else math.log1p(math.exp(level)))
                for at in range(0, ROW, LANES):
                    store(row, at, 0.0)
                for corner in range(8):
                    a, b, c = corner >> 2, (corner >> 1) & 1, corner & 1
                    link = get(links, cell + (a * side + b) * side + c)
                    if link >= 0:
                        w = (fx if a else 1 - fx) * (fy if b else 1 - fy) * (fz if c else 1 - fz)
                        for at in range(0, ROW, LANES):
                            store(row, at, load(row, at) + load(harmonics, link * ROW + at) * w)
                r, g, b_ = 0.5, 0.5, 0.5
                for n in range(COEFFICIENTS):
                    value = basis[COEFFICIENTS * ray + n]
                    r += value * get(row, n)
                    g += value * get(row, COEFFICIENTS + n)
                    b_ += value * get(row, 2 * COEFFICIENTS + n)
                r, g, b_ = max(r, 0.0), max(g, 0.0), max(b_, 0.0)
                weight = -light * math.expm1(-density * step)
                red, green, blue = red + weight * r, green + weight * g, blue + weight * b_
                distance += weight * t
                s = count * _SAMPLE
                own[s], own[s + 1], own[s + 2], own[s + 3], own[s + 4] = fx, fy, fz, weight, density
                own[s + 5], own[s + 6], own[s + 7], own[s + 8], own[s + 9] = r, g, b_, float(cell), way
                light -= weight
                count += 1
                t, way = t + length, way + step
                if light < DARK:
                    break
            o = OUT * ray
            out[o], out[o + 1], out[o + 2], out[o + 3], out[o + 4] = red, green, blue, 1 - light, distance
            if mode == FORWARD:
                continue
            start = atomic_add(used, 0, count)
            starts[ray], counts[ray] = start, count
            if start + count > room:
                continue
            g_red, g_green, g_blue, g_alpha, thin, spread = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            if mode == GIVEN:
                g_red, g_green, g_blue = given[4 * ray], given[4 * ray + 1], given[4 * ray + 2]
                g_alpha = given[4 * ray + 3]
            elif mode == SQUARED:
                scale, thin, spread = 2.0 / (3 * total), constants[3] / total, constants[4] / total
                g_red = scale * (red + light * constants[0] - given[3 * ray])
                g_green = scale * (green + light * constants[1] - given[3 * ray + 1])
                g_blue = scale * (blue + light * constants[2] - given[3 * ray + 2])
                g_alpha = -(g_red * constants[0] + g_green * constants[1] + g_blue * constants[2])
            behind = g_red * red + g_green * green + g_blue * blue  # the sum of all that is not passed yet
            behind += _spread_out(own, count, step, spread)
            passed = 1.0
            for n in range(count):
                s, v = n * _SAMPLE, (start + n) * RECORD
                weight, density = own[s + 3], own[s + 4]
                r, g, b_ = own[s + 5], own[s + 6], own[s + 7]
                here = g_red * r + g_green * g + g_blue * b_ + own[s + 9]
                passed -= weight
                behind -= weight * here
                of_density = step * (passed * here - behind + light * g_alpha)
                of_density += thin * 4 * density / (1 + 2 * density * density)
                of_level = of_density * DENSE * -math.expm1(-density / DENSE)
                values[v], values[v + 1], values[v + 2] = own[s], own[s + 1], own[s + 2]
                values[v + 3] = weight if mode == WEIGHTS else of_level
                values[v + 4] = weight * g_red if r > 0 else 0.0
                values[v + 5] = weight * g_green if g > 0 else 0.0
                values[v + 6] = weight * g_blue if b_ > 0 else 0.0
                values[v + 7] = ray
                cells[start + n] = int(own[s + 8])
