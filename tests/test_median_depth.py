"""Where half of the light is stopped, against what geometry says."""

# The six parameters are passed as a list, whose length mypy cannot see.
# mypy: disable-error-code="call-arg, arg-type, union-attr, index, misc"
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raster_cases import Case, cases
from recon.datasets.cameras import Cameras, intrinsics
from recon.gaussians import logit
from recon.kernels import splat
from recon.model import RenderOutput
from recon.raster import HALF, cpu

CAMERA = Cameras(torch.eye(4)[None], intrinsics(200.0, 200.0, 32.0, 24.0).float(), 64, 48)


def facing(depths: list[float], alphas: list[float], size: float = 3.0) -> list[Tensor]:
    """Wide Gaussians before the camera, one behind the other."""
    count = len(depths)
    means = torch.tensor([[0.0, 0.0, z] for z in depths])
    quats = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(count, 4)
    log_scales = torch.tensor([size, size, 1e-3]).log().expand(count, 3)
    logits = torch.tensor([logit(alpha) for alpha in alphas])
    return [means, quats, log_scales, logits, torch.zeros(count, 1, 3), torch.zeros(count, 0, 3)]


def rendered(parameters: list[Tensor], **options: bool) -> RenderOutput:
    return cpu.rasterize(*parameters, CAMERA, sh_degree=0, median_depth=True, **options)


@pytest.mark.parametrize(
    ("alphas", "depth"),
    [([0.4, 0.4, 0.4], 3.0), ([0.6, 0.4, 0.4], 2.0), ([0.2, 0.2, 0.9], 4.0), ([0.1, 0.1, 0.1], 0.0)],
)
def test_it_is_that_of_the_layer_at_which_half_of_the_light_is_stopped(alphas: list[float], depth: float) -> None:
    out = rendered(facing([2.0, 3.0, 4.0], alphas, size=30.0))
    torch.testing.assert_close(out.median_depth, torch.full((1, 48, 64, 1), depth), rtol=1e-4, atol=0)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(tilt=st.floats(-60, 60), turn=st.floats(-180, 180), x=st.floats(-0.3, 0.3), y=st.floats(-0.2, 0.2))
def test_a_flat_gaussian_is_met_where_its_plane_is(tilt: float, turn: float, x: float, y: float) -> None:
    """As far as a plane of the world is one of the picture: within a tenth of the depths that it spans."""
    half, spin = math.radians(tilt) / 2, math.radians(turn) / 2
    parameters = facing([3.0], [0.95], size=0.1)
    parameters[0] = torch.tensor([[x, y, 3.0]])
    # About an axis in the picture's plane
    axis = (math.cos(2 * spin), math.sin(2 * spin))
    parameters[1] = torch.tensor([[math.cos(half), math.sin(half) * axis[0], math.sin(half) * axis[1], 0.0]])
    out = rendered(parameters)
    normal = torch.tensor([math.sin(2 * half) * axis[1], -math.sin(2 * half) * axis[0], math.cos(2 * half)])
    rays = directions()
    plane = (parameters[0][0] @ normal) / (rays @ normal)
    met = out.median_depth[0, ..., 0] > 0
    assert met.sum() > 20
    spread = max(0.1 * abs(math.tan(2 * half)), 0.1)
    assert ((out.median_depth[0, ..., 0] - plane)[met].abs() < 0.1 * spread).all()


def directions() -> Tensor:
    """[H,W,3] through the pixels, one unit deep."""
    y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    return pixels @ torch.linalg.inv(CAMERA.Ks[0]).T


def test_what_was_not_asked_for_costs_nothing_and_changes_nothing() -> None:
    parameters, cameras, options = cases()["several cameras"].arguments(torch.float32, "cpu")
    found = {}
    for median in (False, True):
        for depth in (False, True):
            for grad in (False, True):
                with torch.set_grad_enabled(grad):
                    out = cpu.rasterize(*parameters, cameras, **options, depth=depth, median_depth=median)
                assert (out.median_depth is not None) == median
                assert (out.depth is not None) == depth
                found[median, depth, grad] = out
    for (median, depth, _), out in found.items():
        assert torch.equal(out.rgb, found[False, False, False].rgb)
        assert torch.equal(out.alpha, found[False, False, False].alpha)
        if depth:
            assert torch.equal(out.depth, found[False, True, False].depth)
        if median:
            assert not out.median_depth.requires_grad
            assert torch.equal(out.median_depth, found[True, True, False].median_depth)


def test_gradients_of_the_other_pictures_are_the_same_beside_it() -> None:
    case: Case = cases()["one Gaussian"]
    gradients = []
    for median in (False, True):
        parameters, cameras, options = case.arguments(torch.float32, "cpu")
        out = cpu.rasterize(*parameters, cameras, **options, median_depth=median)
        (out.rgb.square().sum() + out.depth.sum()).backward()
        gradients.append([tensor.grad for tensor in parameters])
    for mine, wanted in zip(*gradients, strict=True):
        assert torch.equal(mine, wanted)


def test_the_kernels_take_the_same_half() -> None:
    assert splat.HALF == HALF
