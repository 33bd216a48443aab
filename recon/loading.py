"""Opening what was trained: a run, a checkpoint, or an exported file; nerfstudio's runs and checkpoints, too."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from recon import checkpoint, export, opening, runs
from recon.datasets.errors import InputError
from recon.datasets.scene import Scene
from recon.gaussians import Gaussians
from recon.model import Field
from recon.nerfstudio import runs as nerfstudio_runs
from recon.ranks import ALONE, Ranks
from recon.runs import Run
from recon.train import TrainState

log = logging.getLogger("recon")


def load(path: Path | str, device: torch.device | str = "cpu") -> Gaussians | Field:
    """The scene in a run folder, a checkpoint (.safetensors) or a splat file of any format that is read."""
    path = Path(path)
    return load_state(path, device).model if is_run(path) else load_with_frame(path, device)[0]


def load_with_frame(path: Path | str, device: torch.device | str = "cpu") -> tuple[Gaussians, Tensor]:
    """Splats, and [4,4] float64 from their world to the frame of the capture's files; what was exported is in that.

    InputError if they are none.
    """
    return load_with_state(path, device)[:2]


def load_with_state(
    path: Path | str, device: torch.device | str = "cpu"
) -> tuple[Gaussians, Tensor, TrainState | None]:
    """As `load_with_frame`, and the training state that it comes from; None for a file."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such run or file")
    if is_run(path):
        state = load_state(path, device)
        try:
            return state.gaussians, state.source_from_world, state
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    return export.load(path).to(device), torch.eye(4, dtype=torch.float64), None


def is_run(path: Path) -> bool:
    """Whether it is a run or a checkpoint, and not a file of splats."""
    if path.is_dir():
        return not export.is_splats(path)
    return path.suffix == checkpoint.SUFFIX or nerfstudio_runs.find(path) is not None


def load_state(path: Path, device: torch.device | str = "cpu") -> TrainState:
    """The training state of a checkpoint, or of the newest one of a run that can be read."""
    if path.suffix == checkpoint.SUFFIX:
        return checkpoint.load(path, device)
    nerfstudio = nerfstudio_runs.find(path)
    if nerfstudio is not None:
        return nerfstudio_runs.load(nerfstudio, device)
    return newest_state(runs.find(path), device)


def run_of(path: Path) -> Run:
    """Where what is made of a run or a checkpoint goes; of nerfstudio's, into its folder."""
    nerfstudio = nerfstudio_runs.find(path)
    return runs.find(path) if nerfstudio is None else Run(nerfstudio_runs.called(nerfstudio)[1])


def trained_scene(path: Path, state: TrainState, device: torch.device) -> Scene:
    """The capture that `load_state` of this path was trained on, with the poses that were learned; `InputError` where
    it is not there any more, or not as it was."""
    nerfstudio = nerfstudio_runs.find(path)
    if nerfstudio is not None:
        return nerfstudio_runs.capture(nerfstudio, state, device)
    return opening.trained_scene(runs.find(path), state, device)


def newest_state(
    run: Run, device: torch.device | str = "cpu", divided: Ranks = ALONE, *, moments: bool = True
) -> TrainState:
    """The newest checkpoint of a run that can be read; damaged ones are skipped with a warning.

    Args:
        divided, moments: see `checkpoint.load`.
    """
    failures = []
    for path in run.checkpoints():
        try:
            return checkpoint.load(path, device, divided, moments=moments)
        except InputError as error:
            log.warning("%s; trying the one before", error)
            failures.append(str(error))
    if failures:
        raise InputError(failures[0])
    raise InputError(f"{run.path}: no checkpoint in this run; nothing was trained in it")
