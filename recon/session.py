"""From the command to the loop and back: open the capture, start or resume, watch, evaluate, sum up."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import MofNCompleteColumn, Progress

from recon import (
    __version__,
    budget,
    config,
    division,
    fitting,
    machine,
    memory,
    poses,
    runs,
    scoring,
)
from recon.callbacks import Autosave, Interrupted, MetricsLog, ProgressBar, StopOnSignal, TensorBoard
from recon.datasets.errors import InputError
from recon.datasets.scene import Scene
from recon.fields import kernels_of
from recon.kernels import prepare
from recon.loading import newest_state
from recon.opening import first_model, open_scene, photos_of, scene_of
from recon.options import Options
from recon.ranks import ALONE, Lost, Ranks
from recon.reading import Reading
from recon.runs import Run
from recon.terminal import console, say
from recon.torch_threads import one_torch_thread
from recon.train import Callback, StepMetrics, TrainState, start, train


class Spectators(Protocol):
    """Those who look at the scene while it is trained, and afterwards."""

    def __call__(self, state: TrainState, metrics: StepMetrics) -> None: ...

    def evaluating(self) -> None:
        """Called now and then while the result is scored."""
        ...

    def finish(self) -> None:
        """The work is done; returns at once if nobody looks, else when the user has seen enough."""
        ...

    def close(self) -> None: ...


# Makes them for a run, its state and its capture; told how to ask whether the training is to end.
Invitation = Callable[[Run, TrainState, Scene, Callable[[], bool]], Spectators]


@dataclass(frozen=True)
class Watch:
    """How a training is watched and saved; it has no influence on the result."""

    save_every: float = 30.0
    tensorboard: bool = False
    max_memory: float | None = None  # GB; None: most of what is free
    invite: Invitation | None = None  # None: nobody looks
    ranks: Ranks = ALONE  # the processes that train together
    divide: bool = False  # whether each of them has a part of the scene, and not all of it

    def __post_init__(self) -> None:
        if not self.save_every > 0:
            raise InputError(f"--save-every {self.save_every}: must be more than 0")
        if self.tensorboard:
            TensorBoard.require()

    @property
    def divided(self) -> Ranks:
        """The processes that have a part of the scene each."""
        return self.ranks if self.divide else ALONE


def begin(
    options: Options,
    output: Path,
    device: torch.device,
    watch: Watch,
    *,
    preparing: float = 0.0,
    training_alone: bool = False,
) -> Run:
    """Train a capture from the start and evaluate it; returns the run.

    Args:
        preparing: seconds since the process began that do not count as training, such as those for finding poses.
        training_alone: whether a budget of seconds is for nothing but the steps of the training.
    """
    settings, ranks = options.train_config(on_gpu=device.type == "cuda"), watch.ranks
    _check_shares(settings, watch)
    kernels = prepare.for_training(kernels_of(settings)) if device.type == "cpu" else None
    fitted = _fitted(options, settings, device, watch)
    say(fitted.said)
    scene, settings = fitted.scene, _fitted_on_gpu(fitted.scene, fitted.settings, watch, device)
    settings = dataclasses.replace(settings, refine_poses=_poses_are_refined(options, settings, scene))
    with one_torch_thread(device):
        photos = Reading(scene.train_views)
        model = first_model(scene, settings, device)
        _wait_for(kernels)
        _wait_for_photos(photos, device)
    placing, unscored = True, None
    if options.budget_seconds is not None:
        left = options.budget_seconds
        if not training_alone:
            left -= machine.seconds_since_start() - preparing
        count = None if options.max_gaussians is None else settings.strategy.max_gaussians

        def planned() -> tuple[dict[str, Any], bool, float | None]:
            found = budget.plan(
                *(settings, model, scene, left), count=count, processes=ranks.count, scored=not training_alone
            )
            return config.to_json(found.settings), found.placing, found.unscored

        values, placing, unscored = ranks.told(planned)
        settings = config.from_json(values, "the plan")
        if settings.radiance is not None:  # it was begun for the most steps that there might have been
            model = first_model(scene, settings, device)
        settings = dataclasses.replace(settings, refine_poses=_poses_are_refined(options, settings, scene))
        most = f", at most {settings.max_gaussians:,} Gaussians" if settings.radiance is None else ""
        say(f"{options.budget_seconds:g} s: {settings.seconds:.1f} s of training, about {settings.steps:,} steps{most}")
    _keep_on_gpu(scene, settings, watch, device)
    state = start(model, settings, scene, watch.divided)
    model = state.model  # of a divided scene this process's part; the rest is let go of
    options = dataclasses.replace(options, downscale=fitted.downscale)
    record = {
        "recon": __version__,
        "options": dataclasses.asdict(options),
        "capture": photos_of(scene),
        "tone": None if scene.tone is None else dataclasses.asdict(scene.tone),
        "train": config.to_json(settings),
    }
    run = Run(Path(ranks.told(lambda: str(runs.create(output, scene.name, settings.method, record).path))))
    say(f"Run: {run.path}")
    return _run(run, state, scene, watch, fitted.plan.estimate.total, placing=placing, unscored=unscored)


def _fitted_on_gpu(
    scene: Scene, settings: config.TrainConfig, watch: Watch, device: torch.device
) -> config.TrainConfig:
    """The settings, with no more Gaussians than the GPU has room for, if splats are trained on one."""
    if device.type != "cuda" or settings.radiance is not None:
        return settings
    least = round(-watch.ranks.most(-_free_on_gpu(watch, device)))
    settings, said = fitting.fit_on_gpu(scene, settings, least, parts=watch.divided.count)
    say(said)
    return settings


def _keep_on_gpu(scene: Scene, settings: config.TrainConfig, watch: Watch, device: torch.device) -> None:
    """Decide how many photos stay on the GPU, if splats are trained on one."""
    if device.type != "cuda" or settings.radiance is not None:
        return
    say(fitting.keep_on_gpu(scene, settings, _free_on_gpu(watch, device), parts=watch.divided.count))


def _free_on_gpu(watch: Watch, device: torch.device) -> int:
    """Bytes that this one of the processes that share the GPU may have of it: what the user says, or most of what is
    free."""
    sharing = -(-watch.ranks.beside // torch.cuda.device_count())
    free = round(memory.SHARE * torch.cuda.mem_get_info(device)[0] / sharing)
    return free if watch.max_memory is None else min(free, round(watch.max_memory * memory.GB))


def _fitted(options: Options, settings: config.TrainConfig, device: torch.device, watch: Watch) -> fitting.Fitted:
    """The capture and the settings, so that all fits into memory, as far as the first process can tell."""
    ranks = watch.ranks
    limits: dict[str, Any] = {
        "on_gpu": device.type == "cuda",
        "max_memory": watch.max_memory,
        "beside": ranks.beside,
        "parts": watch.divided.count,
    }
    found: list[fitting.Fitted] = []

    def at(downscale: int | None) -> tuple[Scene, int]:
        return open_scene(dataclasses.replace(options, downscale=downscale), device)

    def first() -> tuple[int | None, dict[str, Any]]:
        found.append(fitting.fit(at, options.downscale, settings, **limits, counts_pixels=options.counts_pixels))
        return found[0].downscale, config.to_json(found[0].settings)

    downscale, values = ranks.told(first)
    if found:
        return found[0]
    return fitting.refit(at(downscale)[0], config.from_json(values, "the first process"), **limits)


def _check_shares(settings: config.TrainConfig, watch: Watch) -> None:
    ranks = watch.ranks
    if watch.divide:
        division.check(settings, ranks)
        if ranks.count == 1:
            say("--divide: there is one process only, which has the whole scene. torchrun starts several.")
    if settings.batch % ranks.count:
        raise InputError(
            f"{ranks.count} processes cannot share the {settings.batch} views of a step: --batch-size must be a"
            " multiple of their number"
        )


def _poses_are_refined(options: Options, settings: config.TrainConfig, scene: Scene) -> bool:
    return settings.radiance is None and poses.wanted(options.poses, scene, settings.steps)


def resume(path: Path, moved_to: Path | None, device: torch.device, watch: Watch) -> Run:
    """Go on with a run from its newest checkpoint, as if it had not stopped.

    Args:
        moved_to: where its capture is now, if elsewhere than it was; the run remembers the new place.
    """
    run, ranks = runs.find(path), watch.ranks
    held = memory.held_bytes()
    state = newest_state(run, device, watch.divided)
    held = memory.held_bytes() - held
    _check_shares(state.config, watch)
    if ranks.most(state.step) != state.step:
        raise InputError(f"{run.path}: its processes do not see the same checkpoints")
    kernels = prepare.for_training(kernels_of(state.config)) if device.type == "cpu" else None
    values = run.config()
    if moved_to is not None:
        values["options"]["scene"] = str(moved_to.resolve())
    scene = scene_of(run, device, values)
    if ranks.first:
        if moved_to is not None:
            runs.write_json(run.config_file, values)
        runs.forget_after(run, state.step)
    say(f"Run: {run.path}, from step {state.step:,}")
    fitted = fitting.refit(
        *(scene, state.config),
        on_gpu=device.type == "cuda",
        max_memory=watch.max_memory,
        beside=ranks.beside,
        parts=watch.divided.count,
        state_bytes=held,
    )
    say(fitted.said)
    _keep_on_gpu(scene, state.config, watch, device)
    with one_torch_thread(device):
        photos = Reading(scene.train_views)
        _wait_for(kernels)
        _wait_for_photos(photos, device)
    return _run(run, state, scene, watch, fitted.plan.estimate.total)


def _run(
    run: Run,
    state: TrainState,
    scene: Scene,
    watch: Watch,
    memory_estimate: int | None,
    *,
    placing: bool = True,
    unscored: float | None = None,
) -> Run:
    """Train, then score, unless that is left out for the seconds that it would take."""
    autosave, stop = Autosave(run, watch.save_every), StopOnSignal(watch.ranks)
    if not watch.ranks.first:
        _help(state, scene, watch.ranks, stop, autosave)
        return run
    spectators = None if watch.invite is None else watch.invite(run, state, scene, stop.requested)
    with contextlib.ExitStack() as at_the_end:
        if spectators is not None:
            at_the_end.callback(spectators.close)
        _train(run, state, scene, watch, autosave, stop, spectators)
        if state.divided.count > 1:
            state.optimizer.state.clear()  # of its part, to make room for the whole scene
            state = newest_state(run, state.model.device, moments=False)
        try:
            if unscored is not None:
                say(
                    f"Trained and saved, but not scored: scores would take about {unscored:.0f} s more. Score it with:"
                    f" recon eval {run.path}"
                )
            else:
                scoring.evaluate_run(
                    *(run, state, scene),
                    trained=True,
                    memory_estimate=memory_estimate,
                    placing=placing,
                    meanwhile=None if spectators is None else spectators.evaluating,
                )
        except KeyboardInterrupt:
            say(f"Trained and saved, but not scored. Score it with: recon eval {run.path}")
            raise SystemExit(130) from None
        if spectators is not None:
            spectators.finish()
    return run


def _help(state: TrainState, scene: Scene, ranks: Ranks, stop: StopOnSignal, autosave: Autosave) -> None:
    """The part of a process that is not the first: the loop alone, and its part of what is saved."""
    saving = [autosave] if state.divided.count > 1 else []
    stopped: Interrupted | None = None
    try:
        for each in saving:
            each.begin(state)
        try:
            with stop.listening():
                train(state, scene.train_views, callbacks=[*saving, stop], ranks=ranks)
        except Interrupted as interrupted:
            stopped = interrupted
        for each in saving:
            each.save(state)
        if stopped is not None:
            raise SystemExit(128 + stopped.signum)
    except FloatingPointError:  # the first one says so
        raise SystemExit(2) from None


def _train(
    run: Run,
    state: TrainState,
    scene: Scene,
    watch: Watch,
    autosave: Autosave,
    stop: StopOnSignal,
    spectators: Spectators | None,
) -> None:
    """The loop with all that watches it; whatever ends it, what was learned is saved and the user told."""
    stopped: Interrupted | None = None
    lost: Lost | None = None
    try:
        autosave.begin(state)
        with contextlib.ExitStack() as open_ones:
            callbacks: list[Callback] = [MetricsLog(run), autosave, stop]
            if spectators is not None:
                callbacks.insert(0, spectators)
            if watch.tensorboard:
                callbacks.append(open_ones.enter_context(TensorBoard(run, state.step)))
            open_ones.enter_context(stop.listening())
            try:
                with ProgressBar(state) as progress:
                    train(state, scene.train_views, callbacks=[*callbacks, progress], ranks=watch.ranks)
            except Interrupted as interrupted:
                stopped = interrupted
            except Lost as loss:
                if state.divided.count > 1:  # with its part of the scene
                    raise
                lost = loss
            autosave.save(state)
    except FloatingPointError as error:
        raise InputError(f"the training diverged at step {state.step:,} ({error}); {_way_back(run)}") from error
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror or error}; {_way_back(run)}") from error
    except InputError as error:
        raise InputError(f"{error}; {_way_back(run)}") from error
    if lost is not None:
        raise InputError(f"{lost}; step {state.step:,} is saved; go on with: recon train --resume {run.path}")
    if stopped is not None:
        say(f"Stopped at step {state.step:,} and saved. Go on with: recon train --resume {run.path}")
        raise SystemExit(128 + stopped.signum)


def _wait_for(kernels: prepare.Preparation | None) -> None:
    """Until the CPU kernels are ready; at the first start of a version that takes a while, and a bar shows how long."""
    if kernels is None:
        return
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True) as bar:
        task = bar.add_task("Compiling", total=None, visible=False)
        kernels.wait(
            lambda count, cores: say(f"Compiling {count} CPU kernels on {cores} cores, once for this version."),
            lambda done, count: bar.update(task, completed=done, total=count, visible=True),
        )


def _wait_for_photos(photos: Reading, device: torch.device) -> None:
    """Until they are decoded. On a GPU the training begins with those that are."""
    if device.type == "cuda":
        return
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True) as bar:
        task = bar.add_task("Reading photos", total=None)
        photos.wait(lambda done, count: bar.update(task, completed=done, total=count))


def _way_back(run: Run) -> str:
    """What is left of a training that ended badly."""
    saved = run.checkpoints()
    if not saved:
        return f"nothing of {run.path} was saved"
    return f"the newest checkpoint is {saved[0]}; go on with: recon train --resume {run.path}"
