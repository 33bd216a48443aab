"""The rasteriser of NVIDIA GPUs: gsplat's CUDA kernels behind our contract.

A step's kernels are done sooner than Python has asked for them, unless the scene is large. So they are called from two
autograd functions, as on the CPU, and not through gsplat's own wrappers, which make three times as many operations of
PyTorch, and invert the cameras on the GPU and wait for the outcome.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon.datasets.cameras import Cameras
from recon.model import RenderOutput
from recon.raster import EPS2D

TILE = 16  # px
WANTED = "gsplat>=1.5.3,<1.6"


def problem() -> str | None:
    """Why gsplat cannot be used here, in one line; None if it can. An import of gsplat alone proves nothing."""
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU"
    try:
        import gsplat
        from gsplat.cuda._backend import _C
    except Exception as error:  # importing it may compile it, and that fails in every way a compiler can
        return f"gsplat cannot be imported ({error}); install it with: pip install '{WANTED}'"
    if not gsplat.__version__.startswith("1.5."):  # what is called below is not what it promises to keep
        return (
            f"gsplat {gsplat.__version__} is not what this version works with; install it with: pip install '{WANTED}'"
        )
    if _C is None:
        return "gsplat's CUDA kernels are not there: it found neither a compiled version nor a CUDA compiler (nvcc)"
    return None


class _View(NamedTuple):
    """What is drawn of Gaussians, into which cameras."""

    cameras: Cameras
    sh_degree: int
    near: float
    far: float
    depth: bool

    def matrices_and_size(self) -> tuple[Tensor, Tensor, int, int]:
        cameras = self.cameras
        return cameras.viewmats.contiguous(), cameras.Ks.contiguous(), cameras.width, cameras.height


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
) -> RenderOutput:
    """See `recon.raster.Rasterizer`. Median depths are not offered here: gsplat's kernels keep none."""
    from gsplat.cuda._backend import _C

    cameras = cameras.to(means.device, means.dtype)
    count, width, height = len(cameras), cameras.width, cameras.height
    backgrounds = None if background is None else background.to(means).expand(count, 3)
    if len(means) == 0:  # by which the kernels would divide
        return _nothing(means, cameras, backgrounds, depth=depth, absgrad=absgrad)
    if backgrounds is not None and depth:
        backgrounds = torch.cat([backgrounds, backgrounds.new_zeros(count, 1)], dim=-1)
    parameters = [tensor.contiguous() for tensor in (means, quats, log_scales, logit_opacities, sh0, shN)]
    view = _View(cameras, sh_degree, near, far, depth)
    means2d, conics, channels, opacities, radii, depths = _Projection.apply(
        view, cameras.viewmats, cameras.Ks, *parameters
    )
    columns, rows = -(-width // TILE), -(-height // TILE)
    # Not differentiable: which Gaussians a tile has, sorted by depth.
    _, keys, members = _C.intersect_tile(
        *(means2d.detach(), radii, depths, None, None, count, TILE, columns, rows, True, False)
    )
    tiles = (_C.intersect_offset(keys, count, columns, rows), members)
    absolute = torch.zeros_like(means2d, requires_grad=False) if absgrad else None
    if means2d.requires_grad:
        means2d.retain_grad()
    pictures, alpha = _Blending.apply(
        *((width, height), tiles, absolute, means2d, conics, channels, opacities),
        None if backgrounds is None else backgrounds.contiguous(),
    )
    if not depth:
        return RenderOutput(pictures, alpha, None, means2d, radii, absgrad=absolute)
    expected = pictures[..., 3:] / alpha.clamp_min(1e-10)
    return RenderOutput(pictures[..., :3], alpha, expected, means2d, radii, absgrad=absolute)


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


class _Projection(torch.autograd.Function):
    """Parameters to what the pictures are blended from.

    Returns means2d [C,N,2], conics [C,N,3], channels [C,N,3 or 4] (colour and depth), opacities [C,N]; and without a
    gradient radii [C,N,2] and depths [C,N]. Where radii are 0 the others are anything.
    """

    @staticmethod
    def forward(
        ctx: Any,
        view: _View,
        viewmats: Tensor,
        Ks: Tensor,
        means: Tensor,
        quats: Tensor,
        log_scales: Tensor,
        logit_opacities: Tensor,
        sh0: Tensor,
        shN: Tensor,
    ) -> tuple[Tensor, ...]:
        from gsplat.cuda._backend import _C

        count = len(view.cameras)
        scales, opacities = log_scales.exp(), logit_opacities.sigmoid()
        radii, means2d, depths, conics, _ = _C.projection_ewa_3dgs_fused_fwd(
            *(means, None, quats, scales, opacities, *view.matrices_and_size()),
            *(EPS2D, view.near, view.far, 0.0, False, _C.CameraModelType.PINHOLE),
        )
        visible = radii[..., 0] > 0
        directions = means - view.cameras.positions[:, None]  # [C,N,3]; the kernel normalises them
        coefficients = torch.cat([sh0, shN], dim=1).expand(count, -1, -1, -1).contiguous()
        channels = _C.spherical_harmonics_fwd(view.sh_degree, directions, coefficients, visible)
        channels.add_(0.5).clamp_min_(0)
        if view.depth:
            channels = torch.cat([channels, depths[..., None]], dim=-1)
        ctx.save_for_backward(
            *(means, quats, scales, logit_opacities, opacities, radii, conics),
            *(means2d, visible, directions, coefficients, channels),
        )
        ctx.view = view
        ctx.mark_non_differentiable(radii, depths)
        ctx.set_materialize_grads(False)
        return means2d, conics, channels, opacities.expand(count, -1).contiguous(), radii, depths

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
        from gsplat.cuda._backend import _C

        means, quats, scales, logits, opacities, radii, conics, means2d, *of_colour = ctx.saved_tensors
        visible, directions, coefficients, channels = of_colour
        view = ctx.view
        # A loss of the centres alone has no gradient of the others.
        g_means2d = conics.new_zeros(radii.shape) if g_means2d is None else g_means2d.contiguous()
        g_conics = torch.zeros_like(conics) if g_conics is None else g_conics
        g_channels = torch.zeros_like(channels) if g_channels is None else g_channels
        g_depths = g_channels[..., 3].contiguous() if view.depth else conics.new_zeros(visible.shape)
        g_colours = (g_channels[..., :3] * (channels[..., :3] > 0)).contiguous()
        g_coefficients, g_directions = _C.spherical_harmonics_bwd(
            *(coefficients.shape[2], view.sh_degree, directions, coefficients, visible, g_colours, True)
        )
        _, with_viewmats, with_Ks, *wanted = ctx.needs_input_grad
        g_means, _, g_quats, g_scales, g_viewmats = _C.projection_ewa_3dgs_fused_bwd(
            *(means, None, quats, scales, *view.matrices_and_size()),
            *(EPS2D, _C.CameraModelType.PINHOLE, radii, conics, None, g_means2d, g_depths, g_conics, None),
            with_viewmats,
        )
        g_Ks = None
        if with_viewmats:
            g_viewmats = g_viewmats + of_directions(view.cameras.viewmats, g_directions)
        if with_Ks:
            g_Ks = of_intrinsics(view.cameras.Ks, visible, means2d, conics, g_means2d, g_conics)
        g_coefficients = _summed(g_coefficients)
        g_logits = None
        if g_opacities is not None:  # sigmoid' is sigmoid(x) sigmoid(-x); 1 - sigmoid(x) has no digits where x is large
            g_logits = logits.neg().sigmoid_().mul_(opacities).mul_(_summed(g_opacities))
        gradients = (
            g_means.add_(_summed(g_directions)),
            g_quats,
            g_scales.mul_(scales),
            g_logits,
            g_coefficients[:, :1],
            g_coefficients[:, 1:],
        )
        of_parameters = (g if want else None for g, want in zip(gradients, wanted, strict=True))
        return None, g_viewmats if with_viewmats else None, g_Ks, *of_parameters


def of_directions(viewmats: Tensor, g_directions: Tensor) -> Tensor:
    """The gradient [C,4,4] of view matrices from that of the directions [C,N,3] from their positions to Gaussians."""
    g_positions = -g_directions.sum(dim=1)  # of -R^T t
    gradient = torch.zeros_like(viewmats)
    gradient[:, :3, :3] = -viewmats[:, :3, 3, None] * g_positions[:, None]
    gradient[:, :3, 3] = -(viewmats[:, :3, :3] @ g_positions[..., None])[..., 0]
    return gradient


def of_intrinsics(
    Ks: Tensor, visible: Tensor, means2d: Tensor, conics: Tensor, g_means2d: Tensor, g_conics: Tensor
) -> Tensor:
    """The gradient [C,3,3] of intrinsics, which gsplat has none of, from those of what was projected.

    A focal length scales the way from the principal point and one row of the factor of the covariance, that is without
    what `EPS2D` adds. That it moves the limits of the Jacobian is left out: they are outside the picture.

    Args:
        visible: [C,N] bool.
        means2d: [C,N,2]; conics: [C,N,3], the upper triangle of the inverse covariances; and their gradients.
    """
    a, b, c = conics.unbind(-1)
    determinant = a * c - b * b
    size_x, size_xy, size_y = c / determinant - EPS2D, -b / determinant, a / determinant - EPS2D
    g_a, g_b, g_c = g_conics[..., 0], 0.5 * g_conics[..., 1], g_conics[..., 2]
    # Of the covariance, which is the inverse: -conic G conic
    ax, ay, cx, cy = a * g_a + b * g_b, a * g_b + b * g_c, b * g_a + c * g_b, b * g_b + c * g_c
    g_x, g_xy, g_y = -(ax * a + ay * b), -(ax * b + ay * c), -(cx * b + cy * c)
    away = means2d - Ks[:, None, :2, 2]
    of_focal = torch.stack([g_x * size_x + g_xy * size_xy, g_y * size_y + g_xy * size_xy], dim=-1)
    of_focal = (2 * of_focal + g_means2d * away) / torch.stack([Ks[:, 0, 0], Ks[:, 1, 1]], dim=-1)[:, None]
    gradient = torch.zeros_like(Ks)
    focal, centre = (torch.where(visible[..., None], g, 0).sum(dim=1) for g in (of_focal, g_means2d))
    gradient[:, 0, 0], gradient[:, 1, 1], gradient[:, :2, 2] = focal[:, 0], focal[:, 1], centre
    return gradient


def _summed(values: Tensor) -> Tensor:
    """[C,...] summed over the cameras; of one camera without an operation."""
    return values[0] if len(values) == 1 else values.sum(dim=0)


class _Blending(torch.autograd.Function):
    """Projected Gaussians to pictures [C,H,W,3 or 4] and alpha [C,H,W,1]."""

    @staticmethod
    def forward(
        ctx: Any,
        size: tuple[int, int],
        tiles: tuple[Tensor, Tensor],
        absolute: Tensor | None,
        means2d: Tensor,
        conics: Tensor,
        channels: Tensor,
        opacities: Tensor,
        backgrounds: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        from gsplat.cuda._backend import _C

        inputs = (means2d, conics, channels, opacities, backgrounds)
        pictures, alpha, last = _C.rasterize_to_pixels_3dgs_fwd(*inputs, None, *size, TILE, *tiles)
        ctx.save_for_backward(*inputs, *tiles, alpha, last)
        ctx.size, ctx.absolute = size, absolute
        ctx.set_materialize_grads(False)
        return pictures, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_pictures: Tensor | None, g_alpha: Tensor | None) -> tuple[Tensor | None, ...]:
        from gsplat.cuda._backend import _C

        *inputs, offsets, members, alpha, last = ctx.saved_tensors
        channels = inputs[2]
        if g_pictures is None:
            g_pictures = alpha.new_zeros(*alpha.shape[:3], channels.shape[-1])
        g_alpha = torch.zeros_like(alpha) if g_alpha is None else g_alpha.contiguous()
        g_absolute, *gradients = _C.rasterize_to_pixels_3dgs_bwd(
            *(*inputs, None, *ctx.size, TILE, offsets, members, alpha, last),
            *(g_pictures.contiguous(), g_alpha, ctx.absolute is not None),
        )
        if ctx.absolute is not None:
            ctx.absolute.copy_(g_absolute)
        g_backgrounds = None
        if ctx.needs_input_grad[7]:
            g_backgrounds = (g_pictures * (1 - alpha)).sum(dim=(1, 2))
        return None, None, None, *gradients, g_backgrounds
