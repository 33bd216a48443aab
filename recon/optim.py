"""Adam (Kingma & Ba 2015) that leaves alone the rows that a step did not see, and its learning rate schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from recon.kernels.adam import AdamUpdate, adam_update

EPS = 1e-15  # 3DGS's: gradients of single Gaussians are tiny, and the usual 1e-8 would swamp them


class SelectiveAdam(torch.optim.Optimizer):
    """Adam on float32 CPU tensors; the state of a row that is not visible does not change, as in Taming 3DGS
    (Mallick et al. 2024) and gsplat.

    State of each parameter, with torch's names and meaning: `step` (scalar tensor), `exp_avg`, `exp_avg_sq`. Bias
    correction goes by `step`, which counts all steps, also for rows that were seen less often.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = EPS,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, *, visible: Tensor | None = None
    ) -> float | None:
        """One step on all parameters that have a gradient.

        Args:
            closure: as for every torch optimiser: recomputes the loss, which is then returned.
            visible: [N] bool or uint8, the rows to update; every parameter must have N rows. All rows if None.

        Raises:
            FloatingPointError: naming the groups whose gradient is not finite in a row to be updated. The elements
                concerned are left as they were, all others have been updated.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if visible is not None and (visible.dtype not in (torch.bool, torch.uint8) or visible.device.type != "cpu"):
            raise ValueError(f"`visible` is {visible.dtype} on {visible.device}: not bool or uint8 on the CPU")
        updates, names = [], []
        for index, group in enumerate(self.param_groups):
            name = group.get("name", f"group {index}")
            for parameter in group["params"]:
                if parameter.grad is not None:
                    updates.append(self._update(parameter, group, visible, name))
                    names.append(name)
        finite = adam_update(updates, None if visible is None else visible.contiguous().view(torch.uint8).numpy())
        broken = dict.fromkeys(name for name, good in zip(names, finite, strict=True) if not good)
        if broken:
            raise FloatingPointError(f"the gradient of {', '.join(broken)} is not finite")
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any], visible: Tensor | None, name: str) -> AdamUpdate:
        """What the kernel is to do; counts the step."""
        assert parameter.grad is not None
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32 or not parameter.is_contiguous():
            raise ValueError(f"{name} is {parameter.dtype} on {parameter.device}: not contiguous float32 on the CPU")
        if visible is not None and visible.shape != parameter.shape[:1]:
            raise ValueError(f"{name} is {tuple(parameter.shape)}, but `visible` has {tuple(visible.shape)} rows")
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        return AdamUpdate(
            parameter.detach().numpy(),
            parameter.grad.contiguous().numpy(),
            state["exp_avg"].numpy(),
            state["exp_avg_sq"].numpy(),
            step=int(state["step"].item()),
            lr=float(group["lr"]),
            betas=group["betas"],
            eps=group["eps"],
        )


class DenseAdam(torch.optim.Adam):
    """torch's fused Adam behind the call of `SelectiveAdam`: it updates every row."""

    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, *, visible: Tensor | None = None
    ) -> float | None:
        return super().step(closure)


def make_optimizer(groups: list[dict[str, Any]], device: torch.device | str) -> SelectiveAdam | DenseAdam:
    """Adam for a device: `SelectiveAdam` on a CPU, torch's fused one elsewhere.

    Args:
        groups: `params`, `lr`, `name` and, where the learning rate is to change, `lr_final`; see
            `recon.model.Model.param_groups`. What `lr` is now is remembered as `lr_initial`.
        device: where the parameters are.
    """
    groups = [{"lr_final": group["lr"], **group, "lr_initial": group["lr"]} for group in groups]
    for group in groups:
        if min(group["lr_initial"], group["lr_final"]) < 0:
            raise ValueError(f"learning rates of {group['name']}: {group['lr_initial']} to {group['lr_final']}")
    if torch.device(device).type == "cpu":
        return SelectiveAdam(groups, eps=EPS)
    return DenseAdam(groups, eps=EPS, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, frac: float) -> None:
    """Set `lr` of every group of `make_optimizer`: log-linear from `lr_initial` at 0 to `lr_final` at 1.

    A pure function of the progress `frac` of the training, 0..1: nothing to save, nothing to resume.
    """
    if not 0 <= frac <= 1:
        raise ValueError(f"progress {frac}: not within 0..1")
    for group in optimizer.param_groups:
        group["lr"] = group["lr_initial"] ** (1 - frac) * group["lr_final"] ** frac
