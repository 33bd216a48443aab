"""A picture, its photometric loss and the way back to the projection on the CPU, without autograd.

These are the kernels that autograd would call through `cpu.rasterize`, `losses.photometric` and `backward`, in the same
order and with the same results, bit for bit. What autograd does between them takes a millisecond: as long as 5,000
Gaussians, since all of it has dropped out of the caches while the kernels ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets.cameras import Cameras
from recon.kernels.buffers import take
from recon.kernels.expose import Shot, expose
from recon.kernels.rasterize import (
    NOT_WANTED,
    Pictures,
    blend_view_backward,
    camera_gradients,
    gradient_size,
)
from recon.kernels.ssim import photometric_value_and_gradient
from recon.losses import relative_depth_and_gradient
from recon.model import RenderOutput
from recon.raster.passes import as_tensors, blend, project
from recon.raster.waiting import Pass

NEAR, FAR = 0.01, 1e10  # what `Rasterizer` has by default


class Photometric(NamedTuple):
    loss: float
    out: RenderOutput  # without gradients, but for `means2d.grad`
    last: Pass  # the rest of the backward pass
    visible: Tensor  # [N] bool
    exposure: NDArray[np.float64] | None  # [3,SUMS] of `kernels.expose`, with a shot


def photometric(
    tensors: Sequence[Tensor],
    cameras: Cameras,
    target: Tensor,
    *,
    sh_degree: int,
    background: Tensor,
    ssim_weight: float,
    mask: Tensor | None,
    measured: Tensor | None = None,
    depth_weight: float = 0.0,
    absgrad: bool,
    antialiased: bool = False,
    of_camera: bool = False,
    shot: Shot | None = None,
) -> Photometric:
    """Render, compare with a photo, and go back as far as the projection.

    Args:
        tensors: the six parameters of Gaussians.
        cameras: a batch of one.
        target, ssim_weight, mask: see `losses.photometric`.
        measured, depth_weight: depths [1,H,W,1], see `losses.relative_depth`, and its weight.
        sh_degree, background [3], absgrad, antialiased: see `Rasterizer`.
        of_camera: whether the camera's gradient is wanted.
        shot: lens and coefficients of `kernels.expose`: how the photo was exposed.
    """
    assert len(cameras) == 1
    (view,), centres, extents = project(tensors, cameras, sh_degree, NEAR, FAR, antialiased)
    pictures, transmittances = blend([view], background.numpy()[None], depth=measured is not None)
    picture, photo = pictures.rgb, np.ascontiguousarray(target.numpy().transpose(0, 3, 1, 2))
    kept = None if mask is None else mask[..., 0].float().contiguous().numpy()
    sums = None
    if shot is not None:
        exposed, sums = expose(picture[0], photo[0], None if kept is None else kept[0], *shot)
        picture = exposed[None]
    loss, g_rgb = photometric_value_and_gradient(picture, photo, ssim_weight, kept, shot)
    g_depth = None
    if measured is not None:
        assert pictures.depth is not None
        assert pictures.alpha is not None
        value, slope = relative_depth_and_gradient(pictures.depth[0], pictures.alpha[0], measured[0, ..., 0].numpy())
        loss, g_depth = loss + depth_weight * value, depth_weight * slope
    g_centres, g_records = take(centres.shape, np.float32), take(gradient_size(centres.shape[1]), np.float32)
    absolute = None
    if absgrad:
        absolute = take(centres.shape, np.float32)
        absolute.fill(0)
    blend_view_backward(
        view,
        Pictures(*(None if picture is None else picture[0] for picture in pictures)),  # type: ignore[arg-type]
        transmittances[0],
        Pictures(g_rgb[0], None, g_depth),
        g_centres[0],
        g_records,
        None if absolute is None else absolute[0],
    )
    means2d = torch.from_numpy(centres)
    means2d.grad = torch.from_numpy(g_centres)
    rgb, alpha, depth, _ = as_tensors(pictures)
    out = RenderOutput(
        *(rgb, alpha, depth, means2d),
        torch.from_numpy(extents),
        absgrad=None if absolute is None else torch.from_numpy(absolute),
    )
    visible = torch.from_numpy(view.lists.seen[: centres.shape[1]].view(np.bool_))
    g_camera = camera_gradients(centres.shape[1]) if of_camera else NOT_WANTED
    return Photometric(
        loss,
        out,
        Pass(tuple(tensors), view, g_centres[0], g_records, g_camera),
        visible,
        sums,
    )
