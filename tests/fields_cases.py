"""Radiance fields that are small enough for tests, and how they are trained on the tiny scene."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import tiny
from recon import checkpoint, sh
from recon.config import (
    Mip360Config,
    NerfConfig,
    NgpConfig,
    PlenoxelsConfig,
    Radiance,
    TrainConfig,
    for_field,
    mip360_for,
)
from recon.datasets.scene import Scene
from recon.kernels.runtime import get_threads, set_threads
from recon.kernels.voxels import EMPTY
from recon.opening import first_model
from recon.plenoxels import Plenoxels
from recon.train import TrainState, start, train

NERF = NerfConfig(rays=64, width=16, depth=6, coarse_samples=8, fine_samples=8, frequencies=4, lr=5e-3, lr_final=5e-4)
PLENOXELS = PlenoxelsConfig(rays=256, sides=(12, 24), finer_at=(0.3,))
NGP = NgpConfig(
    rays=256,
    samples=1 << 12,
    levels=4,
    features=2,
    log2_rows=12,
    base=4,
    finest=48,
    width=16,
    appearance=4,
    cells=16,
    step=0.05,
    shorter_at=(0.6,),
)
MIP = Mip360Config(
    rays=64,
    samples=(8, 8, 8),
    width=32,
    depth=6,
    proposal_width=16,
    branch_width=16,
    frequencies=4,
    proposal_frequencies=3,
    lr=5e-3,
    lr_final=5e-4,
)
ZIP = dataclasses.replace(
    mip360_for("hash", on_gpu=False), rays=128, samples=(8, 8, 8), finest=(32, 32, 64), log2_rows=11, balls=(1, 6, 6)
)
SMALL: dict[str, Radiance] = {"nerf": NERF, "plenoxels": PLENOXELS, "ngp": NGP, "mipnerf360": MIP}
CPU = torch.device("cpu")


def settings_of(method: str, steps: int, **changes) -> TrainConfig:
    return dataclasses.replace(for_field(method, steps), **{"radiance": SMALL[method], **changes})


def begin(settings: TrainConfig, scene: Scene | None = None) -> TrainState:
    scene = scene or tiny.scene()
    return start(first_model(scene, settings, CPU), settings, scene)


def held_out_error(state: TrainState, scene: Scene) -> float:
    view = scene.test_views[0]
    with torch.no_grad():
        return float((state.model.render(view.camera).rgb[0].cpu() - view.load()).square().mean())


def by_threads(make: Callable[[], dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """What is made by one thread and by three."""
    before, found = get_threads(), []
    try:
        for threads in (1, 3):
            set_threads(threads)
            found.append(make())
    finally:
        set_threads(before)
    return found


def check_same_pictures(model: Any, loaded: Any) -> None:
    """A field and what its checkpoint became: whole pictures to the bit, and single pixels of them."""
    camera = tiny.ring(5)[2]
    with torch.no_grad():
        a, b = model.render(camera), loaded.render(camera)
        some = loaded.render(camera, pixels=torch.tensor([[[3.5, 7.5]]]))
    assert torch.equal(a.rgb, b.rgb)
    assert a.depth is not None
    assert float(a.depth.min()) > 0
    torch.testing.assert_close(some.rgb[0, 0], a.rgb[0, 7, 3])


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
    config = dataclasses.replace(PLENOXELS, sides=(side,), finer_at=(), least_photos=0)
    made = Plenoxels.start(scene, dataclasses.replace(for_field("plenoxels", 1), radiance=config), CPU)
    # Right in the cube, where the ball is.
    line = config.core * torch.linspace(-1 - config.shell, 1 + config.shell, side)
    places = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).reshape(-1, 3)
    away = places.norm(dim=-1)
    with torch.no_grad():
        made.levels[:] = (400 * (BALL - away)).clamp(EMPTY, 4)  # opaque right behind its surface
        made.harmonics[:, :27:9] = (places / (2 * away[:, None].clamp_min(1e-6))) / sh.C0
    return made
