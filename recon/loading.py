"""Opening what was trained: a run, a checkpoint, or an exported file."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from recon import checkpoint, export, runs
from recon.datasets.errors import InputError
from recon.gaussians import Gaussians
from recon.runs import Run
from recon.train import TrainState

log = logging.getLogger("recon")


def load(path: Path | str, device: torch.device | str = "cpu") -> Gaussians:
    """The scene in a run folder, a checkpoint (.safetensors) or an exported splat file (.ply)."""
    path = Path(path)
    if path.is_dir():
        return newest_state(runs.find(path), device).model
    if path.suffix == ".safetensors":
        return checkpoint.load(path, device).model
    return export.load(path)


def newest_state(run: Run, device: torch.device | str = "cpu") -> TrainState:
    """The newest checkpoint of a run that can be read; damaged ones are skipped with a warning."""
    failures = []
    for path in run.checkpoints():
        try:
            return checkpoint.load(path, device)
        except InputError as error:
            log.warning("%s; trying the one before", error)
            failures.append(str(error))
    if failures:
        raise InputError(failures[0])
    raise InputError(f"{run.path}: no checkpoint in this run; nothing was trained in it")
