"""From settings to what a training begins with: the capture, normalised, and the first Gaussians."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import torch

from recon import config, rng
from recon.batches import COLOURS
from recon.config import MCMCConfig, TrainConfig
from recon.datasets import load_scene
from recon.datasets.errors import InputError
from recon.datasets.masked_points import usable_points
from recon.datasets.normalize import normalize
from recon.datasets.point_colours import as_seen
from recon.datasets.points import frustum_points
from recon.datasets.scene import Points, Scene, View
from recon.fields import field_class
from recon.gaussians import Gaussians
from recon.model import Field
from recon.options import Options
from recon.runs import Run
from recon.terminal import say
from recon.train import TrainState

# Longest image side, px, that photos are reduced to when no downscale is given.
LONGEST_SIDE = {"cpu": 800, "cuda": 1600}

# 3DGS-MCMC starts from opaque, small Gaussians; 3DGS from faint ones that touch each other.
MCMC_START = {"opacity": 0.5, "scale": 0.1}


def corrected(scene: Scene, state: TrainState) -> Scene:
    """A scene with the poses that were learned."""
    return scene if state.poses is None else dataclasses.replace(scene, views=state.poses.corrected(scene.views))


def background_of(state: TrainState) -> tuple[float, float, float]:
    """What stands behind the scene in evaluation: what it was trained over, black after random backgrounds."""
    return (COLOURS | {"random": COLOURS["black"]}).get(state.config.background, state.background)


def scene_of(run: Run, device: torch.device, values: dict[str, Any] | None = None) -> Scene:
    """The capture that a run was trained on. InputError if it is not there any more, or not as it was.

    Args:
        values: of the run's config.json, if other than the file's.
    """
    values = run.config() if values is None else values
    options = config.checked(Options, values.get("options", {}), f"{run.config_file}: options.")
    if not Path(options.scene).exists():
        raise InputError(
            f"{run.config_file}: the capture is no longer at {options.scene}; after a move, correct options.scene there"
        )
    scene, _ = open_scene(options, device)
    if photos_of(scene) != values.get("capture"):
        raise InputError(
            f"{options.scene}: photos were added, removed or resized since {run.path} was begun, so it does not fit"
            " any more"
        )
    return scene


def trained_scene(run: Run, state: TrainState, device: torch.device) -> Scene:
    """The capture of a run, with the poses that were learned; `InputError` as of `scene_of`."""
    return corrected(scene_of(run, device), state)


def photos_of(scene: Scene) -> dict[str, list[list[Any]]]:
    """Which photos a scene has: names and sizes."""

    def listed(views: list[View]) -> list[list[Any]]:
        return [[view.name, view.camera.width, view.camera.height] for view in views]

    return {"train": listed(scene.train_views), "test": listed(scene.test_views)}


def open_scene(options: Options, device: torch.device) -> tuple[Scene, int]:
    """The capture, normalised, and the downscale it was opened with."""
    path = Path(options.scene)
    downscale = options.downscale
    if downscale is None:
        downscale = _automatic_downscale(path, device)
    scene = load_scene(
        path, downscale=downscale, test_every=options.test_every, masks=options.masks, linear=options.linear
    )
    sizes = sorted({(view.camera.width, view.camera.height) for view in scene.views})
    shown = ", ".join(f"{width}x{height}" for width, height in sizes[:3]) + (", ..." if len(sizes) > 3 else "")
    points = "no points" if scene.points is None else f"{len(scene.points):,} points"
    say(
        f"{scene.name}: {len(scene.train)} photos to train on, {len(scene.test)} held out, {shown}"
        f" (--downscale {downscale}), {points}"
    )
    if scene.tone is not None:
        say(f"Photos of linear light, seen through a tone curve at an exposure of {scene.tone.exposure:.3g}")
    return normalize(scene), downscale


def _automatic_downscale(path: Path, device: torch.device) -> int:
    """The smallest with which no photo is longer than the device's `LONGEST_SIDE`."""
    log = logging.getLogger("recon")
    log.disabled = True  # what there is to warn of is said when the scene is opened for use
    limit, downscale = LONGEST_SIDE[device.type], 1
    try:
        while True:
            views = load_scene(path, downscale=downscale).views
            longest = max(max(view.camera.width, view.camera.height) for view in views)
            if longest <= limit:
                return downscale
            # A capture that holds only reduced copies of its photos is not smaller for a downscale that they meet.
            downscale = max(downscale + 1, math.ceil(downscale * longest / limit))
    finally:
        log.disabled = False


def first_model(scene: Scene, settings: TrainConfig, device: torch.device) -> Gaussians | Field:
    """What a training begins with, by its method."""
    if settings.radiance is None:
        return initial_model(scene, settings, device)
    return field_class(settings).start(scene, settings, device)


def initial_model(scene: Scene, settings: TrainConfig, device: torch.device) -> Gaussians:
    """Gaussians at the capture's points, or at random ones in front of its cameras when it has none."""
    points = usable_points(scene)
    if points and scene.tone is not None:
        points = as_seen(points, scene)
    points = points or frustum_points(scene, settings.initial_points, settings.seed)
    if not len(points):
        raise InputError(f"{scene.name}: its photos have no pixel that can be used, so there is nothing to start from")
    points = _at_most(points, settings.strategy.max_gaussians, settings.seed)
    mcmc = settings.strategy if isinstance(settings.strategy, MCMCConfig) else None
    model = Gaussians.from_points(
        points, sh_degree=settings.sh_degree, seed=settings.seed, **(MCMC_START if mcmc else {})
    )
    if mcmc:
        model.opacity_reg, model.scale_reg = mcmc.opacity_reg, mcmc.scale_reg
    model.antialiased = settings.antialiased
    return model.to(device)


def _at_most(points: Points, count: int, seed: int) -> Points:
    if len(points) <= count:
        return points
    kept = torch.randperm(len(points), generator=rng.generator(seed, "initial points"))[:count].sort().values
    return Points(points.xyz[kept], points.rgb[kept])
