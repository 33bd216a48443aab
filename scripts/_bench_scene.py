"""The scenes that the rasteriser is timed on: random Gaussians that fill the picture, and a training of them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.config import AdaptiveConfig, TrainConfig
from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.scene import Scene, View
from recon.gaussians import Gaussians
from recon.train import TrainState, start

VIEWS = 4  # photos of a training
NAMES = ("means", "quats", "log_scales", "logit_opacities", "sh0", "shN")


@dataclasses.dataclass(frozen=True)
class Photo:
    """A decoded photo, as those of a capture are kept: uint8 [H,W,3]."""

    array: NDArray[np.uint8]

    @property
    def pixel_bytes(self) -> int:
        return self.array.nbytes

    @property
    def decoding_bytes(self) -> int:
        return self.array.nbytes

    def pixels(self) -> NDArray[np.uint8]:
        return self.array

    def load(self) -> Tensor:
        return torch.from_numpy(self.array.astype(np.float32) / np.float32(255))


def make_camera(width: int, height: int, number: int = 0) -> Cameras:
    """A field of view of 60 degrees, slightly turned and moved from the origin, each `number` a little further."""
    focal = 0.5 * width / math.tan(math.radians(30))
    angle = 0.1 + 0.01 * number
    cosine, sine = math.cos(angle), math.sin(angle)
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = torch.tensor([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])
    viewmat[:3, 3] = torch.tensor([0.05, -0.03, 0.2])
    return Cameras(viewmat[None], intrinsics(focal, focal, width / 2, height / 2), width, height)


def make_scene(count: int, camera: Cameras, radius: float, seed: int = 0) -> list[Tensor]:
    """Gaussians all over the picture and a little beyond, at depths 2 to 10, most of them `radius` pixels wide.

    Returns:
        the parameters in the order of `NAMES`, float64.
    """
    rng = np.random.default_rng(seed)
    size = np.array([camera.width, camera.height])
    focal = float(camera.Ks[0, 0, 0])
    pixels = (rng.random((2, count)).T * 1.16 - 0.08) * size
    z = 2 + 8 * rng.random(count)
    in_camera = np.column_stack([(pixels - size / 2) / focal * z[:, None], z])
    rotation, translation = camera.viewmats[0, :3, :3].numpy(), camera.viewmats[0, :3, 3].numpy()
    quats = rng.normal(size=(count, 4))
    spread = rng.normal(size=(count, 1)) * 0.3 + rng.normal(size=(count, 3)) * 0.5
    logit_opacities = rng.normal(size=count) * 1.5 - 0.7
    sh0, shN = rng.normal(size=(count, 1, 3)) * 0.8, rng.normal(size=(count, 15, 3)) * 0.15
    arrays = (
        (in_camera - translation) @ rotation,
        quats,
        np.log(radius * z / focal)[:, None] + spread,
        logit_opacities,
        sh0,
        shN,
    )
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]


def make_model(count: int, width: int, height: int, radius: float) -> Gaussians:
    """The scene as the public API has it."""
    means, *rest = (tensor.float() for tensor in make_scene(count, make_camera(width, height), radius))
    return Gaussians(means, *rest)


def make_training(
    count: int, width: int, height: int, radius: float, device: torch.device | str = "cpu"
) -> tuple[TrainState, list[View]]:
    """A training in its middle that never ends, adds no Gaussians and hardly moves them: each step is like the others.

    The photos are pictures of the scene with other colours, so that every pixel has a gradient.
    """
    model = make_model(count, width, height, radius).to(device)
    other = Gaussians(*(value + 0.5 if name == "sh0" else value for name, value in model.state_dict().items()))
    views = []
    for number in range(VIEWS):
        camera = make_camera(width, height, number)
        with torch.no_grad():
            photo = (other.render(camera, depth=False).rgb[0].clamp(0, 1) * 255).round().byte().cpu()
        views.append(View(f"{number}.png", camera, Photo(photo.contiguous().numpy())))
    scene = Scene("benchmark", tuple(views), train=tuple(range(VIEWS)), test=())
    never = {"refine_from": 1.0, "refine_until": 0.0, "reset_every": 0}
    strategy = with_known(AdaptiveConfig(), max_gaussians=count, **never)
    config = with_known(
        TrainConfig(), steps=1_000_000, lr_scale=1e-6, coarse_to_fine=False, coarse=0.0, strategy=strategy
    )
    state = start(model, config, scene)
    state.step = config.steps // 2  # all spherical harmonics, full resolution
    return state, views


def with_known(settings: Any, **values: Any) -> Any:
    """Settings with those values that this version of them has: earlier commits are measured too."""
    known = {field.name for field in dataclasses.fields(settings)}
    return dataclasses.replace(settings, **{name: value for name, value in values.items() if name in known})
