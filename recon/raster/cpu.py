"""The rasteriser for CPUs: the kernels of `recon.kernels` behind our contract, differentiable.

Two autograd functions make `means2d` a tensor between them: the projection (parameters to centres and records) and
the blending (centres and records to pictures).

The pictures are planar in memory: `rgb` [C,H,W,3] is a [C,3,H,W] array seen with permuted strides, so
`rgb.permute(0, 3, 1, 2)` is contiguous, and so may its gradient be: neither costs a copy then.

Nothing is differentiated with respect to the cameras. Float32 only. The same inputs give the same bits, forward and
backward, for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon import raster, sh
from recon.datasets.cameras import Cameras
from recon.kernels.buffers import take
from recon.kernels.rasterize import (
    Floats,
    NotFiniteError,
    Parameters,
    Pictures,
    View,
    blend_view,
    blend_view_backward,
    gradient_size,
    pack_camera,
    project_view,
    project_view_backward,
)
from recon.model import RenderOutput


@dataclass(frozen=True)
class _Projected:
    """The Gaussians as each camera sees them; the arrays of the views are slices of these."""

    views: list[View]
    means2d: Floats  # [C,N,2]
    radii: np.ndarray  # [C,N,2] int32


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
    """See `recon.raster.Rasterizer`.

    Raises:
        ValueError: shapes or types that do not fit; NaN or infinity in a parameter or a camera.
    """
    given = (means, quats, log_scales, logit_opacities, sh0, shN)
    tensors = dict(zip(Parameters._fields, given, strict=True))
    _check(tensors, cameras, sh_degree, near)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if background is None:
        backgrounds = torch.zeros(len(cameras), 3)
    else:
        backgrounds = background.to(device="cpu", dtype=torch.float32).expand(len(cameras), 3)
    projected = _project(tensors, cameras, sh_degree, near, far)
    radii = torch.from_numpy(projected.radii)
    absolute = torch.zeros(projected.means2d.shape) if absgrad else None
    wanted = (*tensors.values(), backgrounds)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in wanted):
        means2d, records = _Projection.apply(projected, *tensors.values())
        if means2d.requires_grad:
            means2d.retain_grad()
        pictures = _Blending.apply(projected, depth, absolute, means2d, records, backgrounds)
    else:
        means2d = torch.from_numpy(projected.means2d)
        pictures = _as_tensors(_blend(projected, backgrounds.numpy(), depth)[0])
    rgb, alpha, expected = pictures
    return RenderOutput(rgb, alpha, expected, means2d, radii, absgrad=absolute)


def _check(tensors: dict[str, Tensor], cameras: Cameras, sh_degree: int, near: float) -> None:
    """ValueError for what the kernels cannot take. NaN in the parameters is found by the kernels."""
    rows, coefficients = len(tensors["means"]), 1 + tensors["shN"].shape[1]
    shapes = ((rows, 3), (rows, 4), (rows, 3), (rows,), (rows, 1, 3), (rows, coefficients - 1, 3))
    for (name, tensor), shape in zip(tensors.items(), shapes, strict=True):
        if tensor.shape != shape or tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            got = f"{list(tensor.shape)}, {tensor.dtype}, {tensor.device}"
            raise ValueError(f"{name} is {got}; the CPU rasteriser takes {list(shape)}, torch.float32, cpu")
    if not 0 <= sh_degree <= sh.degree_of(coefficients):
        raise ValueError(f"sh_degree {sh_degree}: the coefficients reach degree {sh.degree_of(coefficients)}")
    if not near >= 0:
        raise ValueError(f"near {near}: must not be negative")
    for name, tensor in (("viewmats", cameras.viewmats), ("Ks", cameras.Ks)):
        if tensor.requires_grad:
            raise ValueError(f"cameras.{name} requires a gradient, which the CPU rasteriser does not give")
        if not np.isfinite(tensor.numpy(force=True)).all():
            raise ValueError(f"cameras.{name} contains NaN or infinity")


def _arrays(tensors: dict[str, Tensor]) -> Parameters:
    """The same memory as numpy arrays."""
    return Parameters(**{name: tensor.detach().numpy() for name, tensor in tensors.items()})


def _project(tensors: dict[str, Tensor], cameras: Cameras, sh_degree: int, near: float, far: float) -> _Projected:
    shape = (len(cameras), len(tensors["means"]), 2)
    means2d, radii = (take(int(np.prod(shape)), dtype).reshape(shape) for dtype in (np.float32, np.int32))
    viewmats, Ks = (tensor.numpy(force=True).astype(np.float64) for tensor in (cameras.viewmats, cameras.Ks))
    parameters, size = _arrays(tensors), (cameras.width, cameras.height)
    views = []
    for i in range(len(cameras)):
        camera = pack_camera(viewmats[i], Ks[i], *size, near, far)
        try:
            views.append(project_view(parameters, camera, *size, sh_degree, means2d[i], radii[i]))
        except NotFiniteError:
            raise raster.NotFiniteError(_odd_value(parameters)) from None
    return _Projected(views, means2d, radii)


def _odd_value(parameters: Parameters) -> str:
    """What is wrong with parameters in which the kernels met something that is not finite."""
    for name, array in parameters._asdict().items():
        odd = np.argwhere(~np.isfinite(array.reshape(len(array), -1)))
        if len(odd):
            return f"{name} contains NaN or infinity, first in row {odd[0, 0]}"
    row = int(np.abs(parameters.log_scales).max(axis=1).argmax())
    return f"log_scales: a Gaussian is too large to be projected in float32, perhaps row {row}"


def _blend(projected: _Projected, backgrounds: Floats, depth: bool) -> tuple[Pictures, list[Floats]]:
    """Pictures with the cameras in front (rgb [C,3,H,W], the others [C,H,W]), and what each view lets through."""
    count, view = len(projected.views), projected.views[0]
    size = count * view.height * view.width
    rgb = take(3 * size, np.float32).reshape(count, 3, view.height, view.width)
    alpha = take(size, np.float32).reshape(count, view.height, view.width)
    expected = take(size, np.float32).reshape(count, view.height, view.width) if depth else None
    transmittances = []
    for i, view in enumerate(projected.views):
        own = Pictures(rgb[i], alpha[i], None if expected is None else expected[i])
        transmittances.append(blend_view(view, backgrounds[i], own))
    return Pictures(rgb, alpha, expected), transmittances


def _as_tensors(pictures: Pictures) -> tuple[Tensor, Tensor, Tensor | None]:
    rgb = torch.from_numpy(pictures.rgb.transpose(0, 2, 3, 1))
    assert pictures.alpha is not None
    alpha = torch.from_numpy(pictures.alpha[..., None])
    return rgb, alpha, None if pictures.depth is None else torch.from_numpy(pictures.depth[..., None])


def _planar(picture: Tensor | None) -> Any:
    """[C,H,W,n] as an array [C,n,H,W]: without a copy if it is planar in memory."""
    return None if picture is None else picture.permute(0, 3, 1, 2).contiguous().numpy()


class _Projection(torch.autograd.Function):
    """Parameters to centres, and to records, for which an empty tensor of their gradient's shape stands."""

    @staticmethod
    def forward(ctx: Any, projected: _Projected, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*tensors)
        ctx.projected = projected
        ctx.set_materialize_grads(False)
        count, rows, _ = projected.means2d.shape
        return torch.from_numpy(projected.means2d), torch.empty(count, gradient_size(rows))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_means2d: Tensor | None, g_records: Tensor | None) -> tuple[Tensor | None, ...]:
        parameters = Parameters(*(tensor.detach().numpy() for tensor in ctx.saved_tensors))
        count, rows, _ = ctx.projected.means2d.shape
        if g_means2d is None:
            g_means2d = torch.zeros(count, rows, 2)
        if g_records is None:
            g_records = torch.zeros(count, gradient_size(rows))
        centres, records = g_means2d.contiguous().numpy(), g_records.contiguous().numpy()
        total: Parameters | None = None
        for view, g_centre, g_record in zip(ctx.projected.views, centres, records, strict=True):
            own = project_view_backward(parameters, view, g_centre, g_record)
            if total is None:
                total = own
            else:
                for sums, more in zip(total, own, strict=True):
                    sums += more
        assert total is not None
        wanted = ctx.needs_input_grad[1:]
        return None, *(torch.from_numpy(g) if needed else None for g, needed in zip(total, wanted, strict=True))


class _Blending(torch.autograd.Function):
    """Centres and records to pictures."""

    @staticmethod
    def forward(
        ctx: Any,
        projected: _Projected,
        depth: bool,
        absolute: Tensor | None,
        means2d: Tensor,
        records: Tensor,
        backgrounds: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        pictures, ctx.transmittances = _blend(projected, backgrounds.numpy(), depth)
        rgb, alpha, expected = _as_tensors(pictures)
        ctx.save_for_backward(rgb, alpha, expected)
        ctx.projected = projected
        ctx.absolute = None if absolute is None else absolute.numpy()
        ctx.set_materialize_grads(False)
        return rgb, alpha, expected

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, g_rgb: Tensor | None, g_alpha: Tensor | None, g_depth: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        views = ctx.projected.views
        rgb, alpha, depth = (None if tensor is None else tensor.numpy() for tensor in ctx.saved_tensors)
        assert rgb is not None
        assert alpha is not None
        count, rows, _ = ctx.projected.means2d.shape
        if g_rgb is None:
            g_rgb = torch.zeros(rgb.shape)
        g_pictures = Pictures(*(_planar(g) for g in (g_rgb, g_alpha, g_depth)))
        size = gradient_size(rows)
        centres, records = take(count * rows * 2, np.float32), take(count * size, np.float32)
        centres, records = centres.reshape(count, rows, 2), records.reshape(count, size)
        for i, view in enumerate(views):
            own = Pictures(rgb[i].transpose(2, 0, 1), alpha[i], None if depth is None else depth[i])
            blend_view_backward(
                view,
                own,
                ctx.transmittances[i],
                Pictures(*[None if g is None else g[i] for g in g_pictures]),  # type: ignore[arg-type]
                centres[i],
                records[i],
                None if ctx.absolute is None else ctx.absolute[i],
            )
        g_backgrounds = None
        if ctx.needs_input_grad[5]:
            through = [
                g.reshape(3, -1) @ transmittance
                for g, transmittance in zip(g_pictures.rgb, ctx.transmittances, strict=True)
            ]
            g_backgrounds = torch.from_numpy(np.stack(through))
        return None, None, None, torch.from_numpy(centres), torch.from_numpy(records), g_backgrounds
