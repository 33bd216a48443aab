"""The photometric loss of Gaussian splatting: L1 and the structural dissimilarity of rendered and real pictures; and
one of depths, where they were measured.

`ssim_map`, `ssim` and `photometric_reference` are the definition, in plain PyTorch, for any float type and device.
In float32 `photometric` gets value and gradient together from fused kernels: Numba's on a CPU, Triton's on an NVIDIA
GPU (`losses_cuda.py`; not with a mask).

Shape letters: C cameras, H and W image size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon.kernels.ssim import C1, C2, WINDOW, photometric_value_and_gradient

LEAST_ALPHA = 0.5  # where less is covered, the expected depth is that of anything


def photometric(rgb: Tensor, target: Tensor, *, ssim_weight: float = 0.2, mask: Tensor | None = None) -> Tensor:
    """(1 - w) L1 + w (1 - SSIM), a scalar (Kerbl et al. 2023, eq. 7); differentiable in `rgb`.

    Where the mask is 0 both pictures are taken to be black, as they are beyond the borders of the image, and both
    terms are means over the remaining pixels alone, of all cameras together: pixels that are masked out receive no
    gradient, and the gradient of the others does not shrink with their number. With nothing left the loss is 0.

    Memory as the rasteriser of the device returns it is used in place, and the gradient comes back like that: planar
    ([C,3,H,W] seen as [C,H,W,3]) on a CPU, contiguous on a GPU. Anything else is copied.

    Args:
        rgb: [C,H,W,3] rendered, 0..1.
        target: [C,H,W,3] the photos, 0..1, with the type and device of `rgb`.
        ssim_weight: w, the share of the structural term, 0..1.
        mask: [C,H,W,1] of any type, 0 where a pixel is not to be used.
    """
    if rgb.ndim != 4 or rgb.shape[-1] != 3 or rgb.shape != target.shape or rgb.numel() == 0:
        raise ValueError(f"rgb {tuple(rgb.shape)} and target {tuple(target.shape)} are not [C,H,W,3] each")
    if mask is not None and mask.shape != (*rgb.shape[:3], 1):
        raise ValueError(f"mask {tuple(mask.shape)} does not fit rgb {tuple(rgb.shape)}: not [C,H,W,1]")
    if rgb.dtype == target.dtype == torch.float32 and not target.requires_grad:
        if rgb.device.type == "cpu":
            return _FusedPhotometric.apply(rgb, target, ssim_weight, mask)
        if rgb.device.type == "cuda" and mask is None and (on_gpu := _on_gpu()) is not None:
            return on_gpu(rgb, target, ssim_weight)
    return photometric_reference(rgb, target, ssim_weight=ssim_weight, mask=mask)


@functools.cache
def _on_gpu() -> Callable[[Tensor, Tensor, float], Tensor] | None:
    """The fused loss for NVIDIA GPUs; None where Triton, which PyTorch brings along on Linux, cannot be used."""
    try:
        from recon import losses_cuda
    except ImportError:
        return None
    return losses_cuda.photometric if losses_cuda.usable() else None


def has_triton() -> bool:
    """Whether kernels can be compiled for the GPU."""
    return _on_gpu() is not None


def photometric_reference(
    rgb: Tensor, target: Tensor, *, ssim_weight: float = 0.2, mask: Tensor | None = None
) -> Tensor:
    """The definition of `photometric`."""
    if mask is None:
        similarity = ssim_map(rgb, target).mean()
        difference = (rgb - target).abs().mean()
    else:
        kept = mask != 0
        black = rgb.new_zeros(())
        rgb, target = torch.where(kept, rgb, black), torch.where(kept, target, black)
        share = kept.to(rgb.dtype) / (3 * kept.sum().clamp_min(1))
        similarity = (ssim_map(rgb, target) * share).sum() + (~kept.any())
        difference = ((rgb - target).abs() * share).sum()
    return (1 - ssim_weight) * difference + ssim_weight * (1 - similarity)


def relative_depth(depth: Tensor, alpha: Tensor, measured: Tensor) -> Tensor:
    """Mean of |depth / measured - 1| where a depth was measured and the scene is not mostly transparent: a scalar.

    Relative, because what sensors and stereo measure gets less exact with the distance.

    Args:
        depth, alpha: [C,H,W,1] rendered.
        measured: [C,H,W,1] along the viewing axis, world units; 0 where it is not known.
    """
    known = (measured > 0) & (alpha.detach() > LEAST_ALPHA)
    error = torch.where(known, depth - measured, 0).abs() / torch.where(known, measured, 1)
    return error.sum() / known.sum().clamp_min(1)


def relative_depth_and_gradient(
    depth: NDArray[np.float32], alpha: NDArray[np.float32], measured: NDArray[np.float32]
) -> tuple[float, NDArray[np.float32]]:
    """`relative_depth` of one camera, [H,W] each, and its gradient in `depth`."""
    known = (measured > 0) & (alpha > LEAST_ALPHA)
    share = np.divide(known, measured, out=np.zeros_like(measured), where=known)
    share /= max(int(known.sum()), 1)
    difference = depth - measured
    return float((np.abs(difference) * share).sum(dtype=np.float64)), np.sign(difference) * share


def ssim(rgb: Tensor, target: Tensor) -> Tensor:
    """Mean structural similarity (a scalar) of pictures [C,H,W,3]; see `ssim_map`."""
    return ssim_map(rgb, target).mean()


def ssim_map(rgb: Tensor, target: Tensor) -> Tensor:
    """Structural similarity [C,H,W,3] around every pixel of every channel (Wang et al. 2004, eq. 13).

    The window is a Gaussian of 11x11 pixels and deviation 1.5; beyond the borders of the image both pictures are
    black (zero padding), as in 3DGS. Values are expected in 0..1.
    """
    x, y = rgb.permute(0, 3, 1, 2), target.permute(0, 3, 1, 2)
    mean_x, mean_y = _blurred(x), _blurred(y)
    variances = _blurred(x * x + y * y) - mean_x * mean_x - mean_y * mean_y
    covariance = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x * mean_x + mean_y * mean_y + C1)
    structure = (2 * covariance + C2) / (variances + C2)
    return (luminance * structure).permute(0, 2, 3, 1)


def _blurred(planes: Tensor) -> Tensor:
    """[C,3,H,W] convolved with the window, rows and columns in turn.

    Channels are groups of one convolution. One of a single channel would go to cuDNN on a GPU, which multiplies in
    TF32: three digits, and SSIM subtracts squares that are nearly equal.
    """
    channels, radius = planes.shape[1], len(WINDOW) // 2
    window = _window(planes.device, planes.dtype).expand(channels, 1, 1, -1)
    rows = torch.nn.functional.conv2d(planes, window, padding=(0, radius), groups=channels)
    return torch.nn.functional.conv2d(rows, window.transpose(2, 3), padding=(radius, 0), groups=channels)


@functools.lru_cache
def _window(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The window [11] on a device; kept, because a copy to a GPU waits for all it was given to do."""
    return torch.as_tensor(WINDOW).to(device, dtype)


class _FusedPhotometric(torch.autograd.Function):
    """Forward computes value and gradient in one go, backward only scales the gradient."""

    @staticmethod
    def forward(ctx: Any, rgb: Tensor, target: Tensor, ssim_weight: float, mask: Tensor | None) -> Tensor:
        value, gradient = photometric_value_and_gradient(
            rgb.detach().permute(0, 3, 1, 2).contiguous().numpy(),
            target.permute(0, 3, 1, 2).contiguous().numpy(),
            ssim_weight,
            None if mask is None else mask[..., 0].float().contiguous().numpy(),
        )
        ctx.save_for_backward(torch.from_numpy(gradient))
        return rgb.new_tensor(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        if scale.item() != 1:  # the loss itself is differentiated most of the time: no pass over memory then
            gradient = gradient * scale
        return gradient.permute(0, 2, 3, 1), None, None, None
