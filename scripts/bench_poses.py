#!/usr/bin/env python
"""What refining poses is worth: a capture whose poses are exact, made worse on purpose, trained with and without.

    python scripts/bench_poses.py demo/capture:2 fox_colmap:4 --noise 0 0.1 0.3 1 --document

A capture is a folder, by itself or below RECON_DATA, with the downscale after a colon. Noise is the size of random
turns in degrees; each camera also steps by as many hundredths of the distance to the middle of the scene, about 1.6
times what the turn moves it sideways. Photos are scored from the poses that they came with (corrected as those of the
photos before and after, where poses are refined), and from where they fit the finished scene best. "off" is how far the
cameras see the scene from where they should, in pixels of the photos: the median over its points, the mean over
the photos, after both sets of cameras are laid over each other.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from _bench_report import ROOT, append_json, describe, machine, run, section, table, write_section
from bench_recipe import open_capture
from bench_train import capture
from recon import registration
from recon.config import for_steps
from recon.datasets.cameras import Cameras
from recon.datasets.scene import Scene, View
from recon.evaluate import evaluate
from recon.kernels.runtime import set_threads
from recon.opening import corrected, initial_model
from recon.poses import MOTION, moved
from recon.train import start, train

DOCUMENT = ROOT / "docs" / "recipe.md"
STEPS = 2000
STEP_PER_DEGREE = 0.01 * math.sqrt(3)  # world units

Row = dict[str, Any]


def made_worse(scene: Scene, degrees: float, seed: int) -> Scene:
    """The capture with cameras that are turned and moved at random, held-out ones like the others."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([math.radians(degrees)] * 3 + [STEP_PER_DEGREE * degrees] * 3 + [0.0]) / math.sqrt(3)
    views = []
    for view in scene.views:
        motion = size.double() * torch.randn(1, MOTION, generator=generator, dtype=torch.float64)
        views.append(dataclasses.replace(view, camera=moved(view.camera, motion)))
    return dataclasses.replace(scene, views=tuple(views))


def off(views: Sequence[View], exact: Sequence[View], scene: Scene) -> float:
    """How far cameras see the points of a scene from where they should, px: see above."""
    assert scene.points is not None
    places, wanted = (torch.cat([view.camera.positions for view in side]).double().numpy() for side in (views, exact))
    middle, wanted_middle = places.mean(axis=0), wanted.mean(axis=0)
    turn, _ = Rotation.align_vectors(wanted - wanted_middle, places - middle)
    scale = np.linalg.norm(wanted - wanted_middle) / np.linalg.norm(places - middle)
    laid = torch.eye(4, dtype=torch.float64)
    laid[:3, :3] = torch.from_numpy(scale * turn.as_matrix())
    laid[:3, 3] = torch.from_numpy(wanted_middle - scale * turn.as_matrix() @ middle)
    points, distances = scene.points.xyz.double(), []
    for mine, true in zip(views, exact, strict=True):
        seen, depth = _seen(true.camera, points)
        found, _ = _seen(mine.camera.to(dtype=torch.float64).transformed(laid), points)
        inside = (depth > 0) & (seen >= 0).all(dim=-1) & (seen[:, 0] < true.camera.width)
        inside &= seen[:, 1] < true.camera.height
        distances.append(float((found - seen)[inside].norm(dim=-1).median()))
    return float(np.mean(distances))


def _seen(camera: Cameras, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, depth = camera.to(dtype=torch.float64).project(points)
    return pixels[0], depth[0]


def measure(scene: Scene, degrees: float, refine: bool, arguments: argparse.Namespace) -> Row:
    """Train on a capture that was made worse, and score it both ways."""
    worse = made_worse(scene, degrees, arguments.seed)
    settings = dataclasses.replace(for_steps(arguments.steps), seed=arguments.seed, refine_poses=refine)
    state = start(initial_model(worse, settings, torch.device("cpu")), settings, worse)
    began = time.process_time()
    train(state, worse.train_views)
    seconds = time.process_time() - began
    now = corrected(worse, state)
    shots = None if state.exposure is None else state.exposure.predicted(now.views, now.test)
    scores = evaluate(state.model, now.test_views, background=state.background, lpips=False, shots=shots)
    fitted = registration.evaluate_placed(
        state.model, now.test_views, background=state.background, shots=shots, advance=lambda: None
    )
    return {
        "noise": f"{degrees:g}°",
        "poses": "refined" if refine else "kept",
        "off before": f"{off(worse.train_views, scene.train_views, scene):.2f} px",
        "off after": f"{off(now.train_views, scene.train_views, scene):.2f} px",
        "dB, their poses": scores.psnr,
        "dB, fitted": fitted.psnr,
        "SSIM, fitted": f"{fitted.ssim:.4f}",
        "s": round(seconds),
    }


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("captures", nargs="+", metavar="CAPTURE", help="FOLDER or FOLDER:DOWNSCALE")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.1, 0.3, 1.0], metavar="DEGREES")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the measurements here, one per line")
    parser.add_argument("--document", type=Path, nargs="?", const=DOCUMENT, metavar="FILE", help="write the section")
    arguments = parser.parse_args(given)
    for name in arguments.captures:
        capture(name)
    return arguments


def main() -> None:
    arguments = parse()
    set_threads(1)
    torch.set_num_threads(1)
    print(describe(machine()), flush=True)
    texts = []
    for name in arguments.captures:
        scene, rows = open_capture(name), []
        for degrees in arguments.noise:
            for refine in (False, True):
                row = measure(scene, degrees, refine, arguments)
                rows.append(row)
                print(name, ", ".join(f"{v:.2f}" if isinstance(v, float) else f"{v}" for v in row.values()), flush=True)
                if arguments.json:
                    append_json(arguments.json, [{"capture": name} | row | {"machine": machine()}])
        texts.append(f"`{name}`, {arguments.steps:,} steps:\n\n{table(rows)}")
    print("\n" + "\n\n".join(texts))
    if arguments.document:
        write_section(arguments.document, "poses", section("\n\n".join(texts)))


if __name__ == "__main__":
    run(main)
