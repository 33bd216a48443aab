"""Samples of rays where a grid says that something may be, on an NVIDIA GPU: two passes of one Triton kernel.

The maths, and its double precision, is that of `kernels/occupancy.py`, and products are not fused with sums: both find
the same samples. The first pass counts them, the second one, which knows by then where each ray's go, writes them.
"""

# mypy: disallow-untyped-defs=False
# (Triton reads the annotations of kernels, and knows no others than its own.)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

RAYS = 32  # of a program: one warp, which is done when its longest ray is


def march(
    rays: Tensor, begin: float, end: float, step: float, cells: Tensor, side: int, jitter: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where rays are to be looked at: `kernels.occupancy.march`, of contiguous tensors on one GPU.

    The number of samples is waited for.
    """
    # As arguments of a kernel they would be rounded to single precision.
    lengths = torch.tensor([begin, end, step], dtype=torch.float64).to(rays.device, non_blocking=True)
    starts = torch.zeros(len(rays) + 1, dtype=torch.int64, device=rays.device)

    def walk(total: int, writes: bool) -> tuple[Tensor, Tensor, Tensor]:
        samples = rays.new_empty(total, 3), rays.new_empty(total), rays.new_empty(total)
        with torch.cuda.device_of(rays):
            _march[(triton.cdiv(len(rays), RAYS),)](
                *(rays, jitter, lengths, cells, starts, *samples, len(rays), most, side, writes, RAYS),
                num_warps=1,
                enable_fp_fusion=False,
            )
        return samples

    walk(0, writes=False)
    starts = starts.cumsum(dim=0)
    return starts, *walk(int(starts[-1]), writes=True)


@triton.jit
def _length(x, y, z, dx, dy, dz, fast, step):
    """How far from the middle a place is, what contraction multiplies it by, and how far along the ray a step leads."""
    r2 = x * x + y * y + z * z
    r = tl.sqrt(tl.maximum(r2, 1.0))
    factor = (2 - 1 / r) / r
    radial = (x * dx + y * dy + z * dz) / r
    shrunk = radial * radial / (r * r * r * r) + factor * factor * (fast - radial * radial)
    return r, factor, step / tl.sqrt(tl.where(r2 > 1, shrunk, fast))


@triton.jit
def _to_the_next_cell(x, cell, dx, per_unit):
    """How far along the ray the cell ends in one direction."""
    still = dx == 0
    return tl.where(still, 1e9, (cell + (dx > 0).to(tl.float64) - x) / tl.where(still, 1.0, per_unit * dx))


@triton.jit(do_not_specialize=["total", "most"])
def _march(
    rays,
    jitter,
    lengths,
    cells,
    starts,  # [R+1] of each ray, for the second pass; from the first one, at the next place, the number of its samples
    positions,
    distances,
    ways,
    total,
    most,
    SIDE: tl.constexpr,
    WRITES: tl.constexpr,
    RAYS: tl.constexpr,
):
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    going = ray < total
    begin, end, step = tl.load(lengths), tl.load(lengths + 1), tl.load(lengths + 2)
    ox = tl.load(rays + 6 * ray, mask=going, other=0.0).to(tl.float64)
    oy = tl.load(rays + 6 * ray + 1, mask=going, other=0.0).to(tl.float64)
    oz = tl.load(rays + 6 * ray + 2, mask=going, other=0.0).to(tl.float64)
    dx = tl.load(rays + 6 * ray + 3, mask=going, other=1.0).to(tl.float64)
    dy = tl.load(rays + 6 * ray + 4, mask=going, other=0.0).to(tl.float64)
    dz = tl.load(rays + 6 * ray + 5, mask=going, other=0.0).to(tl.float64)
    first = tl.load(jitter + ray, mask=going, other=0.0).to(tl.float64)
    if WRITES:
        at = tl.load(starts + ray, mask=going, other=0)
        most = tl.load(starts + ray + 1, mask=going, other=0) - at  # what was counted, whatever happens
    fast = dx * dx + dy * dy + dz * dz
    inner = step / tl.sqrt(fast)  # a step within the ball
    per_unit = SIDE / 4.0
    farthest = 2 / step  # from there to infinity is half a step
    r, factor, length = _length(ox + begin * dx, oy + begin * dy, oz + begin * dz, dx, dy, dz, fast, step)
    going = going & (r <= farthest)
    t, way = begin + length * first, step * first
    count = tl.zeros([RAYS], tl.int32)
    going = going & (count < most)
    while tl.max(going.to(tl.int32), axis=0) > 0:
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        r, factor, length = _length(x, y, z, dx, dy, dz, fast, step)
        going = going & (r <= farthest) & (t < end)
        x, y, z = x * factor, y * factor, z * factor
        u, v, w = (x + 2) * per_unit, (y + 2) * per_unit, (z + 2) * per_unit
        i = tl.minimum(u.to(tl.int32), SIDE - 1)
        j = tl.minimum(v.to(tl.int32), SIDE - 1)
        k = tl.minimum(w.to(tl.int32), SIDE - 1)
        found = going & (tl.load(cells + (i * SIDE + j) * SIDE + k, mask=going, other=0) != 0)
        if WRITES:
            to = at + count
            tl.store(positions + 3 * to, (x / 4 + 0.5).to(tl.float32), mask=found)
            tl.store(positions + 3 * to + 1, (y / 4 + 0.5).to(tl.float32), mask=found)
            tl.store(positions + 3 * to + 2, (z / 4 + 0.5).to(tl.float32), mask=found)
            tl.store(distances + to, t.to(tl.float32), mask=found)
            tl.store(ways + to, way.to(tl.float32), mask=found)
        count += found.to(tl.int32)
        # Where nothing is, and space is as in the world: as many steps as lead out of the cell.
        leave = tl.minimum(_to_the_next_cell(u, i, dx, per_unit), _to_the_next_cell(v, j, dy, per_unit))
        leave = tl.minimum(leave, _to_the_next_cell(w, k, dz, per_unit))
        steps = tl.where(found | (r > 1), 1.0, tl.maximum(1.0, tl.ceil(leave / inner)))
        t += steps * length
        way += steps * step
        going = going & (count < most)
    if not WRITES:
        tl.store(starts + 1 + ray, count.to(tl.int64), mask=ray < total)
