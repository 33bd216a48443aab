"""How a scene that is divided among processes is drawn on NVIDIA GPUs: what `divided.py` says, by gsplat's kernels.

What is handed round are the rows of what `gsplat_cuda.Projection` returns that a camera sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon.model import RenderOutput
from recon.ranks import Ranks
from recon.raster.gsplat_blending import Projected, View, drawn
from recon.raster.gsplat_cuda import Projection

if TYPE_CHECKING:
    from recon.raster.divided import Everyone


def render(
    ranks: Ranks,
    tensors: Sequence[Tensor],
    everyone: Everyone,
    sh_degree: int,
    background: Tensor,
    near: float,
    far: float,
    *,
    depth: bool,
    absgrad: bool,
    antialiased: bool,
) -> RenderOutput:
    """See `recon.raster.divided.Divided`.

    Args:
        tensors: the six parameters of this process's Gaussians, contiguous.
        background: [1,3]
    """
    means, cameras = tensors[0], everyone.single()
    parts = [
        Projection.apply(View(camera, sh_degree, near, far, depth, antialiased), viewmat[None], K[None], *tensors)
        if len(means)  # by which the kernels would divide
        else _nothing(tensors, viewmat, K, depth)
        for camera, viewmat, K in zip(cameras, everyone.viewmats, everyone.Ks, strict=True)
    ]
    means2d, conics, channels, opacities, radii, depths = (torch.cat(values) for values in zip(*parts, strict=True))
    if means2d.requires_grad:
        means2d.retain_grad()
    seen = radii[..., 0] > 0
    rows = torch.nonzero(seen.reshape(-1))[:, 0]
    absolute = torch.zeros_like(means2d, requires_grad=False) if absgrad else None
    handed = _Handed(ranks, rows, seen.sum(dim=1).tolist(), absolute)
    theirs = Projected(*_Exchange.apply(handed, radii, depths, means2d, conics, channels, opacities))
    size = (cameras[ranks.rank].width, cameras[ranks.rank].height)
    if theirs.means2d.shape[1]:
        if absgrad:
            handed.theirs.append(torch.zeros_like(theirs.means2d, requires_grad=False))
        rgb, alpha, expected = drawn(
            *(theirs, size, background.contiguous(), handed.theirs[0] if absgrad else None), depth=depth
        )
    else:  # which has a gradient all the same, since others wait for it
        alpha = means.new_zeros(1, size[1], size[0], 1) + theirs.means2d.sum()
        rgb, expected = background[:, None, None] + alpha.expand(-1, -1, -1, 3), alpha if depth else None
    return RenderOutput(rgb, alpha, expected, means2d, radii, absolute, sizes=everyone.sizes)


def _nothing(tensors: Sequence[Tensor], viewmat: Tensor, K: Tensor, depth: bool) -> tuple[Tensor, ...]:
    """What `Projection` would return of no Gaussians; it has gradients all the same, since others wait for those."""
    means, quats, log_scales, logits, *_ = (tensor[None] for tensor in tensors)
    channels = quats[..., : 4 if depth else 3]
    centres = means[..., :2] + torch.stack([value.sum() for value in (*tensors, viewmat, K)]).sum()
    return centres, log_scales, channels, logits, means.new_zeros(1, 0, 2, dtype=torch.int32), logits.detach()


class _Handed:
    """Who has handed what to whom."""

    def __init__(self, ranks: Ranks, rows: Tensor, sizes: list[int], own: Tensor | None) -> None:
        """
        Args:
            rows: which of all [R N] rows are seen by the camera of process 0, then of 1, and so on.
            sizes: how many each sees.
            own: [R,N,2] `RenderOutput.absgrad`, which the way back fills in.
        """
        self.ranks, self.rows, self.sizes, self.own = ranks, rows, sizes, own
        self.theirs: list[Tensor] = []  # [1,M,2] the same of the Gaussians that were drawn, where it is wanted
        self.counts: list[int] = []  # how many of each process this one's camera sees


class _Exchange(torch.autograd.Function):
    """What was projected here, [R,N,...], to what is drawn here, [1,M,...]."""

    @staticmethod
    def forward(ctx: Any, handed: _Handed, radii: Tensor, depths: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        means2d, conics, channels, opacities = values
        columns = [means2d, conics, channels, opacities[..., None], radii.to(means2d), depths[..., None]]
        widths = [column.shape[-1] for column in columns]
        sent = torch.cat(columns, dim=-1).reshape(-1, sum(widths))[handed.rows]
        got = handed.ranks.exchanged(sent.split(handed.sizes))
        handed.counts = [len(part) for part in got]
        *theirs, radii, depths = (part.contiguous() for part in torch.cat(got)[None].split(widths, dim=-1))
        theirs[3], radii, depths = theirs[3][..., 0], radii.int(), depths[..., 0]
        ctx.handed, ctx.shape, ctx.widths = handed, means2d.shape[:2], widths[:4]
        ctx.mark_non_differentiable(radii, depths)
        return *theirs, radii, depths

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        handed, widths = ctx.handed, list(ctx.widths)
        of_means2d, of_conics, of_channels, of_opacities, *_ = gradients
        columns = [of_means2d, of_conics, of_channels, of_opacities[..., None]]
        if handed.own is not None:
            columns += handed.theirs or [torch.zeros_like(of_means2d)]
            widths.append(2)
        given = torch.cat(columns, dim=-1)[0]
        back = torch.cat(handed.ranks.exchanged(given.split(handed.counts), handed.sizes))
        count, rows = ctx.shape
        everywhere = back.new_zeros(count * rows, sum(widths)).index_copy_(0, handed.rows, back)
        parts = [part.contiguous() for part in everywhere.reshape(count, rows, sum(widths)).split(widths, dim=-1)]
        if handed.own is not None:
            handed.own.copy_(parts[4])
        return None, None, None, *parts[:3], parts[3][..., 0]
