"""What the rasterisers of `gsplat_cuda.py` and `gsplat_packed.py` have in common, from what was projected to pictures.

M is how many pairs of a camera and a Gaussian are visible.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon.datasets.cameras import Cameras
from recon.raster import gsplat_calls

TILE = 16  # px


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


class Projected(NamedTuple):
    """What pictures are blended from, dense or packed: "..." is (C, N), where radii are 0 of what is not seen, or (M,).

    Attributes:
        means2d: [...,2]
        conics: [...,3]
        channels: [...,3 or 4] colour and depth.
        opacities: [...]
        radii: [...,2] int32, without a gradient.
        depths: [...] without a gradient.
    """

    means2d: Tensor
    conics: Tensor
    channels: Tensor
    opacities: Tensor
    radii: Tensor
    depths: Tensor


class Pairs(NamedTuple):
    """Whose the rows are of packed tensors."""

    pictures: int  # how many
    cameras: Tensor  # [M] int64, which one, ascending
    gaussians: Tensor  # [M] int64, which one


def drawn(
    projected: Projected,
    size: tuple[int, int],
    backgrounds: Tensor | None,
    absolute: Tensor | None,
    pairs: Pairs | None = None,
    *,
    depth: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The colour, alpha and depth of `RenderOutput`, of pictures of one size (width, height).

    Args:
        backgrounds: [C,3]
        absolute: of the shape of the centres, where the way back puts what `RenderOutput.absgrad` is of them.
        pairs: those of packed rows.
    """
    compiled = gsplat_calls.functions()
    means2d, conics, channels, opacities, radii, depths = projected
    if backgrounds is not None and depth:
        backgrounds = torch.cat([backgrounds, backgrounds.new_zeros(len(backgrounds), 1)], dim=-1)
    count, *ids = (len(means2d), None, None) if pairs is None else pairs
    columns, rows = -(-size[0] // TILE), -(-size[1] // TILE)
    # Not differentiable: which Gaussians a tile has, sorted by depth.
    _, keys, members = compiled.intersect_tile(
        *(means2d.detach(), radii, depths, *ids, count, TILE, columns, rows, True, False)
    )
    tiles = (compiled.intersect_offset(keys, count, columns, rows), members)
    pictures, alpha = Blending.apply(
        *(size, tiles, absolute, means2d, conics, channels, opacities),
        None if backgrounds is None else backgrounds.contiguous(),
    )
    if not depth:
        return pictures, alpha, None
    return pictures[..., :3], alpha, pictures[..., 3:] / alpha.clamp_min(1e-10)


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


def of_cameras(
    cameras: Cameras, g_viewmats: Tensor, g_directions: Tensor | None, with_Ks: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of view matrices [C,4,4] and of intrinsics [C,3,3], as far as they are wanted.

    Args:
        g_viewmats: [C,4,4] the projection's, where one of both is wanted. It is written to.
        g_directions: [C,3] see `of_directions`; None where that of view matrices is not wanted.
        with_Ks: whether that of intrinsics is.
    """
    g_Ks = of_intrinsics(cameras, g_viewmats) if with_Ks else None
    if g_directions is None:
        return None, g_Ks
    g_viewmats[:, :3] += of_directions(cameras.viewmats, g_directions)
    return g_viewmats, g_Ks


def of_directions(viewmats: Tensor, g_directions: Tensor) -> Tensor:
    """The gradient [C,3,4] of view matrices from that of the directions from their positions to Gaussians.

    Args:
        g_directions: [C,3] summed over the Gaussians.
    """
    total = g_directions[..., None]  # of R^T t, which a position is the opposite of
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


def of_logits(logits: Tensor, opacities: Tensor, g_opacities: Tensor) -> Tensor:
    """The gradient [N] of opacities before the sigmoid, whose derivative is sigmoid(x) sigmoid(-x).

    1 - sigmoid(x) has no digits where x is large.
    """
    return logits.neg().sigmoid_().mul_(opacities).mul_(g_opacities)
