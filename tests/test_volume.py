"""Each function beside a slow one in float64 that is written as its paper has it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon import volume

FEW = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 10_000)


def rays(seed: int, count: int = 3, intervals: int = 7):
    """Edges [count,intervals+1] and weights [count,intervals], some of them 0; float64."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.rand(count, intervals, generator=generator, dtype=torch.float64) + 1e-3
    s = torch.cat([torch.rand(count, 1, generator=generator, dtype=torch.float64), lengths], dim=-1).cumsum(dim=-1)
    weights = torch.rand(count, intervals, generator=generator, dtype=torch.float64)
    weights = weights * (torch.rand(count, intervals, generator=generator) > 0.2)
    return s, weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-9)


def test_stratified_samples_are_one_in_each_bin():
    samples = volume.stratified((50,), 8, torch.Generator().manual_seed(0))
    assert torch.equal((samples * 8).floor(), torch.arange(8.0).expand(50, 8))
    assert torch.allclose(volume.stratified((2,), 4), torch.tensor([0.125, 0.375, 0.625, 0.875]).expand(2, 4))


@FEW
@given(seeds)
def test_importance_is_the_inverse_of_the_summed_weights(seed):
    s, weights = rays(seed)
    at = torch.rand(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).sort(dim=-1).values
    found = volume.importance(s, weights, at)
    density = weights + volume.LEAST_WEIGHT
    for ray in range(3):
        shares = density[ray] / density[ray].sum()
        for sample, share in zip(found[ray].tolist(), at[ray].tolist(), strict=True):
            below = 0.0  # the weight before the sample
            for i in range(len(shares)):
                start, end = float(s[ray, i]), float(s[ray, i + 1])
                below += float(shares[i]) * min(max((sample - start) / (end - start), 0.0), 1.0)
            assert below == pytest.approx(share, abs=1e-6)


def test_importance_goes_where_the_weight_is():
    s = torch.linspace(0, 1, 11)
    weights = torch.zeros(10)
    weights[3] = 1
    samples = volume.importance(s[None], weights[None], volume.stratified((1,), 100))
    assert ((samples > 0.3) & (samples < 0.4)).float().mean() > 0.97
    nothing = volume.importance(s[None], torch.zeros(1, 10), volume.stratified((1,), 100))
    assert torch.allclose(nothing, volume.stratified((1,), 100), atol=1e-5)


@FEW
@given(seeds)
def test_weights_are_those_of_the_paper(seed):
    s, densities = rays(seed)
    densities, lengths = 5 * densities, s.diff(dim=-1)
    weights, through = volume.weights_of(densities, lengths)
    for ray in range(3):
        light = 1.0
        for i in range(7):
            alpha = 1 - math.exp(-float(densities[ray, i] * lengths[ray, i]))
            assert float(weights[ray, i]) == pytest.approx(light * alpha, abs=1e-12)
            light *= 1 - alpha
        assert float(through[ray]) == pytest.approx(light, abs=1e-12)
    assert torch.allclose(weights.sum(dim=-1) + through, torch.ones(3, dtype=torch.float64))


def test_thin_air_behind_a_wall_keeps_its_weight():
    """In float32, where 1 - exp(-x) of a small x would be 0."""
    weights, _ = volume.weights_of(torch.tensor([[1e-9, 3.0]]), torch.ones(1, 2))
    assert float(weights[0, 0]) == pytest.approx(1e-9, rel=1e-5)


@FEW
@given(seeds)
def test_gradients_of_weights_sums_and_losses(seed):
    s, weights = rays(seed, intervals=5)
    densities = (3 * weights + 0.1).requires_grad_()
    values = torch.rand(3, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: volume.weights_of(d, s.diff(dim=-1)), densities)
    assert torch.autograd.gradcheck(volume.composite, (densities, values))
    assert torch.autograd.gradcheck(lambda w: volume.distortion(s, w), densities)
    assert torch.autograd.gradcheck(lambda e: volume.distortion(e, weights), s.clone().requires_grad_())
    proposed_s, _ = rays(seed + 1, intervals=4)
    proposed = (0.1 * torch.ones(3, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: volume.interlevel(s, weights, proposed_s, p), proposed)


@FEW
@given(seeds)
def test_distortion_is_the_double_sum(seed):
    s, weights = rays(seed)
    found = volume.distortion(s, weights)
    for ray in range(3):
        expected = 0.0
        for i in range(7):
            for j in range(7):
                gap = float(s[ray, i] + s[ray, i + 1] - s[ray, j] - s[ray, j + 1]) / 2
                expected += float(weights[ray, i] * weights[ray, j]) * abs(gap)
            expected += float(weights[ray, i] ** 2 * (s[ray, i + 1] - s[ray, i])) / 3
        assert float(found[ray]) == pytest.approx(expected, abs=1e-12)


@FEW
@given(seeds)
def test_the_bound_is_all_that_overlaps(seed):
    s, weights = rays(seed)
    proposed_s, proposed = rays(seed + 1, intervals=5)
    found, missed = volume.bound(s, proposed_s, proposed), volume.interlevel(s, weights, proposed_s, proposed)
    for ray in range(3):
        loss = 0.0
        for i in range(7):
            start, end, most = float(s[ray, i]), float(s[ray, i + 1]), 0.0
            for j in range(5):
                if proposed_s[ray, j] < end and proposed_s[ray, j + 1] > start:
                    most += float(proposed[ray, j])
            assert float(found[ray, i]) == pytest.approx(most, abs=1e-12)
            w = float(weights[ray, i])
            loss += max(0.0, w - most) ** 2 / (w + volume.TINY)
        assert float(missed[ray]) == pytest.approx(loss, abs=1e-9)


def test_a_proposal_that_is_right_has_missed_nothing():
    s, weights = rays(3)
    assert float(volume.interlevel(s, weights, s, weights).max()) < 1e-20
    assert torch.allclose(volume.bound(s, s, weights), weights)


@FEW
@given(seeds)
def test_contraction_brings_all_space_into_a_ball_and_back(seed):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(40, 3, generator=generator, dtype=torch.float64), dim=-1)
    lengths = 10 ** (8 * torch.rand(40, 1, generator=generator, dtype=torch.float64) - 3)
    points = directions * lengths
    found = volume.contract(points)
    for point, length, image in zip(points, lengths, found, strict=True):
        expected = point if length <= 1 else (2 - 1 / length) * point / length
        assert torch.allclose(image, expected, rtol=1e-12, atol=0)
    assert float(found.norm(dim=-1).max()) <= 2
    near = lengths[:, 0] < 1e4  # beyond, what is left of 2 - |x| has too few digits
    assert torch.allclose(volume.uncontract(found)[near], points[near], rtol=1e-7)


@FEW
@given(seeds)
def test_a_ray_is_as_straight_in_ndc_and_goes_from_the_near_plane_to_infinity(seed):
    """The projection of appendix C, eq. 19, of points along a ray; and where along the ray each is, eq. 24."""
    generator = torch.Generator().manual_seed(seed)
    origins = 0.3 * torch.randn(10, 3, generator=generator, dtype=torch.float64)
    directions = torch.randn(10, 3, generator=generator, dtype=torch.float64)
    directions[:, 2] = -0.3 - directions[:, 2].abs()
    fx, fy, near = 1.3, 1.7, 0.9
    moved, along = volume.ndc(origins, directions, (fx, fy), near)
    begin = origins + ((-near - origins[:, 2]) / directions[:, 2])[:, None] * directions
    for t in (0.0, 0.4, 5.0, 300.0):
        x, y, z = (begin + t * directions).unbind(-1)
        expected = torch.stack([-fx * x / z, -fy * y / z, 1 + 2 * near / z], dim=-1)
        share = 1 - begin[:, 2] / (begin[:, 2] + t * directions[:, 2])
        assert torch.allclose(moved + share[:, None] * along, expected, atol=1e-10)
    assert torch.allclose(moved[:, 2], torch.full((10,), -1.0, dtype=torch.float64))
    assert torch.allclose((moved + along)[:, 2], torch.ones(10, dtype=torch.float64))
