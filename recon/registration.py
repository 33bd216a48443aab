"""Where a photo was taken from, found on a scene that stays as it is.

The poses of held-out photos are as rough as those of the others were, but nobody corrects them. So a scene trained with
corrected poses is also scored from where its held-out photos fit best: the pictures are then compared, not the poses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import losses
from recon.datasets.cameras import Cameras
from recon.datasets.scene import View
from recon.evaluate import Evaluation, evaluate, over_background
from recon.exposure import Shot
from recon.gaussians import Gaussians
from recon.poses import MOTION, moved
from recon.raster import straight
from recon.raster.passes import motion_gradient
from recon.render import Colour
from recon.torch_threads import one_torch_thread

Doubles = NDArray[np.float64]

ROUNDS = ((4, 14), (1, 10))  # how many times smaller the photo is, and how often it is rendered at most
LEAST_SIDE = 32  # px
ENOUGH = 1e-4  # change of the loss at a step that is not worth another
UNIT = 2e-3  # radians and world units: the first step that is tried
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
    behind, found = torch.tensor(background, dtype=torch.float32, device=model.device), []
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
    from scipy.optimize import minimize  # takes a quarter of a second, which no training is to begin with

    photo, mask, camera = view.load(), None if view.mask is None else view.mask.load(), view.camera
    photo = over_background(photo, background.to(photo))
    given = camera.to(model.device, torch.float64)
    motion = np.zeros(6)
    for factor, most in ROUNDS:
        width, height = camera.width // factor, camera.height // factor
        if min(width, height) < LEAST_SIDE and factor > 1:
            continue
        target, kept = (None if p is None else _resized(p, width, height, model.device) for p in (photo, mask))
        assert target is not None
        fit = _Fit(
            model,
            given.resized(width, height),
            target,
            None if kept is None else kept > 0.999,
            background,
            None if shot is None else shot.resized(width / camera.width),
        )
        if motion.any() and fit(np.zeros(6))[0] < fit(motion / UNIT)[0]:
            motion = np.zeros(6)  # what is best in a small picture need not be so in a larger one
        found = minimize(fit, motion / UNIT, jac=True, method="L-BFGS-B", options={"maxfun": most, "ftol": ENOUGH})
        motion = UNIT * found.x
    camera = _after(given, motion).to(camera.viewmats.device, camera.viewmats.dtype)
    return dataclasses.replace(view, camera=camera)


def _after(camera: Cameras, motion: Doubles) -> Cameras:
    return moved(camera, torch.tensor([[*motion, 0.0]], dtype=torch.float64, device=camera.Ks.device))


@dataclass(frozen=True, eq=False)
class _Fit:
    """How unlike its photo the scene looks after a motion of the camera."""

    model: Gaussians
    camera: Cameras
    target: Tensor
    mask: Tensor | None
    background: Tensor
    shot: Shot | None

    def __call__(self, motion: Doubles) -> tuple[float, Doubles]:
        """The photometric loss and its gradient, of a motion [6] in `UNIT`."""
        turn, step = UNIT * motion[:3], UNIT * motion[3:]
        camera = _after(self.camera, UNIT * motion).to(dtype=torch.float32)
        loss, gradient = self._at(camera)
        # From there on the camera turns about its new centre, and turns add up only nearly.
        about = gradient[:3] - np.cross(step, gradient[3:6])
        return loss, UNIT * np.concatenate([about - 0.5 * np.cross(turn, about), gradient[3:6]])

    def _at(self, camera: Cameras) -> tuple[float, Doubles]:
        """Loss, and gradient [7] in the motion from here."""
        model, shot = self.model, self.shot
        if model.device.type == "cpu" and model.rasterizer is None:
            made = straight.photometric(
                tuple(model.parameters().values()),
                camera,
                self.target,
                sh_degree=model.degree_at(1.0),
                background=self.background,
                ssim_weight=SSIM_WEIGHT,
                mask=self.mask,
                absgrad=False,
                antialiased=model.antialiased,
                of_camera=True,
                shot=None if shot is None else (shot.lens, shot.coefficients.numpy()),
            )
            made.last.camera_alone()
            return made.loss, motion_gradient(made.last.g_camera, camera)
        motion = torch.zeros(1, MOTION, device=model.device, requires_grad=True)
        with torch.enable_grad():
            picture = model.render(moved(camera, motion), background=self.background, depth=False).rgb
            picture = picture if shot is None else shot.exposed(picture)
            loss = losses.photometric(picture, self.target, ssim_weight=SSIM_WEIGHT, mask=self.mask)
            (gradient,) = torch.autograd.grad(loss, motion)
        return float(loss.detach()), gradient[0].double().cpu().numpy()


def _resized(picture: Tensor, width: int, height: int, device: torch.device) -> Tensor:
    """[1,H,W,K] of [H,W,K]; on a CPU planar in memory, as pictures are."""
    planes = torch.nn.functional.interpolate(picture.permute(2, 0, 1)[None], size=(height, width), mode="area")
    return planes.contiguous().to(device).permute(0, 2, 3, 1)
