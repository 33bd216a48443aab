"""From a radiance field to splats of it, for all that takes splats: made once, and kept beside the field's checkpoint.

A file in `distilled/` of the run is a checkpoint of its own, of splats: it can be looked at, rendered and written like
any other. It is called by the step of the field that it shows.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from recon import checkpoint, distillation, held_out, opening, runs
from recon.callbacks import Interrupted, ProgressBar, StopOnSignal
from recon.config import TrainConfig
from recon.datasets.errors import InputError
from recon.datasets.scene import Scene
from recon.gaussians import Gaussians
from recon.loading import is_run, load_state, load_with_state, run_of, trained_scene
from recon.lost import MOST_VIEWS, Loss, between
from recon.runs import Run
from recon.terminal import bars, say
from recon.torch_threads import one_torch_thread
from recon.train import TrainState, start, train


def load_splats(source: Path, steps: int | None = None) -> tuple[Gaussians, torch.Tensor, TrainState | None]:
    """As `loading.load_with_state`, and of a radiance field splats that are made of it.

    Args:
        steps: that splats of a field are trained for.
    """
    if not is_run(source) or not source.exists():
        return load_with_state(source)
    state = as_splats(source, load_state(source), steps)
    return state.gaussians, state.source_from_world, state


def as_splats(source: Path, state: TrainState, steps: int | None = None) -> TrainState:
    """A state of splats as it is; of a radiance field, which was loaded from `source`, the splats that show it.

    Raises:
        InputError: the capture is not there, whose photos tell from where the field can be seen.
        SystemExit: stopped by the user; the same call goes on from there.
    """
    if isinstance(state.model, Gaussians):
        return state
    run = run_of(source)
    kept = run.distilled_file(state.step)
    before = _kept(kept)
    wanted = distillation.STEPS if steps is None else steps
    if before is not None and before.progress >= 1 and (steps is None or before.config.steps == steps):
        say(f"Splats of this field were made before: {kept}")
        _say_lost(run, state)
        return before
    settings = distillation.settings_for(wanted, state.config.seed)
    scene = trained_scene(source, state, state.model.device)
    made = _trained(run, state, scene, settings, None if before is None or before.config != settings else before)
    say(f"Splats of this field, {len(made.gaussians):,}: {kept}")
    views = [scene.views[number] for number in held_out.some_of(scene.test, MOST_VIEWS)]
    if views:
        loss = between(state.model, made.gaussians, views, opening.background_of(state))
        runs.write_json(run.lost_file(state.step), dataclasses.asdict(loss))
    _say_lost(run, state)
    return made


def _kept(path: Path) -> TrainState | None:
    """What was made before; of a damaged file nothing, since it can be made again."""
    if not path.exists():
        return None
    try:
        return checkpoint.load(path)
    except InputError:
        return None


def _trained(run: Run, field: TrainState, scene: Scene, settings: TrainConfig, begun: TrainState | None) -> TrainState:
    background, clear = opening.background_of(field), distillation.Clear(scene)
    with bars() as shown, one_torch_thread(field.model.device):
        shown("Rendering views", 0, 1)
        cameras = distillation.cameras_of(scene.train_views, settings.seed)
        pictures = distillation.scene_of(
            *(field.model, scene, cameras, background, settings, clear),
            lambda done, count: shown("Rendering views", done, count),
        )
    pictures = dataclasses.replace(pictures, background=background)
    if begun is None:
        begun = start(opening.initial_model(pictures, settings, field.model.device), settings, pictures)
    stop = StopOnSignal()
    path = run.distilled_file(field.step)
    try:
        with stop.listening(), ProgressBar(begun) as progress:
            train(begun, pictures.train_views, callbacks=[clear, stop, progress])
    except Interrupted as interrupted:
        checkpoint.save(begun, path)
        say(f"Stopped at step {begun.step:,} of {settings.steps:,} and saved. The same command goes on from there.")
        raise SystemExit(128 + interrupted.signum) from None
    clear.finish(begun)
    checkpoint.save(begun, path)
    run.drop_distilled(but=field.step)
    return begun


def _say_lost(run: Run, field: TrainState) -> None:
    file = run.lost_file(field.step)
    if file.is_file():
        say(f"Lost in splats: {Loss(**runs.read_json(file))}")
