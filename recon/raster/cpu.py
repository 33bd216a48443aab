"""The rasteriser for CPUs: the kernels of `recon.kernels` behind our contract, differentiable.

Two autograd functions make `means2d` a tensor between them: the projection (parameters to centres and records) and
the blending (centres and records to pictures).

The pictures are planar in memory: `rgb` [C,H,W,3] is a [C,3,H,W] array seen with permuted strides, so
`rgb.permute(0, 3, 1, 2)` is contiguous, and so may its gradient be: neither costs a copy then.

The gradient of a view matrix is that in the directions in which it can change and remain one. Float32 only. The same
inputs give the same bits, forward and backward, for any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon.datasets.cameras import Cameras
from recon.kernels.buffers import take
from recon.kernels.rasterize import (
    NOT_WANTED,
    Floats,
    Pictures,
    View,
    blend_view_backward,
    camera_gradients,
    gradient_size,
    project_view_backward,
)
from recon.model import RenderOutput
from recon.raster import waiting
from recon.raster.passes import as_tensors, blend, camera_gradient, parameters_of, project


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
    """See `recon.raster.Rasterizer`.

    Raises:
        ValueError: shapes or types that do not fit; NaN or infinity in a parameter or a camera.
    """
    given = (means, quats, log_scales, logit_opacities, sh0, shN)
    tensors = [tensor.contiguous() for tensor in given]
    if background is None:
        backgrounds = torch.zeros(len(cameras), 3)
    else:
        backgrounds = background.to(device="cpu", dtype=torch.float32).expand(len(cameras), 3)
    views, centres, extents = project(tensors, cameras, sh_degree, near, far, antialiased)
    absolute = torch.zeros(centres.shape) if absgrad else None
    matrices = (cameras.viewmats, cameras.Ks)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*tensors, *matrices, backgrounds)):
        means2d, records = Projection.apply(views, centres, *matrices, *tensors)
        if means2d.requires_grad:
            means2d.retain_grad()
        pictures = Blending.apply(views, (depth, median_depth), absolute, means2d, records, backgrounds)
    else:
        means2d = torch.from_numpy(centres)
        pictures = as_tensors(blend(views, backgrounds.numpy(), depth, median_depth)[0])
    rgb, alpha, expected, median = pictures
    radii = torch.from_numpy(extents)
    return RenderOutput(rgb, alpha, expected, means2d, radii, absgrad=absolute, median_depth=median)


def _planar(picture: Tensor | None) -> Any:
    """[C,H,W,n] as an array [C,n,H,W]: without a copy if it is planar in memory."""
    return None if picture is None else picture.permute(0, 3, 1, 2).contiguous().numpy()


def _of_camera(pictures: Iterable[Any], number: int) -> Pictures:
    own: list[Any] = [None if picture is None else picture[number] for picture in pictures]
    return Pictures(*own)


def _anchor(views: Sequence[View]) -> Tensor:
    """Views for `save_for_backward`, which takes tensors only: it lets go of them after the backward pass.

    `ctx` itself lives as long as the pictures do, and would keep the memory of the lists from being used again.
    """
    anchor = torch.empty(0)
    anchor.views = views  # type: ignore[attr-defined]
    return anchor


class Projection(torch.autograd.Function):
    """Cameras and parameters to centres, and to records, for which an empty tensor of their gradient's shape stands."""

    @staticmethod
    def forward(
        ctx: Any, views: Sequence[View], centres: Floats, viewmats: Tensor, Ks: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(viewmats, *tensors, _anchor(views))
        ctx.type_of_cameras = viewmats.dtype, Ks.dtype
        ctx.shape = centres.shape
        ctx.set_materialize_grads(False)
        return torch.from_numpy(centres), torch.empty(len(views), gradient_size(centres.shape[1]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_centres: Tensor | None, g_records: Tensor | None) -> tuple[Tensor | None, ...]:
        viewmats, *tensors, anchor = ctx.saved_tensors
        views = anchor.views
        with_cameras, wanted = any(ctx.needs_input_grad[2:4]), ctx.needs_input_grad[4:]
        if g_centres is None:
            g_centres = torch.zeros(ctx.shape)
        if g_records is None:
            g_records = torch.zeros(len(views), gradient_size(ctx.shape[1]))
        if len(views) == 1 and all(wanted) and not with_cameras:
            last = waiting.Pass(tuple(tensors), views[0], g_centres[0].numpy(), g_records[0].numpy())
            if waiting.leave(last):
                return (None,) * len(ctx.needs_input_grad)
        parameters, total = parameters_of(tensors), None
        g_viewmats, g_Ks = torch.zeros(len(views), 4, 4), torch.zeros(len(views), 3, 3)
        for i, view in enumerate(views):
            g_centre, g_record = g_centres[i].contiguous().numpy(), g_records[i].contiguous().numpy()
            pieces = camera_gradients(ctx.shape[1]) if with_cameras else NOT_WANTED
            own = project_view_backward(parameters, view, g_centre, g_record, pieces)
            if with_cameras:
                g_viewmats[i], g_Ks[i] = camera_gradient(pieces, viewmats[i])
            if total is None:
                total = own
            else:
                for sums, more in zip(total, own, strict=True):
                    sums += more
        assert total is not None
        of_cameras = [g.to(kind) for g, kind in zip((g_viewmats, g_Ks), ctx.type_of_cameras, strict=True)]
        gradients = (*of_cameras, *map(torch.from_numpy, total))
        return None, None, *(g if want else None for g, want in zip(gradients, ctx.needs_input_grad[2:], strict=True))


class Blending(torch.autograd.Function):
    """Centres and records to pictures."""

    @staticmethod
    def forward(
        ctx: Any,
        views: Sequence[View],
        depths: tuple[bool, bool],
        absolute: Tensor | None,
        means2d: Tensor,
        records: Tensor,
        backgrounds: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        pictures, transmittances = blend(views, backgrounds.numpy(), *depths)
        rgb, alpha, expected, median = as_tensors(pictures)
        ctx.save_for_backward(rgb, alpha, expected, torch.from_numpy(transmittances), _anchor(views))
        ctx.shape = means2d.shape
        ctx.absolute = None if absolute is None else absolute.numpy()
        ctx.set_materialize_grads(False)
        if median is not None:
            ctx.mark_non_differentiable(median)
        return rgb, alpha, expected, median

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, g_rgb: Tensor | None, g_alpha: Tensor | None, g_depth: Tensor | None, _: None
    ) -> tuple[Tensor | None, ...]:
        *pictures, anchor = ctx.saved_tensors
        rgb, alpha, depth, transmittances = (None if tensor is None else tensor.numpy() for tensor in pictures)
        assert rgb is not None
        assert alpha is not None
        assert transmittances is not None
        if g_rgb is None:
            g_rgb = torch.zeros(rgb.shape)
        gradients = [_planar(g) for g in (g_rgb, g_alpha, g_depth)]
        centres = take(tuple(ctx.shape), np.float32)
        records = take((len(anchor.views), gradient_size(ctx.shape[1])), np.float32)
        for i, view in enumerate(anchor.views):
            blend_view_backward(
                view,
                Pictures(rgb[i].transpose(2, 0, 1), alpha[i], None if depth is None else depth[i]),
                transmittances[i],
                _of_camera(gradients, i),
                centres[i],
                records[i],
                None if ctx.absolute is None else ctx.absolute[i],
            )
        g_backgrounds = None
        if ctx.needs_input_grad[5]:
            let_through = [g.reshape(3, -1) @ t for g, t in zip(gradients[0], transmittances, strict=True)]
            g_backgrounds = torch.from_numpy(np.stack(let_through))
        return None, None, None, torch.from_numpy(centres), torch.from_numpy(records), g_backgrounds
