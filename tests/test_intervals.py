"""Step functions along rays, beside slow ones in float64 that are written as their papers have them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon import intervals

FEW = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10_000)


def steps(seed: int, count: int = 3, parts: int = 6):
    """Edges [count,parts+1] from 0 to 1 and weights [count,parts], some of them 0, which add up to 1; float64."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.rand(count, parts, generator=generator, dtype=torch.float64) + 0.02
    s = torch.cat([torch.zeros(count, 1, dtype=torch.float64), lengths.cumsum(dim=-1)], dim=-1)
    weights = torch.rand(count, parts, generator=generator, dtype=torch.float64) + 1e-3
    weights = weights * (torch.rand(count, parts, generator=generator) > 0.2)
    return s / s[:, -1:], (weights + 1e-9) / (weights + 1e-9).sum(dim=-1, keepdim=True)


def density(s, weights, at: float) -> float:
    """Of one ray, at a place; 0 outside."""
    for i in range(len(weights)):
        if float(s[i]) <= at < float(s[i + 1]):
            return float(weights[i] / (s[i + 1] - s[i]))
    return 0.0


@FEW
@given(seeds)
def test_coordinates_are_even_in_disparity(seed):
    s, _ = steps(seed)
    t = intervals.distances(s, 0.3, 50.0)
    assert torch.allclose(t[:, 0], torch.full((3,), 0.3, dtype=torch.float64))
    assert torch.allclose(t[:, -1], torch.full((3,), 50.0, dtype=torch.float64))
    assert torch.allclose((1 / t - 1 / 0.3) / (1 / 50.0 - 1 / 0.3), s)


def test_samples_are_spread_evenly_at_first_and_as_the_weights_are_at_last():
    weights = torch.tensor([[0.1, 0.9]])
    assert torch.allclose(intervals.eased(weights, 0.0), torch.ones(1, 2))
    assert torch.allclose(intervals.eased(weights, 1.0), weights)
    halfway = intervals.eased(weights, 0.1)  # 10 * 0.1 / (9 * 0.1 + 1) = 0.5263
    assert torch.allclose(halfway, weights ** (1 / 1.9))


@FEW
@given(seeds, st.floats(0.001, 0.3))
def test_dilation_takes_the_largest_density_nearby(seed, by):
    s, weights = steps(seed)
    edges, found = intervals.dilated(s, weights, by)
    assert torch.allclose(found.sum(dim=-1), torch.ones(3, dtype=torch.float64))
    assert bool((edges.diff(dim=-1) >= 0).all())
    assert float(edges.min()) == 0
    assert float(edges.max()) == 1
    for ray in range(3):
        expected = []
        middles = (edges[ray, 1:] + edges[ray, :-1]) / 2
        for middle, length in zip(middles.tolist(), edges[ray].diff().tolist(), strict=True):
            within = [
                float(weights[ray, i] / (s[ray, i + 1] - s[ray, i]))
                for i in range(weights.shape[1])
                if s[ray, i] - by <= middle < s[ray, i + 1] + by
            ]
            expected.append(max(within, default=0.0) * length)
        total = torch.tensor(expected, dtype=torch.float64)
        assert torch.allclose(found[ray], total / total.sum(), atol=1e-9)


@FEW
@given(seeds, st.booleans())
def test_new_intervals_lie_around_samples_of_the_weights(seed, random):
    s, weights = steps(seed)
    draw = torch.Generator().manual_seed(seed) if random else None
    edges = intervals.resampled(s, weights, 200, draw)
    assert edges.shape == (3, 201)
    assert bool((edges.diff(dim=-1) >= 0).all())
    assert float(edges.min()) >= 0
    assert float(edges.max()) <= 1
    middles = (edges[:, 1:] + edges[:, :-1]) / 2
    for ray in range(3):
        for i in range(weights.shape[1]):
            share = ((middles[ray] >= s[ray, i]) & (middles[ray] < s[ray, i + 1])).double().mean()
            assert float(share) == pytest.approx(float(weights[ray, i]), abs=0.02)


@FEW
@given(seeds, st.floats(0.005, 0.4))
def test_a_blurred_step_function_is_its_mean_over_a_box(seed, radius):
    s, weights = steps(seed, 2)
    places, found = intervals.blurred(s, weights, radius)
    assert places.shape == (2, 14)
    for ray in range(2):
        for place, value in zip(places[ray].tolist(), found[ray].tolist(), strict=True):
            weight = 0.0
            for i in range(weights.shape[1]):
                start, end = float(s[ray, i]), float(s[ray, i + 1])
                inside = max(0.0, min(end, place + radius) - max(start, place - radius))
                weight += float(weights[ray, i]) * inside / (end - start)
            assert value == pytest.approx(weight / (2 * radius), abs=1e-8)


@FEW
@given(seeds, st.floats(0.01, 0.2))
def test_what_is_missed_is_what_a_fine_sum_finds(seed, radius):
    s, weights = steps(seed, 2)
    proposed_s, proposed = steps(seed + 1, 2, 5)
    found = intervals.missed_when_blurred(s, weights, proposed_s, proposed, radius)
    fine = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000
    for ray in range(2):
        heights = torch.zeros_like(fine)
        for i in range(weights.shape[1]):
            start, end = float(s[ray, i]), float(s[ray, i + 1])
            inside = (fine + radius).clamp_max(end) - (fine - radius).clamp_min(start)
            heights += float(weights[ray, i]) * inside.clamp_min(0) / (end - start) / (2 * radius)
        loss = 0.0
        for i in range(proposed.shape[1]):
            here = (fine >= proposed_s[ray, i]) & (fine < proposed_s[ray, i + 1])
            w = float(heights[here].sum()) / len(fine)
            p = float(proposed[ray, i])
            loss += max(0.0, w - p) ** 2 / (p + intervals.LEAST)
        assert float(found[ray]) == pytest.approx(loss, rel=1e-2, abs=1e-5)


@FEW
@given(seeds)
def test_the_loss_moves_the_proposal_alone(seed):
    s, weights = steps(seed, 2, 5)
    proposed_s, proposed = steps(seed + 1, 2, 4)
    proposed = (0.1 * proposed + 0.01).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: intervals.missed_when_blurred(s, weights, proposed_s, p, 0.05), proposed)
    weights.requires_grad_()
    intervals.missed_when_blurred(s, weights, proposed_s, proposed, 0.05).sum().backward()
    assert weights.grad is None
