"""The gradient of a view, with autograd and without: the same bits."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import tiny
from recon import gradients, losses
from recon.batches import Batch
from recon.exposure import Shot
from recon.gaussians import Gaussians
from recon.optim import SelectiveAdam, make_optimizer
from recon.raster import cpu, straight

ROWS = 203


def batch(number: int, *, masked: bool) -> Batch:
    camera = tiny.ring(6, 56, 40)[number : number + 1].to(dtype=torch.float32)  # as those of `Batches` are
    generator = torch.Generator().manual_seed(number)
    photo = torch.rand(1, 3, 40, 56, generator=generator).permute(0, 2, 3, 1)
    mask = torch.rand(1, 40, 56, 1, generator=generator) > 0.3 if masked else None
    return Batch(number, camera, photo, mask, torch.rand(3, generator=generator), transparent=False)


def steps(
    model: Gaussians,
    *,
    progress: float = 1.0,
    masked: bool = False,
    absgrad: bool = True,
    ssim_weight: float = 0.2,
    antialiased: bool = False,
) -> list[Tensor]:
    """What three steps tell and leave behind."""
    model.antialiased = antialiased
    model.means.data[::5] *= 20  # behind every camera
    optimizer = make_optimizer(model.param_groups(1.0), "cpu")
    told: list[Tensor | None] = []
    for number in range(3):
        loss, out, visible, _, _ = gradients.of_view(
            model,
            optimizer,
            batch(number, masked=masked),
            progress=progress,
            ssim_weight=ssim_weight,
            absgrad=absgrad,
        )
        optimizer.step(visible=visible)
        optimizer.zero_grad()
        assert out.means2d is not None
        told += [loss, *(getattr(out, field.name) for field in dataclasses.fields(out)), out.means2d.grad, visible]
    told += model.state_dict().values()
    for parameter in model.parameters().values():
        told += [optimizer.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg_sq"]]
    return [tensor.detach().clone() for tensor in told if tensor is not None]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"progress": 0.2},
        {"progress": 0.0},
        {"masked": True},
        {"absgrad": False},
        {"ssim_weight": 0.0},
        {"antialiased": True},
    ],
    ids=str,
)
def test_straight_through_the_kernels_is_what_autograd_does(how: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    by_autograd = steps(tiny.gaussians(ROWS, rasterizer=cpu.rasterize), **how)
    monkeypatch.delattr(losses, "photometric")  # what the other way needs
    without = steps(tiny.gaussians(ROWS), **how)
    assert len(without) == len(by_autograd)
    for mine, wanted in zip(without, by_autograd, strict=True):
        assert mine.dtype == wanted.dtype
        assert torch.equal(mine, wanted)


@pytest.mark.parametrize("masked", [False, True])
def test_a_shot_is_the_same_straight_and_by_autograd(masked: bool) -> None:
    """But for rounding: the one calls a kernel, the other PyTorch."""
    shot = Shot(torch.tensor([[0.1, -0.2, 0.1, 0.0], [0.0, 0.1, -0.3, 0.2], [-0.1, 0.0, 0.0, 0.1]]), (25.0, 21.0, 34.0))
    found = []
    for rasterizer in (None, cpu.rasterize):
        model = tiny.gaussians(ROWS, rasterizer=rasterizer)
        optimizer = make_optimizer(model.param_groups(1.0), "cpu")
        loss, out, visible, exposure, _ = gradients.of_view(
            model, optimizer, batch(1, masked=masked), progress=1.0, ssim_weight=0.2, absgrad=True, shot=shot
        )
        assert out.means2d is not None
        assert exposure is not None
        optimizer.step(visible=visible)
        moments = [optimizer.state[value]["exp_avg"] for value in model.parameters().values()]
        found.append([loss, out.rgb.detach(), out.means2d.grad, torch.as_tensor(exposure), *moments])
    for mine, wanted in zip(*found, strict=True):
        assert mine is not None
        assert wanted is not None
        assert torch.allclose(mine.double(), wanted.double(), rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("masked", [False, True])
def test_depths_and_the_motion_of_the_camera_are_the_same_straight_and_by_autograd(masked: bool) -> None:
    found = []
    for rasterizer in (None, cpu.rasterize):
        model = tiny.gaussians(ROWS, rasterizer=rasterizer)
        optimizer = make_optimizer(model.param_groups(1.0), "cpu")
        view = batch(1, masked=masked)
        view = dataclasses.replace(view, depth=2 + view.image[..., :1] * (view.image[..., 1:2] > 0.2))
        loss, out, visible, _, motion = gradients.of_view(
            model,
            optimizer,
            view,
            progress=1.0,
            ssim_weight=0.2,
            absgrad=True,
            depth_weight=0.5,
            of_camera=True,
        )
        optimizer.step(visible=visible)
        assert out.depth is not None
        assert motion is not None
        moments = [optimizer.state[value]["exp_avg"] for value in model.parameters().values()]
        found.append([loss, out.depth.detach(), torch.as_tensor(motion()), *moments])
    for mine, wanted in zip(*found, strict=True):
        assert torch.allclose(mine.double(), wanted.double(), rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("which", ["regularised", "rasterizer"])
def test_what_needs_autograd_gets_it(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(straight, "photometric")
    steps(tiny.gaussians(ROWS, **({"opacity_reg": 0.1} if which == "regularised" else {"rasterizer": cpu.rasterize})))


def test_parameters_that_are_not_finite_are_named() -> None:
    model = tiny.gaussians(ROWS)
    model.quats.data[7, 1] = torch.nan
    with pytest.raises(ValueError, match="quats contains NaN or infinity, first in row 7"):
        steps(model)


def test_a_gradient_that_is_not_finite_is_named() -> None:
    model = tiny.gaussians(ROWS)
    optimizer = make_optimizer(model.param_groups(1.0), "cpu")
    assert isinstance(optimizer, SelectiveAdam)
    given = batch(0, masked=False)
    given.image[0, 20, 28] = torch.nan
    visible = gradients.of_view(model, optimizer, given, progress=1.0, ssim_weight=0.2, absgrad=False).visible
    with pytest.raises(FloatingPointError, match=r"the gradient of means, .* is not finite"):
        optimizer.step(visible=visible)
