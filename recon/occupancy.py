"""Which parts of a contracted space hold anything, as a grid that is kept up while a field is trained.

Instant-NGP's occupancy grid (appendix E.1 and E.2) with one level: the contraction makes distant cells large. Each cell
remembers the largest density that was met in it, which fades. What is met are the samples of the training rays, and
now and then a part of all cells in turn, those that are empty included.

Shape letters: R rays, G cells along a side, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recon import losses
from recon.kernels import occupancy
from recon.packed import Samples

WIDTH = 4.0  # of the cube, in contracted space
EVERY = 8  # steps between looks at cells that no ray tells of
PART = 1 << 14  # cells of such a look
FADING = 0.95  # of what was met before, at each look
VISIBLE = 0.05  # opacity of a length of `Occupancy.step` below which a cell may count as empty
STRIDE = 1_000_003  # a prime: cells are looked at in an order that leaves no part of space out for long


class Occupancy:
    """The grid. `values` [G^3] are densities; `cells` [G^3] uint8, which are not empty."""

    def __init__(self, values: Tensor, side: int, step: float, cells: Tensor | None = None) -> None:
        """
        Args:
            step: a length in contracted space; cells where so long a way is nearly clear count as empty.
            cells: as they were decided before some of the values; None: they are decided now.
        """
        self.values, self.side, self.step = values, side, step
        if cells is None:
            self.decide()
        else:
            self.cells = cells

    @classmethod
    def full(cls, side: int, step: float, device: torch.device) -> Occupancy:
        """All may hold something, for as long as it takes to find out."""
        return cls(torch.full((side**3,), 2 * VISIBLE / step, device=device), side, step)

    def decide(self) -> None:
        """Find out which cells are empty: those whose density shows little, and less than the mean."""
        least = self.values.mean().clamp_max(VISIBLE / self.step)
        self.cells = (self.values > least).to(torch.uint8)

    def march(
        self,
        origins: Tensor,
        directions: Tensor,
        begin: float,
        end: float,
        step: float,
        jitter: Tensor | None,
        most: int,
    ) -> Samples:
        """Where rays [R,3] are to be looked at; see `kernels.occupancy.march`.

        It runs where the rays are, or on the CPU for a GPU that Triton cannot be used with.

        Args:
            step: between samples, in contracted space.
            jitter: [R] 0..1; None: the middles of the steps.
        """
        rays = torch.cat([origins, directions], dim=-1).float()
        offsets = torch.full((len(origins),), 0.5) if jitter is None else jitter
        if origins.is_cuda and losses.has_triton():
            from recon import occupancy_cuda

            offsets = offsets.to(origins.device, non_blocking=True)
            found: Sequence[Tensor] = occupancy_cuda.march(
                *(rays, begin, end, step, self.cells, self.side, offsets, most)
            )
        else:
            given, cells, first = (tensor.cpu().numpy() for tensor in (rays, self.cells, offsets))
            arrays = occupancy.march(given, begin, end, step, cells, self.side, first, most)
            found = [torch.from_numpy(array).to(origins.device) for array in arrays]
        starts, positions, distances, lengths = found
        return Samples(starts, positions, distances, lengths / WIDTH, step / WIDTH)

    def met(self, positions: Tensor, densities: Tensor) -> None:
        """Remember the densities [N] of positions [N,3] of 0..1."""
        places = (positions * self.side).long().clamp(0, self.side - 1)
        index = (places[:, 0] * self.side + places[:, 1]) * self.side + places[:, 2]
        self.values.scatter_reduce_(0, index, densities, "amax")

    def to_look_at(self, look: int, draw: torch.Generator) -> Tensor:
        """[N,3] positions, one somewhere in each cell of the contracted space that is due at look `look`."""
        count = self.side**3
        part = min(PART, count)
        index = (torch.arange(look * part, (look + 1) * part) * STRIDE) % count
        cells = torch.stack([index // self.side**2, index // self.side % self.side, index % self.side], dim=-1)
        places = (cells + torch.rand(len(cells), 3, generator=draw)) / self.side
        return places[(places - 0.5).norm(dim=-1) <= 0.5].to(self.values.device)

    def fade(self) -> None:
        self.values *= FADING
