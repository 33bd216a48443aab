"""What cones average over, beside points that are drawn from them and slow formulas in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon import cones, volume
from recon.cones import Cones

FEW = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10_000)


def some(seed: int, count: int = 3, frusta: int = 4) -> tuple[Cones, torch.Tensor]:
    """Cones, and distances that cut them into frusta; float64."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    directions = torch.nn.functional.normalize(drawn(count, 3) - 0.5, dim=-1)
    t = 0.05 + (drawn(count, frusta + 1) + 1e-3).cumsum(dim=-1)
    return Cones(2 * drawn(count, 3) - 1, directions, 0.01 + 0.3 * drawn(count)), t


@pytest.mark.parametrize(("seed", "start", "end"), [(0, 0.0, 1.0), (1, 0.5, 0.8), (2, 3.0, 3.1)])
def test_gaussians_have_the_moments_of_points_in_the_frustum(seed, start, end):
    """Against the integrals over the frustum, a disc at each distance, by a fine sum."""
    (origins, directions, radii), _ = some(seed, 1)
    mean, covariance = cones.gaussians(Cones(origins, directions, radii), torch.tensor([[start, end]]).double())
    steps = 20_000
    t = start + (end - start) * (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    share = t.square() / t.square().sum()  # of the volume
    along = float((share * t).sum())
    spread = float((share * (t - along).square()).sum())
    across = float((share * (radii * t).square() / 4).sum())
    d = directions[0]
    expected = spread * torch.outer(d, d) + across * (torch.eye(3, dtype=torch.float64) - torch.outer(d, d))
    assert torch.allclose(mean[0, 0], origins[0] + along * d, atol=1e-7)
    assert torch.allclose(covariance[0, 0], expected, rtol=1e-5, atol=1e-9)


def test_what_is_as_far_as_can_be_has_finite_moments():
    seen = Cones(torch.zeros(1, 3), torch.tensor([[0.6, 0.0, 0.8]]), torch.tensor([0.01]))
    mean, covariance = cones.contract(*cones.gaussians(seen, torch.tensor([[1e3, 1e6]])))
    assert bool(torch.isfinite(covariance).all())
    assert float(mean.norm()) == pytest.approx(2, abs=1e-4)
    points, deviations = cones.contract_balls(*cones.six_balls(seen, torch.tensor([[1e3, 1e6]])))
    assert float(points.norm(dim=-1).max()) <= 2
    assert bool(torch.isfinite(deviations).all())


@FEW
@given(seeds)
def test_contraction_is_linear_around_the_mean(seed):
    generator = torch.Generator().manual_seed(seed)
    means = 3 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    root = torch.randn(4, 3, 3, generator=generator, dtype=torch.float64)
    found_means, found = cones.contract(means, root @ root.mT)
    for mean, matrix, there, covariance in zip(means, root @ root.mT, found_means, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(volume.contract, mean)
        assert torch.allclose(there, volume.contract(mean))
        assert torch.allclose(covariance, jacobian @ matrix @ jacobian.T, atol=1e-10)
        ball = cones.contract_balls(mean, torch.tensor(0.3, dtype=torch.float64))
        assert torch.allclose(ball[0], there)
        assert float(ball[1]) == pytest.approx(0.3 * float(torch.linalg.det(jacobian)) ** (1 / 3))


def test_directions_are_spread_over_half_of_the_sphere():
    """Icosahedra of frequency 2 have 42 corners; neighbours are 31.7 or 36 degrees apart."""
    along = cones.directions_of_icosahedron()
    assert along.shape == (3, 21)
    assert torch.allclose(along.norm(dim=0), torch.ones(21))
    cosines = (along.T @ along).abs().fill_diagonal_(0).amax(dim=0)
    degrees = cosines.acos() * 180 / math.pi
    assert float(degrees.max()) == pytest.approx(31.717, abs=1e-3)
    both = torch.cat([along, -along], dim=1)  # a tight frame: no direction is preferred
    assert torch.allclose(both @ both.T / 42, torch.eye(3) / 3, atol=0.02)


@FEW
@given(seeds)
def test_encodings_are_means_over_the_gaussian(seed):
    """By Gauss-Hermite quadrature along each direction."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(60)
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    root = 0.3 * torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    along = cones.directions_of_icosahedron().double()[:, :5]
    found = cones.encode(means, root @ root.mT, along, 3).reshape(2, 2, 3, 5)
    for point in range(2):
        for k in range(3):
            for d in range(5):
                middle = float(means[point] @ along[:, d])
                deviation = float((root[point].T @ along[:, d]).norm())
                at = 2.0**k * (middle + deviation * nodes)
                for kind, wave in enumerate((np.sin, np.cos)):
                    expected = (shares * wave(at)).sum() / shares.sum()
                    assert float(found[point, kind, k, d]) == pytest.approx(expected, abs=1e-9)


@FEW
@given(seeds, st.booleans())
def test_six_balls_are_spread_as_the_frustum_is(seed, turned):
    seen, t = some(seed)
    means, covariances = cones.gaussians(seen, t)
    points, deviations = cones.six_balls(seen, t, torch.Generator().manual_seed(seed) if turned else None)
    assert points.shape == (3, 4, 6, 3)
    assert torch.allclose(points.mean(dim=2), means)
    apart = points - means[:, :, None]
    along = (apart * seen.directions[:, None, None]).sum(dim=-1)
    expected = torch.einsum("rkij,ri,rj->rk", covariances, seen.directions, seen.directions)
    assert torch.allclose(along.square().mean(dim=-1), expected)
    whole = apart.square().sum(dim=-1).mean(dim=-1)
    assert torch.allclose(whole, torch.einsum("rkii->rk", covariances))
    distances = ((points - seen.origins[:, None, None]) * seen.directions[:, None, None]).sum(dim=-1)
    off = (points - seen.origins[:, None, None]).square().sum(dim=-1) - distances.square()
    assert torch.allclose(deviations, cones.NARROW * off.sqrt())
    one, size = cones.one_ball(seen, t)
    assert torch.allclose(one[:, :, 0], means)
    assert bool((size[..., 0] < deviations.amax(dim=-1)).all())


def test_neighbouring_frusta_are_turned_against_each_other_and_at_random_in_training():
    seen, t = some(5, 1, 2)
    at_rest = cones.six_balls(seen, t)[0]
    assert torch.equal(at_rest, cones.six_balls(seen, t)[0])
    draws = [cones.six_balls(seen, t, torch.Generator().manual_seed(n))[0] for n in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.allclose(draws[0], draws[2])


@FEW
@given(seeds)
def test_gradients_go_through_gaussians_and_encodings(seed):
    seen, t = some(seed, 2, 2)
    along = cones.directions_of_icosahedron().double()[:, :3]

    def encoded(t):
        return cones.encode(*cones.contract(*cones.gaussians(seen, t)), along, 2)

    assert torch.autograd.gradcheck(encoded, t.requires_grad_())
