"""How far the stages are from what the machine allows: the work of a scene, the machine's peaks, and the floor.

The floor of a stage is the larger of bytes / bandwidth and operations / peak. Bytes are those that have to move if each
array is read or written once. Operations are those of the formulas, counted in the kernels' source, not of addresses
and loops: an addition, multiplication, comparison or choice is one, fused ones are two. No stage can be faster with the
same method; one that avoids a pass or a pixel can.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import numba
import numpy as np
import torch

from _bench_scene import VIEWS, make_camera, make_model
from _bench_stages import FORWARD, clock_for
from recon.datasets.cameras import Cameras
from recon.gaussians import Gaussians
from recon.kernels import runtime, splat
from recon.kernels.lanes import atomic_add
from recon.kernels.simd import LANES, broadcast, load, store
from recon.raster import ALPHA_MIN, reference

# ------------------------------------------------------------------------------------------ the work of a scene


@dataclass(frozen=True)
class Work:
    """What one picture of a scene takes, the mean over views.

    Attributes:
        gaussians: all there are.
        visible: those that reach a pixel's centre with an alpha of 1/255.
        entries: pairs of a Gaussian and a tile of which it reaches a pixel.
        evaluated: pairs of a Gaussian and a pixel, in whole cells: those between the first and the last one that it
            reaches in a column of cells, unless all pixels of the cell are finished.
        drawn: those of them that change the pixel.
        pixels: of the picture.
    """

    gaussians: float
    visible: float
    entries: float
    evaluated: float
    drawn: float
    pixels: float


def measure_work(count: int, width: int, height: int, radius: float) -> Work:
    """The work of the scene that `_bench_stages` times."""
    model = make_model(count, width, height, radius)
    found = [count_work(model, make_camera(width, height, number)) for number in range(VIEWS)]
    return Work(*(sum(values) / VIEWS for values in zip(*map(astuple, found), strict=True)))


@torch.no_grad()
def count_work(model: Gaussians, camera: Cameras) -> Work:
    """Counted pixel by pixel from the reference's projection: it shares no code with the kernels."""
    camera = camera.to("cpu", torch.float64)
    means, opacities = model.means.double(), model.opacities.double()
    centres, covariances, depths = reference.project(means, model.quats.double(), model.log_scales.double(), camera)
    radii = reference.visible_radii(centres, covariances, depths, opacities, camera, 0.01, 1e10)
    seen = torch.nonzero((radii > 0).all(dim=-1))[:, 0]
    order = seen[torch.argsort(depths[seen], stable=True)]
    rows = torch.stack([covariances[:, 0, 0], covariances[:, 0, 1], covariances[:, 1, 1], opacities], dim=-1)
    table = torch.cat([centres, rows], dim=-1)[order].numpy()
    limits = (ALPHA_MIN, float(splat.ALPHA_MAX), float(splat.TRANSMITTANCE_MIN))
    cell, tile = (splat.CELL_WIDTH, splat.CELL_HEIGHT), (splat.TILE_WIDTH, splat.TILE_HEIGHT)
    visible, entries, evaluated, drawn = _count(table, camera.width, camera.height, cell, tile, *limits)
    return Work(len(model), visible, entries, evaluated, drawn, camera.width * camera.height)


@numba.njit  # type: ignore[untyped-decorator]
def _count(
    table: Any,
    width: int,
    height: int,
    cell: tuple[int, int],
    tile: tuple[int, int],
    alpha_min: float,
    alpha_max: float,
    least: float,
) -> tuple[int, int, int, int]:
    """Visible Gaussians, entries, evaluated and drawn pairs; table [V,6] holds x, y, covariance, opacity by depth."""
    (cell_width, cell_height), (tile_width, tile_height) = cell, tile
    rest = np.ones((height, width))
    unfinished = np.zeros((-(-height // cell_height), -(-width // cell_width)), np.int64)
    for row in range(height):
        for column in range(width):
            unfinished[row // cell_height, column // cell_width] += 1
    visible = entries = evaluated = drawn = 0
    for i in range(len(table)):
        x, y, a, b, c, opacity = table[i]
        determinant = a * c - b * b
        reach2 = 2 * np.log(opacity / alpha_min)
        half_x, half_y = np.sqrt(reach2 * a), np.sqrt(reach2 * c)
        left, right = max(0, int(np.ceil(x - half_x - 0.5))), min(width - 1, int(np.floor(x + half_x - 0.5)))
        top, bottom = max(0, int(np.ceil(y - half_y - 0.5))), min(height - 1, int(np.floor(y + half_y - 0.5)))
        before = entries
        for tile_top in range(top // tile_height * tile_height, bottom + 1, tile_height):
            for tile_left in range(left // tile_width * tile_width, right + 1, tile_width):
                touched = False
                for cell_left in range(tile_left, min(right + 1, tile_left + tile_width), cell_width):
                    first_row, last_row = height, -1
                    for row in range(max(top, tile_top), min(bottom, tile_top + tile_height - 1) + 1):
                        dy = row + 0.5 - y
                        half = np.sqrt(max(0.0, (reach2 - dy * dy / c) * determinant / c))  # of the ellipse in this row
                        middle = x + b / c * dy
                        first = max(left, cell_left, int(np.ceil(middle - half - 0.5)))
                        last = min(right, cell_left + cell_width - 1, int(np.floor(middle + half - 0.5)))
                        if first <= last:
                            first_row, last_row = min(first_row, row), max(last_row, row)
                    for line in range(first_row // cell_height, last_row // cell_height + 1):
                        touched = True
                        if unfinished[line, cell_left // cell_width] == 0:
                            continue
                        evaluated += cell_height * cell_width
                        for row in range(line * cell_height, min(height, (line + 1) * cell_height)):
                            for column in range(cell_left, min(width, cell_left + cell_width)):
                                dx, dy = column + 0.5 - x, row + 0.5 - y
                                power = 0.5 * (c * dx * dx - 2 * b * dx * dy + a * dy * dy) / determinant
                                alpha = min(alpha_max, opacity * np.exp(-power))
                                if alpha < alpha_min or rest[row, column] < 0:
                                    continue
                                after = rest[row, column] * (1 - alpha)
                                if after <= least:
                                    rest[row, column] = -1
                                    unfinished[line, cell_left // cell_width] -= 1
                                else:
                                    rest[row, column] = after
                                    drawn += 1
                entries += touched
        visible += entries > before
    return visible, entries, evaluated, drawn


# ------------------------------------------------------------------------------------------ the cost of stages

# Numbers of a Gaussian: mean 3, quaternion 4, scales 3, opacity 1, colour 3, further harmonics 45.
GEOMETRY, HARMONICS, NUMBERS = 11, 48, 59
# Bytes: a number; a projected Gaussian; an entry in the list of a tile; the sums that a tile leaves for a Gaussian
FLOAT, RECORD, ENTRY, SLOT = 4, 64, 16, 64


@dataclass(frozen=True)
class Cost:
    bytes: float
    operations: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.operations + other.operations)


def costs(w: Work) -> dict[str, Cost]:
    """The cost of every stage; see the head of this file for what is counted."""
    n, v, e, p, x = w.gaussians, w.visible, w.entries, w.evaluated, w.pixels
    return {
        # `project.py`: geometry of all, colours of the visible; centre, radii, slots, flag (25 bytes) of all; a record
        # of the visible, tile, key and cells (20) for each entry. 240 in `geometry.project`, 70 for opacity and
        # visibility; 168 for basis, colour and record, 25 for the ellipse; 35 for the cells of a tile.
        "project": Cost(
            n * (GEOMETRY * FLOAT + 25) + v * (HARMONICS * FLOAT + RECORD) + e * 20, n * 310 + v * 193 + e * 35
        ),
        # `bin.py`: the tiles of the entries (4) read twice; keys and cells (16) read, and written with what is sorted
        # (24); that read for the digits, and three passes of which two read and write it (16) and the last reads it and
        # the entries and writes those. All is scalar work on integers, which the peak of vectors says nothing about.
        "bin": Cost(e * (2 * 4 + 16 + 24 + 8 + 2 * 16 + 8 + 2 * ENTRY), 0.0),
        # `blend.py`: entry and record; 5 planes written. A pair: 5 for the exponent, 13 for exp2, 16 for opacity,
        # transmittance and three colours. An entry: 6 in each lane for a column of cells.
        "blend": Cost(e * (ENTRY + RECORD) + x * 5 * FLOAT, p * 34 + e * 6 * LANES),
        # `blend_backward.py`: the same, the slots written, 7 planes read. A pair: 53. An entry: 17 in each lane for a
        # column, 16 to add up the lanes of nine sums.
        "blend back": Cost(e * (ENTRY + RECORD + SLOT) + x * 7 * FLOAT, p * 53 + e * 33 * LANES),
        # `gather.py`: slots of entries; where they are (8), and the gradients of projections (10 numbers) of all.
        "gather": Cost(e * SLOT + n * (8 + 10 * FLOAT) + v * RECORD, e * 16 + v * 45),
        # `project_step.py`: two flags (2), of all; values and moments of the visible read and written, and their
        # projected gradients (10 numbers) read. The projection again, its derivatives (220), basis and direction (64),
        # colours (120), slopes (130), rest (26); 18 for Adam on each number.
        "project back + Adam": Cost(
            n * 2 + v * (6 * NUMBERS + 10) * FLOAT, v * (240 + 220 + 64 + 120 + 130 + 26 + NUMBERS * 18)
        ),
        # `ssim.py`, for each of three channels: both pictures read, the gradient written. Seven blurs along two axes
        # with 16 each, 46 for the products, the similarity, its derivatives and the gradient, 28 for its exposure.
        "loss": Cost(3 * x * 3 * FLOAT, 3 * x * (7 * 2 * 16 + 46 + 28)),
        # `expose.py`, for each of three channels: the picture read and written, one row in four of the photo read. The
        # factor 27; one row in four 40 for what the photo tells.
        "exposure": Cost(3 * x * (2 * FLOAT + FLOAT / 4), 3 * x * (28 + 40 / 4)),
        # `unpack.py`: bytes read, numbers written.
        "photo": Cost(3 * x * (1 + FLOAT), 3 * x * 2),
    }


# ------------------------------------------------------------------------------------------ the machine's peaks

CHAINS = 12  # independent multiply-adds: enough to hide how long one takes
PIECE = 1 << 12  # floats that a thread copies at a time
SECONDS = 0.15  # how long a peak is looked for


@runtime.kernel("i8, i8, f4[::1]")
def multiply_add(pieces: int, rounds: int, out: Any, counter: Any, thread: int) -> None:
    """`pieces` times `rounds` rounds of CHAINS multiply-adds in each lane; out [threads,LANES] takes the result."""
    x, y = load(out, 0), load(out, 0)
    while atomic_add(counter, 0, 1) < pieces:
        a, b, c, d = broadcast(1.0), broadcast(2.0), broadcast(3.0), broadcast(4.0)
        e, f, g, h = broadcast(5.0), broadcast(6.0), broadcast(7.0), broadcast(8.0)
        i, j, k, m = broadcast(9.0), broadcast(10.0), broadcast(11.0), broadcast(12.0)
        for _ in range(rounds):
            a, b, c, d = a * x + y, b * x + y, c * x + y, d * x + y
            e, f, g, h = e * x + y, f * x + y, g * x + y, h * x + y
            i, j, k, m = i * x + y, j * x + y, k * x + y, m * x + y
        store(out, thread * LANES, (a + b + c + d) + (e + f + g + h) + (i + j + k + m))


@runtime.kernel("f4[::1], f4[::1]")
def copy(source: Any, target: Any, counter: Any, thread: int) -> None:
    """target = source; their length is a multiple of PIECE."""
    while True:
        start = atomic_add(counter, 0, PIECE)
        if start >= len(source):
            break
        for i in range(start, start + PIECE, LANES):
            store(target, i, load(source, i))


def _best(call: Callable[[], None], clock: Callable[[], float], seconds: float) -> float:
    """The shortest of the calls that fit into some seconds, at least three."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        began = clock()
        call()
        times.append(clock() - began)
    return min(times)


@functools.cache
def peak_operations(threads: int) -> float:
    """Operations per second of multiply-adds in all lanes."""
    runtime.set_threads(threads)
    pieces, rounds = 64, 20_000
    out = np.zeros(threads * LANES, np.float32)
    seconds = _best(lambda: runtime.launch(multiply_add, pieces, rounds, out), clock_for(threads), SECONDS)
    return pieces * rounds * CHAINS * LANES * 2 / seconds


def bandwidth(size: float, threads: int) -> float:
    """Bytes per second of copying within `size` bytes (rounded down to a power of two, 1 MiB to 512 MiB), read and
    written ones counted: what fits into a cache moves faster than main memory would let it."""
    return _bandwidth(min(max(int(size).bit_length() - 1, 20), 29), threads)


@functools.cache
def _bandwidth(bits: int, threads: int) -> float:
    runtime.set_threads(threads)
    source = np.ones((1 << bits) // 8, np.float32)
    target = np.zeros_like(source)
    seconds = _best(lambda: runtime.launch(copy, source, target), clock_for(threads), SECONDS)
    return 2 * source.nbytes / seconds


def peaks(threads: int) -> dict[str, float | int]:
    """A row of the table of peaks."""
    return {
        "threads": threads,
        "GFLOP/s": peak_operations(threads) / 1e9,
        "GB/s in 1 MiB": bandwidth(1 << 20, threads) / 1e9,
        "GB/s in 32 MiB": bandwidth(1 << 25, threads) / 1e9,
        "GB/s in 512 MiB": bandwidth(1 << 29, threads) / 1e9,
    }


# ------------------------------------------------------------------------------------------ floors


def floor(cost: Cost, threads: int) -> float:
    """Milliseconds that a stage takes at least."""
    moving = cost.bytes / bandwidth(cost.bytes, threads)
    return 1e3 * max(moving, cost.operations / peak_operations(threads))


def limit(cost: Cost, threads: int) -> str:
    """What the floor comes from."""
    moving = cost.bytes / bandwidth(cost.bytes, threads)
    return "memory" if moving > cost.operations / peak_operations(threads) else "arithmetic"


def roofline(work: Work, measured: dict[int, dict[str, float]]) -> list[dict[str, Any]]:
    """A row for every stage, and for a whole step and a render, whose floors are the sums of their stages'.

    Args:
        measured: milliseconds of the stages, by threads, as `time_stages` gives them.
    """
    of_stages = costs(work)
    parts = {stage: (stage,) for stage in of_stages} | {"step": tuple(of_stages), "render": FORWARD}
    rows = []
    for name, stages in parts.items():
        whole = sum((of_stages[stage] for stage in stages), Cost(0.0, 0.0))
        row: dict[str, Any] = {"stage": name, "MB": whole.bytes / 1e6, "MFLOP": whole.operations / 1e6}
        row["limit"] = limit(whole, min(measured)) if len(stages) == 1 else "-"
        for threads, times in measured.items():
            least = sum(floor(of_stages[stage], threads) for stage in stages)
            time_spent = times.get(name)
            row[f"floor, {threads}"] = least
            row[f"ms, {threads}"] = time_spent
            row[f"ratio, {threads}"] = None if time_spent is None else time_spent / least
        one, two = (times.get(name) for times in (measured[min(measured)], measured[max(measured)]))
        if len(measured) > 1:
            row["scaling"] = None if one is None or two is None else one / two
        rows.append(row)
    return rows
