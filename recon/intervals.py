"""Step functions along rays: how samples of one round become those of the next, and how rounds are compared.

A step function has edges `s` [...,S+1], increasing within 0..1, and a weight [...,S] on each of its intervals. Pure
functions, as in `volume.py`.

Shape letters: S intervals, P intervals of a proposal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon import volume
from recon.volume import TINY

SLOPE = 10.0  # how soon, as a share of the training, samples go where weights are (Mip-NeRF 360, eq. 18)
LEAST = 1e-5  # of a proposal's weight, where it is divided by


def distances(s: Tensor, near: float, far: float) -> Tensor:
    """Distances of coordinates 0..1 that are even in disparity, from near to far (Mip-NeRF 360, eq. 11)."""
    return 1 / (s / far + (1 - s) / near)


def eased(weights: Tensor, progress: float) -> Tensor:
    """Weights [...] for drawing samples: all alike at first, soon as they are (Mip-NeRF 360, eq. 18)."""
    return weights.detach().clamp_min(TINY) ** (SLOPE * progress / ((SLOPE - 1) * progress + 1))


def dilated(s: Tensor, weights: Tensor, by: float) -> tuple[Tensor, Tensor]:
    """The step function that is at every place the largest density within `by` of it, as edges and weights, which add
    up to 1 again (Mip-NeRF 360, section 4 of the supplement): rays beside see other things at the same distance."""
    density = weights.detach() / s.diff(dim=-1).clamp_min(TINY)
    starts, ends = s[..., :-1] - by, s[..., 1:] + by
    edges = torch.cat([s, starts, ends], dim=-1).sort(dim=-1).values.clamp(0, 1)
    left = edges[..., :-1, None]
    covered = (starts[..., None, :] <= left) & (left < ends[..., None, :])
    most = torch.where(covered, density[..., None, :], 0).amax(dim=-1)
    found = most * edges.diff(dim=-1)
    return edges, found / found.sum(dim=-1, keepdim=True).clamp_min(TINY)


def resampled(s: Tensor, weights: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Edges [...,count+1] of as many intervals, each around a sample of the weights: the middles between neighbours.

    Args:
        generator: moves all samples of a ray by one random number; None: they are evenly spaced shares.
    """
    shape = weights.shape[:-1]
    at = torch.arange(count, dtype=s.dtype, device=s.device)
    if generator is None:
        at = (at + 0.5).expand(*shape, count)
    else:
        at = at + torch.rand(*shape, 1, generator=generator, device=generator.device).to(s)
    centres = volume.importance(s, weights, at / count)
    middles = (centres[..., 1:] + centres[..., :-1]) / 2
    first = (2 * centres[..., :1] - middles[..., :1]).clamp_min(0)
    last = (2 * centres[..., -1:] - middles[..., -1:]).clamp_max(1)
    return torch.cat([first, middles, last], dim=-1)


def blurred(s: Tensor, weights: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """A step function seen through a box that reaches so far to each side: places [...,2S+2] and its densities there,
    between which it is linear (Zip-NeRF, eq. 9)."""
    density = weights / s.diff(dim=-1).clamp_min(TINY)
    none = torch.zeros_like(density[..., :1])
    slope = torch.cat([density, none], dim=-1).sub(torch.cat([none, density], dim=-1)) / (2 * radius)
    places, order = torch.cat([s - radius, s + radius], dim=-1).sort(dim=-1)
    slopes = torch.cat([slope, -slope], dim=-1).gather(-1, order).cumsum(dim=-1)
    rises = slopes[..., :-1] * places.diff(dim=-1)
    return places, torch.cat([none, rises.cumsum(dim=-1).clamp_min(0)], dim=-1)


def missed_when_blurred(s: Tensor, weights: Tensor, proposed_s: Tensor, proposed: Tensor, radius: float) -> Tensor:
    """How much weight a proposal has missed of what is blurred by `radius`, of each ray [...] (Zip-NeRF, eq. 10 to 12);
    moves the proposal alone. Unlike `volume.interlevel` it is smooth in where the proposal's edges are, so that thin
    things do not flicker as the camera moves away."""
    places, densities = blurred(s.detach(), weights.detach(), radius)
    lengths = places.diff(dim=-1)
    areas = (densities[..., 1:] + densities[..., :-1]) / 2 * lengths
    total = torch.cat([torch.zeros_like(areas[..., :1]), areas.cumsum(dim=-1)], dim=-1)
    right = torch.searchsorted(places, proposed_s.contiguous(), right=True).clamp(1, places.shape[-1] - 1)
    left = right - 1
    share = ((proposed_s - places.gather(-1, left)) / lengths.gather(-1, left).clamp_min(TINY)).clamp(0, 1)
    start = densities.gather(-1, left)
    here = torch.lerp(start, densities.gather(-1, right), share)
    summed = total.gather(-1, left) + (start + here) / 2 * share * lengths.gather(-1, left)
    missed = (summed.diff(dim=-1) - proposed).clamp_min(0)
    return (missed.square() / (proposed + LEAST)).sum(dim=-1)
