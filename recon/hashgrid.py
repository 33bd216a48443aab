"""Positions as features of a multiresolution hash grid (Instant-NGP, Müller et al. 2022, section 3).

The kernels of `kernels/hash_grid.py`, which says how the grid is laid out, run on the CPU, and tiny-cuda-nn's on a GPU
where it is installed; elsewhere, and in double precision, plain torch does the same.

Shape letters: P points, L levels, F features of each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recon import rng, tcnn
from recon.kernels import hash_grid
from recon.kernels.hash_grid import PRIMES, Layout

START = 1e-4  # the first values are at most this far from 0


def first_table(layout: Layout, seed: int) -> Tensor:
    """[rows,F] as small as published."""
    draw = rng.generator(seed, "hash table")
    return START * (2 * torch.rand(layout.rows, layout.features, generator=draw) - 1)


def encode(layout: Layout, positions: Tensor, table: Tensor, known: Tensor | None = None) -> Tensor:
    """[P,L*F] features of positions, level by level; differentiable in the table.

    Args:
        positions: [P,3] 0..1; what is outside is as at the border. Where torch computes this has gradients, too.
        table: [rows,F].
        known: [P,L*F] what a call without gradients has returned for them: then the kernels compute nothing twice.
    """
    if table.device.type == "cpu" and table.dtype == torch.float32:
        encoded: Tensor = _Encode.apply(layout, positions, table, known)
        return encoded
    if table.is_cuda and tcnn.available() and layout.shift == hash_grid.HALF:
        return tcnn.encode(layout, positions, table)
    return encode_in_torch(layout, positions, table)


class _Encode(torch.autograd.Function):
    """By the kernels."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, positions: Tensor, table: Tensor, known: Tensor | None) -> Tensor:
        ctx.layout, ctx.positions = layout, positions.detach().contiguous().numpy()
        if known is not None:
            return known.view_as(known)
        return torch.from_numpy(hash_grid.encode(layout, ctx.positions, table.detach().contiguous().numpy()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor, None]:
        found = hash_grid.encode_back(ctx.layout, ctx.positions, gradient.contiguous().numpy())
        return None, None, torch.from_numpy(found), None


def encode_in_torch(layout: Layout, positions: Tensor, table: Tensor) -> Tensor:
    """`encode` by torch's operations, on any device and in any precision."""
    found = []
    for level in range(layout.levels):
        first, end = layout.offsets[level : level + 2].tolist()
        places = positions.clamp(0, 1) * float(layout.scales[level]) + layout.shift
        cells = places.detach().floor()
        inside, cells = places - cells, cells.long()
        features = table.new_zeros(len(positions), layout.features)
        for corner in range(8):
            offset = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2], device=positions.device)
            weight = torch.where(offset == 1, inside, 1 - inside).prod(dim=-1, keepdim=True)
            rows = _rows(cells + offset, int(layout.resolutions[level]), end - first, bool(layout.hashed[level]))
            features = features + weight * table[first + rows]
        found.append(features)
    return torch.cat(found, dim=-1)


def _rows(corners: Tensor, resolution: int, size: int, hashed: bool) -> Tensor:
    """[P] within a level of `size` rows, of whole corners [P,3]."""
    x, y, z = corners.unbind(-1)
    if hashed:  # the low bits of these products are those of 32-bit ones
        return (x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]) % size
    return (x + resolution * (y + resolution * z)) % size
