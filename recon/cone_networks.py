"""Networks that are asked for frusta of cones: by integrated encodings (Mip-NeRF 360), or in a hash grid (Zip-NeRF).

Shape letters: R rays, K frusta of each.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recon import cones, hashgrid
from recon.cones import Cones
from recon.config import Mip360Config
from recon.hashgrid import START
from recon.kernels import hash_grid
from recon.kernels.hash_grid import Layout
from recon.nerf import DENSITY_BIAS, SKIP, encode
from recon.precision import mixed
from recon.sparing import Ask, directly

PADDING = 0.001  # how much more than 0..1 colours can be, so that black and white are not out of reach
COARSEST = 16  # corners along a side of a hash grid's first level
MOST = 15.0  # exponent of a density
WIDEST = 256  # what of the trunk the branch of colours sees


def _start(network: nn.Module) -> None:
    """First weights of the layers, as published: He's."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)


class Branch(nn.Module):
    """Features and directions to colours (Mip-NeRF 360, figure 5 of the supplement)."""

    def __init__(self, features: int, width: int, depth: int, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        sizes = [features + 3 + 6 * frequencies] + [width] * depth
        self.hidden = nn.ModuleList(nn.Linear(n, width) for n in sizes[:-1])
        self.colour = nn.Linear(width, 3)

    def forward(self, features: Tensor, directions: Tensor) -> Tensor:
        """Colours [R,K,3] of features [R,K,F] seen along directions [R,3]."""
        seen_along = encode(directions, self.frequencies)[:, None].expand(*features.shape[:2], -1)
        x = torch.cat([features, seen_along], dim=-1)
        for layer in self.hidden:
            x = functional.relu(layer(x))
        return self.colour(x).float().sigmoid() * (1 + 2 * PADDING) - PADDING


class Integrated(nn.Module):
    """Gaussians to densities, and to colours where there is a branch for them."""

    along: Tensor

    def __init__(self, width: int, depth: int, frequencies: int, branch: Branch | None) -> None:
        super().__init__()
        self.width, self.frequencies = width, frequencies
        along = cones.directions_of_icosahedron()
        self.register_buffer("along", along, persistent=False)
        size = 2 * along.shape[1] * frequencies
        sizes = [size] + [width] * (depth - 1)
        self.trunk = nn.ModuleList(nn.Linear(n + (size if i == SKIP else 0), width) for i, n in enumerate(sizes))
        self.density = nn.Linear(width, 1)
        # What autograd keeps of a frustum, roughly: the encoding in its parts, and each layer twice.
        self.floats = 4 * size + 2 * width * (depth + 2)
        self.branch = branch
        if branch is not None:
            self.feature = nn.Linear(width, min(width, WIDEST))
        _start(self)

    def forward(
        self, seen: Cones, t: Tensor, draw: torch.Generator | None, ask: Ask = directly
    ) -> tuple[Tensor, Tensor | None]:
        """Densities [R,K] and colours [R,K,3] of frusta between distances [R,K+1]."""
        means, covariances = cones.contract(*cones.gaussians(seen, t))
        along = seen.directions[:, None].expand_as(means).reshape(-1, 3)
        found = ask(self.outputs, means.reshape(-1, 3), covariances.reshape(-1, 3, 3), along)
        found = found.reshape(*means.shape[:-1], -1)
        density = functional.softplus(found[..., 0] + DENSITY_BIAS)
        return density, None if self.branch is None else found[..., 1:]

    def outputs(self, means: Tensor, covariances: Tensor, directions: Tensor) -> Tensor:
        """What densities are made of [N,1], or that and colours [N,4], of contracted Gaussians [N,3] and [N,3,3] seen
        along directions [N,3]."""
        encoded = cones.encode(means, covariances, self.along, self.frequencies)
        with mixed(means.device, self.width):
            x = encoded
            for i, layer in enumerate(self.trunk):
                x = functional.relu(layer(torch.cat([encoded.to(x), x], dim=-1) if i == SKIP else x))
            density = self.density(x).float()
            if self.branch is None:
                return density
            return torch.cat([density, self.branch(self.feature(x)[:, None], directions)[:, 0]], dim=-1)


class Gridded(nn.Module):
    """Balls in a hash grid to densities, and to colours where there is a branch for them (Zip-NeRF).

    A ball that is larger than the cells of a level sees little of that level's features: they are 0 on average.
    """

    cells: Tensor

    def __init__(self, layout: Layout, balls: int, width: int, depth: int, branch: Branch | None) -> None:
        super().__init__()
        self.layout, self.balls, self.branch = layout, balls, branch
        self.table = nn.Parameter(torch.empty(layout.rows, layout.features).uniform_(-START, START))
        self.register_buffer("cells", torch.from_numpy(layout.scales), persistent=False)
        self.hidden = nn.ModuleList(nn.Linear(layout.width if i == 0 else width, width) for i in range(depth))
        self.out = nn.Linear(width, 1 if branch is None else width)
        # What autograd keeps of a frustum, roughly: the balls' places, features and how these fade, and the layers.
        self.floats = balls * (30 + 3 * layout.width + 4 * layout.levels) + 2 * width * (depth + 4)
        _start(self)

    def forward(
        self, seen: Cones, t: Tensor, draw: torch.Generator | None, ask: Ask = directly
    ) -> tuple[Tensor, Tensor | None]:
        """Densities [R,K] and colours [R,K,3] of frusta between distances [R,K+1]."""
        x = self.encoded(seen, t, draw)
        with mixed(t.device):
            for layer in self.hidden:
                x = functional.relu(layer(x))
            x = self.out(x)
            density = torch.exp((x[..., 0].float() + DENSITY_BIAS).clamp_max(MOST))
            return density, None if self.branch is None else self.branch(x, seen.directions)

    def encoded(self, seen: Cones, t: Tensor, draw: torch.Generator | None) -> Tensor:
        """[R,K,L F] the features of frusta, each the mean over its balls."""
        layout = self.layout
        with torch.no_grad():
            balls = cones.one_ball(seen, t) if self.balls == 1 else cones.six_balls(seen, t, draw)
            points, deviations = cones.contract_balls(*balls)
            positions = (points.reshape(-1, 3) + 2) / 4  # of the cube around the ball of radius 2
            shown = torch.erf(1 / (math.sqrt(8) / 4 * deviations.clamp_min(1e-9)[..., None] * self.cells))
        features = hashgrid.encode(layout, positions, self.table)
        features = features.reshape(*points.shape[:-1], layout.levels, layout.features)
        return (features * shown[..., None]).mean(dim=2).flatten(-2)

    def squared(self) -> Tensor:
        """The mean of the squared features of each level, summed over levels (Zip-NeRF, section 4.2)."""
        sizes = [int(size) for size in np.diff(self.layout.offsets)]
        return torch.stack([part.square().mean() for part in self.table.split(sizes)]).sum()


class Networks(nn.Module):
    """Those of a field with their first weights, drawn from torch's generator."""

    def __init__(self, config: Mip360Config) -> None:
        super().__init__()
        self._rounds = len(config.samples)
        wide = min(config.width, WIDEST)
        branch = Branch(wide, config.branch_width, config.branch_depth, config.direction_frequencies)
        small, large = (config.proposal_width, config.proposal_depth), (config.width, config.depth)
        if config.encoding == "ipe":
            self.proposals: nn.ModuleList = nn.ModuleList([Integrated(*small, config.proposal_frequencies, None)])
            self.scene: nn.Module = Integrated(*large, config.frequencies, branch)
        else:
            *grids, last = zip(config.finest, config.balls, strict=True)
            self.proposals = nn.ModuleList(
                Gridded(_layout(finest, config), balls, *small, None) for finest, balls in grids
            )
            self.scene = Gridded(_layout(last[0], config), last[1], *large, branch)

    def in_turn(self) -> list[Any]:
        """Those that are asked in each round. Where there is one proposal, it is asked in all rounds but the last."""
        proposals = [*self.proposals]
        return [proposals[min(i, len(proposals) - 1)] for i in range(self._rounds - 1)] + [self.scene]


def _layout(finest: int, config: Mip360Config) -> Layout:
    """Each level is twice as fine as the one before, as published."""
    levels = round(math.log2(finest / COARSEST)) + 1
    return hash_grid.layout(levels, config.features, config.log2_rows, COARSEST, finest)
