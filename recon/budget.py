"""What a number of seconds is best used for: how many steps they allow on this machine, with how many Gaussians.

A few steps are timed on the model that the training is to start from; how the time of a step changes with the count
and over the levels of coarse-to-fine is known well enough. Once it runs, the training goes by the clock
(`TrainState.progress`), so a plan that is off makes it a little worse, never late.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from recon import config, pace, train
from recon.batches import Batches
from recon.config import Mip360Config, NerfConfig, NgpConfig, Radiance, TrainConfig
from recon.datasets.scene import Scene
from recon.gaussians import Gaussians
from recon.model import Field
from recon.torch_threads import one_torch_thread

TIMED_STEPS = 4
LEAST_STEPS, MOST_STEPS = 50, 1_000_000
LEAST_SECONDS = 0.5  # of training, however late it is

# A step takes as long as if there were one Gaussian more for so many pixels: what a pixel costs beside them.
PIXELS_PER_GAUSSIAN = 3.5
MEAN_COUNT = 0.75  # of the most Gaussians, over a training
LATER = 1.28  # what a step takes over a training, relative to now: blending finds more to do once details are there

# Writing the last checkpoint, and ending; scoring and drawing a held-out photo, in steps of its training.
ENDING = 0.3  # s
STEPS_PER_SCORE = 3.0
LATER_OF_FIELD = 1.3  # what a step of a radiance field takes over a training, relative to now: grids get finer
SAMPLES_OF_A_RAY = 32  # where a step has a number of samples
MOST_FOR_SCORING = 0.5  # of the seconds there are: where scores of a radiance field take longer, they are left out
SHARE_OF_RENDERING = 0.5  # of a step of as many rays of a radiance field
STEPS_TO_PLACE = 30.0  # finding where a held-out photo fits best, and scoring it from there
MOST_FOR_PLACING = 0.05  # of the seconds there are: with more held-out photos or less time it is left out


class Budget(NamedTuple):
    """What a number of seconds is used for.

    Attributes:
        settings: of the training.
        placing: whether there is time to find out where held-out photos fit best, where poses are refined.
        unscored: seconds that scores of a radiance field would take, which are left out since that is more than half
            of what there is; None: there is time for them.
    """

    settings: TrainConfig
    placing: bool
    unscored: float | None = None


def plan(
    settings: TrainConfig,
    model: Gaussians | Field,
    scene: Scene,
    seconds: float,
    *,
    count: int | None,
    processes: int = 1,
    scored: bool = True,
) -> Budget:
    """How a training, scored at the end, is to be done in so many seconds from now.

    Args:
        settings: decide all but steps, seconds, learning rates and the most Gaussians.
        count: the most Gaussians, where that is not for the plan to choose.
        processes: that share the views of each step. They are scored by one.
        scored: or else all of the seconds are for the training itself.
    """
    began = time.perf_counter()
    step = _mean_step_seconds(dataclasses.replace(settings, batch=1), model, scene)
    left = seconds
    if scored:
        left -= time.perf_counter() - began + ENDING
    batch = settings.batch
    if settings.radiance is not None:
        scoring = _seconds_of_scores(settings.radiance, scene, step) if scored else 0.0
        left_out = scoring > MOST_FOR_SCORING * left
        planned = _of_field(settings, step, left if left_out else left - scoring, processes)
        return Budget(planned, False, scoring if left_out else None)
    for_placing = STEPS_TO_PLACE * step * len(scene.test)
    placing = scored and for_placing < MOST_FOR_PLACING * seconds
    if scored:
        left -= STEPS_PER_SCORE * step * len(scene.test)
    if settings.refine_poses and placing:
        left -= for_placing
    left = max(left, LEAST_SECONDS)
    pixels = statistics.mean(view.camera.width * view.camera.height for view in scene.train_views)
    base = pixels / PIXELS_PER_GAUSSIAN
    most = settings.strategy.max_gaussians
    steps = float(LEAST_STEPS)
    for _ in range(8):  # more steps are for more Gaussians, which are slower: settles quickly
        steps = min(max(steps, LEAST_STEPS), MOST_STEPS)
        fitting = config.for_steps(round(steps), settings.strategy.kind)
        wanted = count or min(fitting.strategy.max_gaussians, most)
        mean = max(MEAN_COUNT * wanted, min(len(model), wanted))
        later = pace.mean_cost(fitting.coarse) * LATER * (base + mean) / (base + len(model))
        steps = left * processes / (later * step)
    fitting = config.in_batches(fitting, max(1, round(fitting.steps / batch)), batch)
    strategy = dataclasses.replace(
        settings.strategy,
        max_gaussians=wanted,
        refine_every=fitting.strategy.refine_every,
        refine_until=fitting.strategy.refine_until,
    )
    settings = dataclasses.replace(
        settings,
        steps=fitting.steps,
        seconds=round(left, 3),
        lr_scale=fitting.lr_scale,
        coarse=fitting.coarse,
        strategy=strategy,
    )
    return Budget(settings, placing)


def _of_field(settings: TrainConfig, step: float, left: float, processes: int) -> TrainConfig:
    left = max(left, LEAST_SECONDS)
    steps = max(LEAST_STEPS, round(left * processes / (LATER_OF_FIELD * step)))
    radiance = config.plenoxels_for(steps) if settings.method == "plenoxels" else settings.radiance
    steps = max(1, round(steps / settings.batch))
    return dataclasses.replace(settings, steps=steps, seconds=round(left, 3), radiance=radiance)


def _seconds_of_scores(field: Radiance, scene: Scene, step: float) -> float:
    """A radiance field is rendered for its scores ray by ray, as it is trained, but needs no gradient then."""
    pixels = sum(view.camera.width * view.camera.height for view in scene.test_views)
    rays = field.samples // SAMPLES_OF_A_RAY if isinstance(field, NgpConfig) else field.rays
    return _share_of_rendering(field) * LATER_OF_FIELD * step * pixels / rays


def _share_of_rendering(field: Radiance) -> float:
    """Of a step: all samples are asked, and those that get a gradient once more, which takes three times as long."""
    if isinstance(field, NerfConfig | Mip360Config) and field.gradients:
        return 1 / (1 + 3 * field.gradients)
    return SHARE_OF_RENDERING


def _mean_step_seconds(settings: TrainConfig, model: Gaussians | Field, scene: Scene) -> float:
    """How long a step takes now, where only some of them compare normals."""
    if settings.surface is None:
        return _step_seconds(settings, model, scene)
    without = _step_seconds(dataclasses.replace(settings, surface=None), model, scene)
    return without + (_step_seconds(settings, model, scene) - without) / settings.surface.every


def _step_seconds(settings: TrainConfig, model: Gaussians | Field, scene: Scene) -> float:
    """How long a step with full-size photos takes now; the model stays as it is."""
    if isinstance(model, Gaussians):
        ready = _steps_of_views(settings, model, scene)
    else:
        ready = _steps_of_rays(settings, model, scene)
    times = []
    with one_torch_thread(model.device):
        for number in range(TIMED_STEPS + 1):  # the first one fills caches
            step = ready(number)
            began = time.perf_counter()
            step()
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


# What makes a step ready by its number, and what then takes it.
Steps = Callable[[int], Callable[[], object]]


def _steps_of_views(settings: TrainConfig, model: Gaussians, scene: Scene) -> Steps:
    """A photo that is decoded only now is not a part of a step."""
    trial = train.start(model.to(model.device), settings, scene)
    batches = Batches(scene.train_views, dataclasses.replace(settings, coarse=0.0), scene.background, model.device)
    return lambda number: functools.partial(train.learn_from, trial, [batches.at(number, 1.0)], 1.0)


def _steps_of_rays(settings: TrainConfig, model: Field, scene: Scene) -> Steps:
    copies = {name: value.clone() for name, value in model.state_dict().items()}
    trial = train.start(type(model).restore(settings, copies, model.device), settings, scene)
    learner = train.learner_for(trial, scene.train_views)
    return lambda number: functools.partial(learner.learn, number, 1.0)
