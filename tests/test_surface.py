"""Gaussians as pieces of a surface: against finite differences, the reference, and plates that lie on a plane."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import Tensor

import tiny
from raster_cases import NAMES, scene, turned_camera
from recon import budget, config, surface
from recon.batches import Batch
from recon.config import SurfaceConfig, TrainConfig
from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.errors import InputError
from recon.gaussians import Gaussians, logit
from recon.opening import initial_model
from recon.options import Options
from recon.raster import cpu, reference
from recon.train import start, train


def random_parameters(count: int, **how: float) -> dict[str, Tensor]:
    return dict(zip(NAMES, scene(count, seed=2, coefficients=1, **how), strict=True))  # type: ignore[arg-type]


def plates(turn: float) -> Gaussians:
    """Opaque plates on the plane z = 3, each turned out of it, one this way and the next that way."""
    x, y = torch.meshgrid(torch.linspace(-1, 1, 15), torch.linspace(-1, 1, 15), indexing="ij")
    means = torch.stack([x.flatten(), y.flatten(), torch.full((225,), 3.0)], dim=-1)
    signs = 1 - 2 * (torch.arange(225) % 2)
    quats = torch.stack([torch.ones(225), turn * signs, torch.zeros(225), torch.zeros(225)], dim=-1)
    log_scales = torch.tensor([0.1, 0.1, 0.001]).log().expand(225, 3)
    opacities = torch.full((225,), logit(0.95))
    return Gaussians(means, quats, log_scales, opacities, torch.zeros(225, 1, 3), torch.zeros(225, 0, 3))


PLATES = Cameras(torch.eye(4)[None], intrinsics(60.0, 60.0, 16.0, 12.0).float(), 32, 24)


def batch(mask: Tensor | None = None) -> Batch:
    picture = torch.zeros(1, 24, 32, 3)
    return Batch(0, PLATES, picture, mask, torch.zeros(3), transparent=False)


def test_gradients_are_those_of_finite_differences() -> None:
    camera = turned_camera(6, 5, fx=5.0)
    parameters = random_parameters(4, spread=0.3, depths=(2.0, 3.0), log_scale=-0.8, logit=1.0)  # type: ignore[arg-type]
    names = ("means", "quats", "log_scales", "logit_opacities")
    inputs = [parameters[name].requires_grad_() for name in names]

    def value(*tensors: Tensor) -> Tensor:
        changed = parameters | dict(zip(names, tensors, strict=True))
        return surface.disagreement(reference.rasterize, changed, camera)

    assert value(*inputs) > 0.01
    assert torch.autograd.gradcheck(value, inputs, eps=1e-6, atol=1e-7, rtol=1e-3)


def test_the_normals_are_those_of_the_gaussians() -> None:
    model = tiny.gaussians(100)
    mine = surface._thinnest_axes(model.quats, model.log_scales)
    torch.testing.assert_close(mine.detach(), model.normals())


def test_the_kernels_give_what_the_reference_gives() -> None:
    camera = turned_camera(40, 30)
    found = []
    for rasterize, kind in ((reference.rasterize, torch.float64), (cpu.rasterize, torch.float32)):
        given = {k: v.to(kind).requires_grad_() for k, v in random_parameters(80, log_scale=-1.2).items()}
        value = surface.disagreement(rasterize, given, camera.to(dtype=kind))
        value.backward()  # type: ignore[no-untyped-call]
        gradients = [given[name].grad for name in ("means", "quats", "log_scales", "logit_opacities")]
        assert given["sh0"].grad is None
        found.append([value.detach(), *gradients])
    for wanted, got in zip(*found, strict=True):
        assert wanted is not None
        assert got is not None
        assert (got.double() - wanted).norm() <= 2e-3 * wanted.norm()


def test_plates_that_lie_on_a_plane_agree_with_it() -> None:
    flat, turned = (surface.disagreement(cpu.rasterize, plates(turn).parameters(), PLATES) for turn in (0.0, 0.3))
    assert 0 <= flat < 1e-3
    assert turned > 0.05


def test_turned_plates_are_turned_back() -> None:
    model = plates(0.3)
    optimizer = torch.optim.Adam([model.quats], lr=0.02)
    for step in range(0, 160, 4):
        optimizer.zero_grad()
        surface.pull(model, batch(), SurfaceConfig(), step, 1.0)
        optimizer.step()
    assert surface.disagreement(cpu.rasterize, model.parameters(), PLATES) < 0.02


def test_what_a_mask_hides_is_not_compared() -> None:
    """Masked on the left, where plates would be turned, those there are left as they are."""
    model, mask = plates(0.3), torch.ones(1, 24, 32, 1)
    mask[:, :, :16] = 0
    surface.pull(model, batch(mask), SurfaceConfig(), 0, 1.0)
    assert model.quats.grad is not None
    pulled = model.quats.grad.norm(dim=1)
    centres = PLATES.project(model.means.detach())[0][0, :, 0]
    assert (pulled[centres < 8] == 0).all()
    assert (pulled[(centres > 20) & (centres < 30)] > 0).any()


def test_only_steps_that_are_due_compare_normals() -> None:
    model, how = plates(0.3), SurfaceConfig(every=3, begins=0.5)
    for step, progress, due in ((3, 0.5, True), (4, 0.9, False), (6, 0.49, False)):
        model.quats.grad = None
        surface.pull(model, batch(), how, step, progress)
        assert (model.quats.grad is not None) == due


@pytest.mark.parametrize(("progress", "ratio"), [(0.0, 1.0), (0.15, 10**0.5), (0.3, 10.0), (1.0, 10.0)])
def test_the_smallest_scale_is_held_to_a_share_of_the_middle_one(progress: float, ratio: float) -> None:
    model = tiny.gaussians(50)
    before = model.scales.detach().clone()
    surface.flatten(model, SurfaceConfig(flatness=10.0, flat_from=0.3, every=4), 8, progress)
    smallest, middle, _ = before.sort(dim=1).values.unbind(1)
    expected = before.scatter(1, before.argmin(dim=1, keepdim=True), torch.minimum(smallest, middle / ratio)[:, None])
    torch.testing.assert_close(model.scales.detach(), expected)
    surface.flatten(model, SurfaceConfig(flatness=100.0), 9, 1.0)  # not due
    torch.testing.assert_close(model.scales.detach(), expected)


def test_a_training_for_a_mesh_ends_with_flat_gaussians() -> None:
    settings = TrainConfig(steps=120, surface=SurfaceConfig())
    ratios = []
    for wanted in (settings, dataclasses.replace(settings, surface=None)):
        state = start(initial_model(tiny.scene(), wanted, torch.device("cpu")), wanted, tiny.scene())
        train(state, tiny.scene().train_views)
        smallest, middle, _ = state.gaussians.scales.detach().sort(dim=1).values.unbind(1)
        ratios.append(float((smallest / middle).median()))
    assert ratios[0] < 0.12
    assert ratios[1] > 0.2


def test_radiance_fields_have_no_gaussians_to_flatten() -> None:
    with pytest.raises(InputError, match="--for-mesh: is for splats; it cannot be kept with --method plenoxels"):
        Options("capture", method="plenoxels", for_mesh=True).train_config()


def test_the_option_is_kept_with_the_run() -> None:
    assert Options("capture").train_config().surface is None
    asked = Options("capture", for_mesh=True)
    assert asked.changed() == ["--for-mesh"]
    settings = asked.train_config()
    assert settings.surface == SurfaceConfig()
    written = json.loads(json.dumps(config.to_json(settings)))
    assert config.from_json(written, "config.json") == settings
    written["surface"]["every"] = "often"
    with pytest.raises(InputError, match=r"config.json: surface.every cannot be 'often'"):
        config.from_json(written, "config.json")


def test_a_budget_reckons_with_the_steps_that_compare_normals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_step_seconds", lambda settings, *_: 1.0 if settings.surface is None else 3.0)
    model, settings = tiny.gaussians(3), TrainConfig(surface=SurfaceConfig(every=4))
    assert budget._mean_step_seconds(settings, model, tiny.scene()) == 1.5
    assert budget._mean_step_seconds(TrainConfig(), model, tiny.scene()) == 1.0
