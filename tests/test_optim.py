import copy
import gc
import math
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recon.datasets.scene import Points
from recon.gaussians import Gaussians
from recon.kernels import adam, runtime
from recon.kernels.adam import AdamUpdate, adam_update
from recon.optim import CudaAdam, SelectiveAdam, make_optimizer, set_learning_rates

# Trailing shapes of rows: those of Gaussians, and some that end within a vector or cover several.
SHAPES = [(3,), (4,), (), (1, 3), (15, 3), (2, 5), (33,), (0, 3)]


def groups(rows: int, seed: int = 0, shapes: list[tuple[int, ...]] = SHAPES) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "params": [torch.randn(rows, *shape, generator=generator).requires_grad_()],
            "lr": 10.0 ** -(index % 4 + 1),
            "lr_final": 1e-5,
            "name": f"{index}: {shape}",
        }
        for index, shape in enumerate(shapes)
    ]


def parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def set_gradients(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Of very different sizes, as the gradients of Gaussians are, and some of them zero."""
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters(optimizer):
        gradient = torch.randn(parameter.shape, generator=generator)
        size = 10 ** (-8 * torch.rand(parameter.shape, generator=generator))
        parameter.grad = gradient * size * (torch.rand(parameter.shape, generator=generator) > 0.2)


def state_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
    return [
        {"values": parameter.detach().clone(), **{k: v.clone() for k, v in optimizer.state[parameter].items()}}
        for parameter in parameters(optimizer)
    ]


def assert_equal_states(a: list[dict[str, Tensor]], b: list[dict[str, Tensor]]) -> None:
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            assert torch.equal(x[key], y[key]), key


@pytest.mark.parametrize("rows", [1, 7, 16, 1003])
def test_all_rows_is_torch_adam(rows: int) -> None:
    ours = make_optimizer(groups(rows), "cpu")
    theirs = torch.optim.Adam(groups(rows), eps=1e-15)
    assert isinstance(ours, SelectiveAdam)
    for step in range(60):
        for optimizer in (ours, theirs):
            set_gradients(optimizer, step)
            optimizer.param_groups[2]["lr"] = 0.01 / (step + 1)
            optimizer.step()
    for mine, wanted in zip(state_of(ours), state_of(theirs), strict=True):
        assert mine["step"] == wanted["step"] == 60
        assert mine.keys() == wanted.keys()
        torch.testing.assert_close(mine["exp_avg"], wanted["exp_avg"], rtol=1e-5, atol=1e-12)
        torch.testing.assert_close(mine["exp_avg_sq"], wanted["exp_avg_sq"], rtol=1e-5, atol=0)
        torch.testing.assert_close(mine["values"], wanted["values"], rtol=2e-6, atol=2e-6)


def test_first_step_by_hand() -> None:
    values = np.array([1.0, 2.0, 3.0], np.float32)
    gradient = np.array([0.5, -1e-9, 0.0], np.float32)
    mean, square = np.zeros(3, np.float32), np.zeros(3, np.float32)
    assert adam_update([AdamUpdate(values, gradient, mean, square, 1, 0.1, (0.9, 0.999), 1e-15)]) == [True]
    np.testing.assert_allclose(values, [0.9, 2.1, 3.0], rtol=1e-6)
    np.testing.assert_allclose(mean, 0.1 * gradient, rtol=1e-6)
    np.testing.assert_allclose(square, 0.001 * gradient**2, rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 70), st.floats(0, 1), st.integers(0, 999), st.sampled_from([torch.bool, torch.uint8]))
def test_only_visible_rows_change(rows: int, share: float, seed: int, dtype: torch.dtype) -> None:
    """Visible rows change as if there were no others, though they do not see every step."""
    optimizer, dense = make_optimizer(groups(rows, seed), "cpu"), make_optimizer(groups(rows, seed), "cpu")
    for step in range(3):
        visible = torch.rand(rows, generator=torch.Generator().manual_seed(seed + step)) < share
        for either in (optimizer, dense):
            set_gradients(either, step)
            for parameter in parameters(either):  # so that both have a state to begin with
                either.state[parameter] = either.state.get(parameter) or {
                    "step": torch.tensor(5.0),
                    "exp_avg": torch.full_like(parameter, 0.1),
                    "exp_avg_sq": torch.full_like(parameter, 0.2),
                }
        before = state_of(optimizer)
        for parameter, start in zip(parameters(dense), before, strict=True):
            parameter.data.copy_(start["values"])
            for key in ("exp_avg", "exp_avg_sq"):
                dense.state[parameter][key].copy_(start[key])
        optimizer.step(visible=visible.to(dtype))
        dense.step()
        for start, changed, all_changed in zip(before, state_of(optimizer), state_of(dense), strict=True):
            assert changed["step"] == start["step"] + 1
            for key in ("values", "exp_avg", "exp_avg_sq"):
                assert torch.equal(changed[key][~visible], start[key][~visible])
                # To a rounding: which vector an element is in decides where a multiplication is fused.
                torch.testing.assert_close(changed[key][visible], all_changed[key][visible], rtol=1e-6, atol=1e-9)


def test_gradients_of_invisible_rows_are_not_looked_at() -> None:
    optimizer = make_optimizer(groups(40), "cpu")
    set_gradients(optimizer, 0)
    visible = torch.arange(40) % 3 == 0
    for parameter in parameters(optimizer):
        assert parameter.grad is not None
        parameter.grad[~visible] = math.nan
    optimizer.step(visible=visible)
    assert all(value.isfinite().all() for state in state_of(optimizer) for value in state.values())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("selective", [False, True])
def test_a_gradient_that_is_not_finite_is_named(bad: float, selective: bool) -> None:
    optimizer = make_optimizer(groups(100), "cpu")
    set_gradients(optimizer, 0)
    before = state_of(optimizer)
    quats, wide = parameters(optimizer)[1], parameters(optimizer)[6]
    assert quats.grad is not None
    assert wide.grad is not None
    quats.grad[99, 3] = wide.grad[50, 20] = bad
    visible = torch.ones(100, dtype=torch.bool) if selective else None
    with pytest.raises(FloatingPointError, match=r"the gradient of 1: \(4,\), 6: \(33,\) is not finite"):
        optimizer.step(visible=visible)
    assert quats[99, 3] == before[1]["values"][99, 3]
    assert wide[50, 20] == before[6]["values"][50, 20]
    assert all(value.isfinite().all() for state in state_of(optimizer) for value in state.values())


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_any_number_of_threads_gives_the_same_bits(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    visible = torch.rand(5000, generator=torch.Generator().manual_seed(0)) < share
    monkeypatch.setattr(adam, "PIECE", 1000)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(runtime, "_threads", threads)
        optimizer = make_optimizer(groups(5000), "cpu")
        for step in range(3):
            set_gradients(optimizer, step)
            optimizer.step(visible=visible if step > 0 else None)
        results.append(state_of(optimizer))
    assert_equal_states(results[0], results[1])
    assert_equal_states(results[0], results[2])


def test_state_survives_saving() -> None:
    through, saved = SelectiveAdam(groups(30)), SelectiveAdam(groups(30))
    for step in range(4):
        if step == 2:
            other = SelectiveAdam(groups(30, seed=1))
            for target, source in zip(parameters(other), parameters(saved), strict=True):
                target.data.copy_(source)
            other.load_state_dict(copy.deepcopy(saved.state_dict()))
            saved = other
        for optimizer in (through, saved):
            set_gradients(optimizer, step)
            optimizer.step(visible=torch.arange(30) > step)
    assert_equal_states(state_of(through), state_of(saved))


def test_moments_that_were_replaced_are_the_ones_that_count() -> None:
    kept, replaced = make_optimizer(groups(20), "cpu"), make_optimizer(groups(20), "cpu")
    for step in range(3):
        for optimizer in (kept, replaced):
            set_gradients(optimizer, step)
            optimizer.step()
        for parameter in parameters(replaced):
            state = replaced.state[parameter]
            state.update({name: value.clone() for name, value in state.items()})
    assert_equal_states(state_of(kept), state_of(replaced))


def test_parameters_that_were_replaced_are_not_held_on_to() -> None:
    points = Points(torch.rand(5, 3), torch.rand(5, 3))
    model = Gaussians.from_points(points)
    optimizer = make_optimizer(model.param_groups(1.0), "cpu")
    set_gradients(optimizer, 0)
    optimizer.step()
    old = [weakref.ref(tensor) for p in parameters(optimizer) for tensor in (p, optimizer.state[p]["exp_avg"])]
    model.edit_rows(optimizer, torch.tensor([True, False, True, True, False]))
    gc.collect()
    assert [tensor() for tensor in old] == [None] * len(old)


def test_state_is_torch_adams() -> None:
    ours, theirs = SelectiveAdam(groups(30)), torch.optim.Adam(groups(30), eps=1e-15, fused=True)
    set_gradients(ours, 0)
    ours.step()
    for target, source in zip(parameters(theirs), parameters(ours), strict=True):
        target.data.copy_(source)
    state = copy.deepcopy(ours.state_dict())
    theirs.load_state_dict({"state": state["state"], "param_groups": theirs.state_dict()["param_groups"]})
    for optimizer in (ours, theirs):
        set_gradients(optimizer, 1)
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        optimizer.step()
    for mine, wanted in zip(state_of(ours), state_of(theirs), strict=True):
        torch.testing.assert_close(mine["values"], wanted["values"], rtol=2e-6, atol=2e-6)
        assert mine["step"] == wanted["step"] == 2


def test_parameters_without_gradient_and_other_layouts() -> None:
    used, unused = torch.ones(6, 4, requires_grad=True), torch.ones(6, 2, requires_grad=True)
    optimizer = SelectiveAdam([used, unused], lr=0.1)
    used.grad = torch.arange(24.0).reshape(4, 6).T - 7.5
    assert not used.grad.is_contiguous()
    optimizer.step()
    torch.testing.assert_close(used.detach(), 1 - 0.1 * used.grad.sign(), rtol=1e-5, atol=0)
    assert torch.equal(unused.detach(), torch.ones(6, 2))
    assert unused not in optimizer.state


def test_closure_is_called_with_gradients_on() -> None:
    weight = torch.tensor([3.0], requires_grad=True)
    optimizer = SelectiveAdam([weight], lr=0.5)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss.item()

    losses = [optimizer.step(closure) for _ in range(60)]
    assert losses[0] == 9
    assert abs(weight.item()) < 0.5


@pytest.mark.parametrize(
    ("parameter", "visible", "message"),
    [
        (torch.ones(4, 2), torch.ones(5, dtype=torch.bool), "`visible` has"),
        (torch.ones(4, 2), torch.ones(4, 2, dtype=torch.bool), "`visible` has"),
        (torch.tensor(1.0), torch.ones(1, dtype=torch.bool), "`visible` has"),
        (torch.ones(4, 2, dtype=torch.float64), None, "not contiguous float32"),
        (torch.ones(2, 4).T, None, "not contiguous float32"),
    ],
)
def test_what_cannot_be_updated_is_refused(parameter: Tensor, visible: Tensor | None, message: str) -> None:
    parameter = parameter.requires_grad_()
    parameter.grad = torch.ones_like(parameter)
    optimizer = SelectiveAdam([{"params": [parameter], "name": "means"}])
    with pytest.raises(ValueError, match=f"means.*{message}"):
        optimizer.step(visible=visible)


def test_row_numbers_are_not_a_mask() -> None:
    optimizer = SelectiveAdam(groups(4))
    with pytest.raises(ValueError, match="not bool or uint8"):
        optimizer.step(visible=torch.tensor([0, 2, 1, 3]))


def test_arrays_that_do_not_fit_never_reach_the_kernel() -> None:
    good = np.zeros((4, 3), np.float32)
    wrong: list[Any] = [good[:3], good.astype(np.float64), np.zeros((3, 4), np.float32).T]
    for bad in wrong:
        with pytest.raises(ValueError, match="not contiguous float32 arrays of one shape"):
            adam_update([AdamUpdate(good, bad, good, good, 1, 0.1, (0.9, 0.999), 1e-15)])


def test_learning_rates_follow_the_progress() -> None:
    optimizer = make_optimizer(
        [
            {"params": [torch.zeros(1, requires_grad=True)], "lr": 1e-2, "lr_final": 1e-4, "name": "means"},
            {"params": [torch.zeros(1, requires_grad=True)], "lr": 5e-2, "lr_final": 5e-2, "name": "opacities"},
            {"params": [torch.zeros(1, requires_grad=True)], "lr": 3e-3, "name": "sh"},
            {"params": [torch.zeros(1, requires_grad=True)], "lr": 0.0, "lr_final": 0.0, "name": "frozen"},
        ],
        "cpu",
    )
    for _ in range(2):  # in any order, as often as wanted
        for frac, wanted in [(1.0, 1e-4), (0.5, 1e-3), (0.0, 1e-2), (0.25, 1e-2 / 10**0.5)]:
            set_learning_rates(optimizer, frac)
            rates = [group["lr"] for group in optimizer.param_groups]
            assert rates == pytest.approx([wanted, 5e-2, 3e-3, 0.0], rel=1e-12)
    set_learning_rates(optimizer, 0)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-2, 5e-2, 3e-3, 0.0]


def test_a_warm_up_begins_low_and_ends_where_there_is_none() -> None:
    """Mip-NeRF's: a hundredth at first, all after the share, along a quarter of a sine."""
    plain: dict[str, Any] = {"params": [torch.zeros(1)], "lr": 1e-2, "lr_final": 1e-4, "name": "plain"}
    warm = {**plain, "params": [torch.zeros(1)], "name": "warm", "warm_up": 0.2}
    optimizer = make_optimizer([plain, warm], "cpu")
    shares = []
    for frac in (0.0, 0.1, 0.2, 0.7):
        set_learning_rates(optimizer, frac)
        rates = [group["lr"] for group in optimizer.param_groups]
        shares.append(rates[1] / rates[0])
    assert shares == pytest.approx([0.01, 0.01 + 0.99 * math.sqrt(0.5), 1, 1])


@pytest.mark.parametrize("frac", [-0.1, 1.1, math.nan])
def test_progress_out_of_range_is_refused(frac: float) -> None:
    with pytest.raises(ValueError, match="progress"):
        set_learning_rates(make_optimizer(groups(1), "cpu"), frac)


def test_negative_learning_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="means"):
        make_optimizer([{"params": [torch.zeros(1)], "lr": 1e-3, "lr_final": -1e-3, "name": "means"}], "cpu")


def test_groups_of_the_caller_are_left_alone() -> None:
    mine = groups(2)
    before = [dict(group) for group in mine]
    make_optimizer(mine, "cpu")
    assert [group.keys() for group in mine] == [group.keys() for group in before]


def test_a_gpu_gets_an_adam_of_its_own() -> None:
    optimizer = make_optimizer(groups(9), "cuda")  # only makes it
    assert isinstance(optimizer, CudaAdam)
    assert all(group["eps"] == 1e-15 for group in optimizer.param_groups)


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.4, 1.0, None])
def test_the_gpu_takes_the_steps_of_the_cpu(share: float | None) -> None:
    on_gpu = groups(50)
    for group in on_gpu:
        group["params"] = [group["params"][0].detach().cuda().requires_grad_()]
    theirs, ours = make_optimizer(on_gpu, "cuda"), make_optimizer(groups(50), "cpu")
    for step in range(5):
        visible = None
        if share is not None:
            visible = torch.rand(50, generator=torch.Generator().manual_seed(step)) < share
        set_gradients(ours, step)
        for target, source in zip(parameters(theirs), parameters(ours), strict=True):
            assert source.grad is not None
            target.grad = source.grad.cuda()
        ours.step(visible=visible)
        theirs.step(visible=None if visible is None else visible.cuda())
    for mine, wanted in zip(parameters(ours), parameters(theirs), strict=True):
        torch.testing.assert_close(mine.detach(), wanted.detach().cpu(), rtol=1e-5, atol=1e-5)
        if mine.numel():
            before, after = ours.state[mine], theirs.state[wanted]
            assert before["step"] == after["step"]
            torch.testing.assert_close(before["exp_avg"], after["exp_avg"].cpu(), rtol=1e-5, atol=1e-7)
            # The kernel has 1 - 0.999 in float32, which is off by 1.3e-5.
            torch.testing.assert_close(before["exp_avg_sq"], after["exp_avg_sq"].cpu(), rtol=3e-5, atol=0)


def test_a_step_does_not_import_torchs_compiler() -> None:
    """Which takes a second."""
    script = """
import sys, torch
from recon.optim import SelectiveAdam
parameter = torch.zeros(5, requires_grad=True)
adam = SelectiveAdam([parameter])
parameter.sum().backward()
adam.step()
adam.zero_grad()
print(parameter.grad, "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "None False\n", done.stderr
