"""Adam (Kingma & Ba 2015) that leaves alone the rows that a step did not see, and its learning rate schedule."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from recon.kernels.adam import AdamUpdate, adam_update, settings_of
from recon.kernels.rasterize import Parameters, project_view_step
from recon.raster import waiting

BETAS = (0.9, 0.999)
COLD = 0.01  # of a learning rate, where a warm-up begins
EPS = 1e-15  # 3DGS's: gradients of single Gaussians are tiny, and the usual 1e-8 would swamp them


def moments(betas: tuple[float, float], batch: int) -> tuple[float, float]:
    """Adam's, where each of fewer steps is the mean of `batch` of them: such a step forgets as much as they would."""
    if batch == 1:
        return betas
    first, second = (max(0.0, 1 - batch * (1 - beta)) for beta in betas)
    return first, second


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
        betas: tuple[float, float] = BETAS,
        eps: float = EPS,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    _waiting: tuple[waiting.Pass, ...] = ()

    @contextlib.contextmanager
    def finishing_backward(self) -> Iterator[None]:
        """While inside, `backward` may leave its last part, the largest gradients, to the next `step`.

        `step` then makes both in one pass over memory where it can, with the same result. The gradients that wait are
        part of `.grad` in all but name: until `step` they are missing there, and `zero_grad` drops them.
        """
        with waiting.collecting(p for group in self.param_groups for p in group["params"]) as passes:
            yield
        for each in passes:
            self.leave(each)

    def leave(self, last: waiting.Pass) -> None:
        """Leave the last part of a backward pass to the next `step`; see `finishing_backward`."""
        self._waiting = (*self._waiting, last)

    def finish_backward(self) -> None:
        """Make what was left to the next `step`, so that `.grad` is all there is."""
        passes, self._waiting = self._waiting, ()
        for each in passes:
            each.accumulate()

    # torch marks these two as not to be compiled, and imports its compiler to do so: a second at every start.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        param_group.setdefault("name", f"group {len(self.param_groups)}")
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._waiting = ()
        if not set_to_none:
            inspect.unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)
            return
        for group in self.param_groups:  # torch's own way takes ten times as long, in every step
            for parameter in group["params"]:
                parameter.grad = None

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
        groups = {parameter: group for group in self.param_groups for parameter in group["params"]}
        if len(self._waiting) == 1 and visible is not None and all(p.grad is None for p in groups):
            (last,), self._waiting = self._waiting, ()
            broken = self._step_of_pass(last, groups, visible)
        else:
            self.finish_backward()
            broken = self._step_of_gradients(groups, visible)
        if broken:
            raise FloatingPointError(f"the gradient of {', '.join(dict.fromkeys(broken))} is not finite")
        return loss

    def _step_of_pass(self, last: waiting.Pass, groups: dict[Tensor, dict[str, Any]], visible: Tensor) -> list[str]:
        """The end of a backward pass and the step in one; names the groups whose gradient is not finite."""
        for parameter in last.tensors:
            self._check(parameter, groups[parameter], visible)
        found = [self._counted(parameter, groups[parameter]) for parameter in last.tensors]
        finite = project_view_step(
            Parameters(*(parameter.detach().numpy() for parameter in last.tensors)),
            Parameters(*(state["exp_avg"].numpy() for state, _ in found)),
            Parameters(*(state["exp_avg_sq"].numpy() for state, _ in found)),
            *(last.view, last.g_centres, last.g_records, visible.contiguous().view(torch.uint8).numpy()),
            [settings_of(*progress) for _, progress in found],
            last.g_camera,
        )
        return [groups[p]["name"] for p, good in zip(last.tensors, finite, strict=True) if not good]

    def _step_of_gradients(self, groups: dict[Tensor, dict[str, Any]], visible: Tensor | None) -> list[str]:
        """The step with the gradients that are there; names the groups of which one is not finite."""
        updates, names = [], []
        for parameter, group in groups.items():
            if parameter.grad is None:
                continue
            self._check(parameter, group, visible)
            state, progress = self._counted(parameter, group)
            updates.append(
                AdamUpdate(
                    parameter.detach().numpy(),
                    parameter.grad.contiguous().numpy(),
                    state["exp_avg"].numpy(),
                    state["exp_avg_sq"].numpy(),
                    *progress,
                )
            )
            names.append(group["name"])
        finite = adam_update(updates, None if visible is None else visible.contiguous().view(torch.uint8).numpy())
        return [name for name, good in zip(names, finite, strict=True) if not good]

    @staticmethod
    def _check(parameter: Tensor, group: dict[str, Any], visible: Tensor | None) -> None:
        """ValueError for what the kernels cannot take."""
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32 or not parameter.is_contiguous():
            where = f"{parameter.dtype} on {parameter.device}"
            raise ValueError(f"{group['name']} is {where}: not contiguous float32 on the CPU")
        if visible is not None and visible.shape != parameter.shape[:1]:
            rows = tuple(visible.shape)
            raise ValueError(f"{group['name']} is {tuple(parameter.shape)}, but `visible` has {rows} rows")

    def _counted(
        self, parameter: Tensor, group: dict[str, Any]
    ) -> tuple[dict[str, Any], tuple[int, float, tuple[float, float], float]]:
        """The state of a parameter, with one step more, and the last fields of its `AdamUpdate`: step to eps."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        step = state["step"].numpy()  # much faster to count with than the tensor
        step += 1
        return state, (int(step), float(group["lr"]), group["betas"], group["eps"])


# Torch would wrap the `step` of every optimiser for its profiler, which takes as long as a small kernel.
SelectiveAdam.step.hooked = True  # type: ignore[attr-defined]


class CudaAdam(SelectiveAdam):
    """`SelectiveAdam` on an NVIDIA GPU, by gsplat's kernel: the same steps, so that a scene is trained alike on both.

    Gradients that are not finite are not looked for: the program would have to wait for the GPU in every step.
    """

    @contextlib.contextmanager
    def finishing_backward(self) -> Iterator[None]:
        """While inside, `backward` stays in its thread: to wake one for the GPU takes time in every step."""
        with torch.autograd.set_multithreading_enabled(False):
            yield

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, *, visible: Tensor | None = None
    ) -> float | None:
        """One step on all parameters that have a gradient.

        Args:
            closure: as for every torch optimiser: recomputes the loss, which is then returned.
            visible: [N] bool on the GPU, the rows to update; every parameter must have N rows. All rows if None.
        """
        from gsplat.cuda._backend import _C

        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None or parameter.numel() == 0:  # the kernel divides by the number of rows
                    continue
                state, (step, lr, (beta1, beta2), eps) = self._counted(parameter, group)
                # The kernel corrects no bias. Both corrections can be made in what it is given.
                correction = math.sqrt(1 - beta2**step)
                _C.adam(
                    parameter,
                    parameter.grad.contiguous(),
                    *(state["exp_avg"], state["exp_avg_sq"], visible),
                    *(lr * correction / (1 - beta1**step), beta1, beta2, eps * correction),
                )
        return loss


def make_optimizer(groups: list[dict[str, Any]], device: torch.device | str) -> SelectiveAdam:
    """Adam for a device.

    Args:
        groups: `params`, `lr`, `name` and, where the learning rate is to change, `lr_final`; see
            `recon.model.Model.param_groups`. What `lr` is now is remembered as `lr_initial`.
        device: where the parameters are.
    """
    groups = [{"lr_final": group["lr"], **group, "lr_initial": group["lr"]} for group in groups]
    for group in groups:
        if min(group["lr_initial"], group["lr_final"]) < 0:
            raise ValueError(f"learning rates of {group['name']}: {group['lr_initial']} to {group['lr_final']}")
    kind = CudaAdam if torch.device(device).type == "cuda" else SelectiveAdam
    return kind(groups, eps=EPS)


def set_learning_rates(optimizer: torch.optim.Optimizer, frac: float) -> None:
    """Set `lr` of every group of `make_optimizer`: log-linear from `lr_initial` at 0 to `lr_final` at 1.

    A group with `warm_up`, a share of the training, begins with a hundredth of that and has all of it after so long
    (Mip-NeRF, Barron et al. 2021). A pure function of the progress `frac` of the training, 0..1: nothing to save,
    nothing to resume.
    """
    if not 0 <= frac <= 1:
        raise ValueError(f"progress {frac}: not within 0..1")
    for group in optimizer.param_groups:
        group["lr"] = group["lr_initial"] ** (1 - frac) * group["lr_final"] ** frac
        if frac < group.get("warm_up", 0):
            group["lr"] *= COLD + (1 - COLD) * math.sin(math.pi / 2 * frac / group["warm_up"])
