"""The loss of a view and its gradient, which is left to the optimiser.

Autograd does that for any model, device and loss. Where the model is Gaussians that learn from photos alone on a CPU,
it is done without.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from recon import losses, poses
from recon.batches import Batch
from recon.exposure import Shot
from recon.gaussians import Gaussians
from recon.late import Told
from recon.model import RenderOutput
from recon.optim import SelectiveAdam
from recon.raster import straight
from recon.raster.passes import motion_gradient


class Outcome(NamedTuple):
    loss: Tensor
    out: RenderOutput
    visible: Tensor | None  # [N] bool: rows that have a gradient; None if all have
    exposure: Told | None  # what `Exposure.learn` takes; None without a shot
    motion: Callable[[], Told] | None  # what `Poses.learn` takes, once the optimiser has stepped; None if not wanted


def of_view(
    model: Gaussians,
    optimizer: SelectiveAdam,
    batch: Batch,
    *,
    progress: float,
    ssim_weight: float,
    depth_weight: float = 0.0,
    absgrad: bool,
    shot: Shot | None = None,
    of_camera: bool = False,
) -> Outcome:
    """Render a view and compare it with its photo. The gradient is the optimiser's, for its next step.

    Args:
        progress: the share of the training that is done; see `Model.render`.
        ssim_weight: see `losses.photometric`.
        depth_weight: of `losses.relative_depth`, where the view has depths.
        absgrad: whether `RenderOutput.absgrad` is wanted.
        shot: how the photo was exposed; None: as the scene is.
        of_camera: whether the gradient of the camera's motion is wanted as well.
    """
    regularisers, measured = model.regularisers(), batch.depth if depth_weight > 0 else None
    if model.device.type == "cpu" and model.rasterizer is None and not regularisers:
        done = straight.photometric(
            tuple(model.parameters().values()),
            batch.cameras,
            batch.image,
            sh_degree=model.degree_at(progress),
            background=batch.background,
            ssim_weight=ssim_weight,
            mask=batch.mask,
            measured=measured,
            depth_weight=depth_weight,
            absgrad=absgrad,
            antialiased=model.antialiased,
            of_camera=of_camera,
            shot=None if shot is None else (shot.lens, shot.coefficients.numpy()),
        )
        optimizer.leave(done.last)
        return Outcome(
            torch.tensor(done.loss, dtype=torch.float32),
            done.out,
            done.visible,
            done.exposure,
            functools.partial(motion_gradient, done.last.g_camera, batch.cameras) if of_camera else None,
        )
    cameras = batch.cameras
    if of_camera:
        cameras = dataclasses.replace(
            cameras, viewmats=cameras.viewmats.detach().requires_grad_(), Ks=cameras.Ks.detach().requires_grad_()
        )
    out = model.render(
        cameras, background=batch.background, train_frac=progress, depth=measured is not None, absgrad=absgrad
    )
    picture, exposure = out.rgb, None
    if shot is not None:
        picture, exposure = shot.exposed_and_sums(picture, batch.image, batch.mask)
    loss = losses.photometric(picture, batch.image, ssim_weight=ssim_weight, mask=batch.mask)
    if measured is not None and out.depth is not None:
        loss = loss + depth_weight * losses.relative_depth(out.depth, out.alpha, measured)
    for term in regularisers.values():
        loss = loss + term
    with optimizer.finishing_backward():  # the optimiser may make the end of it together with its step
        loss.backward()  # type: ignore[no-untyped-call]
    assert out.radii is not None
    # A regulariser reaches every row; without one, rows that were not seen have no gradient.
    visible = None if regularisers else _seen(out.radii)

    @torch.no_grad()
    def of_motion() -> Tensor:
        assert cameras.viewmats.grad is not None
        assert cameras.Ks.grad is not None
        return poses.motion_gradient(cameras, cameras.viewmats.grad, cameras.Ks.grad)

    return Outcome(loss.detach(), out, visible, exposure, of_motion if of_camera else None)


def _seen(radii: Tensor) -> Tensor:
    """[N] bool, which rows any camera sees; of a divided scene there are those of all processes."""
    seen = radii[..., 0] > 0
    return seen[0] if len(seen) == 1 else seen.any(dim=0)
