"""The rasteriser of NVIDIA GPUs: gsplat's CUDA kernels behind our contract.

A step's kernels are done sooner than Python has asked for them, unless the scene is large. So they are called from two
autograd functions, as on the CPU, and not through gsplat's own wrappers, which make three times as many operations of
PyTorch, and invert the cameras on the GPU and wait for the outcome.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon.datasets.cameras import Cameras
from recon.model import RenderOutput
from recon.raster import EPS2D, gsplat_calls

TILE = 16  # px
WANTED = "gsplat>=1.5.3,<1.6"


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


class View(NamedTuple):
    """What is drawn of Gaussians, into which cameras."""

    cameras: Cameras
    sh_degree: int
    near: float
    far: float
    depth: bool
    antialiased: bool

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
    means2d, conics, channels, opacities, radii, depths = Projection.apply(
        view, cameras.viewmats, cameras.Ks, *parameters
    )
    absolute = torch.zeros_like(means2d, requires_grad=False) if absgrad else None
    if means2d.requires_grad:
        means2d.retain_grad()
    projected = Projected(means2d, conics, channels, opacities, radii, depths)
    rgb, alpha, expected = drawn(projected, (width, height), backgrounds, absolute, depth=depth)
    return RenderOutput(rgb, alpha, expected, means2d, radii, absgrad=absolute)


class Projected(NamedTuple):
    """What `Projection` returns."""

    means2d: Tensor
    conics: Tensor
    channels: Tensor
    opacities: Tensor
    radii: Tensor
    depths: Tensor


def drawn(
    projected: Projected,
    size: tuple[int, int],
    backgrounds: Tensor | None,
    absolute: Tensor | None,
    *,
    depth: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The colour, alpha and depth of `RenderOutput`, of pictures of one size (width, height).

    Args:
        backgrounds: [C,3]
        absolute: where the way back puts what `RenderOutput.absgrad` is.
    """
    compiled = gsplat_calls.functions()
    means2d, conics, channels, opacities, radii, depths = projected
    if backgrounds is not None and depth:
        backgrounds = torch.cat([backgrounds, backgrounds.new_zeros(len(means2d), 1)], dim=-1)
    count, columns, rows = len(means2d), -(-size[0] // TILE), -(-size[1] // TILE)
    # Not differentiable: which Gaussians a tile has, sorted by depth.
    _, keys, members = compiled.intersect_tile(
        *(means2d.detach(), radii, depths, None, None, count, TILE, columns, rows, True, False)
    )
    tiles = (compiled.intersect_offset(keys, count, columns, rows), members)
    pictures, alpha = Blending.apply(
        *(size, tiles, absolute, means2d, conics, channels, opacities),
        None if backgrounds is None else backgrounds.contiguous(),
    )
    if not depth:
        return pictures, alpha, None
    return pictures[..., :3], alpha, pictures[..., 3:] / alpha.clamp_min(1e-10)


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
        g_Ks = of_intrinsics(view.cameras, g_viewmats) if with_Ks else None
        if with_viewmats:
            g_viewmats[:, :3] += of_directions(view.cameras.viewmats, g_directions)
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
    """The gradient [C,3,4] of view matrices from that of the directions [C,N,3] from their positions to Gaussians."""
    total = g_directions.sum(dim=1)[..., None]  # of R^T t, which a position is the opposite of
    rotation, translation = viewmats[:, :3, :3], viewmats[:, :3, 3:]
    return torch.cat([translation @ total.mT, rotation @ total], dim=2)


def of_intrinsics(cameras: Cameras, g_viewmats: Tensor) -> Tensor:
    """The gradient [C,3,3] of intrinsics, which gsplat has none of, from the projection's of view matrices [C,4,4].

    A longer focal length does the same as a first or second row of the view matrix that is as many times longer, and a
    shifted principal point as some of the third row added to it; even to what is cut at the limits of the Jacobian.
    """
    along = g_viewmats[:, :3] @ cameras.viewmats[:, :3].mT
    focal = cameras.Ks.diagonal(dim1=1, dim2=2)[..., None]
    return along / focal * _intrinsic(cameras.Ks.device)


@functools.cache
def _intrinsic(device: torch.device) -> Tensor:
    """[3,3] 1 where a matrix of intrinsics has a focal length or the principal point."""
    return torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]], device=device)


def _summed(values: Tensor) -> Tensor:
    """[C,...] summed over the cameras; of one camera without an operation."""
    return values[0] if len(values) == 1 else values.sum(dim=0)


class Blending(torch.autograd.Function):
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
        compiled = gsplat_calls.functions()
        inputs = (means2d, conics, channels, opacities, backgrounds)
        pictures, alpha, last = compiled.rasterize_to_pixels_3dgs_fwd(*inputs, None, *size, TILE, *tiles)
        ctx.save_for_backward(*inputs, *tiles, alpha, last)
        ctx.size, ctx.absolute = size, absolute
        ctx.set_materialize_grads(False)
        return pictures, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_pictures: Tensor | None, g_alpha: Tensor | None) -> tuple[Tensor | None, ...]:
        compiled = gsplat_calls.functions()
        *inputs, offsets, members, alpha, last = ctx.saved_tensors
        channels = inputs[2]
        if g_pictures is None:
            g_pictures = alpha.new_zeros(*alpha.shape[:3], channels.shape[-1])
        g_alpha = torch.zeros_like(alpha) if g_alpha is None else g_alpha.contiguous()
        g_absolute, *gradients = compiled.rasterize_to_pixels_3dgs_bwd(
            *(*inputs, None, *ctx.size, TILE, offsets, members, alpha, last),
            *(g_pictures.contiguous(), g_alpha, ctx.absolute is not None),
        )
        if ctx.absolute is not None:
            ctx.absolute.copy_(g_absolute)
        g_backgrounds = None
        if ctx.needs_input_grad[7]:
            g_backgrounds = (g_pictures * (1 - alpha)).sum(dim=(1, 2))
        return None, None, None, *gradients, g_backgrounds
