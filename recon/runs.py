"""A run is a folder: `runs/<scene>/<method>/<time>/` with its config, metrics, checkpoints and results."""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write

KEPT_CHECKPOINTS = 2  # the newest, and one more should the newest be damaged

log = logging.getLogger("recon")


@dataclass(frozen=True)
class Run:
    """Where the files of a run are.

    config.json: the command's settings. metrics.jsonl: one line per logged step. summary.json: the result.
    checkpoints/: step_<number>.safetensors. eval/: pictures and scores.
    """

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def eval_folder(self) -> Path:
        return self.path / "eval"

    def checkpoint_file(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step_{step:08d}.safetensors"

    def checkpoints(self) -> list[Path]:
        """Newest first."""
        return sorted((self.path / "checkpoints").glob("step_*.safetensors"), reverse=True)

    def config(self) -> dict[str, Any]:
        return read_json(self.config_file)

    def drop_old_checkpoints(self) -> None:
        for path in self.checkpoints()[KEPT_CHECKPOINTS:]:
            path.unlink(missing_ok=True)


def create(root: Path, scene: str, method: str, config: dict[str, Any]) -> Run:
    """A new run folder named by the time; never one that exists."""
    parent = root / _safe(scene) / method
    stamp = datetime.now().strftime("%Y-%m-%d_%H%M%S")
    for suffix in ("", *(f"_{n}" for n in range(2, 1000))):
        path = parent / f"{stamp}{suffix}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        run = Run(path)
        write_json(run.config_file, config)
        return run
    raise InputError(f"{parent}: too many runs started at {stamp}")


def find(path: Path) -> Run:
    """The run at `path`: a run folder, a file inside one, or a folder of runs (then the newest)."""
    if not path.exists():
        raise InputError(f"{path}: no such run")
    for candidate in (path, *path.parents[:2]):
        if (candidate / "config.json").is_file():
            return Run(candidate)
    if path.is_dir():
        configs = sorted(path.glob("**/config.json"), key=lambda p: p.parent.name)
        if configs:
            return Run(configs[-1].parent)
    raise InputError(f"{path}: not a run (no config.json in it)")


def _safe(name: str) -> str:
    """A name that is a folder on every system."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "scene"


def read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds {type(values).__name__}, not an object")
    return values


def write_json(path: Path, values: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())


def append_line(path: Path, values: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file, up to the first that a kill left half-written."""
    lines: list[dict[str, Any]] = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines


def forget_after(run: Run, step: int) -> None:
    """Drop the metrics of steps that a resumed run will take again."""
    kept = [line for line in read_lines(run.metrics_file) if line.get("step", 0) <= step]
    with atomic_write(run.metrics_file) as file:
        file.write("".join(json.dumps(line) + os.linesep for line in kept).encode())
