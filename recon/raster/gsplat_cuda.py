"""The rasteriser of NVIDIA GPUs: gsplat's CUDA kernels behind our contract."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recon.datasets.cameras import Cameras
from recon.model import RenderOutput
from recon.raster import EPS2D


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
    from gsplat import rasterization

    cameras = cameras.to(means.device, means.dtype)
    backgrounds = None if background is None else background.to(means).expand(len(cameras), 3).contiguous()
    pictures, alpha, info = rasterization(
        means,
        quats,
        log_scales.exp(),
        logit_opacities.sigmoid(),
        torch.cat([sh0, shN], dim=1),
        cameras.viewmats,
        cameras.Ks,
        cameras.width,
        cameras.height,
        near_plane=near,
        far_plane=far,
        eps2d=EPS2D,
        sh_degree=sh_degree,
        packed=False,
        backgrounds=backgrounds,
        render_mode="RGB+ED" if depth else "RGB",
        absgrad=absgrad,
    )
    means2d = info["means2d"]
    absolute = torch.zeros_like(means2d) if absgrad else None
    if means2d.requires_grad:
        means2d.retain_grad()
        if absolute is not None:
            _copy_absgrad(means2d, absolute)
    return RenderOutput(
        pictures[..., :3], alpha, pictures[..., 3:4] if depth else None, means2d, info["radii"], absgrad=absolute
    )


def _copy_absgrad(means2d: Any, absolute: Tensor) -> None:
    """gsplat leaves the absolute gradients as an attribute of `means2d`, just before its gradient is known."""

    def copy(_: Tensor) -> None:  # what a hook returns would replace the gradient
        absolute.copy_(means2d.absgrad)

    means2d.register_hook(copy)
