"""The rasteriser of NVIDIA GPUs: gsplat's CUDA kernels behind our contract.

A step's kernels are done sooner than Python has asked for them, unless the scene is large. So they are called from two
autograd functions, as on the CPU, and not through gsplat's own wrappers, which make three times as many operations of
PyTorch, and invert the cameras on the GPU and wait for the outcome.

All that is computed has a row for each pair of a camera and a Gaussian, visible or not. Where these are many
`gsplat_packed.py` does the same with rows for those that are visible.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon.datasets.cameras import Cameras
from recon.model import RenderOutput
from recon.raster import EPS2D, gsplat_calls, gsplat_packed
from recon.raster.gsplat_blending import Projected, View, drawn, of_cameras, of_logits

WANTED = "gsplat>=1.5.3,<1.6"
# From so many cameras, and so many pairs of a camera and a Gaussian on, rows are packed. Where they are not, and with
# all coefficients, each pair takes some 250 bytes until the way back, and as many again on it.
PACKED_CAMERAS, PACKED_PAIRS = 2, 1 << 23


def problem() -> str | None:
    """Why gsplat cannot be used here, in one line; None if it can. An import of gsplat alone proves nothing."""
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU"
    remedy = f"; install it with: pip install '{WANTED}'"
    try:
        import gsplat
        from gsplat.cuda import _backend  # noqa: F401
    except Exception as error:  # importing it may compile it, and that fails in every way a compiler can
        return f"gsplat cannot be imported ({error}){remedy}"
    if not gsplat.__version__.startswith("1.5."):  # what is called below is not what it promises to keep
        return f"gsplat {gsplat.__version__} is not what this version works with{remedy}"
    try:
        compiled = gsplat_calls.functions()
    except gsplat_calls.UnknownGsplat as error:
        return f"this gsplat is not what this version works with: {error}{remedy}"
    if compiled is None:
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
    median_depth: bool = False,
    antialiased: bool = False,
) -> RenderOutput:
    """See `recon.raster.Rasterizer`. Median depths are not offered here: gsplat's kernels keep none."""
    cameras = cameras.to(means.device, means.dtype)
    count, width, height = len(cameras), cameras.width, cameras.height
    backgrounds = None if background is None else background.to(means).expand(count, 3)
    if len(means) == 0:  # by which the kernels would divide
        return _nothing(means, cameras, backgrounds, depth=depth, absgrad=absgrad)
    parameters = [tensor.contiguous() for tensor in (means, quats, log_scales, logit_opacities, sh0, shN)]
    view = View(cameras, sh_degree, near, far, depth, antialiased)
    if count >= PACKED_CAMERAS and count * len(means) >= PACKED_PAIRS and gsplat_packed.offered():
        return gsplat_packed.rasterize(view, parameters, backgrounds, absgrad=absgrad)
    means2d, conics, channels, opacities, radii, depths = Projection.apply(
        view, cameras.viewmats, cameras.Ks, *parameters
    )
    absolute = torch.zeros_like(means2d, requires_grad=False) if absgrad else None
    if means2d.requires_grad:
        means2d.retain_grad()
    projected = Projected(means2d, conics, channels, opacities, radii, depths)
    rgb, alpha, expected = drawn(projected, (width, height), backgrounds, absolute, depth=depth)
    return RenderOutput(rgb, alpha, expected, means2d, radii, absgrad=absolute)


def _nothing(
    means: Tensor, cameras: Cameras, backgrounds: Tensor | None, *, depth: bool, absgrad: bool
) -> RenderOutput:
    """Pictures of no Gaussians at all."""
    count = len(cameras)
    alpha = means.new_zeros(count, cameras.height, cameras.width, 1)
    rgb = alpha if backgrounds is None else backgrounds[:, None, None]
    means2d = means.new_zeros(count, 0, 2)
    return RenderOutput(
        rgb.expand(count, cameras.height, cameras.width, 3),
        alpha,
        torch.zeros_like(alpha) if depth else None,
        means2d,
        torch.zeros_like(means2d, dtype=torch.int32),
        absgrad=torch.zeros_like(means2d) if absgrad else None,
    )


class Projection(torch.autograd.Function):
    """Parameters to what the pictures are blended from.

    Returns means2d [C,N,2], conics [C,N,3], channels [C,N,3 or 4] (colour and depth), opacities [C,N]; and without a
    gradient radii [C,N,2] and depths [C,N]. Where radii are 0 the others are anything.
    """

    @staticmethod
    def forward(
        ctx: Any,
        view: View,
        viewmats: Tensor,
        Ks: Tensor,
        means: Tensor,
        quats: Tensor,
        log_scales: Tensor,
        logit_opacities: Tensor,
        sh0: Tensor,
        shN: Tensor,
    ) -> tuple[Tensor, ...]:
        compiled = gsplat_calls.functions()
        count = len(view.cameras)
        scales, opacities = log_scales.exp(), logit_opacities.sigmoid()
        radii, means2d, depths, conics, factors = compiled.projection_ewa_3dgs_fused_fwd(
            *(means, None, quats, scales, opacities, *view.matrices_and_size()),
            *(EPS2D, view.near, view.far, 0.0, view.antialiased, compiled.CameraModelType.PINHOLE),
        )
        visible = radii[..., 0] > 0
        directions = means - view.cameras.positions[:, None]  # [C,N,3]; the kernel normalises them
        coefficients = torch.cat([sh0, shN], dim=1).expand(count, -1, -1, -1).contiguous()
        channels = compiled.spherical_harmonics_fwd(view.sh_degree, directions, coefficients, visible)
        channels.add_(0.5).clamp_min_(0)
        if view.depth:
            channels = torch.cat([channels, depths[..., None]], dim=-1)
        shown = opacities.expand(count, -1)
        if view.antialiased:
            shown = shown * factors
        ctx.save_for_backward(
            *(means, quats, scales, logit_opacities, opacities, radii, conics),
            *(visible, directions, coefficients, channels, factors if view.antialiased else None),
        )
        ctx.view = view
        ctx.mark_non_differentiable(radii, depths)
        ctx.set_materialize_grads(False)
        return means2d, conics, channels, shown.contiguous(), radii, depths

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        g_means2d: Tensor | None,
        g_conics: Tensor | None,
        g_channels: Tensor | None,
        g_opacities: Tensor | None,
        *_: None,
    ) -> tuple[Tensor | None, ...]:
        compiled = gsplat_calls.functions()
        means, quats, scales, logits, opacities, radii, conics, *of_colour = ctx.saved_tensors
        visible, directions, coefficients, channels, factors = of_colour
        view = ctx.view
        # A loss of the centres alone has no gradient of the others.
        g_means2d = conics.new_zeros(radii.shape) if g_means2d is None else g_means2d.contiguous()
        g_conics = torch.zeros_like(conics) if g_conics is None else g_conics
        g_channels = torch.zeros_like(channels) if g_channels is None else g_channels
        g_depths = g_channels[..., 3].contiguous() if view.depth else conics.new_zeros(visible.shape)
        g_colours = (g_channels[..., :3] * (channels[..., :3] > 0)).contiguous()
        g_factors = None
        if factors is not None:
            g_opacities = torch.zeros_like(factors) if g_opacities is None else g_opacities
            g_factors, g_opacities = g_opacities * opacities, g_opacities * factors
        g_coefficients, g_directions = compiled.spherical_harmonics_bwd(
            *(coefficients.shape[2], view.sh_degree, directions, coefficients, visible, g_colours, True)
        )
        _, with_viewmats, with_Ks, *wanted = ctx.needs_input_grad
        g_means, _, g_quats, g_scales, g_viewmats = compiled.projection_ewa_3dgs_fused_bwd(
            *(means, None, quats, scales, *view.matrices_and_size()),
            *(
                EPS2D,
                compiled.CameraModelType.PINHOLE,
                radii,
                conics,
                factors,
                g_means2d,
                g_depths,
                g_conics,
                g_factors,
            ),
            with_viewmats or with_Ks,
        )
        total = g_directions.sum(dim=1) if with_viewmats else None
        of_matrices = of_cameras(view.cameras, g_viewmats, total, with_Ks)
        g_coefficients = _summed(g_coefficients)
        g_logits = None if g_opacities is None else of_logits(logits, opacities, _summed(g_opacities))
        gradients = (
            g_means.add_(_summed(g_directions)),
            g_quats,
            g_scales.mul_(scales),
            g_logits,
            g_coefficients[:, :1],
            g_coefficients[:, 1:],
        )
        of_parameters = (g if want else None for g, want in zip(gradients, wanted, strict=True))
        return None, *of_matrices, *of_parameters


def _summed(values: Tensor) -> Tensor:
    """[C,...] summed over the cameras; of one camera without an operation."""
    return values[0] if len(values) == 1 else values.sum(dim=0)
