import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from recon import rng, sparing
from recon.kernels.runtime import get_threads, set_threads
from recon.sparing import ALIKE, AT_ONCE, Sparing, chosen, directly


def network_and_samples(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of 3 numbers to 2, samples, and what their outputs are multiplied by in the loss: mostly little."""
    draw = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2))
    return network, torch.randn(count, 3, generator=draw), torch.randn(count, 2, generator=draw) ** 7


def gradients(network: nn.Module, samples: Tensor, factors: Tensor, share: float, seed: int) -> Tensor:
    """Of all weights, in a row."""
    network.zero_grad()
    ask = Sparing(share, rng.generator(seed, "test"), network.parameters())
    (ask(network, samples) * factors).sum().backward()
    ask.learn()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def exact(network: nn.Module, samples: Tensor, factors: Tensor) -> Tensor:
    network.zero_grad()
    (network(samples) * factors).sum().backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@given(st.integers(1, 400), st.floats(0.01, 4), st.integers(0, 2**20))
def test_chosen_rows_count_as_often_as_they_are_left_out(count, share, seed):
    gradient = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) ** 5
    gradient[::3] = 0
    rows, times = chosen(gradient, share, torch.Generator().manual_seed(seed))
    assert len(rows) == len(times)
    assert len(rows) % ALIKE == 0
    real = times > 0
    assert len(rows[real].unique()) == int(real.sum())  # none twice
    size = gradient.abs().sum(dim=-1)
    chance = share * size / size.mean().clamp_min(1e-30)
    assert torch.allclose(times[real], 1 / chance[rows[real]].clamp_max(1))
    assert set((chance >= 1.001).nonzero()[:, 0].tolist()) <= set(rows[real].tolist())


def test_where_all_samples_are_certain_the_gradient_is_the_exact_one():
    about = network_and_samples(2 * AT_ONCE + 7)
    torch.testing.assert_close(gradients(*about, share=1e30, seed=0), exact(*about), rtol=1e-4, atol=1e-2)


def test_the_gradient_is_the_exact_one_in_the_mean():
    about = network_and_samples(300)
    found = torch.stack([gradients(*about, share=0.2, seed=seed) for seed in range(600)])
    wanted, error = exact(*about), found.std(dim=0) / len(found) ** 0.5
    assert float(((found.mean(dim=0) - wanted).abs() / (error + 1e-4 * wanted.abs().max())).max()) < 4.5
    assert float((found[0] - wanted).norm()) > 1e-3 * float(wanted.norm())  # single ones are not


def test_the_outputs_are_those_of_the_network_and_few_samples_are_asked_twice() -> None:
    network, samples, factors = network_and_samples(AT_ONCE + 100)
    asked: list[int] = []

    def counted(values: Tensor) -> Tensor:
        asked.append(len(values))
        return network(values)

    ask = Sparing(0.1, rng.generator(0, "test"), network.parameters())
    found = ask(counted, samples)
    torch.testing.assert_close(found, network(samples))
    assert sum(asked) == len(samples)
    assert max(asked) <= AT_ONCE
    asked.clear()
    (found * factors).sum().backward()
    ask.learn()
    assert 0 < sum(asked) <= 0.1 * len(samples) + 2 * ALIKE


@pytest.mark.parametrize("half", [False, True])
def test_where_nothing_matters_the_gradient_is_nought(half):
    network, samples, factors = network_and_samples(50)
    with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
        found = gradients(network, samples, 0 * factors, share=0.2, seed=0)
    assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_a_number_reaches_the_weights(bad):
    network, samples, factors = network_and_samples(50)
    factors[17, 1] = bad
    assert not bool(gradients(network, samples, factors, share=0.2, seed=0).isfinite().all())


@pytest.mark.parametrize("half", [False, True])
def test_the_number_of_threads_changes_nothing(half: bool) -> None:
    layers, samples, factors = network_and_samples(5 * AT_ONCE)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, values: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
                return self.layers(values).float()

    network, before, found = Network(), get_threads(), []
    try:
        for threads in (1, 3, 3):
            set_threads(threads)
            with torch.no_grad():
                outputs = directly(network, samples)
            found.append((outputs, gradients(network, samples, factors, share=0.5, seed=0)))
    finally:
        set_threads(before)
    assert all(torch.equal(one, other) for others in found[1:] for one, other in zip(found[0], others, strict=True))


@pytest.mark.parametrize("count", [1, 100, 128, 129, 700, 1000])
def test_blocks_change_nothing(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, samples, factors = network_and_samples(count)
    whole, outputs = exact(network, samples, factors), network(samples)
    monkeypatch.setattr(sparing, "AT_ONCE", ALIKE)
    sizes: list[int] = []

    def counted(values: Tensor) -> Tensor:
        sizes.append(len(values))
        return network(values)

    with torch.no_grad():
        torch.testing.assert_close(directly(counted, samples), outputs)
    assert sum(sizes) == count
    assert max(sizes) <= ALIKE
    network.zero_grad()
    (directly(network, samples) * factors).sum().backward()
    found = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-2)


def test_gradients_are_added_up_a_few_blocks_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    about = network_and_samples(2000)
    wanted = gradients(*about, share=1e30, seed=0)
    monkeypatch.setattr(sparing, "LEARNED", ALIKE)
    monkeypatch.setattr(sparing, "ADDED_UP", 3)
    torch.testing.assert_close(gradients(*about, share=1e30, seed=0), wanted, rtol=1e-4, atol=1e-2)
