"""What rays show of samples that lie packed, one ray after the other: `recon.volume` for rays of any number of samples.

The kernels of `kernels/packed.py` run on the CPU; elsewhere, and in double precision, plain torch does the same, with
nerfacc's sums where there are any.

Shape letters: R rays, N samples of all rays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from recon import nerfacc_sums
from recon.kernels import packed


class Samples(NamedTuple):
    """Where rays are looked at.

    Attributes:
        starts: [R+1] int64, the first sample of each ray, and N.
        positions: [N,3] 0..1 in the cube that the field fills.
        distances: [N] along the ray, in lengths of its direction.
        middles: [N] the same in the coordinate 0..1 in which all samples have one length.
        length: that.
    """

    starts: Tensor
    positions: Tensor
    distances: Tensor
    middles: Tensor
    length: float

    def rays(self) -> Tensor:
        """[N] the ray of each."""
        counts = self.starts.diff()
        numbers = torch.arange(len(counts), device=counts.device)
        return numbers.repeat_interleave(counts, output_size=len(self.positions))  # or else a GPU is waited for

    def chosen(self, rows: Tensor) -> Samples:
        """Some of them, by their numbers [M] in order."""
        starts = torch.searchsorted(rows, self.starts)
        return Samples(starts, self.positions[rows], self.distances[rows], self.middles[rows], self.length)


def weights_of(samples: Samples, depths: Tensor) -> Tensor:
    """[N] how much of each sample its ray shows, given density times length; without gradients."""
    if _by_kernels(depths):
        starts, distances, middles = (v.numpy() for v in (samples.starts, samples.distances, samples.middles))
        own = depths.detach().contiguous().numpy()
        return torch.from_numpy(packed.composite(starts, own, own[:0], distances, middles, samples.length)[1])
    return _weights(samples, samples.rays(), depths.detach())


def composite(samples: Samples, depths: Tensor, colours: Tensor) -> Tensor:
    """What rays show: [R,6] colour, opacity, sum of weights times distances, distortion.

    Args:
        depths: [N] density times length. colours: [N,3]. It is differentiable in both.
    """
    if _by_kernels(depths):
        shown: Tensor = _Composite.apply(samples, depths, colours)
        return shown
    return composite_in_torch(samples, depths, colours)


def _by_kernels(depths: Tensor) -> bool:
    return depths.device.type == "cpu" and depths.dtype == torch.float32


def _by_nerfacc(values: Tensor) -> bool:
    return values.device.type == "cuda" and values.dtype == torch.float32 and nerfacc_sums.available()


class _Composite(torch.autograd.Function):
    """By the kernels."""

    @staticmethod
    def forward(ctx: Any, samples: Samples, depths: Tensor, colours: Tensor) -> Tensor:
        numbers = (depths.detach(), colours.detach(), samples.distances, samples.middles)
        depth, colour, distance, middle = (v.contiguous().numpy() for v in numbers)
        ctx.given = samples.starts.numpy(), depth, colour, distance, middle, samples.length
        return torch.from_numpy(packed.composite(*ctx.given)[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        given: tuple[Any, ...] = (*ctx.given, gradient.contiguous().numpy())
        of_depths, of_colours = packed.composite_back(*given)
        return None, torch.from_numpy(of_depths), torch.from_numpy(of_colours)


def _before(samples: Samples, rays: Tensor, values: Tensor) -> Tensor:
    """[N] the sum of what is before each sample in its ray."""
    if _by_nerfacc(values):
        return nerfacc_sums.before(samples.starts, values)
    # Double precision: the sum over all rays is large.
    sums = torch.cat([values.new_zeros(1, dtype=torch.float64), values.double().cumsum(0)])
    return (sums[:-1] - sums[samples.starts[rays]]).to(values.dtype)


def _weights(samples: Samples, rays: Tensor, depths: Tensor) -> Tensor:
    return torch.exp(-_before(samples, rays, depths)) * -torch.expm1(-depths)


def composite_in_torch(samples: Samples, depths: Tensor, colours: Tensor) -> Tensor:
    """`composite` by torch's operations, on any device and in any precision."""
    rays = samples.rays()
    weights = _weights(samples, rays, depths)
    middles = samples.middles.to(weights)
    before, moments = (_before(samples, rays, values) for values in (weights, weights * middles))
    spread = 2 * weights * (middles * before - moments) + weights.square() * samples.length / 3
    seen = torch.stack([torch.ones_like(weights), samples.distances.to(weights)], dim=-1)
    shown = torch.cat([weights[:, None] * torch.cat([colours, seen], dim=-1), spread[:, None]], dim=-1)
    return shown.new_zeros(len(samples.starts) - 1, 6).index_add(0, rays, shown)
