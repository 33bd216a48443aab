"""3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al. 2024): relocation, growth to a cap, noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from recon import rng
from recon.config import MCMCConfig
from recon.gaussians import Gaussians
from recon.model import RenderOutput
from recon.raster.reference import covariances

MAX_COPIES = 51  # more copies of one Gaussian than this share its opacity no further (the paper's code)
SHARPNESS, THRESHOLD = 100.0, 0.995  # of the switch that spares opaque Gaussians the noise (eq. 9)


class MCMC:
    """Nothing is remembered between steps: all it needs is in the model."""

    def __init__(self, config: MCMCConfig, *, seed: int) -> None:
        self.config = config
        self.seed = seed

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        del state

    def absgrad(self, progress: float) -> bool:
        del progress
        return False

    def found(self, outs: Sequence[RenderOutput], progress: float) -> Tensor | None:
        del outs, progress
        return None

    @torch.no_grad()
    def after_step(
        self, model: Gaussians, optimizer: torch.optim.Optimizer, found: Tensor | None, step: int, progress: float
    ) -> None:
        del found
        done = step + 1
        config = self.config
        if done % config.refine_every == 0 and config.refine_from <= progress <= config.refine_until:
            generator = rng.generator(self.seed, "relocate", done)
            self._relocate(model, optimizer, generator)
            self._grow(model, optimizer, generator)
        # In every step, for every Gaussian: drawn where they are.
        self._perturb(model, optimizer, rng.generator(self.seed, "noise", done, model.device))

    def _relocate(self, model: Gaussians, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
        """Move every dead Gaussian onto a live one, drawn by opacity."""
        dead = model.opacities <= self.config.dead_opacity
        count = int(dead.sum())
        if 0 < count < len(model):
            self._duplicate(model, optimizer, ~dead, count, generator)

    def _grow(self, model: Gaussians, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
        count = min(self.config.max_gaussians, math.ceil(len(model) * (1 + self.config.growth))) - len(model)
        if count > 0:
            self._duplicate(model, optimizer, torch.ones_like(model.opacities, dtype=torch.bool), count, generator)

    @staticmethod
    def _duplicate(
        model: Gaussians,
        optimizer: torch.optim.Optimizer,
        alive: Tensor,
        count: int,
        generator: torch.Generator,
    ) -> None:
        """Keep the `alive` rows and add `count` copies of some of them.

        A Gaussian and its copies get the opacity and scale at which all together look as the one did (eq. 8).
        """
        rows = torch.nonzero(alive)[:, 0]
        weights = model.opacities[rows].double().cpu()
        drawn = rows[torch.multinomial(weights, count, replacement=True, generator=generator).to(rows.device)]
        sources, copies = torch.unique(drawn, return_counts=True)
        parents = model.rows(sources)
        opacities, scale_factors = relocation(parents["logit_opacities"].sigmoid(), copies + 1)
        parents["logit_opacities"] = torch.logit(opacities)
        parents["log_scales"] = parents["log_scales"] + scale_factors.log()[:, None]
        repeated = torch.repeat_interleave(torch.arange(len(sources), device=rows.device), copies + 1)
        keep = alive.clone()
        keep[sources] = False
        model.edit_rows(optimizer, keep, {name: value[repeated] for name, value in parents.items()})

    def _perturb(self, model: Gaussians, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
        """Langevin noise on the means, shaped by each Gaussian's covariance and spared where it is opaque (eq. 9)."""
        lr = next(group["lr"] for group in optimizer.param_groups if group["name"] == "means")
        exposed = torch.sigmoid(SHARPNESS * ((1 - model.opacities) - THRESHOLD))
        noise = torch.randn(len(model), 3, generator=generator, device=model.device)
        noise = noise * (exposed * lr * self.config.noise)[:, None]
        shaped = torch.einsum("nij,nj->ni", covariances(model.quats, model.log_scales), noise)
        model.means.add_(shaped)


def relocation(opacities: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacities [P] and scale factors [P] with which `copies` [P] equal Gaussians look as one did (eq. 8).

    Args:
        opacities: [P] of the one.
        copies: [P] how many there are now, the one included.
    """
    copies = copies.clamp_max(MAX_COPIES)
    shared = 1 - (1 - opacities.double()) ** (1 / copies)
    total = torch.zeros_like(shared)
    for i in range(1, int(copies.max()) + 1):
        inner = torch.zeros_like(shared)
        for k in range(i):
            inner += math.comb(i - 1, k) * (-1) ** k * shared ** (k + 1) / math.sqrt(k + 1)
        total += torch.where(i <= copies, inner, torch.zeros_like(inner))
    shared = shared.clamp(0.005, 1 - 1e-7)
    return shared.to(opacities), (opacities.double() / total).to(opacities)
