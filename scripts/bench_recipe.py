#!/usr/bin/env python
"""What each part of the recipe is worth, and the whole of it beside 3DGS as it was published.

    python scripts/bench_recipe.py parts fox_colmap:4 fern:8 demo/capture --document      each part left out or changed
    python scripts/bench_recipe.py whole fox_colmap:4 fern:8 kermit:1 --document          beside plain 3DGS
    python scripts/bench_recipe.py lengths fox_colmap:4                                   trained for longer and longer

A capture is a folder, by itself or below RECON_DATA, with the downscale after a colon. PSNR and SSIM are of the photos
held out. For `parts` and `lengths` they are every sixth, from the fourth, of the photos to train on, and those that are
otherwise held out are left out: what is chosen by looking at them cannot be judged by them as well. Seconds are CPU
seconds of the training loop with one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import _plain_cpu as plain
from _bench_report import ROOT, append_json, describe, machine, run, section, table, write_section
from bench_train import capture
from recon import config
from recon.config import PRESETS, TrainConfig
from recon.datasets import load_scene
from recon.datasets.errors import InputError
from recon.datasets.normalize import normalize
from recon.datasets.scene import Scene
from recon.evaluate import evaluate
from recon.kernels.runtime import set_threads
from recon.opening import initial_model
from recon.train import TrainState, start, train

DOCUMENT = ROOT / "docs" / "recipe.md"
STEPS = 1500  # of the trainings that parts are judged by
EVERY, FROM = 6, 3  # which of the photos to train on judge choices

Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """A training that differs from the recipe.

    Attributes:
        name: for the table.
        settings, strategy: fields of TrainConfig and of its strategy.
        before: done to the training before its first step.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    strategy: dict[str, Any] = field(default_factory=dict)
    before: Callable[[TrainState], Any] | None = None

    def config(self, steps: int, seed: int) -> TrainConfig:
        settings = config.for_steps(steps)
        strategy = dataclasses.replace(settings.strategy, **self.strategy)
        return dataclasses.replace(settings, **({"seed": seed, "strategy": strategy} | self.settings))


def parts(steps: int) -> list[Variant]:
    """Each part of the recipe left out, then what might have been part of it."""
    usual = config.for_steps(steps)
    cap = usual.strategy.max_gaussians
    return [
        Variant("the recipe"),
        Variant("no exposures", {"exposure": False}),
        Variant("no coarse steps", {"coarse": 0.0}),
        Variant("clones and splits instead of halves", before=plain.ClonesAndSplits.instead_of),
        Variant("gradients that may cancel out", strategy={"absgrad": False}),
        Variant("3DGS's learning rates, times the same factor", before=plain.use_learning_rates),
        Variant("learning rates not scaled to the length", {"lr_scale": 1.0}),
        Variant("no pruning", strategy={"prune_opacity": 0.0}),
        Variant("half the Gaussians", strategy={"max_gaussians": cap // 2}),
        Variant("twice the Gaussians", strategy={"max_gaussians": 2 * cap}),
        Variant("refinement each 50 steps", strategy={"refine_every": 50}),
        Variant("opacity resets each 500 steps", strategy={"reset_every": 500}),
        Variant("SH degree 2", {"sh_degree": 2}),
        Variant("SSIM weight 0.4", {"ssim_weight": 0.4}),
        Variant("MCMC", {"strategy": config.for_steps(steps, "mcmc").strategy}),
    ]


def open_capture(name: str) -> Scene:
    chosen = capture(name)
    return normalize(load_scene(chosen.folder, downscale=int(chosen.options[-1]) if chosen.options else 1))


def for_choices(scene: Scene) -> Scene:
    """Other photos held out, and the usual ones left out."""
    held = scene.train[FROM::EVERY]
    if not held:
        raise InputError(f"{scene.name}: {len(scene.train)} photos to train on are too few to hold out others")
    return dataclasses.replace(scene, train=tuple(i for i in scene.train if i not in held), test=held)


def measure(scene: Scene, settings: TrainConfig, before: Callable[[TrainState], Any] | None = None) -> Row:
    """Train, and score the photos held out."""
    state = start(initial_model(scene, settings, torch.device("cpu")), settings, scene)
    if before is not None:
        before(state)
    began = time.process_time()
    train(state, scene.train_views)
    seconds = time.process_time() - began
    shots = None if state.exposure is None else state.exposure.predicted(scene.views, scene.test)
    scores = evaluate(state.model, scene.test_views, background=state.background, lpips=False, shots=shots)
    return {"PSNR": scores.psnr, "SSIM": scores.ssim, "s": seconds, "Gaussians": len(state.model)}


def mean(rows: Sequence[Row]) -> Row:
    """Of the rows of several seeds."""
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def measure_parts(arguments: argparse.Namespace) -> str:
    rows = []
    for name in arguments.captures:
        scene = for_choices(open_capture(name))
        for variant in parts(arguments.steps):
            found = [measure(scene, variant.config(arguments.steps, seed), variant.before) for seed in arguments.seeds]
            rows.append({"capture": name, "variant": variant.name} | mean(found))
            report(arguments, rows[-1])
    lines: dict[str, Row] = {}
    for row in rows:
        line = lines.setdefault(row["variant"], {"": row["variant"]})
        line[f"{row['capture']} dB"] = row["PSNR"]
        line["SSIM " + row["capture"]] = format(row["SSIM"], ".4f")
        line["s " + row["capture"]] = round(row["s"])
    return f"{arguments.steps:,} steps, {seeds(arguments)}.\n\n{table(list(lines.values()))}"


def measure_whole(arguments: argparse.Namespace) -> str:
    rows = []
    for name in arguments.captures:
        scene = open_capture(name)
        for seed in arguments.seeds:
            best = config.for_steps(arguments.steps)
            theirs = measure(scene, plain.config(plain.STEPS, seed), plain.make_plain)
            ours = measure(scene, dataclasses.replace(best, seed=seed))
            for method, found in ((f"3DGS, {plain.STEPS:,} steps", theirs), (f"ours, {best.steps:,} steps", ours)):
                rows.append({"capture": name, "method": method, "seed": seed} | found)
                report(arguments, rows[-1])
    return shown(rows, ("capture", "method"), arguments)


def measure_lengths(arguments: argparse.Namespace) -> str:
    rows = []
    for name in arguments.captures:
        scene = for_choices(open_capture(name))
        for steps in arguments.lengths:
            for seed in arguments.seeds:
                found = measure(scene, dataclasses.replace(config.for_steps(steps), seed=seed))
                rows.append({"capture": name, "steps": steps, "seed": seed} | found)
                report(arguments, rows[-1])
    return shown(rows, ("capture", "steps"), arguments)


def report(arguments: argparse.Namespace, row: Row) -> None:
    """Each result at once, to the terminal and to the file of --json."""
    print(", ".join(f"{value:.4g}" if isinstance(value, float) else f"{value}" for value in row.values()), flush=True)
    if arguments.json:
        append_json(arguments.json, [row | {"machine": machine()}])


def shown(rows: Sequence[Row], by: tuple[str, str], arguments: argparse.Namespace) -> str:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in by), []).append(row)
    lines = []
    for values, group in groups.items():
        found = mean([{key: row[key] for key in ("PSNR", "SSIM", "s", "Gaussians")} for row in group])
        more = {"SSIM": format(found["SSIM"], ".4f"), "s": round(found["s"]), "Gaussians": round(found["Gaussians"])}
        lines.append(dict(zip(by, values, strict=True)) | found | more)
    return f"{seeds(arguments)[0].upper()}{seeds(arguments)[1:]}.\n\n{table(lines)}"


def seeds(arguments: argparse.Namespace) -> str:
    count = len(arguments.seeds)
    return "one seed" if count == 1 else f"means of {count} seeds"


MEASUREMENTS = {"parts": measure_parts, "whole": measure_whole, "lengths": measure_lengths}


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("captures", nargs="+", metavar="CAPTURE", help="FOLDER or FOLDER:DOWNSCALE")
    parser.add_argument("--steps", type=int, metavar="N", help=f"by default {STEPS} for parts, the best preset's else")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1500, 3000, 6000, 12000], metavar="N", help="steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the measurements here, one per line")
    parser.add_argument("--document", type=Path, nargs="?", const=DOCUMENT, metavar="FILE", help="write the section")
    arguments = parser.parse_args(given)
    if arguments.steps is None:
        arguments.steps = STEPS if arguments.what == "parts" else PRESETS["best"]
    for value in (arguments.steps, *arguments.lengths):
        if value < 1:
            raise InputError(f"{value} steps: must be at least 1")
    for name in arguments.captures:
        capture(name)
    return arguments


def main() -> None:
    arguments = parse()
    set_threads(1)
    torch.set_num_threads(1)
    print(describe(machine()), flush=True)
    text = MEASUREMENTS[arguments.what](arguments)
    print(f"\n{text}")
    if arguments.document:
        write_section(arguments.document, arguments.what, section(text))


if __name__ == "__main__":
    run(main)
