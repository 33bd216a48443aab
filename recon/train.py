"""The training loop. Progress, logs and autosave are callbacks: the loop knows none of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from recon import gradients, pace, surface
from recon.batches import Batch, Batches
from recon.config import TrainConfig
from recon.datasets.errors import InputError
from recon.datasets.scene import Scene, View
from recon.exposure import Exposure
from recon.gaussians import Gaussians
from recon.model import Field, RenderOutput
from recon.optim import SelectiveAdam, make_optimizer, set_learning_rates
from recon.poses import Poses
from recon.rays import RayBatches, RayLearner
from recon.strategy import Strategy, make_strategy
from recon.torch_threads import one_torch_thread


@dataclass
class TrainState:
    """All that changes while training; a checkpoint is this, written down.

    Attributes:
        step: how many steps are done.
        seconds: time spent in the loop so far, its callbacks included, over all resumes.
        paused: seconds since the loop began in which the user had it wait; not part of `seconds`, and not saved.
        extent: of the scene; scales the step sizes of the means.
        background: behind photos with alpha and behind the scene in evaluation, unless the config fixes one.
        source_from_world: [4,4] float64, from the trained world to the frame of the capture's files.
        exposure: how the photos were exposed; None: all alike.
        poses: where the photos were taken from; None: where the capture says.
        strategy: when Gaussians are added and removed; None for a radiance field, which sees to that itself.
    """

    model: Gaussians | Field
    optimizer: SelectiveAdam
    strategy: Strategy | None
    config: TrainConfig
    extent: float
    background: tuple[float, float, float]
    source_from_world: Tensor
    exposure: Exposure | None = None
    poses: Poses | None = None
    step: int = 0
    seconds: float = 0.0
    paused: float = 0.0

    @property
    def progress(self) -> float:
        """The share of the training that is done, 0..1: of its steps, or of what its time allows if that is limited."""
        if self.config.seconds is None:
            return self.step / self.config.steps
        return pace.progress_at(min(1.0, self.seconds / self.config.seconds), self.config.coarse)

    @property
    def unit(self) -> str:
        """What the model is made of, in the plural."""
        return "Gaussians" if isinstance(self.model, Gaussians) else self.model.unit

    @property
    def gaussians(self) -> Gaussians:
        """The model, for what can be done with Gaussians alone; InputError if it is a radiance field."""
        if isinstance(self.model, Gaussians):
            return self.model
        raise InputError(
            f"this was trained with --method {self.config.method}, and only splats can be written or edited so far;"
            " it can be scored (recon eval), rendered (recon render) and looked at (recon view)"
        )


@dataclass(frozen=True)
class StepMetrics:
    """What a step tells its callbacks. `loss` stays a tensor: reading it would make a GPU wait."""

    step: int
    loss: Tensor
    count: int


Callback = Callable[[TrainState, StepMetrics], None]


class Learner(Protocol):
    """Takes the steps of a training: on views for splats, on rays for radiance fields."""

    def learn(self, step: int, progress: float) -> Tensor:
        """Change the model by step number `step`, which begins at that progress. Returns the loss."""
        ...

    def after_step(self, step: int, progress: float) -> None:
        """Called when the step is done and counted: what is added to the model and taken from it changes here."""
        ...


def start(model: Gaussians | Field, config: TrainConfig, scene: Scene) -> TrainState:
    """A training of `model` on a normalised `scene`, before its first step."""
    return TrainState(
        model=model,
        optimizer=optimizer_for(model, config, scene.extent),
        strategy=strategy_for(config, scene.extent),
        config=config,
        extent=scene.extent,
        background=scene.background,
        source_from_world=scene.source_from_world,
        exposure=Exposure.of(scene) if config.exposure else None,
        poses=Poses.of(scene) if config.refine_poses else None,
    )


def strategy_for(config: TrainConfig, extent: float) -> Strategy | None:
    return None if config.radiance else make_strategy(config.strategy, extent=extent, seed=config.seed)


def optimizer_for(model: Gaussians | Field, config: TrainConfig, extent: float) -> SelectiveAdam:
    groups = model.param_groups(extent)
    for group in groups:
        group["lr"] *= config.lr_scale
        group["lr_final"] *= config.lr_scale
    return make_optimizer(groups, model.device)


def learn_from(state: TrainState, batch: Batch, progress: float) -> tuple[Tensor, RenderOutput]:
    """Change the scene, and what is thought of how and from where the photo was taken, by one step.

    Returns the loss and the picture.
    """
    assert state.strategy is not None
    exposure, poses = None if batch.transparent else state.exposure, state.poses
    of_surface = state.config.surface
    if of_surface is not None:
        surface.flatten(state.gaussians, of_surface, state.step, progress)
    if poses is not None:
        batch = dataclasses.replace(batch, cameras=poses.camera(batch.photo, batch.cameras).to(state.gaussians.device))
    loss, out, visible, learned, motion = gradients.of_view(
        state.gaussians,
        state.optimizer,
        batch,
        progress=progress,
        ssim_weight=state.config.ssim_weight,
        depth_weight=state.config.depth_weight,
        absgrad=state.strategy.absgrad(progress),
        shot=None if exposure is None else exposure.shot(batch.photo, batch.cameras),
        of_camera=poses is not None,
    )
    if of_surface is not None:
        surface.pull(state.gaussians, batch, of_surface, state.step, progress)
    state.optimizer.step(visible=visible)
    state.optimizer.zero_grad(set_to_none=True)
    if exposure is not None and learned is not None:
        exposure.learn(batch.photo, learned, progress)
    if poses is not None and motion is not None:
        poses.learn(batch.photo, motion(), progress)
    return loss, out


class ViewLearner:
    """A `Learner` of Gaussians: one view in each step."""

    def __init__(self, state: TrainState, batches: Batches) -> None:
        self._state, self._batches = state, batches

    def learn(self, step: int, progress: float) -> Tensor:
        loss, self._out = learn_from(self._state, self._batches.at(step, progress), progress)
        return loss

    def after_step(self, step: int, progress: float) -> None:
        state = self._state
        assert state.strategy is not None
        state.strategy.after_step(state.gaussians, state.optimizer, self._out, step, progress)


def learner_for(state: TrainState, views: Sequence[View]) -> Learner:
    """What takes the steps of a training on these views."""
    model = state.model
    if isinstance(model, Gaussians):
        return ViewLearner(state, Batches(views, state.config, state.background, model.device))
    return RayLearner(model, state.optimizer, RayBatches(views, state.config, state.background, model.device))


def train(state: TrainState, views: Sequence[View], *, callbacks: Sequence[Callback] = ()) -> None:
    """Train `state` in place until its config's last step or second. A callback ends it early by raising.

    On a CPU the result of a given number of steps is the same, bit for bit, whether or not the training was interrupted
    and resumed in between.
    """
    model, learner = state.model, learner_for(state, views)
    with one_torch_thread(model.device):
        began, before, state.paused = time.perf_counter(), state.seconds, 0.0
        while (progress := state.progress) < 1:
            set_learning_rates(state.optimizer, progress)
            loss = learner.learn(state.step, progress)
            state.step += 1
            state.seconds = before + time.perf_counter() - began - state.paused
            learner.after_step(state.step - 1, state.progress)
            metrics = StepMetrics(state.step, loss, len(model))
            for callback in callbacks:
                callback(state, metrics)
