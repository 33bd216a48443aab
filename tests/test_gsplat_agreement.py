"""Our definitions beside gsplat's own PyTorch reference, which needs no GPU (its file writer: see test_ply)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recon import sh
from recon.datasets.cameras import Cameras, intrinsics
from recon.raster import EPS2D, reference

pytest.importorskip("gsplat", reason="gsplat is not installed")
theirs: Any = pytest.importorskip("gsplat.cuda._torch_impl", reason="this gsplat has no PyTorch reference")


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_the_same_colours(degree: int) -> None:
    directions = torch.nn.functional.normalize(normal(200, 3, seed=1), dim=-1)
    coefficients = normal(200, 16, 3, seed=2)
    expected = (theirs._spherical_harmonics(degree, directions, coefficients) + 0.5).clamp_min(0.0)
    torch.testing.assert_close(sh.evaluate(coefficients, directions, degree), expected, rtol=0, atol=1e-12)


def test_the_same_projection_and_gradients() -> None:
    """In view, far beside it (where the Jacobian is clamped), tiny, huge and needle-like; camera turned, off centre."""
    count = 300
    means = (normal(count, 3, seed=3) * torch.tensor([6.0, 6.0, 2.0])).requires_grad_()
    quats = normal(count, 4, seed=4).requires_grad_()
    log_scales = (1.5 * normal(count, 3, seed=5) - 2).requires_grad_()
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = reference.rotations_from_quats(torch.tensor([[1.0, 0.1, -0.2, 0.3]], dtype=torch.float64))[0]
    viewmat[:3, 3] = torch.tensor([0.3, -0.2, 5.0])
    camera = Cameras(viewmat[None], intrinsics(300.0, 280.0, 150.0, 60.0), 320, 200)

    means2d, covariances2d, depths = reference.project(means, quats, log_scales, camera)
    conics = torch.linalg.inv(covariances2d).reshape(-1, 4)[:, [0, 1, 3]]
    covars, _ = theirs._quat_scale_to_covar_preci(quats, log_scales.exp(), True, False)
    _, their_means2d, their_depths, their_conics, _ = theirs._fully_fused_projection(
        means, covars, camera.viewmats, camera.Ks, camera.width, camera.height, eps2d=EPS2D
    )
    front = depths > 0.1
    outside = (means2d[:, 0] < -200) | (means2d[:, 0] > 520)
    assert (front & outside).sum() > 20
    ours, expected = [], []
    for mine, other in ((means2d, their_means2d), (depths, their_depths), (conics, their_conics)):
        ours.append(mine[front])
        expected.append(other[0][front])
        torch.testing.assert_close(ours[-1], expected[-1], rtol=1e-8, atol=1e-8)

    inputs = (means, quats, log_scales)
    weights = [normal(*value.shape, seed=6) for value in ours]
    got = torch.autograd.grad(ours, inputs, weights)
    wanted = torch.autograd.grad(expected, inputs, weights)
    for mine, other in zip(got, wanted, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-8)
