"""Packed samples beside the functions of `recon.volume` for rays that all have as many."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recon import nerfacc_sums, packed, volume
from recon.kernels.runtime import get_threads, set_threads
from recon.packed import Samples

LENGTH = 0.05


def samples_of(counts: list[int], seed: int = 0) -> tuple[Samples, torch.Tensor, torch.Tensor, torch.Tensor]:
    """With optical depths, colours, and a gradient of what the rays show."""
    draw = torch.Generator().manual_seed(seed)
    total = sum(counts)
    middles = torch.cat([LENGTH * (torch.arange(count) + 0.5) for count in counts] or [torch.zeros(0)])
    samples = Samples(
        torch.tensor([0, *np.cumsum(counts)]),
        torch.rand(total, 3, generator=draw),
        3 * middles,
        middles,
        LENGTH,
    )
    depths = 0.7 * torch.rand(total, generator=draw)
    return (
        *(samples, depths),
        *(torch.rand(total, 3, generator=draw), torch.randn(len(counts), 6, generator=draw)),
    )


def ray_by_ray(samples: Samples, depths: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """By `recon.volume`, one ray after the other."""
    shown = []
    for first, end in zip(samples.starts[:-1].tolist(), samples.starts[1:].tolist(), strict=True):
        if first == end:
            shown.append(depths.new_zeros(6))
            continue
        weights, through = volume.weights_of(depths[first:end], depths.new_ones(end - first))
        edges = LENGTH * torch.arange(end - first + 1, dtype=depths.dtype)
        shown.append(
            torch.cat(
                [
                    volume.composite(weights, colours[first:end]),
                    1 - through[None],
                    (weights * samples.distances[first:end]).sum()[None],
                    volume.distortion(edges, weights)[None],
                ]
            )
        )
    return torch.stack(shown)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=100))
def test_kernels_and_torch_show_what_volume_does(counts: list[int]) -> None:
    samples, depths, colours, gradient = samples_of(counts)
    found = []
    for kind in (torch.float32, torch.float64):
        given_depths, given_colours = (v.detach().clone().to(kind).requires_grad_() for v in (depths, colours))
        shown = packed.composite(samples, given_depths, given_colours)
        shown.backward(gradient.to(kind))
        found.append((shown.detach(), given_depths.grad, given_colours.grad))
    wide = depths.double().requires_grad_(), colours.double().requires_grad_()
    expected = ray_by_ray(samples, *wide)
    if sum(counts):
        expected.backward(gradient.double())
    for shown, of_depths, of_colours in found:
        torch.testing.assert_close(shown.double(), expected.detach(), atol=1e-5, rtol=1e-5)
        if sum(counts):
            assert of_depths is not None
            assert of_colours is not None
            torch.testing.assert_close(of_depths.double(), wide[0].grad, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(of_colours.double(), wide[1].grad, atol=1e-5, rtol=1e-4)


def test_the_number_of_threads_changes_nothing() -> None:
    samples, depths, colours, gradient = samples_of([n % 40 for n in range(1000)])
    before, found = get_threads(), []
    try:
        for threads in (1, 3):
            set_threads(threads)
            own = depths.clone().requires_grad_()
            shown = packed.composite(samples, own, colours)
            shown.backward(gradient)
            assert own.grad is not None
            found.append((shown.detach(), own.grad, packed.weights_of(samples, depths)))
    finally:
        set_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_ray_of_dense_samples_shows_the_first() -> None:
    samples, _, colours, _ = samples_of([4])
    shown = packed.composite(samples, torch.full((4,), 200.0), colours)
    torch.testing.assert_close(shown[0, :3], colours[0])
    assert float(shown[0, 3]) == 1
    assert float(shown[0, 5]) == pytest.approx(LENGTH / 3)


def test_those_that_are_chosen_stay_with_their_rays() -> None:
    samples, depths, _, _ = samples_of([3, 0, 2])
    chosen = torch.tensor([0, 2, 4])
    kept = samples.chosen(chosen)
    assert kept.starts.tolist() == [0, 2, 2, 3]
    assert kept.rays().tolist() == [0, 0, 2]
    assert torch.equal(kept.distances, samples.distances[chosen])
    weights = packed.weights_of(samples, depths)
    torch.testing.assert_close(weights.double(), packed.weights_of(samples, depths.double()), atol=1e-6, rtol=1e-6)


def exclusive_sum(inputs: Tensor, packed_info: Tensor | None = None, indices: Tensor | None = None) -> Tensor:
    """As nerfacc's is called: rays by their first sample and their number of samples."""
    assert indices is None
    assert packed_info is not None
    assert packed_info.dtype == torch.int64
    assert packed_info[:, 1].sum() == len(inputs)
    parts = [inputs[first : first + count] for first, count in packed_info.tolist()]
    return torch.cat([part.cumsum(0) - part for part in parts])


@pytest.mark.parametrize("counts", [[3, 0, 5, 1], [0, 0], [40] * 20])
def test_nerfacc_is_asked_for_the_same_sums(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    samples, depths, colours, gradient = samples_of(counts)
    found = []
    monkeypatch.setitem(sys.modules, "nerfacc", types.SimpleNamespace(exclusive_sum=exclusive_sum))
    for there in (False, True):
        monkeypatch.setattr(packed, "_by_nerfacc", lambda values, there=there: there)
        own = depths.clone().requires_grad_(), colours.clone().requires_grad_()
        shown = packed.composite_in_torch(samples, *own)
        found.append((shown.detach(), *torch.autograd.grad((shown * gradient).sum(), own)))
    found.append((packed.composite(samples, depths, colours), *found[0][1:]))  # by the kernels
    for others in found[1:]:
        for ours, theirs in zip(found[0], others, strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("counts", [[3, 0, 5, 1], [0, 0], [40] * 20, [0, *range(300)]])
def test_nerfacc_gives_what_pytorch_does(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    nerfacc_sums.available.cache_clear()
    if not nerfacc_sums.available():
        pytest.skip("nerfacc is not installed")
    here, *values = samples_of(counts)
    depths, colours, gradient = (value.to("cuda") for value in values)
    samples = here._replace(
        **{name: getattr(here, name).to("cuda") for name in ("starts", "positions", "distances", "middles")}
    )
    found = []
    for there in (False, True):
        monkeypatch.setattr(packed, "_by_nerfacc", lambda values, there=there: there)
        own = depths.clone().requires_grad_(), colours.clone().requires_grad_()
        shown = packed.composite(samples, *own)
        found.append((shown.detach(), *torch.autograd.grad((shown * gradient).sum(), own)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-4)


def test_nerfacc_is_not_there_where_it_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nerfacc", None)
    nerfacc_sums.available.cache_clear()
    assert not nerfacc_sums.available()
    nerfacc_sums.available.cache_clear()
    assert not packed._by_nerfacc(torch.zeros(3))
