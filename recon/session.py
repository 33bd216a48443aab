"""From the command to the loop and back: open the capture, start or resume, watch, evaluate, sum up."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from recon import __version__, checkpoint, config, evaluate, export, render, rng, runs, video
from recon.callbacks import Autosave, Interrupted, MetricsLog, ProgressBar, StopOnSignal, TensorBoard
from recon.config import Background, MCMCConfig, Preset, TrainConfig
from recon.datasets import load_scene, synthetic
from recon.datasets.cameras import Cameras
from recon.datasets.errors import InputError
from recon.datasets.normalize import normalize
from recon.datasets.points import frustum_points
from recon.datasets.scene import Points, Scene
from recon.gaussians import Gaussians
from recon.loading import newest_state
from recon.render import Mode
from recon.runs import Run
from recon.train import Callback, TrainState, start, train

METHOD = "splats"

# Longest image side, px, that photos are reduced to when no downscale is given.
LONGEST_SIDE = {"cpu": 640, "cuda": 1600}

# 3DGS-MCMC starts from opaque, small Gaussians; 3DGS from faint ones that touch each other.
MCMC_START = {"opacity": 0.5, "scale": 0.1}

console = Console(highlight=False)
log = logging.getLogger("recon")


@dataclass(frozen=True)
class Options:
    """What a training was asked for; kept in the run's config.json. None: the preset's, or chosen automatically."""

    scene: str
    downscale: int | None = None
    test_every: int = 8
    preset: Preset = "default"
    strategy: Literal["adaptive", "mcmc"] = "adaptive"
    steps: int | None = None
    max_gaussians: int | None = None
    background: Background = "auto"
    seed: int = 0

    def train_config(self) -> TrainConfig:
        chosen = config.preset(self.preset, self.strategy)
        if self.steps is not None:
            if self.steps < 1:
                raise InputError(f"--steps {self.steps}: must be at least 1")
            chosen = dataclasses.replace(chosen, steps=self.steps)
        if self.max_gaussians is not None:
            if self.max_gaussians < 1:
                raise InputError(f"--max-gaussians {self.max_gaussians}: must be at least 1")
            limited = dataclasses.replace(chosen.strategy, max_gaussians=self.max_gaussians)
            chosen = dataclasses.replace(chosen, strategy=limited)
        return dataclasses.replace(chosen, background=self.background, seed=self.seed)


@dataclass(frozen=True)
class Watch:
    """How a training is watched and saved; it has no influence on the result."""

    save_every: float = 30.0
    tensorboard: bool = False


def begin(options: Options, output: Path, device: torch.device, watch: Watch) -> Run:
    """Train a capture from the start and evaluate it; returns the run."""
    settings = options.train_config()
    scene, downscale = open_scene(options, device)
    model = initial_model(scene, settings, device)
    state = start(model, settings, scene)
    options = dataclasses.replace(options, downscale=downscale)
    record = {"recon": __version__, "options": dataclasses.asdict(options), "train": config.to_json(settings)}
    run = runs.create(output, scene.name, METHOD, record)
    say(f"Run: {run.path}")
    return _run(run, state, scene, watch)


def resume(path: Path, device: torch.device, watch: Watch) -> Run:
    """Go on with a run from its newest checkpoint, as if it had not stopped."""
    run = runs.find(path)
    state = newest_state(run, device)
    scene, _ = open_scene(run_options(run), device)
    runs.forget_after(run, state.step)
    say(f"Run: {run.path}, from step {state.step:,}")
    return _run(run, state, scene, watch)


def _run(run: Run, state: TrainState, scene: Scene, watch: Watch) -> Run:
    autosave, stop = Autosave(run, watch.save_every), StopOnSignal()
    callbacks: list[Callback] = [MetricsLog(run), autosave, stop]
    if watch.tensorboard:
        callbacks.append(TensorBoard(run))
    try:
        with stop.listening(), ProgressBar(state.config.steps, state.step) as progress:
            train(state, scene.train_views, callbacks=[*callbacks, progress])
    except Interrupted as interrupted:
        autosave.save(state)
        say(f"Stopped at step {state.step:,} and saved. Go on with: recon train --resume {run.path}")
        raise SystemExit(128 + interrupted.signum) from None
    except FloatingPointError as error:
        raise InputError(f"{run.path}: the training diverged at step {state.step:,} ({error})") from error
    autosave.save(state)
    evaluate_run(run, state, scene)
    return run


def say(text: str) -> None:
    """A line for the user; never broken, so that paths can be copied."""
    console.print(text, soft_wrap=True, markup=False)


def evaluate_run(run: Run, state: TrainState, scene: Scene) -> None:
    """Scores and pictures of the held-out photos, into the run and onto the terminal."""
    if not scene.test:
        say("No photo was held out, so there are no scores.")
        return
    result = evaluate.evaluate(
        state.model, scene.test_views, background=background_of(state), comparisons=run.eval_folder
    )
    summary: dict[str, Any] = {
        "step": state.step,
        "train_seconds": round(state.seconds, 3),
        "count": len(state.model),
        "model_bytes": evaluate.model_bytes(state.model),
        "peak_memory_bytes": evaluate.peak_memory_bytes(),
        **result.to_json(),
    }
    runs.write_json(run.summary_file, summary)
    console.print(evaluate.table(result))
    say(
        f"{state.step:,} steps, {state.seconds:.1f} s of training, {len(state.model):,} Gaussians, "
        f"{summary['model_bytes'] / 1e6:.1f} MB, peak memory {summary['peak_memory_bytes'] / 1e9:.2f} GB"
    )
    say(f"Scores: {run.summary_file}   Pictures: {run.eval_folder}")


def background_of(state: TrainState) -> tuple[float, float, float]:
    """What stands behind the scene in evaluation: what it was trained over, black after random backgrounds."""
    fixed = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0), "random": (0.0, 0.0, 0.0)}
    return fixed.get(state.config.background, state.background)


def run_options(run: Run) -> Options:
    """The options that `begin` recorded. InputError where the file is not what it wrote."""
    values = run.config().get("options")
    try:
        return Options(**values)  # type: ignore[arg-type]
    except TypeError as error:
        raise InputError(f"{run.config_file}: options: not those of this version ({error})") from error


def open_scene(options: Options, device: torch.device) -> tuple[Scene, int]:
    """The capture, normalised, and the downscale it was opened with."""
    path = Path(options.scene)
    downscale = options.downscale
    if downscale is None:
        scene = load_scene(path, test_every=options.test_every)
        longest = max(max(view.camera.width, view.camera.height) for view in scene.views)
        downscale = max(1, math.ceil(longest / LONGEST_SIDE[device.type]))
    if options.downscale is not None or downscale > 1:
        scene = load_scene(path, downscale=downscale, test_every=options.test_every)
    sizes = sorted({(view.camera.width, view.camera.height) for view in scene.views})
    shown = ", ".join(f"{width}x{height}" for width, height in sizes[:3]) + (", ..." if len(sizes) > 3 else "")
    points = "no points" if scene.points is None else f"{len(scene.points):,} points"
    say(
        f"{scene.name}: {len(scene.train)} photos to train on, {len(scene.test)} held out, {shown}"
        f" (--downscale {downscale}), {points}"
    )
    return normalize(scene), downscale


def initial_model(scene: Scene, settings: TrainConfig, device: torch.device) -> Gaussians:
    """Gaussians at the capture's points, or at random ones in front of its cameras when it has none."""
    points = scene.points or frustum_points(scene, settings.initial_points, settings.seed)
    points = _at_most(points, settings.strategy.max_gaussians, settings.seed)
    mcmc = settings.strategy if isinstance(settings.strategy, MCMCConfig) else None
    model = Gaussians.from_points(
        points, sh_degree=settings.sh_degree, seed=settings.seed, **(MCMC_START if mcmc else {})
    )
    return Gaussians(
        *(value.to(device) for value in model.state_dict().values()),
        opacity_reg=mcmc.opacity_reg if mcmc else 0.0,
        scale_reg=mcmc.scale_reg if mcmc else 0.0,
    )


def _at_most(points: Points, count: int, seed: int) -> Points:
    if len(points) <= count:
        return points
    kept = torch.randperm(len(points), generator=rng.generator(seed, "initial points"))[:count].sort().values
    return Points(points.xyz[kept], points.rgb[kept])


def use_threads(count: int | None) -> None:
    """Give our kernels so many CPU threads (None: all), and torch one: its waiting threads would take them away."""
    from recon.kernels.runtime import set_threads

    torch.set_num_threads(1)
    if count is None:
        return
    most = 4 * (os.cpu_count() or 1)
    if not 1 <= count <= most:
        raise InputError(f"--threads {count}: not between 1 and {most}")
    set_threads(count)


def pick_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to train on; InputError where CUDA is asked for and cannot be used."""
    from recon.raster import gsplat_cuda

    problem = gsplat_cuda.problem()
    if wanted == "cuda" and problem:
        raise InputError(f"--device cuda: {problem}")
    if wanted == "cpu" or problem:
        return torch.device("cpu")
    return torch.device("cuda")


def make_capture(folder: Path, views: int) -> None:
    """Photograph the procedural scene and write it as a capture, with a progress bar."""
    from rich.progress import Progress

    if not 2 <= views <= 1000:
        raise InputError(f"--views {views}: not between 2 and 1000")
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Making photos of a scene", total=views)
        made = synthetic.make(views=views, progress=lambda done: bar.update(task, completed=done))
    synthetic.write(made, folder, "nerfstudio")
    say(f"Made {views} photos of a scene: {folder}")


def render_to(state: TrainState, cameras: Cameras, out: Path, *, mode: Mode, fps: float) -> None:
    """Render cameras of the trained world to a video or a folder, with a progress bar."""
    from rich.progress import Progress

    frames = render.frames(state.model, cameras, mode=mode, background=background_of(state))
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Rendering", total=len(cameras))
        video.save_frames(
            frames, out, fps=fps, total=len(cameras), progress=lambda done, _: bar.update(task, completed=done)
        )
    say(f"Rendered {len(cameras)} frames of {cameras.width}x{cameras.height}: {out}")


def export_to(source: Path, out: Path, frame: Literal["capture", "world"]) -> None:
    """Write what `source` holds (a run, a checkpoint, a splat file) in the format of the suffix of `out`."""
    if source.is_dir() or source.suffix == ".safetensors":
        state = newest_state(runs.find(source)) if source.is_dir() else checkpoint.load(source)
        model, to_capture = state.model, state.source_from_world
    else:
        model, to_capture = export.load(source), torch.eye(4, dtype=torch.float64)
    export.export(model, out, source_from_world=to_capture if frame == "capture" else None)
    say(f"Wrote {len(model):,} Gaussians: {out} ({out.stat().st_size / 1e6:.1f} MB)")
