"""Adam (Kingma & Ba 2015) that leaves alone the rows that a step did not see, and its learning rate schedule."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.kernels.adam import AdamUpdate, adam_update, settings_of
from recon.kernels.rasterize import Floats, Parameters, project_view_step
from recon.raster import waiting
from recon.raster.gsplat_calls import functions

BETAS = (0.9, 0.999)
COLD = 0.01  # of a learning rate, where a warm-up begins
EPS = 1e-15  # 3DGS's: gradients of single Gaussians are tiny, and the usual 1e-8 would swamp them


def moments(betas: tuple[float, float], batch: int) -> tuple[float, float]:
    """Adam's, where each of fewer steps is the mean of `batch` of them: such a step forgets as much as they would."""
    if batch == 1:
        return betas
    first, second = (max(0.0, 1 - batch * (1 - beta)) for beta in betas)
    return first, second


Flags = NDArray[np.uint8]  # [N] not 0 for the rows to update
_Grouped = tuple[Tensor, dict[str, Any]]  # a parameter and its group


class _Known(NamedTuple):
    """A parameter that is as the kernels want it, as arrays that share its memory.

    To ask torch for them takes as long as a small kernel, in every step.
    """

    parameter: Tensor
    tensors: tuple[Tensor, Tensor, Tensor]  # of the state
    arrays: tuple[Floats, Floats, Floats]  # values and moments
    step: Floats  # much faster to count with than the tensor

    def still(self, parameter: Tensor, state: dict[str, Tensor]) -> bool:
        """Whether these are the tensors that the arrays were made of."""
        exp_avg, exp_avg_sq, step = self.tensors
        return (
            self.parameter is parameter
            and state.get("exp_avg") is exp_avg
            and state.get("exp_avg_sq") is exp_avg_sq
            and state.get("step") is step
        )


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
    _known: tuple[_Known, ...] = ()

    def forget_arrays(self) -> None:
        """To be called before parameters are replaced, so that memory of the old ones is not held on to."""
        self._known = ()

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
        grouped = [(parameter, group) for group in self.param_groups for parameter in group["params"]]
        flags = None if visible is None else np.ascontiguousarray(visible.numpy()).view(np.uint8)
        if flags is not None and self._can_join(grouped):
            (last,), self._waiting = self._waiting, ()
            broken = self._step_of_pass(last, grouped, flags)
        else:
            self.finish_backward()
            broken = self._step_of_gradients(grouped, flags)
        if broken:
            raise FloatingPointError(f"the gradient of {', '.join(dict.fromkeys(broken))} is not finite")
        return loss

    def _can_join(self, grouped: Sequence[_Grouped]) -> bool:
        """Whether one backward pass waits, reaches all parameters, and nothing else does."""
        if len(self._waiting) != 1 or len(self._waiting[0].tensors) != len(grouped):
            return False
        pairs = zip(self._waiting[0].tensors, grouped, strict=True)
        return all(tensor is parameter and parameter.grad is None for tensor, (parameter, _) in pairs)

    def _step_of_pass(self, last: waiting.Pass, grouped: Sequence[_Grouped], visible: Flags) -> list[str]:
        """The end of a backward pass and the step in one; names the groups whose gradient is not finite."""
        known = self._as_arrays(grouped, visible)
        values, exp_avgs, exp_avg_sqs = zip(*(each.arrays for each in known), strict=True)
        finite = project_view_step(
            Parameters(*values),
            Parameters(*exp_avgs),
            Parameters(*exp_avg_sqs),
            *(last.view, last.g_centres, last.g_records, visible),
            [settings_of(*_counted(each.step, group)) for each, (_, group) in zip(known, grouped, strict=True)],
            last.g_camera,
        )
        return [group["name"] for (_, group), good in zip(grouped, finite, strict=True) if not good]

    def _step_of_gradients(self, grouped: Sequence[_Grouped], visible: Flags | None) -> list[str]:
        """The step with the gradients that are there; names the groups of which one is not finite."""
        grouped = [(parameter, group) for parameter, group in grouped if parameter.grad is not None]
        updates, names = [], []
        for each, (parameter, group) in zip(self._as_arrays(grouped, visible), grouped, strict=True):
            assert parameter.grad is not None
            values, exp_avg, exp_avg_sq = each.arrays
            gradient = parameter.grad.contiguous().numpy()
            updates.append(AdamUpdate(values, gradient, exp_avg, exp_avg_sq, *_counted(each.step, group)))
            names.append(group["name"])
        finite = adam_update(updates, visible)
        return [name for name, good in zip(names, finite, strict=True) if not good]

    def _as_arrays(self, grouped: Sequence[_Grouped], visible: Flags | None) -> tuple[_Known, ...]:
        """The parameters and their state; ValueError for what the kernels cannot take."""
        pairs = [(parameter, self.state[parameter]) for parameter, _ in grouped]
        known = self._known
        if len(known) != len(pairs) or not all(each.still(*pair) for each, pair in zip(known, pairs, strict=True)):
            known = tuple(_checked(*pair, group["name"]) for pair, (_, group) in zip(pairs, grouped, strict=True))
        if visible is not None:
            for each, (_, group) in zip(known, grouped, strict=True):
                shape = each.arrays[0].shape
                if shape[:1] != visible.shape:
                    raise ValueError(f"{group['name']} is {shape}, but `visible` has {visible.shape} rows")
        self._known = known
        return known


def _checked(parameter: Tensor, state: dict[str, Tensor], name: str) -> _Known:
    """ValueError, with the name, for what the kernels cannot take."""
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32 or not parameter.is_contiguous():
        where = f"{parameter.dtype} on {parameter.device}"
        raise ValueError(f"{name} is {where}: not contiguous float32 on the CPU")
    _begin(parameter, state)
    tensors = state["exp_avg"], state["exp_avg_sq"], state["step"]
    values, exp_avg, exp_avg_sq, step = (tensor.detach().numpy() for tensor in (parameter, *tensors))
    return _Known(parameter, tensors, (values, exp_avg, exp_avg_sq), step)


def _begin(parameter: Tensor, state: dict[str, Tensor]) -> None:
    """Make the state of a parameter, where there is none yet."""
    if not state:
        state["step"] = torch.tensor(0.0)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)


def _counted(step: Floats, group: dict[str, Any]) -> tuple[int, float, tuple[float, float], float]:
    """The last fields of an `AdamUpdate`, step to eps, with one step more than there were."""
    step += 1  # in place: it is the state's
    return int(step), float(group["lr"]), group["betas"], group["eps"]


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
        adam = functions().adam
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None or parameter.numel() == 0:  # the kernel divides by the number of rows
                    continue
                state = self.state[parameter]
                _begin(parameter, state)
                step, lr, (beta1, beta2), eps = _counted(state["step"].numpy(), group)
                # The kernel corrects no bias. Both corrections can be made in what it is given.
                correction = math.sqrt(1 - beta2**step)
                adam(
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
