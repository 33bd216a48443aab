"""Where a photo was taken from, found on a scene that stays as it is.

The poses of held-out photos are as rough as those of the others were, but nobody corrects them. So a scene trained with
corrected poses is also scored from where its held-out photos fit best: the pictures are then compared, not the poses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recon import losses
from recon.datasets.cameras import Cameras
from recon.datasets.scene import View
from recon.evaluate import Evaluation, evaluate
from recon.exposure import Shot
from recon.gaussians import Gaussians
from recon.poses import MOTION, moved
from recon.raster import straight
from recon.raster.passes import motion_gradient
from recon.render import Colour
from recon.torch_threads import one_torch_thread

ROUNDS = ((4, 14), (2, 12), (1, 10))  # how many times smaller the photo is, and how many steps are taken then
LEAST_SIDE = 32  # px
RATES = (3e-3, 1e-4)  # radians and world units, at the first step of Adam and at the last
FIRST, SECOND = 0.8, 0.95  # moments
SSIM_WEIGHT = 0.2


def evaluate_placed(
    model: Gaussians,
    views: Sequence[View],
    *,
    background: Colour,
    shots: Sequence[Shot] | None,
    advance: Callable[[], object],
) -> Evaluation:
    """PSNR and SSIM of views, each with the pose that suits it best.

    Args:
        background, shots: see `evaluate.evaluate`.
        advance: called after each view that is placed.
    """
    behind, found = torch.tensor(background, device=model.device), []
    with one_torch_thread(model.device):
        for number, view in enumerate(views):
            found.append(placed(model, view, background=behind, shot=shots[number] if shots else None))
            advance()
    return evaluate(model, found, background=background, lpips=False, shots=shots)


def placed(model: Gaussians, view: View, *, background: Tensor, shot: Shot | None = None) -> View:
    """The view with the pose from which the scene looks most like its photo.

    Args:
        background: [3] behind the scene.
        shot: how the photo was exposed; None: as the scene is.
    """
    photo, mask, camera = view.load(), None if view.mask is None else view.mask.load(), view.camera
    if photo.shape[-1] == 4:
        photo = photo[..., :3] * photo[..., 3:] + background.to(photo) * (1 - photo[..., 3:])
    given = camera.to(model.device, torch.float64)
    mean, square = given.Ks.new_zeros(2, 6)
    total, done = sum(steps for _, steps in ROUNDS), 0
    for factor, steps in ROUNDS:
        width, height = camera.width // factor, camera.height // factor
        if min(width, height) < LEAST_SIDE and factor > 1:
            total -= steps
            continue
        target, kept = (None if p is None else _resized(p, width, height, model.device) for p in (photo, mask))
        assert target is not None
        kept = None if kept is None else kept > 0.999
        exposure = None if shot is None else shot.resized(width / camera.width)
        for _ in range(steps):
            small = given.resized(width, height).to(dtype=torch.float32)
            gradient = _gradient(model, small, target, kept, background, exposure)[:6]
            done += 1
            mean = FIRST * mean + (1 - FIRST) * gradient
            square = SECOND * square + (1 - SECOND) * gradient * gradient
            rate = RATES[0] * (RATES[1] / RATES[0]) ** (done / total)
            step = mean / (1 - FIRST**done) / (square / (1 - SECOND**done)).clamp_min(1e-30).sqrt()
            given = moved(given, torch.cat([-rate * step, step.new_zeros(1)])[None])
    return dataclasses.replace(view, camera=given.to(camera.viewmats.device, camera.viewmats.dtype))


def _resized(picture: Tensor, width: int, height: int, device: torch.device) -> Tensor:
    """[1,H,W,K] of [H,W,K]; on a CPU planar in memory, as pictures are."""
    planes = torch.nn.functional.interpolate(picture.permute(2, 0, 1)[None], size=(height, width), mode="area")
    return planes.contiguous().to(device).permute(0, 2, 3, 1)


def _gradient(
    model: Gaussians, camera: Cameras, target: Tensor, mask: Tensor | None, background: Tensor, shot: Shot | None
) -> Tensor:
    """Of the photometric loss, in the motion of the camera: [7] float64."""
    if model.device.type == "cpu" and model.rasterizer is None:
        made = straight.photometric(
            tuple(model.parameters().values()),
            camera,
            target,
            sh_degree=model.degree_at(1.0),
            background=background,
            ssim_weight=SSIM_WEIGHT,
            mask=mask,
            absgrad=False,
            of_camera=True,
            shot=None if shot is None else (shot.lens, shot.coefficients.numpy()),
        ).last
        made.camera_alone()
        return motion_gradient(made.g_camera, camera.viewmats[0], camera.Ks[0])
    motion = torch.zeros(1, MOTION, device=model.device, requires_grad=True)
    with torch.enable_grad():
        picture = model.render(moved(camera, motion), background=background, depth=False).rgb
        picture = picture if shot is None else shot.exposed(picture)
        loss = losses.photometric(picture, target, ssim_weight=SSIM_WEIGHT, mask=mask)
        (gradient,) = torch.autograd.grad(loss, motion)
    return gradient[0].double()
