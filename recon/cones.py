"""The cone that a pixel sees, cut into frusta: what of space each one averages over. Pure functions.

The frusta of a cone lie between the distances `t` [R,K+1]. They are summed up as Gaussians (Mip-NeRF 360) or as six
small balls each (Zip-NeRF).

Shape letters: R rays, K frusta of each, D directions that Gaussians are seen along.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from recon.volume import contract as contract_points

SIX = 6  # points of a frustum: three at one half of its length and three at the other, turned by 60 degrees
TURNS = (0, 2, 4, 3, 5, 1)  # of each point around the axis, in sixths: as published, neighbours lie on opposite sides
NARROW = 0.5  # the balls are this much smaller than what they stand for, as published: sharp rather than smooth
TINY = 1e-12


class Cones(NamedTuple):
    """What pixels see.

    Attributes:
        origins, directions: [R,3], directions of unit length.
        radii: [R] at distance 1; see `rays.cone_radii`.
    """

    origins: Tensor
    directions: Tensor
    radii: Tensor


def gaussians(cones: Cones, t: Tensor) -> tuple[Tensor, Tensor]:
    """Means [R,K,3] and covariances [R,K,3,3] of the frusta between distances `t` [R,K+1], which increase and are not
    negative (Mip-NeRF, Barron et al. 2021, eq. 7 and 8)."""
    origins, directions, radii = cones
    middle, half, along, base = _parts(t)
    share = half.square() / base  # a quotient, since the fourth powers of far distances have no room in float32
    spread = half.square() / 3 - 4 / 15 * share.square() * (12 * middle.square() - half.square())
    across = radii[:, None].square() * (middle.square() / 4 + 5 / 12 * half.square() - 4 / 15 * share * half.square())
    means = origins[:, None] + along[..., None] * directions[:, None]
    outer = (directions[:, :, None] * directions[:, None, :])[:, None]
    round_it = torch.eye(3, dtype=t.dtype, device=t.device) - outer
    return means, spread[..., None, None] * outer + across[..., None, None] * round_it


def contract(means: Tensor, covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussians [...,3], [...,3,3] pushed through `volume.contract`, which is taken as linear around each mean: J C J^T
    (Mip-NeRF 360, Barron et al. 2022, eq. 9 and 10)."""
    squared = means.square().sum(dim=-1, keepdim=True).clamp_min(1)
    length = squared.sqrt()
    scale = (2 - 1 / length) / length  # of what is at right angles to the mean; along it, that is 1 / length^2
    less = (squared.reciprocal() - scale) / squared
    jacobian = less[..., None] * means[..., :, None] * means[..., None, :] + scale[..., None] * torch.eye(3).to(means)
    return means * scale, jacobian @ covariances @ jacobian


def directions_of_icosahedron() -> Tensor:
    """[3,21] unit directions, spread evenly over half of the sphere: the corners of an icosahedron and the middles of
    its edges, of which one of each opposite pair is kept (Mip-NeRF 360, section 2 of the supplement)."""
    golden = (1 + math.sqrt(5)) / 2
    corners = []
    for a, b in itertools.product((-1.0, 1.0), (-golden, golden)):
        corners += [(0.0, a, b), (a, b, 0.0), (b, 0.0, a)]
    found = torch.tensor(corners, dtype=torch.float64, device="cpu")  # whatever is the default: its values count
    first, second = torch.triu_indices(12, 12, offset=1, device="cpu")
    edge = (found[first] - found[second]).norm(dim=-1) < 2.1  # they are 2 long, all else is longer
    found = torch.cat([found, (found[first] + found[second])[edge] / 2])
    found = torch.nn.functional.normalize(found, dim=-1)
    x, y, z = torch.where(found.abs() < 1e-9, 0.0, found).unbind(-1)
    kept = (z > 0) | ((z == 0) & ((y > 0) | ((y == 0) & (x > 0))))
    return found[kept].T.float().contiguous()


def encode(means: Tensor, covariances: Tensor, along: Tensor, frequencies: int) -> Tensor:
    """[...,2 D F] the expected sines and cosines of 1, 2, 4, ... times what Gaussians are along directions: those that
    are too fine for the Gaussian vanish (Mip-NeRF, eq. 14; along more than the axes: Mip-NeRF 360, eq. 8).

    Args:
        means: [...,3]. covariances: [...,3,3]. along: [3,D].
    """
    middle = means @ along
    variance = ((covariances @ along) * along).sum(dim=-2)
    scales = 2.0 ** torch.arange(frequencies, device=means.device)
    phase = (scales[:, None] * middle[..., None, :]).flatten(-2)
    fading = torch.exp(-0.5 * (scales[:, None].square() * variance[..., None, :])).flatten(-2)
    return torch.cat([fading * phase.sin(), fading * phase.cos()], dim=-1)


def six_balls(cones: Cones, t: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Points [R,K,6,3] of frusta, and the standard deviations [R,K,6] of the balls around them. Along the axis their
    mean and variance are those of the frustum, and so is the variance across it (Zip-NeRF, eq. 1 and 2).

    Args:
        generator: turns the points of each frustum around the axis at random, and mirrors half of them; None: every
            other frustum is mirrored and turned by 30 degrees.
    """
    origins, directions, radii = cones
    middle, half, along, base = _parts(t)
    root = ((half.square() - middle.square()).square() + 4 * middle.square().square()).sqrt()
    steps = torch.linspace(-1, 1, SIX, dtype=t.dtype, device=t.device) * (3 / math.sqrt(7))
    distances = along[..., None] + (half * root / base)[..., None] * steps
    angles = torch.tensor(TURNS, dtype=t.dtype, device=t.device) * (math.pi / 3)
    if generator is None:
        odd = (torch.arange(middle.shape[1], device=t.device) % 2)[None, :, None]
        mirrored, turned = 1 - 2 * odd, odd * (math.pi / 6)
    else:
        drawn = torch.rand(2, *middle.shape, 1, generator=generator, device=generator.device).to(t)
        mirrored, turned = 1 - 2 * (drawn[0] < 0.5).to(t), 2 * math.pi * drawn[1]
    angles = mirrored * angles + turned
    radius = distances * radii[:, None, None] / math.sqrt(2)
    right, up = _across(directions)
    points = (
        origins[:, None, None]
        + distances[..., None] * directions[:, None, None]
        + (radius * angles.cos())[..., None] * right[:, None, None]
        + (radius * angles.sin())[..., None] * up[:, None, None]
    )
    return points, NARROW * radius


def one_ball(cones: Cones, t: Tensor) -> tuple[Tensor, Tensor]:
    """The same with one ball in the middle of each frustum, [R,K,1,3] and [R,K,1]: enough to find where to look."""
    origins, directions, radii = cones
    _, _, along, _ = _parts(t)
    points = origins[:, None] + along[..., None] * directions[:, None]
    return points[:, :, None], (NARROW / math.sqrt(2) * along * radii[:, None])[..., None]


def contract_balls(points: Tensor, deviations: Tensor) -> tuple[Tensor, Tensor]:
    """Balls [...,3], [...] pushed through `volume.contract`: they stay balls, of the volume that its Jacobian leaves
    them (Zip-NeRF, eq. 3): the cube root of its determinant."""
    squared = points.square().sum(dim=-1).clamp_min(1)
    return contract_points(points), deviations * (2 * squared.sqrt() - 1) ** (2 / 3) / squared


def _parts(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of frusta, [R,K] each: the middle, half of the length, the mean distance of what is in them, and 3 middle^2 +
    half^2, by which all of it is divided."""
    middle, half = (t[:, 1:] + t[:, :-1]) / 2, t.diff(dim=-1) / 2
    base = (3 * middle.square() + half.square()).clamp_min(TINY)
    return middle, half, middle + 2 * middle * (half.square() / base), base


def _across(directions: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit vectors [R,3] at right angles to directions [R,3] and to each other."""
    least = torch.nn.functional.one_hot(directions.abs().argmin(dim=-1), 3).to(directions)
    right = torch.nn.functional.normalize(torch.linalg.cross(directions, least), dim=-1)
    return right, torch.linalg.cross(directions, right)
