"""Radiance fields that are small enough for tests, and how they are trained on the tiny scene."""

from __future__ import annotations

import dataclasses

import torch

import tiny
from recon import checkpoint, sh
from recon.config import NerfConfig, PlenoxelsConfig, TrainConfig, for_field
from recon.datasets.scene import Scene
from recon.kernels.voxels import EMPTY
from recon.opening import first_model
from recon.plenoxels import Plenoxels
from recon.train import TrainState, start, train

NERF = NerfConfig(rays=64, width=16, depth=6, coarse_samples=8, fine_samples=8, frequencies=4, lr=5e-3, lr_final=5e-4)
PLENOXELS = PlenoxelsConfig(rays=256, sides=(12, 24), finer_at=(0.3,))
SMALL: dict[str, NerfConfig | PlenoxelsConfig] = {"nerf": NERF, "plenoxels": PLENOXELS}
CPU = torch.device("cpu")


def settings_of(method: str, steps: int, **changes) -> TrainConfig:
    return dataclasses.replace(for_field(method, steps), radiance=SMALL[method], **changes)


def begin(settings: TrainConfig, scene: Scene | None = None) -> TrainState:
    scene = scene or tiny.scene()
    return start(first_model(scene, settings, CPU), settings, scene)


def held_out_error(state: TrainState, scene: Scene) -> float:
    view = scene.test_views[0]
    with torch.no_grad():
        return float((state.model.render(view.camera).rgb[0] - view.load()).square().mean())


def interrupted(settings: TrainConfig, stop: int, folder, scene: Scene | None = None) -> TrainState:
    """A training that was stopped, saved, and gone on with."""
    scene = scene or tiny.scene()

    class Stop(Exception):
        pass

    def interrupt(state, metrics) -> None:
        if state.step == stop:
            raise Stop

    broken = begin(settings, scene)
    try:
        train(broken, scene.train_views, callbacks=[interrupt])
    except Stop:
        checkpoint.save(broken, folder / "broken.safetensors")
    resumed = checkpoint.load(folder / "broken.safetensors")
    assert resumed.step == stop
    train(resumed, scene.train_views)
    return resumed


BALL = 0.3  # its radius


def ball(scene: Scene, side: int = 64) -> Plenoxels:
    """A field known exactly: an opaque ball around the middle, in the colours of the directions from there."""
    config = dataclasses.replace(PLENOXELS, sides=(side,), finer_at=())
    made = Plenoxels.start(scene, dataclasses.replace(for_field("plenoxels", 1), radiance=config), CPU)
    # Right in the cube, where the ball is.
    line = config.core * torch.linspace(-1 - config.shell, 1 + config.shell, side)
    places = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).reshape(-1, 3)
    away = places.norm(dim=-1)
    with torch.no_grad():
        made.levels[:] = (400 * (BALL - away)).clamp(EMPTY, 4)  # opaque right behind its surface
        made.harmonics[:, :27:9] = (places / (2 * away[:, None].clamp_min(1e-6))) / sh.C0
    return made
