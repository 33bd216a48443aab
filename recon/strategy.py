"""When Gaussians are added and removed: what a densification strategy offers, and which one a config asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from recon.config import AdaptiveConfig, MCMCConfig
from recon.gaussians import Gaussians
from recon.model import RenderOutput


class Strategy(Protocol):
    """Looks at each training step and edits the rows of the model."""

    def absgrad(self, progress: float) -> bool:
        """Whether it will read `RenderOutput.absgrad` of a step that begins when this share of the training is done."""
        ...

    def found(self, outs: Sequence[RenderOutput], progress: float) -> Tensor | None:
        """What the pictures of a step, with their gradients, tell of the rows: [K,N], which can be added to what other
        pictures tell; None if that is not asked for at this progress."""
        ...

    def after_step(
        self, model: Gaussians, optimizer: torch.optim.Optimizer, found: Tensor | None, step: int, progress: float
    ) -> None:
        """Called after the optimiser's step number `step` (from 0).

        Args:
            found: what all pictures of the step told.
            progress: the share of the training, 0..1, that is done with it: schedules go by that.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All that a resumed run needs to go on as if it had not stopped."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


def make_strategy(config: AdaptiveConfig | MCMCConfig, *, extent: float, seed: int) -> Strategy:
    """The strategy of a config for a scene of size `extent`."""
    from recon.adaptive import Adaptive
    from recon.mcmc import MCMC

    if isinstance(config, MCMCConfig):
        return MCMC(config, seed=seed)
    return Adaptive(config, extent=extent, seed=seed)
