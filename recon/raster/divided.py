"""A rasteriser of a scene that is divided among processes, each of which holds a part of the Gaussians.

All call it at once, each with a camera of its own. Every process projects its part into the cameras of all, hands to
each what that sees of it, and draws its own picture of what all have handed to it; gradients go back the same way
(Grendel, Zhao et al. 2024, "On Scaling Up 3D Gaussian Splatting Training"). What is projected and how it is drawn is
that of `cpu.py` and `gsplat_cuda.py`.

On a CPU the pictures, and the gradients of the Gaussians, have the bits of one process that holds all parts in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon.datasets.cameras import Cameras
from recon.kernels import exchange
from recon.kernels.buffers import take
from recon.kernels.rasterize import gradient_size
from recon.model import RenderOutput
from recon.ranks import Ranks
from recon.raster.cpu import Blending, Projection
from recon.raster.passes import find


class Divided:
    """A `Rasterizer` of the parts of some processes, whose numbers are the order of their parts."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def __call__(
        self,
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
        """See `recon.raster.Rasterizer`; `cameras` is a batch of one. What there is for each Gaussian is for those of
        this process alone, and for the cameras of all: see `RenderOutput.sizes`. Raises `recon.ranks.Lost`."""
        tensors = [tensor.contiguous() for tensor in (means, quats, log_scales, logit_opacities, sh0, shN)]
        everyone = cameras_of_all(self.ranks, cameras.to(means.device, means.dtype))
        if background is None:
            background = means.new_zeros(3)
        if means.device.type == "cuda":
            from recon.raster.divided_cuda import render as on_gpu

            return on_gpu(
                *(self.ranks, tensors, everyone, sh_degree, background.to(means).expand(1, 3), near, far),
                depth=depth,
                absgrad=absgrad,
                antialiased=antialiased,
            )
        found, centres, extents = find(tensors, everyone.single(), sh_degree, near, far, antialiased)
        rows = [exchange.touching(each) for each in found]
        sent = [torch.from_numpy(exchange.packed(each, own)) for each, own in zip(found, rows, strict=True)]
        got = [part.numpy() for part in self.ranks.exchanged(sent)]
        view, counts = exchange.together(found[self.ranks.rank], got)
        means2d, records = Projection.apply(
            [exchange.seen_alone(each) for each in found], centres, everyone.viewmats, everyone.Ks, *tensors
        )
        absolute = torch.zeros(centres.shape) if absgrad else None
        if means2d.requires_grad:
            means2d.retain_grad()
        handed = _Handed(self.ranks, rows, counts, absolute, torch.zeros(1, sum(counts), 2) if absgrad else None)
        theirs2d, their_records = _Exchange.apply(handed, means2d, records)
        backgrounds = background.to(device="cpu", dtype=torch.float32).expand(1, 3)
        rgb, alpha, expected, median = Blending.apply(
            [view], (depth, median_depth), handed.theirs, theirs2d, their_records, backgrounds
        )
        radii = torch.from_numpy(extents)
        return RenderOutput(rgb, alpha, expected, means2d, radii, absolute, median, everyone.sizes)


class Everyone(NamedTuple):
    """The cameras of all processes, in order."""

    viewmats: Tensor  # [R,4,4]
    Ks: Tensor  # [R,3,3]
    sizes: Tensor  # [R,2] int64 on the CPU

    def single(self) -> list[Cameras]:
        matrices = zip(self.viewmats.detach(), self.Ks.detach(), self.sizes.tolist(), strict=True)
        return [Cameras(viewmat[None], K[None], *size) for viewmat, K, size in matrices]


def cameras_of_all(ranks: Ranks, cameras: Cameras) -> Everyone:
    """The single cameras that all processes bring; differentiable."""
    if len(cameras) != 1:
        raise ValueError(f"{len(cameras)} cameras: a divided scene is drawn for one at a time in each process")
    sizes = ranks.gathered(torch.tensor([[cameras.width, cameras.height]]))
    viewmats, Ks = _Cameras.apply(ranks, cameras.viewmats, cameras.Ks)
    return Everyone(viewmats, Ks, sizes)


class _Cameras(torch.autograd.Function):
    """The matrices of this process's camera to those of all. Each process has a part of the gradient of each."""

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, viewmats: Tensor, Ks: Tensor) -> tuple[Tensor, Tensor]:
        ctx.ranks = ranks
        # Of a copy: what is its own input has no gradient to give.
        return ranks.gathered(viewmats.clone()), ranks.gathered(Ks.clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor]:
        sums, own = [gradient.clone() for gradient in gradients], slice(ctx.ranks.rank, ctx.ranks.rank + 1)
        ctx.ranks.add(sums)
        return None, sums[0][own], sums[1][own]


class _Handed(NamedTuple):
    """Who has handed what to whom."""

    ranks: Ranks
    rows: Sequence[NDArray[np.int64]]  # which of this process's Gaussians each camera sees
    counts: Sequence[int]  # how many of each process this one's camera sees
    own: Tensor | None  # [R,N,2] `RenderOutput.absgrad`, which the way back fills in
    theirs: Tensor | None  # [1,M,2] the same of the Gaussians that were drawn


class _Exchange(torch.autograd.Function):
    """What was projected here to what is drawn here, of which `Blending` needs nothing but the shape."""

    @staticmethod
    def forward(ctx: Any, handed: _Handed, means2d: Tensor, records: Tensor) -> tuple[Tensor, Tensor]:
        ctx.handed, ctx.shape = handed, means2d.shape
        total = sum(handed.counts)
        return torch.empty(1, total, 2), torch.empty(1, gradient_size(total))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_theirs: Tensor, g_records: Tensor) -> tuple[None, Tensor, Tensor]:
        handed = ctx.handed
        absolute = None if handed.theirs is None else handed.theirs[0].numpy()
        given = torch.from_numpy(exchange.rows_of_gradients(g_theirs[0].numpy(), g_records[0].numpy(), absolute))
        sizes = [len(rows) for rows in handed.rows]
        back = handed.ranks.exchanged(given.split(list(handed.counts)), sizes)
        centres = take(tuple(ctx.shape), np.float32)
        records = take((len(sizes), gradient_size(ctx.shape[1])), np.float32)
        for number, (rows, part) in enumerate(zip(handed.rows, back, strict=True)):
            own = None if handed.own is None else handed.own[number].numpy()
            exchange.put_gradients(part.numpy(), rows, centres[number], records[number], own)
        return None, torch.from_numpy(centres), torch.from_numpy(records)
