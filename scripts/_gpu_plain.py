"""3DGS as one writes it down with gsplat: what our training on a GPU is held against.

`gsplat.rasterization`, L1 and SSIM as in 3DGS's own code (11x11 convolutions in PyTorch), one fused Adam of PyTorch for
each parameter, and where the scene is to grow gsplat's `DefaultStrategy`; settings are 3DGS's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from recon.datasets.scene import Scene
from recon.gaussians import Gaussians

RATES = {"means": 1.6e-4, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2.5e-3, "shN": 1.25e-4}
DECAY_STEPS = 30_000  # over which the learning rate of the means falls to a hundredth
SH_EVERY = 1000  # steps for each band of spherical harmonics


class Plain:
    """A training of Gaussians by gsplat's means alone."""

    def __init__(
        self, model: Gaussians, extent: float, *, grows: bool = False, ssim: bool = True, rate: float = 1.0
    ) -> None:
        """
        Args:
            model: where to start; on the GPU.
            extent: of the scene.
            grows: whether Gaussians are added and removed.
            ssim: whether the loss has its share of SSIM; to see what that costs.
            rate: times 3DGS's learning rates.
        """
        from gsplat import DefaultStrategy

        values = model.state_dict()
        names = {"log_scales": "scales", "logit_opacities": "opacities"}
        self.parameters = {names.get(k, k): torch.nn.Parameter(v.clone()) for k, v in values.items()}
        rates = RATES | {"means": RATES["means"] * extent}
        self.optimizers = {
            name: torch.optim.Adam([{"params": value, "lr": rate * rates[name], "name": name}], eps=1e-15, fused=True)
            for name, value in self.parameters.items()
        }
        self._decay = torch.optim.lr_scheduler.ExponentialLR(self.optimizers["means"], 0.01 ** (1 / DECAY_STEPS))
        self._strategy = DefaultStrategy() if grows else None
        self._state: dict[str, Any] = DefaultStrategy().initialize_state(scene_scale=extent)
        self._kernel = _kernel(model.device) if ssim else None

    def step(self, viewmat: Tensor, K: Tensor, photo: Tensor, number: int) -> None:
        """One step.

        Args:
            viewmat, K: [1,4,4] and [1,3,3], float32 on the GPU.
            photo: [1,H,W,3] on the GPU.
            number: of the step, from 0.
        """
        from gsplat import rasterization

        p = self.parameters
        rendered, _, info = rasterization(
            p["means"],
            p["quats"],
            p["scales"].exp(),
            p["opacities"].sigmoid(),
            torch.cat([p["sh0"], p["shN"]], dim=1),
            viewmat,
            K,
            photo.shape[2],
            photo.shape[1],
            sh_degree=min(3, number // SH_EVERY),
            packed=False,
        )
        if self._strategy is not None:
            self._strategy.step_pre_backward(p, self.optimizers, self._state, number, info)
        loss = (rendered - photo).abs().mean()
        if self._kernel is not None:
            structure = _ssim(rendered.permute(0, 3, 1, 2), photo.permute(0, 3, 1, 2), self._kernel)
            loss = 0.8 * loss + 0.2 * (1 - structure)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._decay.step()
        if self._strategy is not None:
            self._strategy.step_post_backward(p, self.optimizers, self._state, number, info)

    def model(self) -> Gaussians:
        p = {name: value.detach() for name, value in self.parameters.items()}
        return Gaussians(p["means"], p["quats"], p["scales"], p["opacities"], p["sh0"], p["shN"])


def train(scene: Scene, device: torch.device, steps: int) -> tuple[Gaussians, float]:
    """So many steps on a normalised capture from its points; the model, and the seconds in the loop.

    Photos are on the GPU before the clock starts.
    """
    assert scene.points is not None
    plain = Plain(Gaussians.from_points(scene.points).to(device), scene.extent, grows=True)
    cameras = [view.camera.to(device, torch.float32) for view in scene.train_views]
    photos = [view.load()[None, ..., :3].to(device) for view in scene.train_views]
    order = _order(len(photos), steps)
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    for number, index in enumerate(order):
        plain.step(cameras[index].viewmats, cameras[index].Ks, photos[index], number)
    torch.cuda.synchronize(device)
    return plain.model(), time.perf_counter() - began


def _order(count: int, steps: int) -> Sequence[int]:
    """Every photo once in each epoch, in a new order each time."""
    rng = np.random.default_rng(0)
    epochs = -(-steps // count)
    return np.concatenate([rng.permutation(count) for _ in range(epochs)])[:steps].tolist()


def _kernel(device: torch.device) -> Tensor:
    """[3,1,11,11], the window of SSIM for each colour."""
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    line /= line.sum()
    return torch.outer(line, line).expand(3, 1, 11, 11).contiguous().to(device)


def _ssim(x: Tensor, y: Tensor, kernel: Tensor) -> Tensor:
    """The mean SSIM of pictures [1,3,H,W], written as in 3DGS's code."""
    mean_x, mean_y = (conv2d(picture, kernel, padding=5, groups=3) for picture in (x, y))
    variance_x = conv2d(x * x, kernel, padding=5, groups=3) - mean_x**2
    variance_y = conv2d(y * y, kernel, padding=5, groups=3) - mean_y**2
    covariance = conv2d(x * y, kernel, padding=5, groups=3) - mean_x * mean_y
    above = (2 * mean_x * mean_y + 0.01**2) * (2 * covariance + 0.03**2)
    below = (mean_x**2 + mean_y**2 + 0.01**2) * (variance_x + variance_y + 0.03**2)
    return (above / below).mean()
