"""Whole trainings by the `recon` command: quality and seconds, two at once, and from one device to the other."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from _gpu_rows import FAILED, OK, Row, held_against, left_out, usable_gpu
from bench_train import Capture, capture, train
from recon import evaluate, runs
from recon.datasets import load_scene, synthetic
from recon.datasets.errors import InputError
from recon.datasets.normalize import normalize

VIEWS = 60  # photos of the procedural scene, as `recon demo` makes
SECONDS_GOAL = 20.0
LEAST_PSNR = 20.0  # of the procedural scene, dB: it trains to about 30
FIELD_SECONDS = 25  # of training for each kind of radiance field
LEAST_OF_FIELD = 16.0  # dB
FIELDS = {
    "ngp": ["--method", "ngp"],
    "mipnerf360:hash": ["--method", "mipnerf360", "--encoding", "hash"],
    "mipnerf360": ["--method", "mipnerf360"],
    "nerf": ["--method", "nerf"],
}
SHORT = 600  # steps, of trainings that are only to go right
HALF_WAY = 200  # steps, after which one is stopped
PATIENCE = 120.0  # seconds to wait for that
SMALLEST: dict[str, Any] = {"views": 8, "width": 64, "height": 48, "supersample": 1, "points": 500}

# Nothing is fetched here, and a search for LPIPS's weights that finds no network must not cost time.
OFFLINE = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}


def training(arguments: argparse.Namespace) -> Iterator[Row]:
    """Each capture at the default preset, or for a few steps where there is no GPU; the last one plainly too."""
    gpu = usable_gpu()
    device = "cpu" if gpu is None else "cuda"
    best: dict[str, dict[str, Any]] = {}
    for chosen in [procedural(arguments), *map(capture, arguments.captures)]:
        if isinstance(chosen, Row):
            yield chosen
            continue
        presets = ["fast"] if arguments.quick else arguments.presets
        for options in [["--preset", preset] for preset in presets] if gpu else [["--steps", "20"]]:
            row = trained(chosen, [*options, "--device", device], arguments.output)
            yield row
            if row.data and (chosen.name not in best or row.data["psnr"] > best[chosen.name]["psnr"]):
                best[chosen.name] = row.data
    if gpu is None:
        yield left_out("trainings on the GPU", "no GPU that can be used: trained for 20 steps on the CPU instead")
    elif arguments.captures and not arguments.quick:
        chosen = capture(arguments.captures[-1])
        yield plainly(chosen, gpu, arguments.plain_steps, best.get(chosen.name))


def procedural(arguments: argparse.Namespace) -> Capture | Row:
    """The procedural scene as a capture: as it was made before, or made now."""
    name = "procedural scene"
    if arguments.demo_capture is not None:
        return Capture(name, arguments.demo_capture, ())
    folder = arguments.output / "capture"
    if not folder.exists():
        options: dict[str, Any] = {"views": VIEWS}
        if arguments.quick and not torch.cuda.is_available():
            options = SMALLEST
        try:
            synthetic.write(synthetic.make(**options), folder, "nerfstudio")
        except InputError as error:  # Embree is not there
            return left_out(name, f"{error}; make it elsewhere with `recon demo` and name its folder: --demo-capture")
    return Capture(name, folder, ())


def trained(chosen: Capture, options: Sequence[str], output: Path) -> Row:
    """One training by the command, and a picture of it."""
    what = f"{chosen.name}, {' '.join(options)}"
    folder = output / "runs" / f"{len(list((output / 'runs').glob('*'))):02d}"
    try:
        row = train(chosen, options, folder, OFFLINE)
    except InputError as error:
        return Row(what, str(error), verdict=FAILED)
    _keep_picture(row["run"], chosen.name, output)
    return Row(
        what,
        f"{row['psnr']:.2f} dB, SSIM {row['ssim']:.3f} on {row['held_out']} held-out photos of {row['size']};"
        f" {row['step']:,} steps in {row['train_seconds']:.1f} s, {row['wall']:.1f} s in all;"
        f" {row['count']:,} Gaussians",
        verdict=OK,
        data={k: row[k] for k in ("psnr", "ssim", "step", "count", "train_seconds", "wall", "size")},
    )


def _keep_picture(run: str, name: str, output: Path) -> None:
    """The first of a run's scored pictures, under another name."""
    picture = next(iter(sorted(runs.find(Path(run)).eval_folder.glob("*.png"))), None)
    if picture is not None:
        shutil.copy(picture, output / f"{''.join(c if c.isalnum() else '_' for c in name)}.png")


def plainly(chosen: Capture, gpu: torch.device, steps: int, best: dict[str, Any] | None) -> Row:
    """3DGS's steps with gsplat alone, and whether ours was as good within the time allowed."""
    import _gpu_plain

    downscale = int(chosen.options[-1]) if chosen.options else 1
    scene = normalize(load_scene(chosen.folder, downscale=downscale))
    what = f"{chosen.name}, gsplat's plain loop, {steps:,} steps"
    if scene.points is None:
        return left_out(what, "the capture has no points to start from")
    model, seconds = _gpu_plain.train(scene, gpu, steps)
    result = evaluate.evaluate(model, scene.test_views, lpips=False)
    data = {
        "psnr": result.psnr,
        "ssim": result.ssim,
        "step": steps,
        "count": len(model),
        "train_seconds": seconds,
    }
    reached = None if best is None else best["psnr"] >= data["psnr"] and best["wall"] < SECONDS_GOAL
    return Row(
        what,
        f"{result.psnr:.2f} dB, SSIM {result.ssim:.3f}; {seconds:.1f} s in the loop; {len(model):,} Gaussians",
        f"ours as good within {SECONDS_GOAL:g} s",
        "" if reached is None else held_against(reached),
        data,
    )


# ------------------------------------------------------------------------------------------ radiance fields


def fields(arguments: argparse.Namespace) -> Iterator[Row]:
    """Each kind of radiance field that learns on a GPU, for some seconds."""
    chosen = procedural(arguments)
    if usable_gpu() is None or isinstance(chosen, Row):
        yield left_out("radiance fields on the GPU", "no GPU that can be used, or no capture")
        return
    for name in ["ngp"] if arguments.quick else FIELDS:
        options = [*FIELDS[name], "--budget-seconds", str(FIELD_SECONDS), "--device", "cuda"]
        try:
            row = train(chosen, options, arguments.output / "runs" / f"field-{name.replace(':', '-')}", OFFLINE)
        except InputError as error:
            yield Row(name, str(error), verdict=FAILED)
            continue
        _keep_picture(row["run"], name, arguments.output)
        found = (
            f"{row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}; {row['step']:,} steps in {row['train_seconds']:.1f} s,"
            f" {1e3 * row['train_seconds'] / row['step']:.1f} ms each; {row['wall']:.1f} s in all"
        )
        yield _judged(name, found, row, LEAST_OF_FIELD, ("psnr", "ssim", "step", "train_seconds", "wall"))


def _judged(what: str, found: str, row: dict[str, Any], least: float, names: Sequence[str]) -> Row:
    """A training that has to be as good as `least`, dB; with those figures of its row."""
    verdict = OK if row["psnr"] > least else FAILED
    return Row(what, found, f"above {least:g} dB", verdict, {name: row[name] for name in names})


# ------------------------------------------------------------------------------------------ two at once


def two(arguments: argparse.Namespace) -> Iterator[Row]:
    """Two trainings on one card at the same time, beside one alone; and one training in two processes."""
    what = "two trainings on one card"
    chosen = procedural(arguments)
    if usable_gpu() is None or isinstance(chosen, Row):
        yield left_out(what, "no GPU that can be used" if isinstance(chosen, Capture) else "no capture")
        return
    options = ["--steps", str(SHORT), "--device", "cuda"]
    alone = train(chosen, options, arguments.output / "runs" / "alone", OFFLINE)
    with ThreadPoolExecutor(2) as pool:
        folders = [arguments.output / "runs" / f"together-{number}" for number in range(2)]
        both = list(pool.map(lambda folder: train(chosen, options, folder, OFFLINE), folders))
    lowest = min(row["psnr"] for row in both)
    yield Row(
        what,
        f"{both[0]['psnr']:.2f} and {both[1]['psnr']:.2f} dB in {max(row['wall'] for row in both):.1f} s; one alone:"
        f" {alone['psnr']:.2f} dB in {alone['wall']:.1f} s",
        f"above {LEAST_PSNR:g} dB",
        OK if lowest > LEAST_PSNR else FAILED,
        {"psnr": [row["psnr"] for row in both], "wall": max(row["wall"] for row in both), "alone": alone["wall"]},
    )
    for what, options in (("one training in two processes", []), ("one divided in two processes", ["--divide"])):
        yield shared(what, chosen, options, arguments.output, alone["train_seconds"])


def shared(what: str, chosen: Capture, options: Sequence[str], output: Path, alone: float) -> Row:
    """A training in two processes, with half the steps of two views each."""
    cards = torch.cuda.device_count()
    what = f"{what} on {min(cards, 2)} of {cards} cards"
    folder = output / "runs" / "".join(["shared", *options])
    options = ["--steps", str(SHORT // 2), "--device", "cuda", *options]
    try:
        row = train(chosen, options, folder, OFFLINE, processes=2)
    except InputError as error:
        return Row(what, str(error), verdict=FAILED)
    found = (
        f"{row['psnr']:.2f} dB, {row['count']:,} Gaussians, in {row['train_seconds']:.1f} s of training; alone"
        f" {alone:.1f} s"
    )
    return _judged(what, found, row, LEAST_PSNR, ("psnr", "count", "train_seconds", "wall"))


# ------------------------------------------------------------------------------------------ to the other device


def resume(arguments: argparse.Namespace) -> Iterator[Row]:
    """A run that is stopped on one device and goes on on the other, both ways."""
    chosen = procedural(arguments)
    if usable_gpu() is None or isinstance(chosen, Row):
        yield left_out("a run goes on on the other device", "no GPU that can be used, or no capture")
        return
    for begun, other in (("cpu", "cuda"), ("cuda", "cpu")):
        what = f"begun with --device {begun}, resumed with --device {other}"
        try:
            yield resumed(what, chosen, begun, other, arguments.output / "runs" / f"from-{begun}")
        except InputError as error:
            yield Row(what, str(error), verdict=FAILED)


def resumed(what: str, chosen: Capture, begun: str, other: str, folder: Path) -> Row:
    """Stop a run as Ctrl-C does, go on elsewhere, and look at its score."""
    command = [sys.executable, "-m", "recon", "train", str(chosen.folder), "--output", str(folder)]
    options = [*chosen.options, "--steps", str(SHORT), "--device", begun]
    environment = os.environ | OFFLINE
    first = subprocess.Popen([*command, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    stopped = _stop_half_way(first, folder)
    command = [sys.executable, "-m", "recon", "train", "--resume", str(folder), "--device", other]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    run = runs.find(folder)
    if done.returncode != 0 or not run.summary_file.exists():
        return Row(what, f"ended with {done.returncode}: {done.stderr.strip()[-300:]}", verdict=FAILED)
    summary = runs.read_json(run.summary_file)
    return Row(
        what,
        f"stopped at step {stopped:,} of {SHORT:,}, then {summary['psnr']:.2f} dB",
        f"above {LEAST_PSNR:g} dB",
        OK if 0 < stopped < SHORT == summary["step"] and summary["psnr"] > LEAST_PSNR else FAILED,
        {"stopped": stopped, "step": summary["step"], "psnr": summary["psnr"]},
    )


def _stop_half_way(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Interrupt a training once it has taken some steps; the step that it was saved at."""
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        lines = [line for file in folder.glob("**/metrics.jsonl") for line in runs.read_lines(file)]
        if lines and lines[-1]["step"] >= HALF_WAY:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=PATIENCE)[0].decode(errors="replace")
    saved = runs.find(folder).checkpoints() if folder.exists() else []
    if not saved:
        raise InputError(f"the first half saved nothing: {said.strip()[-300:]}")
    return int(saved[0].stem.removeprefix("step_"))
