"""Scores and pictures of a trained scene, into its run and onto the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.progress import Progress, TaskID

from recon import evaluate, registration, runs
from recon.datasets.scene import Scene
from recon.opening import background_of, corrected
from recon.runs import Run
from recon.terminal import console, say
from recon.train import TrainState


def evaluate_run(
    run: Run,
    state: TrainState,
    scene: Scene,
    *,
    trained: bool = False,
    memory_estimate: int | None = None,
    placing: bool = True,
    meanwhile: Callable[[], None] | None = None,
) -> None:
    """Scores and pictures of the held-out photos, into the run and onto the terminal.

    Args:
        trained: whether this process has trained, so that its peak of memory tells; else the summary keeps its own.
        memory_estimate: what training and evaluation were to take, bytes.
        placing: whether held-out photos are also scored from where they fit best, if poses were refined.
        meanwhile: called after each picture.
    """
    if not scene.test:
        say("No photo was held out, so there are no scores.")
        return
    scene = corrected(scene, state)
    before = runs.read_json(run.summary_file) if not trained and run.summary_file.is_file() else {}
    shots = None if state.exposure is None else state.exposure.predicted(scene.views, scene.test)
    background = background_of(state)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Evaluating", total=len(scene.test))

        def advance(task: TaskID) -> None:
            bar.advance(task)
            if meanwhile is not None:
                meanwhile()

        result = evaluate.evaluate(
            state.model,
            scene.test_views,
            background=background,
            shots=shots,
            comparisons=run.eval_folder,
            progress=lambda *_: advance(task),
        )
        fitted = None
        if state.poses is not None and placing:
            task = bar.add_task("Placing held-out photos", total=len(scene.test))
            fitted = registration.evaluate_placed(
                state.gaussians, scene.test_views, background=background, shots=shots, advance=lambda: advance(task)
            )
    size = evaluate.model_bytes(state.model)
    peak_memory = evaluate.peak_memory_bytes() if trained else before.get("peak_memory_bytes")
    summary: dict[str, Any] = {
        "step": state.step,
        "train_seconds": round(state.seconds, 3),
        "count": len(state.model),
        "for_mesh": state.config.surface is not None,
        "model_bytes": size,
        "peak_memory_bytes": peak_memory,
        "memory_estimate_bytes": memory_estimate if trained else before.get("memory_estimate_bytes"),
        **result.to_json(),
        "fitted_poses": None if fitted is None else {"psnr": fitted.psnr, "ssim": fitted.ssim},
    }
    runs.write_json(run.summary_file, summary)
    console.print(evaluate.table(result))
    if fitted is not None and fitted.psnr is not None:
        say(
            f"From where the held-out photos fit best: {fitted.psnr:.2f} dB, SSIM {fitted.ssim:.4f}. The table takes"
            " their poses from the capture, corrected as those of the photos before and after."
        )
    for_mesh = "" if state.config.surface is None else " for a mesh"
    memory = "" if peak_memory is None else f", peak memory {peak_memory / 1e9:.2f} GB"
    say(
        f"{state.step:,} steps{for_mesh}, {state.seconds:.1f} s of training, {len(state.model):,} {state.unit},"
        f" {size / 1e6:.1f} MB{memory}"
    )
    say(f"Scores: {run.summary_file}   Pictures: {run.eval_folder}")
