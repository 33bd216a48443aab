import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recon import losses
from recon.kernels import runtime, ssim

SIZES = [(1, 1), (1, 23), (19, 1), (5, 7), (16, 16), (33, 47), (12, 700), (270, 480)]


def pictures(count: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float32 pairs with flat parts, edges and equal pixels, a little outside 0..1 as renders are."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(count, height, width, 3, generator=generator)
    target[:, : height // 2] = target[:, :1, :1].clone()
    rgb = target + 0.1 * torch.randn(target.shape, generator=generator)
    rgb[:, :, : width // 3] = target[:, :, : width // 3]
    return rgb, target


def reference(rgb: Tensor, target: Tensor, weight: float, mask: Tensor | None = None) -> tuple[float, Tensor]:
    """Value and gradient in float64, by the definition."""
    leaf = rgb.double().requires_grad_()
    value = losses.photometric_reference(leaf, target.double(), ssim_weight=weight, mask=mask)
    value.backward()
    assert leaf.grad is not None
    return value.item(), leaf.grad


def fused(rgb: Tensor, target: Tensor, weight: float, mask: Tensor | None = None) -> tuple[float, Tensor]:
    leaf = rgb.detach().requires_grad_()
    value = losses.photometric(leaf, target, ssim_weight=weight, mask=mask)
    value.backward()
    assert leaf.grad is not None
    return value.item(), leaf.grad


def assert_agrees(rgb: Tensor, target: Tensor, weight: float, mask: Tensor | None = None) -> None:
    assert_close(*fused(rgb, target, weight, mask), *reference(rgb, target, weight, mask))


def assert_close(value: float, gradient: Tensor, wanted_value: float, wanted_gradient: Tensor) -> None:
    assert value == pytest.approx(wanted_value, rel=1e-5, abs=4e-6)  # 1 - SSIM has the digits of SSIM
    # Where the variance is tiny, float32 loses digits of it: E[x^2] - E[x]^2.
    error = (gradient.double() - wanted_gradient).norm() / wanted_gradient.norm().clamp_min(1e-12)
    assert error < 1e-4
    assert (gradient.double() - wanted_gradient).abs().max() <= 1e-3 * wanted_gradient.abs().max() + 1e-12


def slow_ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM of planes [H,W] by the formula of the paper, one pixel at a time, black beyond the borders."""
    height, width = x.shape
    window = {(dy, dx): math.exp(-(dx * dx + dy * dy) / (2 * 1.5**2)) for dy in range(-5, 6) for dx in range(-5, 6)}
    total = sum(window.values())
    result = np.empty((height, width))
    for row in range(height):
        for column in range(width):
            a, b, weights = [], [], []
            for (dy, dx), weight in window.items():
                inside = 0 <= row + dy < height and 0 <= column + dx < width
                a.append(x[row + dy, column + dx] if inside else 0.0)
                b.append(y[row + dy, column + dx] if inside else 0.0)
                weights.append(weight / total)
            a_, b_, w = np.array(a), np.array(b), np.array(weights)
            mean_a, mean_b = (w * a_).sum(), (w * b_).sum()
            variance_a, variance_b = (w * (a_ - mean_a) ** 2).sum(), (w * (b_ - mean_b) ** 2).sum()
            covariance = (w * (a_ - mean_a) * (b_ - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
            structure = (2 * covariance + 0.03**2) / (variance_a + variance_b + 0.03**2)
            result[row, column] = luminance * structure
    return result


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 9), (14, 13)])
def test_definition_of_ssim(height: int, width: int) -> None:
    rgb, target = (picture.double() for picture in pictures(2, height, width))
    values = losses.ssim_map(rgb, target)
    for camera in range(2):
        for channel in range(3):
            wanted = slow_ssim_map(rgb[camera, ..., channel].numpy(), target[camera, ..., channel].numpy())
            np.testing.assert_allclose(values[camera, ..., channel].numpy(), wanted, rtol=1e-9, atol=1e-12)
    assert losses.ssim(rgb, target).item() == pytest.approx(values.mean().item())


def test_definition_of_the_loss() -> None:
    rgb, target = (picture.double() for picture in pictures(2, 9, 11))
    wanted = 0.7 * (rgb - target).abs().mean() + 0.3 * (1 - losses.ssim(rgb, target))
    assert losses.photometric_reference(rgb, target, ssim_weight=0.3).item() == pytest.approx(wanted.item(), rel=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck_of_the_definition(masked: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    rgb = torch.rand(2, 7, 6, 3, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.rand(2, 7, 6, 3, generator=generator, dtype=torch.float64)
    mask = (torch.rand(2, 7, 6, 1, generator=generator) > 0.4) if masked else None

    def loss(leaf: Tensor) -> Tensor:
        return losses.photometric_reference(leaf, target, ssim_weight=0.4, mask=mask)

    assert torch.autograd.gradcheck(loss, rgb)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_kernel_agrees_with_the_definition(height: int, width: int, weight: float) -> None:
    rgb, target = pictures(1, height, width)
    assert_agrees(rgb, target, weight)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_kernel_agrees_under_a_mask(height: int, width: int) -> None:
    rgb, target = pictures(2, height, width)
    mask = torch.rand(2, height, width, 1, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[0, : height // 3] = False
    mask[:, -1, -1] = True
    assert_agrees(rgb, target, 0.2, mask)
    assert_agrees(rgb, target, 0.2, mask.to(torch.uint8))
    assert_agrees(rgb, target, 0.2, 0.5 * mask.float())


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(1, 60), st.integers(1, 80), st.floats(0, 1), st.integers(0, 99), st.booleans())
def test_kernel_agrees_on_any_size(count: int, height: int, width: int, weight: float, seed: int, masked: bool) -> None:
    rgb, target = pictures(count, height, width, seed)
    mask = None
    if masked:
        mask = torch.rand(count, height, width, 1, generator=torch.Generator().manual_seed(seed)) > 0.5
    assert_agrees(rgb, target, weight, mask)


def test_cameras_of_a_batch_do_not_mix() -> None:
    rgb, target = pictures(3, 21, 37)
    value, gradient = fused(rgb, target, 0.2)
    alone = [fused(rgb[i : i + 1], target[i : i + 1], 0.2) for i in range(3)]
    assert value == pytest.approx(sum(v for v, _ in alone) / 3, rel=1e-6)
    torch.testing.assert_close(gradient, torch.cat([g for _, g in alone]) / 3, rtol=1e-5, atol=1e-10)


def test_any_layout_of_memory_gives_the_same() -> None:
    rgb, target = pictures(2, 17, 29)
    value, gradient = fused(rgb, target, 0.2)

    def planar(picture: Tensor) -> Tensor:
        return picture.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)

    def strided(picture: Tensor) -> Tensor:
        return torch.stack([picture, -picture], dim=2)[:, :, 0]

    def flipped(picture: Tensor) -> Tensor:
        return picture.flip(1).contiguous().flip(1).transpose(1, 2).contiguous().transpose(1, 2)

    for layout in (planar, strided, flipped):
        same_value, same_gradient = fused(layout(rgb), layout(target), 0.2)
        assert same_value == value
        assert torch.equal(same_gradient, gradient)


def test_planar_memory_is_used_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    kernel = losses.photometric_value_and_gradient

    def spy(*arguments):  # type: ignore[no-untyped-def]
        value, gradient = kernel(*arguments)
        seen.extend([*arguments, gradient])
        return value, gradient

    monkeypatch.setattr(losses, "photometric_value_and_gradient", spy)
    planes, target = torch.rand(1, 3, 20, 30), torch.rand(1, 3, 20, 30)
    planes.requires_grad_()
    rgb = planes.permute(0, 2, 3, 1)
    gradients: list[Tensor] = []
    rgb.register_hook(gradients.append)
    losses.photometric(rgb, target.permute(0, 2, 3, 1)).backward()
    addresses = {array.ctypes.data for array in seen if isinstance(array, np.ndarray)}
    assert planes.data_ptr() in addresses
    assert target.data_ptr() in addresses
    assert gradients[0].permute(0, 3, 1, 2).is_contiguous()
    assert gradients[0].data_ptr() in addresses


def test_masked_out_pixels_neither_count_nor_learn() -> None:
    rgb, target = pictures(1, 40, 50)
    mask = torch.zeros(1, 40, 50, 1)
    mask[:, :, :20] = 1
    value, gradient = fused(rgb, target, 0.2, mask)
    assert not gradient[:, :, 20:].any()
    rgb[:, :, 20:], target[:, :, 20:] = math.nan, math.inf
    again, same_gradient = fused(rgb, target, 0.2, mask)
    assert again == value
    assert torch.equal(gradient, same_gradient)
    # As if the picture ended there: masked pixels do not dilute the rest.
    cut_value, cut_gradient = fused(rgb[:, :, :20], target[:, :, :20], 0.2)
    assert value == pytest.approx(cut_value, rel=1e-6)
    torch.testing.assert_close(gradient[:, :, :20], cut_gradient, rtol=1e-4, atol=1e-9)


def test_everything_masked_out() -> None:
    rgb, target = pictures(1, 8, 9)
    nothing = torch.zeros(1, 8, 9, 1)
    value, gradient = fused(rgb, target, 0.2, nothing)
    assert value == 0
    assert not gradient.any()
    assert reference(rgb, target, 0.2, nothing)[0] == pytest.approx(0, abs=1e-12)


def test_equal_pictures_are_a_minimum() -> None:
    _, target = pictures(1, 30, 41)
    value, gradient = fused(target.clone(), target, 0.2)
    assert value == pytest.approx(0, abs=1e-6)
    assert gradient.abs().max() < 1e-6


def test_gradient_is_scaled_and_never_shared() -> None:
    rgb, target = pictures(1, 16, 31)
    _, once = fused(rgb, target, 0.2)
    leaf = rgb.clone().requires_grad_()
    loss = losses.photometric(leaf, target)
    loss.backward(retain_graph=True)
    loss.backward(retain_graph=True)
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, 2 * once, rtol=1e-6, atol=0)
    leaf.grad = None
    (-3 * loss).backward()
    torch.testing.assert_close(leaf.grad, -3 * once, rtol=1e-6, atol=0)


def test_without_gradients_the_value_is_the_same() -> None:
    rgb, target = pictures(2, 33, 47)
    value, _ = fused(rgb, target, 0.2)
    with torch.no_grad():
        assert losses.photometric(rgb, target).item() == value
    assert losses.photometric(rgb, target).item() == value


def test_other_types_use_the_definition() -> None:
    rgb, target = (picture.double() for picture in pictures(1, 9, 10))
    assert losses.photometric(rgb, target).dtype == torch.float64
    assert losses.photometric(rgb, target).item() == losses.photometric_reference(rgb, target).item()
    target = target.float().requires_grad_()
    losses.photometric(rgb.float(), target).backward()
    assert target.grad is not None
    assert target.grad.any()


@pytest.mark.parametrize(
    ("rgb", "target", "mask"),
    [
        ((1, 4, 5, 3), (1, 4, 6, 3), None),
        ((4, 5, 3), (4, 5, 3), None),
        ((1, 4, 5, 4), (1, 4, 5, 4), None),
        ((1, 0, 5, 3), (1, 0, 5, 3), None),
        ((1, 4, 5, 3), (1, 4, 5, 3), (1, 4, 5)),
        ((2, 4, 5, 3), (2, 4, 5, 3), (1, 4, 5, 1)),
    ],
)
def test_wrong_shapes_are_refused(rgb: tuple[int, ...], target: tuple[int, ...], mask: tuple[int, ...] | None) -> None:
    with pytest.raises(ValueError, match=r"\[C,H,W"):
        losses.photometric(torch.zeros(rgb), torch.zeros(target), mask=None if mask is None else torch.ones(mask))


@pytest.mark.parametrize(("height", "width"), [(270, 480), (301, 533), (40, 1100)])
def test_any_number_of_threads_gives_the_same_bits(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rgb, target = pictures(1, height, width)
    monkeypatch.setattr(runtime, "_threads", 1)
    value, gradient = fused(rgb, target, 0.2)
    for threads in (2, 3, 5, 8):
        monkeypatch.setattr(runtime, "_threads", threads)
        for _ in range(2):
            same_value, same_gradient = fused(rgb, target, 0.2)
            assert same_value == value
            assert torch.equal(same_gradient, gradient)


def test_rows_do_not_depend_on_how_high_tiles_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb, target = pictures(2, 301, 70)
    results = []
    for height in (302, 36, 52, 100, 156):
        monkeypatch.setattr(ssim, "_strip_height", lambda *_, height=height: height)
        results.append(fused(rgb, target, 0.2))
    for value, gradient in results[1:]:
        assert value == results[0][0]
        assert torch.equal(gradient, results[0][1])


def on_gpu(rgb: Tensor, target: Tensor, weight: float, mask: Tensor | None = None) -> tuple[float, Tensor]:
    moved = (rgb.cuda(), target.cuda(), weight, None if mask is None else mask.cuda())
    value, gradient = fused(*moved)
    return value, gradient.cpu()


@pytest.mark.gpu
def test_the_gpus_kernels_are_what_it_uses() -> None:
    assert losses.has_triton()
    rgb, target = pictures(2, 270, 480)
    assert_close(*on_gpu(rgb, target, 0.2), *reference(rgb, target, 0.2))


@pytest.mark.gpu
def test_the_definition_on_a_gpu_is_as_exact_as_elsewhere() -> None:
    """It is what photos with masks are compared by. In TF32, cuDNN's choice for float32, it would not be."""
    rgb, target = pictures(2, 270, 480)
    mask = torch.rand(2, 270, 480, 1, generator=torch.Generator().manual_seed(1)) > 0.3
    assert_close(*on_gpu(rgb, target, 0.2, mask), *reference(rgb, target, 0.2, mask))


@pytest.mark.parametrize("known", ["some", "none"])
def test_the_loss_of_depths_is_their_mean_relative_error_where_they_are_known(known: str) -> None:
    generator = torch.Generator().manual_seed(0)
    depth, alpha, noise = (torch.rand(1, 9, 12, 1, generator=generator) for _ in range(3))
    depth, measured = 1 + depth, 1 + noise
    measured[:, :3] = 0
    if known == "none":
        alpha = 0.4 * alpha
    depth.requires_grad_()
    loss = losses.relative_depth(depth, alpha, measured)
    (gradient,) = torch.autograd.grad(loss, depth)
    value = float(loss.detach())
    kept = (measured > 0) & (alpha > 0.5)
    errors = [abs(d / m - 1) for d, m in zip(depth[kept].tolist(), measured[kept].tolist(), strict=True)]
    assert value == pytest.approx(np.mean(errors) if errors else 0, rel=1e-5)
    assert torch.equal(gradient != 0, kept)
    arrays = (tensor.detach()[0, ..., 0].numpy() for tensor in (depth, alpha, measured))
    straight, slope = losses.relative_depth_and_gradient(*arrays)
    assert straight == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(slope, gradient[0, ..., 0].numpy(), rtol=1e-5)
