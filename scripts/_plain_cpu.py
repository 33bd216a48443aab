"""3DGS as it was published (Kerbl et al. 2023), on our rasteriser: what the recipe is measured against."""

from __future__ import annotations

from torch import Tensor

from recon.adaptive import Adaptive, twice
from recon.config import AdaptiveConfig, TrainConfig
from recon.train import TrainState

# Learning rates, that of the means per unit of scene extent, and what they decay to: only the means do.
LEARNING_RATES = {
    "means": 1.6e-4,
    "quats": 1e-3,
    "log_scales": 5e-3,
    "logit_opacities": 5e-2,
    "sh0": 2.5e-3,
    "shN": 1.25e-4,
}
FINAL_MEANS = 0.01
SPLIT_ABOVE = 0.01  # of the extent: larger ones are split, smaller ones cloned

STEPS = 7000  # its shorter training
NO_CAP = 1 << 30  # Gaussians


def config(steps: int, seed: int) -> TrainConfig:
    """Its settings; refinement from step 500 to half-way, as in a training of 30,000 steps."""
    strategy = AdaptiveConfig(
        max_gaussians=NO_CAP,
        refine_from=500 / steps,
        refine_until=0.5,
        grad_threshold=0.0002,
        absgrad=False,
        reset_every=3000,
    )
    return TrainConfig(steps=steps, seed=seed, lr_scale=1.0, exposure=False, coarse=0.0, strategy=strategy)


class ClonesAndSplits(Adaptive):
    """Small Gaussians are cloned in place; parts of large ones are sampled from them."""

    spread_above = SPLIT_ABOVE

    @classmethod
    def instead_of(cls, state: TrainState) -> None:
        """Let a training that has not begun refine in this way."""
        assert isinstance(state.config.strategy, AdaptiveConfig)
        state.strategy = cls(state.config.strategy, extent=state.extent, seed=state.config.seed)

    def small_divided(self, parents: dict[str, Tensor]) -> dict[str, Tensor]:
        return twice(parents)


def use_learning_rates(state: TrainState) -> None:
    """Its learning rates for a training that has not begun, times the config's factor."""
    for group in state.optimizer.param_groups:
        rate = LEARNING_RATES[group["name"]] * state.config.lr_scale
        if group["name"] == "means":
            rate *= state.extent
        group["lr"] = group["lr_initial"] = rate
        group["lr_final"] = rate * (FINAL_MEANS if group["name"] == "means" else 1.0)


def make_plain(state: TrainState) -> None:
    """The whole method, for a training with `config` that has not begun."""
    use_learning_rates(state)
    ClonesAndSplits.instead_of(state)
