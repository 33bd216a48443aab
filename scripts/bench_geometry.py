#!/usr/bin/env python
"""How right depths and normals are after a training, with and without what `recon train --for-mesh` adds.

    python scripts/bench_geometry.py --document

The scene is the demo's, whose surfaces are known. Errors are those of held-out views, at pixels that show a surface:
the absolute error of the expected and of the median depth as a share of the scene's extent, the mean over all pixels
(which is that of the far wall) and what half of them are within; and the mean angle of the normals of either depth.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from _bench_report import ROOT, append_json, describe, machine, run, section, table, write_section
from recon.config import SurfaceConfig, TrainConfig, for_steps
from recon.datasets import synthetic
from recon.datasets.normalize import normalize
from recon.datasets.scene import Scene
from recon.evaluate import evaluate
from recon.kernels.runtime import set_threads
from recon.opening import initial_model
from recon.render import SOLID, normals_from_depth
from recon.train import TrainState, start, train

DOCUMENT = ROOT / "docs" / "geometry.md"
STEPS = 1500

WHOLE = SurfaceConfig()
VARIANTS: dict[str, SurfaceConfig | None] = {
    "photos alone": None,
    "--for-mesh": WHOLE,
    "flat Gaussians alone": dataclasses.replace(WHOLE, normal_weight=0.0),
}

Row = dict[str, Any]


@torch.no_grad()
def errors(state: TrainState, scene: Scene) -> dict[str, float]:
    """Of depths in per cent of the extent, and of normals in degrees."""
    found: dict[str, list[float]] = defaultdict(list)
    for view in scene.test_views:
        assert view.depth is not None
        out, truth = state.model.render(view.camera, median_depth=True), view.depth.load()[..., 0]
        assert out.depth is not None
        assert out.median_depth is not None
        expected, median = out.depth[0, ..., 0], out.median_depth[0, ..., 0]
        shown = (truth > 0) & (out.alpha[0, ..., 0] > SOLID) & (median > 0)
        for name, depth in (("expected", expected), ("median", median)):
            error = 100 / state.extent * (depth - truth).abs()[shown]
            found[f"{name}, %"].append(float(error.mean()))
            found[f"{name}, half within %"].append(float(error.median()))
            normals = (normals_from_depth(each, view.camera)[shown] for each in (depth, truth))
            found[f"{name}, normals °"].append(_mean_angle(*normals))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _mean_angle(some: Tensor, others: Tensor) -> float:
    """Between unit vectors, degrees."""
    return float((some * others).sum(dim=-1).clamp(-1, 1).arccos().mean()) * 180 / math.pi


def measure(scene: Scene, settings: TrainConfig) -> Row:
    state = start(initial_model(scene, settings, torch.device("cpu")), settings, scene)
    began = time.process_time()
    train(state, scene.train_views)
    seconds = time.process_time() - began
    shots = None if state.exposure is None else state.exposure.predicted(scene.views, scene.test)
    scores = evaluate(state.model, scene.test_views, background=state.background, lpips=False, shots=shots)
    return {**errors(state, scene), "dB": scores.psnr, "steps/s": round(settings.steps / seconds)}


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N")
    parser.add_argument("--views", type=int, default=40, metavar="N")
    parser.add_argument("--width", type=int, default=240, metavar="PX", help="of photos; their height is 3/4 of it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the measurements here, one per line")
    parser.add_argument("--document", type=Path, nargs="?", const=DOCUMENT, metavar="FILE", help="write the section")
    return parser.parse_args(given)


def main() -> None:
    arguments = parse()
    set_threads(1)
    torch.set_num_threads(1)
    print(describe(machine()), flush=True)
    size = (arguments.width, 3 * arguments.width // 4)
    scene, rows = normalize(synthetic.make(arguments.views, *size).scene), []
    for name, how in VARIANTS.items():
        row = {"": name} | measure(scene, dataclasses.replace(for_steps(arguments.steps), surface=how))
        rows.append(row)
        print(", ".join(f"{v:.2f}" if isinstance(v, float) else f"{v}" for v in row.values()), flush=True)
        if arguments.json:
            append_json(arguments.json, [row | {"machine": machine()}])
    said = f"{arguments.steps:,} steps on {len(scene.train)} photos of {size[0]}x{size[1]}, on one thread:"
    text = f"{said}\n\n{table(rows)}"
    print("\n" + text)
    if arguments.document:
        write_section(arguments.document, "geometry", section(text))


if __name__ == "__main__":
    run(main)
