"""What two processes train together in `test_ranks.py`; run as a program, it is one of them."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch

import fields_cases
import tiny
from recon import checkpoint, ranks
from recon.config import AdaptiveConfig, MCMCConfig, SurfaceConfig, TrainConfig
from recon.fields import CLASSES
from recon.opening import first_model
from recon.ranks import ALONE, Ranks
from recon.train import TrainState, start, train

CPU = torch.device("cpu")
STEPS = 24
ADAPTIVE = AdaptiveConfig(max_gaussians=150, refine_from=0.0, refine_until=0.8, refine_every=8)
MCMC = MCMCConfig(max_gaussians=150, refine_from=0.0, refine_until=0.8, refine_every=8)
SPLATS = TrainConfig(steps=STEPS, batch=2, strategy=ADAPTIVE, background="random", coarse=0.0)
# None comes or goes: which one does may hang on a rounding, and from there on two trainings are different.
STILL = dataclasses.replace(SPLATS, strategy=dataclasses.replace(ADAPTIVE, refine_from=1.0, refine_until=1.0))

CASES: dict[str, TrainConfig] = {
    "adaptive": SPLATS,
    "mcmc": dataclasses.replace(SPLATS, strategy=MCMC),
    "poses": dataclasses.replace(SPLATS, refine_poses=True),
    "noise": dataclasses.replace(STILL, strategy=dataclasses.replace(MCMC, refine_from=1.0, refine_until=1.0)),
    "mesh": dataclasses.replace(STILL, surface=SurfaceConfig()),
    "four views": dataclasses.replace(STILL, batch=4),
    **{method: dataclasses.replace(fields_cases.settings_of(method, STEPS), batch=2) for method in CLASSES},
}


def trained(case: str, processes: Ranks = ALONE) -> TrainState:
    """A training on the tiny scene."""
    settings, scene = CASES[case], tiny.scene()
    state = start(first_model(scene, settings, CPU), settings, scene)
    train(state, scene.train_views, ranks=processes)
    return state


def main(folder: Path) -> None:
    processes = ranks.expected()
    with ranks.joined(processes, CPU):
        assert processes.told(lambda: ["said", processes.rank]) == ["said", 0]
        assert processes.most(processes.rank) == 1
        for case in CASES:
            checkpoint.save(trained(case, processes), folder / f"{case} {processes.rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
