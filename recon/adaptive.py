"""Adaptive density control of 3DGS (Kerbl et al. 2023, section 5), under a cap on the count.

Gaussians whose projected centre is pulled strongly lack detail: they are divided in two along their longest axis. The
count may grow only as fast as a straight ramp from the initial count to the cap; where more ask than the ramp admits,
the most strongly pulled go first. Transparent Gaussians are pruned.

3DGS clones small ones in place and samples the parts of large ones at random. Halves that lie side by side and reach a
little less far than their parent (long-axis split: Deng et al. 2025, "Improving Densification in 3D Gaussian Splatting
for High-Fidelity Rendering") part at once and leave no haze. Only the largest are sampled here too: they stand where
the capture has no points, such as the sky, and have to spread to cover it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from recon import rng
from recon.config import AdaptiveConfig
from recon.gaussians import Gaussians, logit
from recon.kernels.pull import add_pulls
from recon.model import RenderOutput
from recon.raster.reference import rotations_from_quats

# Halves, relative to their parent: how far from its centre in its standard deviations, size along the axis and across.
OFFSET, LENGTH, WIDTH = 0.45, 0.55, 0.87
OPACITY = 0.6

SPREAD_ABOVE = 0.05  # of the extent: larger ones are sampled
SPREAD_SHRINK = 1.6  # and their parts are smaller by this (3DGS: 0.8 times their number)


class Adaptive:
    """Its state: for each Gaussian, the sum of its gradients and how often it was seen since the last refinement."""

    spread_above = SPREAD_ABOVE

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
    def found(self, outs: Sequence[RenderOutput], progress: float) -> Tensor | None:
        """[2,N] by how much the centres are pulled, and in how many pictures they are.

        Gradients are taken in units of half the image, so that thresholds do not depend on its size (3DGS).
        """
        if progress > self.config.refine_until:
            return None
        total: Tensor | None = None
        for out in outs:
            assert out.means2d is not None
            assert out.radii is not None
            gradients = out.absgrad if self.config.absgrad else out.means2d.grad
            assert gradients is not None
            count, height, width = out.rgb.shape[:3]
            sizes = [[width, height]] * count if out.sizes is None else out.sizes.tolist()
            if total is None:
                total = gradients.new_zeros(2, gradients.shape[1])
            for gradient, radii, size in zip(gradients, out.radii, sizes, strict=True):
                scale = (count * size[0] / 2, count * size[1] / 2)
                if gradient.device.type == "cpu":
                    arrays = (gradient.contiguous().numpy(), radii.contiguous().numpy())
                    add_pulls(*arrays, scale, total[0].numpy(), total[1].numpy())
                else:
                    total[0] += torch.hypot(gradient[:, 0] * scale[0], gradient[:, 1] * scale[1])
                    total[1] += radii[:, 0] > 0
        return total

    @torch.no_grad()
    def after_step(
        self, model: Gaussians, optimizer: torch.optim.Optimizer, found: Tensor | None, step: int, progress: float
    ) -> None:
        done = step + 1
        config = self.config
        if progress > config.refine_until or found is None:
            return
        self.initial_count = self.initial_count or len(model)
        if len(self.gradient_sum) != found.shape[1]:
            self.gradient_sum, self.times_seen = torch.zeros_like(found[0]), torch.zeros_like(found[1])
        self.gradient_sum += found[0]
        self.times_seen += found[1]
        if done % config.refine_every == 0 and progress >= config.refine_from:
            self._refine(model, optimizer, done, progress)
        if config.reset_every and done % config.reset_every == 0:
            self._reset_opacities(model, optimizer)

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
        keep = ~useless
        keep[chosen] = False
        model.edit_rows(optimizer, keep, self.divided(model.rows(chosen), done))
        self.gradient_sum = torch.zeros_like(model.logit_opacities)
        self.times_seen = torch.zeros_like(model.logit_opacities)

    def small_divided(self, parents: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same for those that are not spread."""
        return halves(parents)

    def divided(self, parents: dict[str, Tensor], done: int) -> dict[str, Tensor]:
        """The rows, two for each parent, that take the place of those that lack detail after so many steps."""
        children = self.small_divided(parents)
        large = parents["log_scales"].amax(dim=-1).exp() > self.spread_above * self.extent
        noise = torch.randn(2, int(large.sum()), 3, generator=rng.generator(self.seed, "densify", done))
        parts = spread({name: value[large] for name, value in parents.items()}, noise)
        for name, value in parts.items():
            children[name][large.repeat(2)] = value
        return children

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


def twice(parents: dict[str, Tensor]) -> dict[str, Tensor]:
    """The rows, and behind them the same again."""
    return {name: torch.cat([value, value]) for name, value in parents.items()}


def halves(parents: dict[str, Tensor]) -> dict[str, Tensor]:
    """Two rows for each parent, to both sides of its centre along its longest axis, of P rows of stored parameters."""
    longest = torch.nn.functional.one_hot(parents["log_scales"].argmax(dim=-1), 3).to(parents["means"])
    axes = rotations_from_quats(parents["quats"])
    offsets = torch.einsum("nij,nj->ni", axes, OFFSET * longest * parents["log_scales"].exp())
    scales = parents["log_scales"] + longest * math.log(LENGTH) + (1 - longest) * math.log(WIDTH)
    children = twice(parents)
    children["means"] = children["means"] + torch.cat([offsets, -offsets])
    children["log_scales"] = torch.cat([scales, scales])
    children["logit_opacities"] = torch.logit(OPACITY * children["logit_opacities"].sigmoid(), eps=1e-6)
    return children


def spread(parents: dict[str, Tensor], noise: Tensor) -> dict[str, Tensor]:
    """Two smaller rows for each parent, somewhere within it: standard normal `noise` [2,P,3] tells where (3DGS)."""
    scales = parents["log_scales"].exp()
    offsets = torch.einsum("nij,bnj->bni", rotations_from_quats(parents["quats"]), scales * noise.to(scales))
    children = twice(parents)
    children["means"] = children["means"] + offsets.flatten(0, 1)
    children["log_scales"] = children["log_scales"] - math.log(SPREAD_SHRINK)
    return children
