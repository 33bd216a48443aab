"""The rasteriser of NVIDIA GPUs: gsplat's CUDA kernels behind our contract.

They are called one by one and not through `gsplat.rasterization`, which inverts the cameras on the GPU in every picture
and waits there for the outcome.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recon.datasets.cameras import Cameras
from recon.model import RenderOutput
from recon.raster import EPS2D

TILE = 16  # px


def problem() -> str | None:
    """Why gsplat cannot be used here, in one line; None if it can. An import of gsplat alone proves nothing."""
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU"
    try:
        from gsplat.cuda._backend import _C
    except Exception as error:  # importing it may compile it, and that fails in every way a compiler can
        return f"gsplat cannot be imported ({error}); install it with: pip install gsplat"
    if _C is None:
        return "gsplat's CUDA kernels are not there: it found neither a compiled version nor a CUDA compiler (nvcc)"
    return None


def rasterize(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    logit_opacities: Tensor,
    sh0: Tensor,
    shN: Tensor,
    cameras: Cameras,
    *,
    sh_degree: int,
    background: Tensor | None = None,
    near: float = 0.01,
    far: float = 1e10,
    depth: bool = True,
    absgrad: bool = False,
) -> RenderOutput:
    """See `recon.raster.Rasterizer`."""
    import gsplat

    cameras = cameras.to(means.device, means.dtype)
    count, width, height = len(cameras), cameras.width, cameras.height
    opacities = logit_opacities.sigmoid()
    radii, means2d, depths, conics, _ = gsplat.fully_fused_projection(
        *(means, None, quats, log_scales.exp(), cameras.viewmats, cameras.Ks, width, height),
        eps2d=EPS2D,
        near_plane=near,
        far_plane=far,
        opacities=opacities,
    )
    channels = _colours(means, sh0, shN, cameras, sh_degree, (radii > 0).all(dim=-1))
    backgrounds = None if background is None else background.to(means).expand(count, 3)
    if depth:
        channels = torch.cat([channels, depths[..., None]], dim=-1)
        if backgrounds is not None:
            backgrounds = torch.cat([backgrounds, backgrounds.new_zeros(count, 1)], dim=-1)

    columns, rows = -(-width // TILE), -(-height // TILE)
    _, keys, sorted_rows = gsplat.isect_tiles(means2d, radii, depths, TILE, columns, rows)
    offsets = gsplat.isect_offset_encode(keys, count, columns, rows)
    pictures, alpha = gsplat.rasterize_to_pixels(
        *(means2d, conics, channels, opacities.expand(count, -1), width, height, TILE, offsets, sorted_rows),
        backgrounds=backgrounds,
        absgrad=absgrad,
    )
    absolute = torch.zeros_like(means2d) if absgrad else None
    if means2d.requires_grad:
        means2d.retain_grad()
        if absolute is not None:
            _copy_absgrad(means2d, absolute)
    if not depth:
        return RenderOutput(pictures, alpha, None, means2d, radii, absgrad=absolute)
    expected = pictures[..., 3:] / alpha.clamp_min(1e-10)
    return RenderOutput(pictures[..., :3], alpha, expected, means2d, radii, absgrad=absolute)


def _colours(means: Tensor, sh0: Tensor, shN: Tensor, cameras: Cameras, sh_degree: int, visible: Tensor) -> Tensor:
    """Colours [C,N,3] of Gaussians as each camera sees them; anything where `visible` [C,N] is false."""
    import gsplat

    directions = means - cameras.positions[:, None]  # [C,N,3]; the kernel normalises them
    coefficients = torch.cat([sh0, shN], dim=1).expand(len(cameras), -1, -1, -1)
    return (gsplat.spherical_harmonics(sh_degree, directions, coefficients, masks=visible) + 0.5).clamp_min(0)


def _copy_absgrad(means2d: Any, absolute: Tensor) -> None:
    """gsplat leaves the absolute gradients as an attribute of `means2d`, just before its gradient is known."""

    def copy(_: Tensor) -> None:  # what a hook returns would replace the gradient
        if hasattr(means2d, "absgrad"):  # the pictures had a gradient
            absolute.copy_(means2d.absgrad)

    means2d.register_hook(copy)
