"""Make the pictures of README and docs from a demo folder.

    recon demo && python scripts/make_pictures.py demo

Writes docs/demo.png (a held-out view: render, photo, error) and docs/modes.png (colour, depth, normals of one camera).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from recon import evaluate, opening, render, runs, video
from recon.loading import newest_state

DOCS = Path(__file__).resolve().parent.parent / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    run = runs.find(parser.parse_args().demo / "runs")
    state = newest_state(run)
    scene = opening.scene_of(run, torch.device("cpu"))
    view = scene.test_views[0]
    shots = None if state.exposure is None else state.exposure.predicted(scene.views, scene.test[:1])
    comparison = next(evaluate.compare(state.model, [view], lpips=False, shots=shots))
    video.write_png(evaluate.draw_comparison(comparison), DOCS / "demo.png")
    modes: list[render.Mode] = ["rgb", "depth", "normals"]
    strip = [next(render.frames(state.model, view.camera, mode=mode)) for mode in modes]
    video.write_png(np.concatenate(strip, axis=1), DOCS / "modes.png")
    print(f"Wrote {DOCS / 'demo.png'} and {DOCS / 'modes.png'}")


if __name__ == "__main__":
    main()
