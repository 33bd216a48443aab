"""Points per second of the hash encoding's kernels, beside PyTorch on the same batch, and beside their floor.

    python scripts/bench_hash.py [--points 65536] [--threads 1]

Points lie along rays, 16 on each, as in a training. Times are of the processor, not of the wall, so that other programs
on the machine do not count. The floor is what any such code has to do: of each point and level 8 corners are read (and
on the way back written, too), F floats each, and as many products are added up.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from _bench_stages import median_seconds
from recon import hashgrid
from recon.kernels import hash_grid
from recon.kernels.hash_grid import Layout, layout
from recon.kernels.runtime import set_threads

ON_A_RAY = 16
APART = 0.003
SIZES = ((8, 4, 15), (8, 4, 17), (16, 2, 15), (16, 2, 19))  # levels, features, log2 of the rows


def positions(count: int) -> np.ndarray:
    draw = np.random.default_rng(0)
    rays = -(-count // ON_A_RAY)
    begin, along = draw.random((rays, 1, 3)), draw.standard_normal((rays, 1, 3))
    along *= APART / np.linalg.norm(along, axis=-1, keepdims=True)
    points = begin + np.arange(ON_A_RAY)[None, :, None] * along
    return points.reshape(-1, 3)[:count].clip(0, 1).astype(np.float32)


def compare(made: Layout, points: np.ndarray) -> None:
    """Say how long both take, forward alone and with the gradient of the table."""
    table = hashgrid.first_table(made, 0)
    gradient = np.random.default_rng(1).standard_normal((len(points), made.width)).astype(np.float32)
    parameter, wide = table.clone().requires_grad_(), torch.from_numpy(points)

    def both_ways() -> None:
        hash_grid.encode(made, points, table.numpy())
        hash_grid.encode_back(made, points, gradient)

    def in_torch() -> None:
        hashgrid.encode_in_torch(made, wide, parameter).backward(torch.from_numpy(gradient))

    with torch.no_grad():
        theirs = median_seconds(lambda: hashgrid.encode_in_torch(made, wide, parameter), 3)
    rows = [("forward", median_seconds(lambda: hash_grid.encode(made, points, table.numpy()), 9), theirs)]
    rows.append(("both ways", median_seconds(both_ways, 9), median_seconds(in_torch, 3)))
    corners = 8 * len(points) * made.levels
    for (name, ours, theirs), passes in zip(rows, (1, 3), strict=True):
        print(
            f"  {name:10s}{1000 * ours:8.1f} ms, {len(points) / ours / 1e6:5.1f} M points/s,"
            f" {passes * corners * made.features * 4 / ours / 1e9:5.1f} GB/s,"
            f" {2 * min(passes, 2) * corners * made.features / ours / 1e9:5.1f} GFLOP/s;"
            f" PyTorch {1000 * theirs:8.1f} ms: {theirs / ours:.0f} times"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1 << 16)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    set_threads(args.threads)
    points = positions(args.points)
    for levels, features, log2_rows in SIZES:
        made = layout(levels, features, log2_rows, 16, 1024)
        print(f"{args.points:,} points, {levels} levels of {features}, {made.rows:,} rows:")
        compare(made, points)


if __name__ == "__main__":
    main()
