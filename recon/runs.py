"""A run is a folder: `runs/<scene>/<method>/<time>/` with its config, metrics, checkpoints and results."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from recon.datasets.errors import InputError
from recon.datasets.files import TEMPORARY, atomic_write, naming

KEPT_CHECKPOINTS = 2  # the newest, and one more should the newest be damaged

CHECKPOINTS, EVAL, DISTILLED = RUN_FOLDERS = ("checkpoints", "eval", "distilled")


@dataclass(frozen=True)
class Run:
    """Where the files of a run are.

    config.json: the command's settings. metrics.jsonl: one line per logged step. summary.json: the result.
    checkpoints/: step_<number>.safetensors. eval/: pictures and scores. distilled/: splats of a radiance field, called
    as the checkpoint that they show, and what is lost in them.
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
        return self.path / EVAL

    def checkpoint_file(self, step: int) -> Path:
        return self.path / CHECKPOINTS / f"step_{step:08d}.safetensors"

    def distilled_file(self, step: int) -> Path:
        return self.path / DISTILLED / self.checkpoint_file(step).name

    def lost_file(self, step: int) -> Path:
        return self.distilled_file(step).with_suffix(".json")

    def drop_distilled(self, but: int) -> None:
        """Splats of a field as it is no more; those of step `but` stay."""
        for path in (self.path / DISTILLED).glob("step_*"):
            if path.stem != self.checkpoint_file(but).stem:
                path.unlink(missing_ok=True)

    def checkpoints(self) -> list[Path]:
        """Newest first."""
        return sorted((self.path / CHECKPOINTS).glob("step_*.safetensors"), reverse=True)

    def config(self) -> dict[str, Any]:
        return read_json(self.config_file)

    @property
    def method(self) -> str:
        """What kind of scene is trained; runs of earlier versions do not say it, and are of splats."""
        return str(self.config().get("options", {}).get("method", "splats"))

    @property
    def for_mesh(self) -> bool:
        return bool(self.config().get("options", {}).get("for_mesh", False))

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
    above = [] if path.is_dir() and path.name not in RUN_FOLDERS else path.absolute().parents[:2]
    for candidate in (path, *above):
        if _is_run(candidate):
            return Run(candidate)
    below = [file.parent for file in path.glob("**/config.json") if _is_run(file.parent)] if path.is_dir() else []
    if not below:
        raise InputError(f"{path}: not a run, and there is none in it")
    # A run that ended before its first checkpoint must not hide those that can be used.
    return Run(max(below, key=lambda run: (bool(Run(run).checkpoints()), run.name)))


def _is_run(folder: Path) -> bool:
    """Whether this is a folder that `create` made; other programs have files named config.json too."""
    file = folder / "config.json"
    return file.is_file() and b'"options"' in file.read_bytes()


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
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one on each line, up to the first line that is damaged, as a kill may leave it."""
    lines: list[dict[str, Any]] = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                values = json.loads(text)
            except json.JSONDecodeError:
                break
            if not isinstance(values, dict) or not isinstance(values.get("step"), int):
                break
            lines.append(values)
    return lines


def forget_after(run: Run, step: int) -> None:
    """Drop what a resumed run will make again: metrics and checkpoints of later steps, and unfinished files."""
    for path in run.checkpoints():
        if path > run.checkpoint_file(step):
            path.unlink()
    run.drop_distilled(but=step)
    for path in (run.path / CHECKPOINTS).glob(f".*{TEMPORARY}"):
        path.unlink()
    kept = [line for line in read_lines(run.metrics_file) if line["step"] <= step]
    with atomic_write(run.metrics_file) as file:
        file.write("".join(json.dumps(line) + "\n" for line in kept).encode())
