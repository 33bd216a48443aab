"""What the views of a step, or the rays, say together, in one process or several: one gradient, their mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recon.ranks import Ranks


@torch.no_grad()
def add_up(
    optimizer: torch.optim.Optimizer,
    ranks: Ranks,
    parts: int,
    loss: Tensor,
    visible: Sequence[Tensor | None],
    found: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Make the gradients that the optimiser is to take the mean over all parts of a step.

    Args:
        parts: of the step, in all processes, whose gradients `.grad` and whose losses `loss` are the sums of.
        visible: which rows each part of this process has seen, not 0 where it has; None: all.
        found: made the sum over all processes; see `recon.strategy.Strategy.found`.

    Returns the mean loss, and which rows any part has seen, bool; None: all. Raises `recon.ranks.Lost`, with nothing
    changed but gradients.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    seen = [rows for rows in visible if rows is not None]
    together = None
    if len(seen) == len(visible):
        mine = torch.stack([rows != 0 for rows in seen]).any(dim=0)
        together = mine.to(gradients[0].dtype)
        if ranks.count > 1:  # rows that nobody has seen here may hold anything
            for gradient in gradients:
                gradient[~mine] = 0
    loss = loss.reshape(1)
    ranks.add([*gradients, loss, *(value for value in (together, found) if value is not None)])
    for gradient in gradients:
        gradient /= parts
    return loss[0] / parts, None if together is None else together > 0
