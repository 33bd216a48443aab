"""The end of the backward pass and Adam's step in one: the result is that of one after the other."""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from recon.gaussians import Gaussians
from recon.kernels import runtime
from recon.optim import CudaAdam, SelectiveAdam, make_optimizer

ROWS = 203  # ends within a vector
PROGRESS = {0: 0.0, 1: 0.2, 2: 0.3, 3: 0.5}  # of a training in which so many bands are in use


def optimizer_of(model: Gaussians) -> SelectiveAdam:
    optimizer = make_optimizer(model.param_groups(1.0), "cpu")
    assert isinstance(optimizer, SelectiveAdam)
    return optimizer


def take_steps(
    model: Gaussians,
    optimizer: SelectiveAdam,
    steps: int,
    *,
    fused: bool,
    cameras: int = 1,
    degree: int = 3,
    everything: bool = False,
) -> None:
    """Steps towards random pictures. Every third row that is seen is not updated, and one that is not seen is."""
    for step in range(steps):
        views = tiny.ring(6, 56, 40)[step : step + cameras]
        out = model.render(views, train_frac=PROGRESS[degree], depth=False)
        assert out.radii is not None
        loss = (out.rgb * torch.randn(out.rgb.shape, generator=torch.Generator().manual_seed(step))).sum()
        for term in model.regularisers().values():
            loss = loss + term
        with optimizer.finishing_backward() if fused else contextlib.nullcontext():
            loss.backward()  # type: ignore[no-untyped-call]
        visible = (out.radii[..., 0] > 0).any(dim=0) & (torch.arange(len(model)) % 3 > 0)
        visible[-2] = True
        optimizer.step(visible=None if everything else visible)
        optimizer.zero_grad()


def cloud(degree: int = 3, **options: Any) -> Gaussians:
    """Some of it is behind every camera."""
    model = tiny.gaussians(ROWS, degree=degree, **options)
    model.means.data[::5] *= 20
    model.means.data[-2] = torch.tensor([0.0, 0.0, 400.0])
    return model


def state_of(model: Gaussians, optimizer: SelectiveAdam) -> dict[str, Tensor]:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for name, parameter in model.parameters().items():
        state |= {f"{name} {key}": value.clone() for key, value in optimizer.state[parameter].items()}
    return state


def both_ways(
    steps: int = 4, degree_of_model: int = 3, regularised: bool = False, **how: Any
) -> list[dict[str, Tensor]]:
    results = []
    for fused in (False, True):
        model = cloud(degree_of_model, **({"opacity_reg": 0.01} if regularised else {}))
        optimizer = optimizer_of(model)
        take_steps(model, optimizer, steps, fused=fused, **how)
        results.append(state_of(model, optimizer))
    return results


def assert_close(separate: dict[str, Tensor], fused: dict[str, Tensor]) -> None:
    assert separate.keys() == fused.keys()
    for name, wanted in separate.items():
        torch.testing.assert_close(fused[name], wanted, rtol=1e-6, atol=0, msg=name)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the two ways each step went."""
    went: list[str] = []
    for name in ("_step_of_pass", "_step_of_gradients"):
        method = getattr(SelectiveAdam, name)

        def noted(self: SelectiveAdam, *args: Any, method: Any = method, name: str = name) -> Any:
            went.append(name)
            return method(self, *args)

        monkeypatch.setattr(SelectiveAdam, name, noted)
    return went


@pytest.mark.parametrize(
    ("degree_of_model", "degree"), [(3, 0), (3, 1), (3, 2), (3, 3), (2, 1), (2, 2), (1, 1), (0, 0)]
)
def test_same_as_one_after_the_other(degree_of_model: int, degree: int, passes: list[str]) -> None:
    separate, fused = both_ways(degree_of_model=degree_of_model, degree=degree)
    assert passes == ["_step_of_gradients"] * 4 + ["_step_of_pass"] * 4
    assert_close(separate, fused)
    start = cloud(degree_of_model)
    bands = degree * (degree + 2)  # coefficients in use but the constant one
    assert not torch.equal(start.sh0, fused["sh0"])
    assert torch.equal(start.shN[:, bands:], fused["shN"][:, bands:])
    assert bands == 0 or not torch.equal(start.shN[:, bands - 1], fused["shN"][:, bands - 1])


def test_bands_come_into_use_one_after_the_other() -> None:
    results = []
    for fused in (False, True):
        model = cloud()
        optimizer = optimizer_of(model)
        for degree in (0, 1, 2, 3):
            take_steps(model, optimizer, 2, fused=fused, degree=degree)
        results.append(state_of(model, optimizer))
    assert_close(*results)


@pytest.mark.parametrize("how", [{"cameras": 2}, {"everything": True}, {"regularised": True}])
def test_where_it_cannot_be_done_in_one_it_is_done_in_two(how: dict[str, Any], passes: list[str]) -> None:
    separate, fused = both_ways(**how)
    assert set(passes) == {"_step_of_gradients"}
    assert_close(separate, fused)


def test_gradients_of_two_backward_passes_add_up(passes: list[str]) -> None:
    results = []
    for fused in (False, True):
        model = cloud()
        optimizer = optimizer_of(model)
        for number in range(2):
            out = model.render(tiny.ring(6)[number : number + 1], depth=False)
            with optimizer.finishing_backward() if fused else contextlib.nullcontext():
                out.rgb.square().sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step(visible=torch.ones(ROWS, dtype=torch.bool))
        results.append(state_of(model, optimizer))
    assert passes == ["_step_of_gradients"] * 2
    assert_close(*results)


def test_gradients_that_wait_are_not_there_and_zero_grad_drops_them() -> None:
    model = cloud()
    optimizer = optimizer_of(model)
    before = model.means.detach().clone()
    with optimizer.finishing_backward():
        model.render(tiny.ring(1), depth=False).rgb.sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in model.parameters().values())
    optimizer.zero_grad()
    optimizer.step(visible=torch.ones(ROWS, dtype=torch.bool))
    assert torch.equal(before, model.means)


def test_only_what_the_optimiser_owns_waits() -> None:
    ours, other = cloud(), cloud()
    optimizer = optimizer_of(ours)
    with optimizer.finishing_backward():
        other.render(tiny.ring(1), depth=False).rgb.sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in other.parameters().values())
    model = cloud()
    model.render(tiny.ring(1), depth=False).rgb.sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.parameters().values())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_named(bad: float) -> None:
    model = cloud()
    optimizer = optimizer_of(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    out = model.render(tiny.ring(1), depth=False)
    gradient = torch.ones_like(out.rgb)
    gradient[0, 16, 20, 1] = bad
    with optimizer.finishing_backward():
        out.rgb.backward(gradient)  # type: ignore[no-untyped-call]
    with pytest.raises(FloatingPointError, match=r"the gradient of means, .*sh0, shN is not finite"):
        optimizer.step(visible=torch.ones(ROWS, dtype=torch.bool))
    assert all(value.isfinite().all() for value in state_of(model, optimizer).values())
    assert not torch.equal(before["sh0"], model.sh0)


def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(runtime, "_threads", threads)
        model = tiny.gaussians(3000)
        optimizer = optimizer_of(model)
        take_steps(model, optimizer, 2, fused=True)
        results.append(state_of(model, optimizer))
    for other in results[1:]:
        assert all(torch.equal(value, other[name]) for name, value in results[0].items())


def test_a_copy_of_an_optimiser_works_too() -> None:
    copied = copy.deepcopy(optimizer_of(cloud()))
    copied.step(visible=torch.ones(ROWS, dtype=torch.bool))
    copied.zero_grad()


def test_other_devices_finish_as_ever() -> None:
    weight = torch.ones(3, requires_grad=True)
    optimizer = CudaAdam([weight])
    with optimizer.finishing_backward():
        weight.sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
