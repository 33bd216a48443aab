"""Networks that are asked for frusta of cones: of Mip-NeRF 360, whose input are integrated encodings.

Shape letters: R rays, K frusta of each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recon import cones
from recon.cones import Cones
from recon.config import Mip360Config
from recon.nerf import encode
from recon.precision import mixed

SKIP = 5  # the layer that sees the encoding once more
DENSITY_BIAS = -1.0  # of a softplus: the air begins thin
PADDING = 0.001  # how much more than 0..1 colours can be, so that black and white are not out of reach
WIDEST = 256  # what of the trunk the branch of colours sees


class Branch(nn.Module):
    """Features and directions to colours (Mip-NeRF 360, figure 5 of the supplement)."""

    def __init__(self, features: int, width: int, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.hidden = nn.Linear(features + 3 + 6 * frequencies, width)
        self.colour = nn.Linear(width, 3)

    def forward(self, features: Tensor, directions: Tensor) -> Tensor:
        """Colours [R,K,3] of features [R,K,F] seen along directions [R,3]."""
        seen_along = encode(directions, self.frequencies)[:, None].expand(*features.shape[:2], -1)
        x = functional.relu(self.hidden(torch.cat([features, seen_along], dim=-1)))
        return self.colour(x).float().sigmoid() * (1 + 2 * PADDING) - PADDING


class Integrated(nn.Module):
    """Gaussians to densities, and to colours where there is a branch for them."""

    def __init__(self, width: int, depth: int, frequencies: int, branch: Branch | None) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.register_buffer("along", cones.directions_of_icosahedron(), persistent=False)
        size = 2 * self.along.shape[1] * frequencies
        sizes = [size] + [width] * (depth - 1)
        self.trunk = nn.ModuleList(nn.Linear(n + (size if i == SKIP else 0), width) for i, n in enumerate(sizes))
        self.density = nn.Linear(width, 1)
        # What autograd keeps of a frustum, roughly: the encoding in its parts, and each layer before and after ReLU.
        self.floats = 6 * size + 2 * width * (depth + 2)
        self.branch = branch
        if branch is not None:
            self.feature = nn.Linear(width, min(width, WIDEST))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, seen: Cones, t: Tensor, draw: torch.Generator | None) -> tuple[Tensor, Tensor | None]:
        """Densities [R,K] and colours [R,K,3] of frusta between distances [R,K+1]."""
        encoded = cones.encode(*cones.contract(*cones.gaussians(seen, t)), self.along, self.frequencies)
        with mixed(t.device):
            x = encoded
            for i, layer in enumerate(self.trunk):
                x = functional.relu(layer(torch.cat([encoded, x], dim=-1) if i == SKIP else x))
            density = functional.softplus(self.density(x)[..., 0].float() + DENSITY_BIAS)
            return density, None if self.branch is None else self.branch(self.feature(x), seen.directions)


def networks_of(config: Mip360Config) -> nn.ModuleDict:
    """The networks of a field with their first weights, drawn from torch's generator."""
    branch = Branch(min(config.width, WIDEST), config.branch_width, config.direction_frequencies)
    proposal = Integrated(config.proposal_width, config.proposal_depth, config.proposal_frequencies, None)
    scene = Integrated(config.width, config.depth, config.frequencies, branch)
    return nn.ModuleDict({"proposals": nn.ModuleList([proposal]), "scene": scene})


def in_turn(networks: nn.ModuleDict, config: Mip360Config) -> list[Any]:
    """Those that are asked in each round. Where there is one proposal, it is asked in all rounds but the last."""
    proposals = networks["proposals"]
    rounds = len(config.samples) - 1
    return [proposals[min(i, len(proposals) - 1)] for i in range(rounds)] + [networks["scene"]]
