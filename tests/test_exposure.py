"""How photos were exposed: the kernel against PyTorch, and both against exposures that are known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from recon import checkpoint
from recon.config import AdaptiveConfig, TrainConfig
from recon.datasets.cameras import Cameras
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage
from recon.datasets.scene import Scene, View
from recon.evaluate import evaluate
from recon.exposure import Exposure, Shot
from recon.kernels.expose import SATURATED, expose
from recon.kernels.ssim import photometric_value_and_gradient
from recon.opening import initial_model
from recon.train import TrainState, start, train

COEFFICIENTS = torch.tensor([[0.1, -0.2, 0.3, -0.1], [0.0, 0.2, -0.1, 0.05], [-0.2, 0.1, 0.1, 0.1]])


def pictures(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    picture = torch.rand(1, height, width, 3, generator=generator)
    return picture, (1.1 * picture + 0.05 * torch.randn(picture.shape, generator=generator)).clamp(0, 1)


def planes(picture: Tensor) -> np.ndarray:
    return picture[0].permute(2, 0, 1).contiguous().numpy()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 16), (37, 53), (64, 48), (23, 131), (9, 700)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_kernel_is_what_pytorch_says(height: int, width: int, masked: bool) -> None:
    picture, photo = pictures(height, width)
    mask = torch.rand(1, height, width, 1, generator=torch.Generator().manual_seed(1)) > 0.4 if masked else None
    shot = Shot(COEFFICIENTS, (0.4 * width, 0.55 * height, 0.5 * math.hypot(width, height)))
    kept = None if mask is None else mask[0, ..., 0].float().numpy()
    exposed, sums = expose(planes(picture), planes(photo), kept, shot.lens, shot.coefficients.numpy())
    double = Shot(COEFFICIENTS.double(), shot.lens)
    wanted = double.exposed(picture.double())
    np.testing.assert_allclose(exposed, planes(wanted), rtol=2e-6)
    told = double.sums(wanted, photo.double(), mask).numpy()
    np.testing.assert_allclose(sums, told, rtol=1e-4, atol=1e-5 * np.abs(told).max())

    both, weights = (exposed[None], planes(photo)[None]), (0.2, None if kept is None else kept[None])
    value, gradient = photometric_value_and_gradient(*both, *weights)
    same, by_picture = photometric_value_and_gradient(*both, *weights, (shot.lens, shot.coefficients.numpy()))
    assert same == value
    np.testing.assert_allclose(by_picture, gradient * planes(double.factor(height, width)[None])[None], rtol=2e-6)


@pytest.mark.gpu
def test_a_gpu_exposes_as_pytorch_says() -> None:
    picture, photo = pictures(270, 480)
    shot = Shot(COEFFICIENTS, (192.0, 148.5, 275.0))
    exposed, sums = (value.cpu().double() for value in shot.exposed_and_sums(picture.cuda(), photo.cuda()))
    wanted, told = Shot(COEFFICIENTS.double(), shot.lens).exposed_and_sums(picture.double(), photo.double())
    torch.testing.assert_close(exposed, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sums, told, rtol=1e-4, atol=1e-5 * float(told.abs().max()))


def a_capture(count: int, sizes: tuple[tuple[int, int], ...] = ((60, 45),)) -> Scene:
    cameras = [tiny.ring(count, *sizes[i % len(sizes)])[i] for i in range(count)]
    views = tuple(View(f"{i:03d}", camera, ArrayImage(torch.zeros(1, 1, 3))) for i, camera in enumerate(cameras))
    test = tuple(range(0, count, 4))
    return Scene("capture", views, tuple(i for i in range(count) if i not in test), test)


def learned(scene: Scene, truth: Exposure, epochs: int = 60, hide: float = 0.0) -> Exposure:
    """What is found out from pictures of noise, exposed as `truth` has it."""
    exposure = Exposure.of(scene)
    for epoch in range(epochs):
        for photo, view in enumerate(scene.train_views):
            picture, _ = pictures(view.camera.height, view.camera.width, 100 * epoch + photo)
            picture = 0.6 * picture
            target = truth.shot(photo, view.camera).exposed(picture)
            mask = None
            if hide > 0:
                mask = torch.ones(1, *picture.shape[1:3], 1)
                mask[:, :, : round(hide * picture.shape[2])] = 0
                target = torch.where(mask == 0, 0.1, target)
            exposed = exposure.shot(photo, view.camera).exposed(picture)
            exposure.learn(photo, exposure.shot(photo, view.camera).sums(exposed, target, mask), epoch / epochs)
    return exposure


def known(scene: Scene, gain: float = 0.1, falloff: float = 0.2) -> Exposure:
    truth = Exposure.of(scene)
    generator = torch.Generator().manual_seed(3)
    truth.gains.copy_(gain * torch.randn(truth.gains.shape, generator=generator))
    truth.gains.sub_(truth.gains.mean(dim=0))
    truth.falloff.copy_(-falloff * torch.rand(truth.falloff.shape, generator=generator))
    return truth


@pytest.mark.parametrize("hide", [0.0, 0.4])
def test_exposures_are_found(hide: float) -> None:
    scene = a_capture(8, ((60, 45), (45, 60)))
    truth = known(scene)
    found = learned(scene, truth, hide=hide)
    assert len(found.means) == 2
    torch.testing.assert_close(found.gains, truth.gains, rtol=0, atol=0.003)
    for photo, view in enumerate(scene.train_views):
        size = view.camera.height, view.camera.width
        factors = [exposure.shot(photo, view.camera).factor(*size) for exposure in (found, truth)]
        error = (factors[0] / factors[1]).log().abs()
        assert error.mean() < 0.005
        assert error.max() < 0.05  # in the corners, where there are few pixels


def test_what_is_cut_off_does_not_count() -> None:
    """Half of the photo is white where the sensor could not say how bright it is."""
    picture, _ = pictures(40, 60)
    target = (1.2 * 0.5 * picture).clamp(max=1)
    target[:, :, :30] = 1
    exposed = 0.5 * picture
    shot = Shot(torch.zeros(3, 4), (30.0, 20.0, 36.0))
    sums = shot.sums(exposed, target)
    assert torch.equal(sums, shot.sums(exposed, torch.where(target < SATURATED, target, 5.0)))
    nothing = shot.sums(exposed, torch.ones_like(target))
    assert not nothing.any()
    exposure = Exposure.of(a_capture(4))
    exposure.learn(0, nothing, 0.0)
    assert not exposure.gains.any()
    assert not exposure.falloff.any()


def test_a_resized_picture_is_exposed_alike() -> None:
    scene = a_capture(4, ((80, 60),))
    shot = known(scene).shot(1, scene.train_views[1].camera)
    small = known(scene).shot(1, scene.train_views[1].camera.resized(20, 15))
    reduced = torch.nn.functional.avg_pool2d(shot.factor(60, 80).permute(2, 0, 1)[None], 4)[0].permute(1, 2, 0)
    torch.testing.assert_close(small.factor(15, 20), reduced, rtol=2e-3, atol=0)


# Photos that were not trained on


def gains_along(scene: Scene, gains: Tensor) -> Exposure:
    exposure = Exposure.of(scene)
    exposure.gains.copy_(gains[list(scene.train)] - gains[list(scene.train)].mean(dim=0))
    return exposure


def predicted_gains(scene: Scene, exposure: Exposure) -> Tensor:
    shots = exposure.predicted(scene.views, scene.test)
    return torch.stack([shot.coefficients[:, 0] for shot in shots])


def test_gains_that_change_slowly_are_predicted() -> None:
    scene = a_capture(41)
    gains = torch.linspace(-0.2, 0.2, 41)[:, None] * torch.tensor([1.0, 0.5, -0.3])
    exposure = gains_along(scene, gains)
    wanted = gains[list(scene.test)] - gains[list(scene.train)].mean(dim=0)
    found = predicted_gains(scene, exposure)
    torch.testing.assert_close(found[1:-1], wanted[1:-1], rtol=0, atol=2e-3)
    torch.testing.assert_close(found[[0, -1]], exposure.gains[[0, -1]], rtol=0.02, atol=0)  # only one neighbour


def test_gains_without_order_are_not_believed() -> None:
    scene = a_capture(81)
    gains = 0.1 * torch.randn(81, 3, generator=torch.Generator().manual_seed(5))
    found = predicted_gains(scene, gains_along(scene, gains))
    assert found.square().mean().sqrt() < 0.02


@pytest.mark.parametrize("count", [1, 2])
def test_captures_of_hardly_any_photo(count: int) -> None:
    scene = dataclasses.replace(a_capture(4), train=tuple(range(count)), test=(2, 3))
    exposure = Exposure.of(scene)
    exposure.learn(0, torch.rand(3, 11), 0.5)
    assert torch.isfinite(predicted_gains(scene, exposure)).all()


# In a training

CONFIG = TrainConfig(steps=400, strategy=AdaptiveConfig(max_gaussians=300))


def two_rounds() -> Scene:
    """The tiny scene walked round twice, in other light the second time; photos of a colour and a vignette each."""
    scene = tiny.scene(24)
    views = []
    for number, place in enumerate([*range(0, 24, 2), *range(1, 24, 2)]):
        gain = 0.2 if number < 12 else -0.2
        shot = Shot(torch.tensor([[gain, -0.2, 0, 0], [0.5 * gain, -0.2, 0, 0], [0, -0.2, 0, 0]]), (20.0, 16.0, 25.6))
        photo = shot.exposed(0.7 * scene.views[place].load())
        views.append(dataclasses.replace(scene.views[place], name=f"{number:03d}", image=ArrayImage(photo)))
    test = (5, 17)
    return dataclasses.replace(scene, views=tuple(views), train=tuple(i for i in range(24) if i not in test), test=test)


def trained(scene: Scene, config: TrainConfig) -> TrainState:
    state = start(initial_model(scene, config, torch.device("cpu")), config, scene)
    train(state, scene.train_views)
    return state


def test_a_scene_is_learned_better_with_the_exposures_of_its_photos() -> None:
    scene = two_rounds()
    with_exposure, without = trained(scene, CONFIG), trained(scene, dataclasses.replace(CONFIG, exposure=False))
    assert with_exposure.exposure is not None
    assert without.exposure is None
    shots = with_exposure.exposure.predicted(scene.views, scene.test)
    better = evaluate(with_exposure.model, scene.test_views, lpips=False, shots=shots).psnr
    worse = evaluate(without.model, scene.test_views, lpips=False).psnr
    assert better is not None
    assert worse is not None
    assert better > worse + 1  # dB; about 2
    red, green, blue = with_exposure.exposure.gains.T
    assert float((red[:11] - red[11:]).mean()) == pytest.approx(0.4, abs=0.08)
    assert float((green[:11] - green[11:]).mean()) == pytest.approx(0.2, abs=0.08)
    assert float((blue[:11] - blue[11:]).mean()) == pytest.approx(0.0, abs=0.08)


def test_cut_out_photos_have_no_exposure() -> None:
    scene = tiny.scene(8)
    views = []
    for view in scene.views:
        photo = view.load()
        views.append(dataclasses.replace(view, image=ArrayImage(torch.cat([photo, torch.ones(32, 40, 1)], dim=-1))))
    state = trained(dataclasses.replace(scene, views=tuple(views)), dataclasses.replace(CONFIG, steps=10))
    assert state.exposure is not None
    assert not state.exposure.gains.any()
    assert not state.exposure.falloff.any()


def test_a_damaged_exposure_is_refused(tmp_path) -> None:
    state = trained(tiny.scene(8), dataclasses.replace(CONFIG, steps=2))
    assert state.exposure is not None
    state.exposure.lenses = state.exposure.lenses + 1
    checkpoint.save(state, tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match=r"odd\.safetensors: not a usable checkpoint \(lenses of the exposure"):
        checkpoint.load(tmp_path / "odd.safetensors")


def test_cameras_of_all_sizes_have_a_way() -> None:
    scene = a_capture(9, ((60, 45), (30, 20)))
    assert {(view.camera.width, view.camera.height) for view in scene.views} == {(60, 45), (30, 20)}
    shots = Exposure.of(scene).predicted(scene.views, scene.test)
    assert all(isinstance(view.camera, Cameras) for view in scene.views)
    assert [shot.coefficients.abs().max() for shot in shots] == [0.0] * len(scene.test)
