"""The training loop. Progress, logs and autosave are callbacks: the loop knows none of them."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from recon import division, gradients, pace, surface, together
from recon.batches import Batch, Batches
from recon.config import TrainConfig
from recon.datasets.errors import InputError
from recon.datasets.scene import Scene, View
from recon.exposure import Exposure
from recon.gaussians import Gaussians
from recon.kernels.expose import PRODUCTS, SQUARES
from recon.late import Told
from recon.model import Field
from recon.optim import BETAS, SelectiveAdam, make_optimizer, moments, set_learning_rates
from recon.poses import MOTION, Poses
from recon.ranks import ALONE, Ranks
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
        divided: the processes that have a part of the Gaussians each; `model` is that of this one.
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
    divided: Ranks = ALONE

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
        how = "as a radiance field" if self.config.radiance is None else f"with --method {self.config.method}"
        raise InputError(f"this was trained {how}, and that is for splats; recon export makes splats of it")


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


def start(model: Gaussians | Field, config: TrainConfig, scene: Scene, divided: Ranks = ALONE) -> TrainState:
    """A training of `model` on a normalised `scene`, before its first step.

    Args:
        divided: the processes that are to have a part of the model each, which all of them bring whole.
    """
    if divided.count > 1:
        assert isinstance(model, Gaussians)
        model = division.part(model, divided)
    return TrainState(
        model=model,
        optimizer=optimizer_for(model, config, scene.extent),
        strategy=strategy_for(config, scene.extent, divided),
        config=config,
        extent=scene.extent,
        background=scene.background,
        source_from_world=scene.source_from_world,
        exposure=Exposure.of(scene) if config.exposure else None,
        poses=Poses.of(scene) if config.refine_poses else None,
        divided=divided,
    )


def strategy_for(config: TrainConfig, extent: float, divided: Ranks = ALONE) -> Strategy | None:
    """The strategy of a training. Of a divided one each part has its own, with its share of the most Gaussians: so all
    parts grow alike."""
    if config.radiance:
        return None
    own = dataclasses.replace(config.strategy, max_gaussians=divided.portion(config.strategy.max_gaussians))
    return make_strategy(own, extent=extent, seed=config.seed + divided.rank)


def optimizer_for(model: Gaussians | Field, config: TrainConfig, extent: float) -> SelectiveAdam:
    groups = model.param_groups(extent)
    for group in groups:
        group["lr"] *= config.lr_scale
        group["lr_final"] *= config.lr_scale
        group["betas"] = moments(group.get("betas", BETAS), config.batch)
    return make_optimizer(groups, model.device)


# A photo, and what is known of how and from where it was taken: see `Exposure.learn` and `Poses.learn`.
Lesson = tuple[int, Told | None, Callable[[], Told] | None]


def learn_from(
    state: TrainState, batches: Iterable[Batch], progress: float, ranks: Ranks = ALONE
) -> tuple[Tensor, Tensor | None]:
    """Change the scene, and what is thought of how and from where photos were taken, by one step.

    Args:
        batches: the views that this process has of the step, whose gradient is the mean over those of all processes.

    Returns the loss, and what the strategy found in the pictures.
    """
    assert state.strategy is not None
    optimizer, several = state.optimizer, state.config.batch > 1
    if state.config.surface is not None:
        surface.flatten(state.gaussians, state.config.surface, state.step, progress)
    outcomes, lessons = [], list[Lesson]()
    for batch in batches:
        outcome = _gradient_of(state, batch, progress)
        if several:  # what is left to the optimiser takes memory for each view
            optimizer.finish_backward()
        outcomes.append(outcome)
        lessons.append((batch.photo, outcome.exposure, outcome.motion))
    found = state.strategy.found([outcome.out for outcome in outcomes], progress)
    loss, visible = outcomes[0].loss, outcomes[0].visible
    if several:  # if another process is lost by now, the scene is still that of the last step
        lessons = _gathered(state, lessons, ranks)
        losses, seen = torch.stack([outcome.loss for outcome in outcomes]), [outcome.visible for outcome in outcomes]
        total = losses.sum()
        if state.divided.count > 1:  # rows are here alone, and so is all of their gradients
            ranks.add([total])
            ranks = ALONE
        loss, visible = together.add_up(optimizer, ranks, state.config.batch, total, seen, found)
    optimizer.step(visible=visible)
    optimizer.zero_grad(set_to_none=True)
    for photo, exposed, motion in lessons:
        if state.exposure is not None and exposed is not None:
            state.exposure.learn(photo, exposed, progress)
        if state.poses is not None and motion is not None:
            state.poses.learn(photo, motion(), progress)
    return loss, found


def _gradient_of(state: TrainState, batch: Batch, progress: float) -> gradients.Outcome:
    """What a view asks for; its gradient is the optimiser's."""
    assert state.strategy is not None
    exposure, poses = None if batch.transparent else state.exposure, state.poses
    if poses is not None:
        batch = dataclasses.replace(batch, cameras=poses.camera(batch.photo, batch.cameras).to(state.gaussians.device))
    outcome = gradients.of_view(
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
    if state.config.surface is not None:
        surface.pull(state.gaussians, batch, state.config.surface, state.step, progress)
    return outcome


def _gathered(state: TrainState, lessons: Sequence[Lesson], ranks: Ranks) -> list[Lesson]:
    """Those of all processes; backward passes must be finished."""

    def of_all(values: Sequence[Told | None], shape: tuple[int, ...]) -> list[Tensor]:
        nothing = torch.zeros(shape, dtype=torch.float64, device=state.model.device)  # teaches nothing
        told = [nothing if value is None else torch.as_tensor(value).double() for value in values]
        return list(ranks.gathered(torch.stack(told)))

    photos = ranks.gathered(torch.tensor([photo for photo, _, _ in lessons])).tolist()
    exposed: list[Tensor] | list[None] = [None] * len(photos)
    motions: list[Tensor] | list[None] = [None] * len(photos)
    if state.exposure is not None:
        exposed = of_all([sums for _, sums, _ in lessons], (3, SQUARES + PRODUCTS))
    if state.poses is not None:
        motions = of_all([None if motion is None else motion() for _, _, motion in lessons], (MOTION,))
    return [
        (photo, sums, None if motion is None else motion.clone)
        for photo, sums, motion in zip(photos, exposed, motions, strict=True)
    ]


class ViewLearner:
    """A `Learner` of Gaussians: as many views in each step as its config says."""

    def __init__(self, state: TrainState, batches: Batches, ranks: Ranks) -> None:
        self._state, self._batches, self._ranks = state, batches, ranks

    def learn(self, step: int, progress: float) -> Tensor:
        views = self._state.config.batch
        share = self._ranks.share(views)
        own = [*(step * views + number for number in share), (step + 1) * views + share.start]
        loss, self._found = learn_from(self._state, self._views_of(own, progress), progress, self._ranks)
        return loss

    def _views_of(self, numbers: Sequence[int], progress: float) -> Iterator[Batch]:
        """Those with these numbers, but for the last one, which the next step begins with."""
        for number, following in itertools.pairwise(numbers):
            batch = self._batches.at(number, progress)
            self._batches.expect(following, progress)
            yield batch

    def after_step(self, step: int, progress: float) -> None:
        state = self._state
        assert state.strategy is not None
        state.strategy.after_step(state.gaussians, state.optimizer, self._found, step, progress)


def learner_for(state: TrainState, views: Sequence[View], ranks: Ranks = ALONE) -> Learner:
    """What takes the steps of a training on these views."""
    model, about = state.model, (views, state.config, state.background, state.model.device)
    if isinstance(model, Gaussians):
        return ViewLearner(state, Batches(*about), ranks)
    return RayLearner(model, state.optimizer, RayBatches(*about, ranks=ranks), ranks)


def take_step(state: TrainState, learner: Learner, clock: Callable[[], float] | None = None) -> Tensor:
    """The next step of a training; returns its loss.

    Args:
        clock: tells the seconds that the training has taken when the step is done; None: they are not counted.
    """
    progress = state.progress
    set_learning_rates(state.optimizer, progress)
    loss = learner.learn(state.step, progress)
    state.step += 1
    if clock is not None:
        state.seconds = clock()
    learner.after_step(state.step - 1, state.progress)
    return loss


def train(
    state: TrainState, views: Sequence[View], *, callbacks: Sequence[Callback] = (), ranks: Ranks = ALONE
) -> None:
    """Train `state` in place until its config's last step or second. A callback ends it early by raising.

    On a CPU the result of a given number of steps is the same, bit for bit, whether or not the training was interrupted
    and resumed in between. Raises `recon.ranks.Lost`, between two steps as far as the state is concerned.

    Args:
        ranks: the processes that train together, each with the same `state` and views.
    """
    model, learner = state.model, learner_for(state, views, ranks)
    with one_torch_thread(model.device):
        began, before, state.paused = time.perf_counter(), state.seconds, 0.0

        def clock() -> float:
            seconds = before + time.perf_counter() - began - state.paused
            return seconds if state.config.seconds is None else ranks.most(seconds)  # where it decides, one for all

        while state.progress < 1:
            loss = take_step(state, learner, clock)
            metrics = StepMetrics(state.step, loss, state.divided.total(len(model)))
            for callback in callbacks:
                callback(state, metrics)
