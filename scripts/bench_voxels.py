"""Samples per second of the voxel grid's kernels, forward and backward, beside the same in PyTorch on the same batch.

    python scripts/bench_voxels.py [--side 128] [--rays 1024] [--threads 1]

Of two scenes: a ball with a soft surface on a floor, where the kernels jump over what is empty and stop behind
surfaces, and thin fog, where every sample counts. Times are of the processor, not of the wall, so that other programs
on the machine do not count.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch

from _bench_stages import median_seconds
from recon import sh
from recon.kernels import voxels
from recon.kernels.runtime import set_threads
from recon.kernels.voxel_gradient import gradient_of
from recon.kernels.voxels import ROW, Grid

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import voxels_reference as reference

BACKGROUND = (0.0, 0.0, 0.0)
SHELL = 0.5


def ball(side: int) -> Grid:
    """A ball with a soft surface on a floor; nothing else is kept."""
    axis = np.linspace(-1 - SHELL, 1 + SHELL, side, dtype=np.float32)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    inside = np.maximum(0.4 - np.sqrt(x * x + y * y + z * z), 0.03 - np.abs(z + 0.4))
    kept = (np.abs(inside) < 3.5 * (axis[1] - axis[0])).reshape(-1)
    links = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    harmonics = np.zeros((int(kept.sum()), ROW), np.float32)
    harmonics[:, :27] = 0.3 * np.random.default_rng(0).standard_normal((len(harmonics), 27))
    levels = (4 * inside.reshape(-1)[kept] / (axis[1] - axis[0])).astype(np.float32)
    return Grid(side, SHELL, links, voxels.blocks_of(links, side), levels, harmonics)


def fog(side: int) -> Grid:
    """All is kept, and so thin that light comes through."""
    links, rows = np.arange(side**3, dtype=np.int32), side**3
    harmonics = np.zeros((rows, ROW), np.float32)
    return Grid(*(side, SHELL, links, voxels.blocks_of(links, side)), np.full(rows, -4.0, np.float32), harmonics)


def rays(count: int) -> tuple[np.ndarray, np.ndarray]:
    """From a ring around the middle, towards it."""
    generator = torch.Generator().manual_seed(0)
    angles = 6.283 * torch.rand(count, generator=generator)
    origins = torch.stack([0.9 * angles.cos(), 0.9 * angles.sin(), torch.full_like(angles, 0.4)], dim=-1)
    towards = 0.5 * (2 * torch.rand(count, 3, generator=generator) - 1)
    directions = torch.nn.functional.normalize(towards - origins, dim=-1)
    limits = torch.tensor([0.05, math.inf]).expand(count, 2)
    return torch.cat([origins, directions, limits], dim=-1).numpy(), sh.basis(directions, 2).numpy()


def compare(grid: Grid, count: int) -> None:
    """Say how long both take, forward alone and with the gradient of the mean squared error."""
    made, basis = rays(count)
    target = np.random.default_rng(0).random((count, 3)).astype(np.float32)
    distances = reference.sample_distances(torch.from_numpy(made), grid.side, grid.shell)
    links = torch.from_numpy(grid.links)
    links = torch.where(links < 0, len(grid.levels), links)
    values = [torch.from_numpy(v.copy()).requires_grad_() for v in (grid.levels, grid.harmonics[:, :27])]
    wide = torch.from_numpy(made), torch.from_numpy(basis)

    def in_torch() -> torch.Tensor:
        rgb = reference.render(*wide, distances, grid.side, grid.shell, links, values[0], values[1])[0]
        return (rgb - torch.from_numpy(target)).square().mean()

    def both_ways() -> np.ndarray:
        _, records = voxels.march_to(grid, made, basis, target, BACKGROUND, 0.0, 0.0)
        return gradient_of(grid, records, basis).levels

    samples = int(distances.isfinite().sum())
    counted = int(voxels.march_weights(grid, made, basis).counts.sum())
    print(f"{len(grid.levels):,} rows, {count:,} rays, {samples:,} samples, of which {counted:,} show something")
    with torch.no_grad():
        pairs = [("forward", median_seconds(lambda: voxels.march(grid, made, basis), 9), median_seconds(in_torch, 3))]
    pairs.append(("both ways", median_seconds(both_ways, 9), median_seconds(lambda: in_torch().backward(), 3)))
    for name, ours, theirs in pairs:
        print(
            f"  {name:10s}{1000 * ours:8.1f} ms, {samples / ours / 1e6:6.1f} M samples/s;"
            f" PyTorch {1000 * theirs:8.1f} ms: {theirs / ours:.0f} times"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--rays", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    set_threads(args.threads)
    for scene in (ball, fog):
        print(f"{scene.__name__}: ", end="")
        compare(scene(args.side), args.rays)


if __name__ == "__main__":
    main()
