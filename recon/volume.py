"""Volume rendering along rays: where to look, what of it is seen, and the losses on that. Pure functions.

Intervals along a ray are given by their edges `s` [...,S+1], increasing; what an interval contributes to its pixel is
its weight [...,S]. Distances may be in the world or in any coordinate that increases along the ray.

Shape letters: S intervals of a ray, K samples, P intervals of a proposal.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_WEIGHT = 1e-5  # of each interval when samples are drawn: where nothing is known yet, they are spread evenly
TINY = 1e-7  # keeps quotients finite


# Where to look


def stratified(shape: tuple[int, ...], count: int, generator: torch.Generator | None = None) -> Tensor:
    """Samples [*shape,count] of 0..1, one in each of `count` equal bins (NeRF, eq. 2): random, or the bins' middles."""
    starts = torch.arange(count, dtype=torch.float32, device=None if generator is None else generator.device)
    if generator is None:
        return ((starts + 0.5) / count).expand(*shape, count)
    return (starts + torch.rand(*shape, count, generator=generator, device=generator.device)) / count


def importance(s: Tensor, weights: Tensor, at: Tensor) -> Tensor:
    """Samples [...,K], in the order of `at`, spread as the weights are (NeRF, section 5.2): the inverse of their sum.

    Args:
        s: [...,S+1] edges. weights: [...,S], not negative; they need not add up to 1.
        at: [...,K] 0..1, as `stratified` makes them: the share of all weight that lies before each sample.
    """
    density = weights.detach() + LEAST_WEIGHT
    cdf = (density / density.sum(dim=-1, keepdim=True)).cumsum(dim=-1)
    cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf[..., :-1], torch.ones_like(cdf[..., :1])], dim=-1)
    right = torch.searchsorted(cdf, at.contiguous(), right=True).clamp(1, s.shape[-1] - 1)
    before, after = cdf.gather(-1, right - 1), cdf.gather(-1, right)
    share = (at - before) / (after - before).clamp_min(TINY)
    return torch.lerp(s.gather(-1, right - 1), s.gather(-1, right), share.clamp(0, 1))


# What is seen


def weights_of(densities: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """What each interval contributes (NeRF, eq. 3), and the light [...] that comes through all of them.

    Args:
        densities: [...,S] per unit of length, not negative. lengths: [...,S] of the intervals.
    Returns:
        weights [...,S] = T_i (1 - exp(-density_i length_i)) with T_i = exp(-sum of what is before), and T_(S+1) [...].
    """
    depth = densities * lengths
    total = depth.cumsum(dim=-1)
    # An own subtraction from the sum would lose what is small beside it.
    before = torch.cat([torch.zeros_like(total[..., :1]), total[..., :-1]], dim=-1)
    return torch.exp(-before) * -torch.expm1(-depth), torch.exp(-total[..., -1])


def composite(weights: Tensor, values: Tensor) -> Tensor:
    """Sums [...,C] over the intervals of values [...,S,C] times their weights [...,S]."""
    return (weights[..., None] * values).sum(dim=-2)


# Spaces


def contract(points: Tensor) -> Tensor:
    """Points [...,3] of all space in the ball of radius 2; the unit ball stays as it is (Mip-NeRF 360, eq. 10)."""
    length = points.norm(dim=-1, keepdim=True).clamp_min(1)
    return points * ((2 - 1 / length) / length)


def uncontract(points: Tensor) -> Tensor:
    """The inverse of `contract`, of points [...,3] within the radius of 2."""
    length = points.norm(dim=-1, keepdim=True).clamp_min(1)
    return points / (length * (2 - length).clamp_min(TINY))


def ndc(origins: Tensor, directions: Tensor, focals: tuple[float, float], near: float = 1.0) -> tuple[Tensor, Tensor]:
    """Rays in normalised device coordinates (NeRF, appendix C), in which 0..1 leads from the near plane to infinity.

    Args:
        origins, directions: [...,3] in a camera's frame with +x right, +y up and -z forward; the rays go forward.
        focals: of that camera, in halves of its picture's width and height.
        near: the distance of the plane that the rays begin at.
    Returns:
        origins and directions [...,3]; x and y are -1..1 within the camera's picture, z is -1..1.
    """
    origins = origins + (-(near + origins[..., 2:]) / directions[..., 2:]) * directions
    (ox, oy, oz), (dx, dy, dz) = origins.unbind(-1), directions.unbind(-1)
    fx, fy = focals
    moved = torch.stack([-fx * ox / oz, -fy * oy / oz, 1 + 2 * near / oz], dim=-1)
    along = torch.stack([-fx * (dx / dz - ox / oz), -fy * (dy / dz - oy / oz), -2 * near / oz], dim=-1)
    return moved, along


# Losses


def distortion(s: Tensor, weights: Tensor) -> Tensor:
    """How spread out the weights of each ray are, [...] (Mip-NeRF 360, eq. 15): small where all are in one place.

    The double sum over pairs of intervals is one over prefix sums, since their middles are in order.
    """
    middles, lengths = (s[..., 1:] + s[..., :-1]) / 2, s.diff(dim=-1)
    weight, moment = weights.cumsum(dim=-1), (weights * middles).cumsum(dim=-1)
    pairs = weights[..., 1:] * (middles[..., 1:] * weight[..., :-1] - moment[..., :-1])
    return 2 * pairs.sum(dim=-1) + (weights.square() * lengths).sum(dim=-1) / 3


def bound(s: Tensor, proposed_s: Tensor, proposed: Tensor) -> Tensor:
    """[...,S] the most weight that each interval of `s` can have if `proposed` [...,P], of the intervals of
    `proposed_s` [...,P+1], is right: all that overlaps it (Mip-NeRF 360, eq. 12). Ends that meet do not overlap."""
    total = torch.cat([torch.zeros_like(proposed[..., :1]), proposed.cumsum(dim=-1)], dim=-1)
    last = proposed.shape[-1]
    first = (torch.searchsorted(proposed_s, s[..., :-1].contiguous(), right=True) - 1).clamp(0, last)
    end = torch.searchsorted(proposed_s, s[..., 1:].contiguous(), right=False).clamp(0, last)
    return total.gather(-1, torch.maximum(end, first)) - total.gather(-1, first)


def interlevel(s: Tensor, weights: Tensor, proposed_s: Tensor, proposed: Tensor) -> Tensor:
    """How much weight a proposal has missed, of each ray [...] (Mip-NeRF 360, eq. 13); moves the proposal alone."""
    weights = weights.detach()
    missed = (weights - bound(s.detach(), proposed_s, proposed)).clamp_min(0)
    return (missed.square() / (weights + TINY)).sum(dim=-1)
