"""Adaptive density control of 3DGS (Kerbl et al. 2023, section 5), under a cap on the count.

Gaussians whose projected centre is pulled strongly lack detail: large ones are split in two, small ones cloned. The
count may grow only as fast as a straight ramp from the initial count to the cap; where more ask than the ramp admits,
the most strongly pulled go first. Transparent Gaussians are pruned.

Clones share their opacity so that both together hide as much as before (Bulo et al. 2024, "Revising Densification").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recon import rng
from recon.config import AdaptiveConfig
from recon.gaussians import Gaussians, logit
from recon.kernels.pull import add_pulls
from recon.model import RenderOutput
from recon.raster.reference import rotations_from_quats

SPLIT_SHRINK = 1.6  # children of a split are smaller by this (3DGS: 0.8 times their number)
CLONE_SHRINK = 1.25
CLONE_OFFSET = 0.5  # standard deviations between a Gaussian and its clone: identical ones would never part


class Adaptive:
    """Its state: for each Gaussian, the sum of its gradients and how often it was seen since the last refinement."""

    def __init__(self, config: AdaptiveConfig, *, extent: float, seed: int) -> None:
        self.config = config
        self.extent = extent
        self.seed = seed
        self.initial_count = 0  # not known before the first step
        self.gradient_sum = torch.zeros(0)
        self.times_seen = torch.zeros(0)

    def absgrad(self, progress: float) -> bool:
        return self.config.absgrad and progress <= self.config.refine_until

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "initial_count": torch.tensor(self.initial_count),
            "gradient_sum": self.gradient_sum,
            "times_seen": self.times_seen,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.initial_count = int(state["initial_count"])
        self.gradient_sum = state["gradient_sum"].clone()
        self.times_seen = state["times_seen"].clone()

    @torch.no_grad()
    def after_step(
        self, model: Gaussians, optimizer: torch.optim.Optimizer, out: RenderOutput, step: int, progress: float
    ) -> None:
        done = step + 1
        config = self.config
        if progress > config.refine_until:
            return
        self.initial_count = self.initial_count or len(model)
        self._accumulate(out)
        if done % config.refine_every == 0 and progress >= config.refine_from:
            self._refine(model, optimizer, done, progress)
        if config.reset_every and done % config.reset_every == 0:
            self._reset_opacities(model, optimizer)

    def _accumulate(self, out: RenderOutput) -> None:
        """Gradients are taken in units of half the image, so that thresholds do not depend on its size (3DGS)."""
        assert out.means2d is not None
        assert out.radii is not None
        gradients = out.absgrad if self.config.absgrad else out.means2d.grad
        assert gradients is not None
        count, height, width = out.rgb.shape[:3]
        if len(self.gradient_sum) != gradients.shape[1]:
            self.gradient_sum = gradients.new_zeros(gradients.shape[1])
            self.times_seen = gradients.new_zeros(gradients.shape[1])
        scale = (count * width / 2, count * height / 2)
        for gradient, radii in zip(gradients, out.radii, strict=True):
            if gradient.device.type == "cpu":
                arrays = (gradient.contiguous().numpy(), radii.contiguous().numpy())
                add_pulls(*arrays, scale, self.gradient_sum.numpy(), self.times_seen.numpy())
            else:
                self.gradient_sum += torch.hypot(gradient[:, 0] * scale[0], gradient[:, 1] * scale[1])
                self.times_seen += radii[:, 0] > 0

    def _refine(self, model: Gaussians, optimizer: torch.optim.Optimizer, done: int, progress: float) -> None:
        config = self.config
        largest = model.log_scales.amax(dim=-1).exp()
        useless = model.opacities < config.prune_opacity
        if bool(useless.all()):
            return  # photos of nothing; a model without any Gaussian could never become one of something
        if config.reset_every and done > config.reset_every:
            useless |= largest > config.prune_scale * self.extent
        gradients = self.gradient_sum / self.times_seen.clamp_min(1.0)
        candidates = torch.nonzero(~useless & (gradients > config.grad_threshold))[:, 0]
        room = max(0, self._ramp(progress) - int((~useless).sum()))
        order = torch.argsort(gradients[candidates], descending=True, stable=True)
        chosen = candidates[order[:room]]
        large = largest[chosen] > config.split_above * self.extent

        keep = ~useless
        keep[chosen] = False
        noise = torch.randn(2, len(chosen), 3, generator=rng.generator(self.seed, "densify", done)).to(model.device)
        children = _children(model.rows(chosen), large, noise)
        model.edit_rows(optimizer, keep, children)
        self.gradient_sum = torch.zeros_like(model.logit_opacities)
        self.times_seen = torch.zeros_like(model.logit_opacities)

    def _ramp(self, progress: float) -> int:
        """The count allowed by now."""
        share = min(1.0, progress / max(1e-9, self.config.refine_until))
        return int(self.initial_count + (self.config.max_gaussians - self.initial_count) * share)

    def _reset_opacities(self, model: Gaussians, optimizer: torch.optim.Optimizer) -> None:
        """Make everything nearly transparent: what is needed comes back, floaters do not (3DGS)."""
        model.logit_opacities.clamp_(max=logit(2 * self.config.prune_opacity))
        state = optimizer.state.get(model.logit_opacities, {})
        for key in ("exp_avg", "exp_avg_sq"):
            if key in state:
                state[key].zero_()


def _children(parents: dict[str, Tensor], large: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Two rows for each parent: halves of the large ones, clones of the small ones.

    Args:
        parents: stored parameters of P rows.
        large: [P] bool.
        noise: [2,P,3] standard normal.
    """
    split = large[:, None]
    samples = torch.einsum("nij,bnj->bni", rotations_from_quats(parents["quats"]), parents["log_scales"].exp() * noise)
    first = torch.where(split, samples[0], torch.zeros_like(samples[0]))
    second = torch.where(split, samples[1], CLONE_OFFSET * samples[1])
    shrink = torch.where(split, math.log(SPLIT_SHRINK), math.log(CLONE_SHRINK))
    opacities = parents["logit_opacities"].sigmoid().clamp(1e-4, 1 - 1e-4)
    shared = torch.logit(1 - (1 - opacities).sqrt())
    children = {name: torch.cat([value, value]) for name, value in parents.items()}
    children["means"] = children["means"] + torch.cat([first, second])
    children["log_scales"] = children["log_scales"] - torch.cat([shrink, shrink])
    children["logit_opacities"] = torch.where(large, parents["logit_opacities"], shared).repeat(2)
    return children
