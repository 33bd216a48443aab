"""Several methods on one capture, under the same clock or for the same steps: each an ordinary run, and one table.

OUTPUT/METHOD/...         the run of a method (mipnerf360-hash is that of mipnerf360:hash)
OUTPUT/comparison.json    what was asked for, and the scores     comparison.md    the table
OUTPUT/views.png          the same held-out views by all methods, beside their photos
OUTPUT/curves.jsonl       PSNR of some held-out views on the way, over the seconds of training     curves.png
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from recon import __version__, contest_pictures, held_out, runs, session
from recon.config import Encoding, Method
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.datasets.scene import Scene
from recon.options import Options
from recon.runs import Run
from recon.session import Watch
from recon.terminal import say
from recon.train import StepMetrics, TrainState

log = logging.getLogger("recon")

SECONDS = 60.0  # where nothing is said
OFTEN = ("splats", "plenoxels", "ngp", "mipnerf360:hash")  # where none are named: a CPU is far too slow for the others
SHARES = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # of a training, after which held-out views are scored
MOST_SCORED = 4  # of them
RESULT, TABLE, VIEWS, CURVES, CURVES_DRAWN = (
    "comparison.json",
    "comparison.md",
    "views.png",
    "curves.jsonl",
    "curves.png",
)


class Timekeeper:
    """Scores a training on its way, with its clock stopped, into its log. `session.Spectators`."""

    def __init__(self, run: Run, state: TrainState, scene: Scene, stopping: Callable[[], bool]) -> None:
        """
        Args:
            stopping: whether the training was asked to end.
        """
        self._run, self._scene, self._stopping = run, scene, stopping
        done = self._share(state)
        self._left = [share for share in SHARES if share > done]
        self._numbers = held_out.some_of(scene.test, MOST_SCORED)

    @staticmethod
    def _share(state: TrainState) -> float:
        if state.config.seconds is not None:
            return state.seconds / state.config.seconds
        return state.step / state.config.steps

    def __call__(self, state: TrainState, metrics: StepMetrics) -> None:
        share = self._share(state)
        if not self._left or share < self._left[0] or self._stopping():
            return
        self._left = [later for later in self._left if later > share]
        began = time.perf_counter()
        found = held_out.psnr(state, self._scene, self._numbers)
        line = {"step": metrics.step, "loss": float(metrics.loss), "count": metrics.count}
        runs.append_line(self._run.metrics_file, line | {"seconds": round(state.seconds, 3), "psnr": found})
        state.paused += time.perf_counter() - began

    def evaluating(self) -> None:
        """Nobody looks."""

    def finish(self) -> None:
        """Nobody looks."""

    def close(self) -> None:
        """Nothing is open."""


def compare(options: Options, methods: Sequence[str], output: Path, device: torch.device, watch: Watch) -> None:
    """Train a capture by each method, or take what was trained before into the same folder, and write what came of it.

    A method that fails has a row that says so. Stopped by the user, what is finished is kept and shown, and the same
    call goes on from there.

    Args:
        options: of all trainings, but for the method.
        methods: see `chosen`.
    """
    asked = {name: value for name, value in dataclasses.asdict(options).items() if name not in ("method", "encoding")}
    _refuse_others(output / RESULT, asked)
    watch = dataclasses.replace(watch, invite=Timekeeper)
    rows: list[dict[str, Any]] = []
    try:
        for method in methods:
            say(f"\n{method}")
            kind, _, encoding = method.partition(":")
            one = dataclasses.replace(
                options, method=typing.cast(Method, kind), encoding=typing.cast(Encoding, encoding or "ipe")
            )
            rows.append(_row(method, one, output, device, watch))
            _write(output, asked, rows)
    except (KeyboardInterrupt, SystemExit):
        say("Stopped. What is finished is kept; the same command goes on from there.")
        raise
    finally:
        if rows:
            say(f"\n{table(rows)}")
            say(f"Table: {output / TABLE}   Pictures: {output / VIEWS}   PSNR over time: {output / CURVES_DRAWN}")


def chosen(methods: str) -> list[str]:
    """The methods of a list such as "splats,mipnerf360:hash", with an encoding behind the colon; "" for `OFTEN`."""
    known = [*typing.get_args(Method), *(f"mipnerf360:{encoding}" for encoding in typing.get_args(Encoding))]
    names = [name.strip() for name in methods.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise InputError(f"--methods {methods}: {name!r} is none of {', '.join(known)}")
    return list(dict.fromkeys(name.removesuffix(":ipe") for name in names)) or list(OFTEN)


def _refuse_others(file: Path, asked: dict[str, Any]) -> None:
    """`InputError` where a comparison that was asked for otherwise is in the same folder."""
    if not file.is_file():
        return
    before = runs.read_json(file).get("options", {})
    plain = json.loads(json.dumps(asked))
    for name, value in plain.items():
        if before.get(name) != value:
            raise InputError(f"{file}: was made with {name} {before.get(name)}, not {value}; give another --output")


def _row(method: str, options: Options, output: Path, device: torch.device, watch: Watch) -> dict[str, Any]:
    """What came of a method; it is trained unless it was before."""
    try:
        run = _trained(options, output / method.replace(":", "-"), device, watch)
        if not run.summary_file.is_file():
            raise InputError(f"{options.scene}: no photo is held out, so there is nothing to compare by")
        summary = runs.read_json(run.summary_file)
    except Exception as error:  # whatever it was, it is one row, and the other methods go on
        if not isinstance(error, InputError):
            log.warning("%s failed", method, exc_info=True)
        say(f"{method}: {error}")
        return {"method": method, "error": " ".join(str(error).split()) or type(error).__name__}
    return {
        "method": method,
        "run": run.path.relative_to(output).as_posix(),
        **{name: summary[name] for name in ("psnr", "ssim", "lpips", "train_seconds", "fps")},
        "megabytes": summary["model_bytes"] / 1e6,
        "steps": summary["step"],
        "count": summary["count"],
        "photos": run.config()["capture"]["test"],
        "views": [[view["name"], view["psnr"]] for view in summary["views"]],
        "curve": [
            {name: line[name] for name in ("step", "seconds", "psnr")}
            for line in runs.read_lines(run.metrics_file)
            if line.get("psnr") is not None
        ],
    }


def _trained(options: Options, folder: Path, device: torch.device, watch: Watch) -> Run:
    """The run of a method: one that is finished, or goes on, or is begun."""
    if folder.is_dir():
        try:
            before = runs.find(folder)
        except InputError:  # it ended before it began
            before = None
        if before is not None and before.summary_file.is_file():
            say(f"Trained before: {before.path}")
            return before
        if before is not None and before.checkpoints():
            return session.resume(before.path, None, device, watch)
    return session.begin(options, folder, device, watch, training_alone=True)


def _write(output: Path, asked: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """All files of a comparison."""
    runs.write_json(output / RESULT, {"recon": __version__, "options": asked, "methods": rows})
    with atomic_write(output / TABLE) as file:
        file.write(f"{table(rows)}\n".encode())
    scored = [row for row in rows if "error" not in row]
    lines = [{"method": row["method"], **line} for row in scored for line in row["curve"]]
    with atomic_write(output / CURVES) as file:
        file.write("".join(f"{json.dumps(line)}\n" for line in lines).encode())
    if scored:
        contest_pictures.save_views(scored, output, output / VIEWS)
        contest_pictures.save_curves(scored, output / CURVES_DRAWN)


HEADINGS = ("method", "PSNR, dB", "SSIM", "LPIPS", "training, s", "pictures/s", "size, MB", "steps")
KEYS = (("psnr", ".2f"), ("ssim", ".4f"), ("lpips", ".4f"), ("train_seconds", ".1f"), ("fps", ".1f"))
KEYS_OF_SIZE = (("megabytes", ".1f"), ("steps", ",d"))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The scores as a table in Markdown, and below it why some rows have none."""
    cells = [list(HEADINGS)]
    for row in rows:
        values = [(row.get(key), form) for key, form in (*KEYS, *KEYS_OF_SIZE)]
        cells.append([row["method"], *("-" if _is_none(value) else format(value, form) for value, form in values)])
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADINGS))]
    drawn = [
        "| " + " | ".join(f"{cell:{'<' if i == 0 else '>'}{widths[i]}}" for i, cell in enumerate(line)) + " |"
        for line in cells
    ]
    drawn.insert(
        1, "|" + "|".join("-" * (width + 1) + ("-" if i == 0 else ":") for i, width in enumerate(widths)) + "|"
    )
    notes = [f"{row['method']}: {row['error']}" for row in rows if "error" in row]
    if len({json.dumps(row["photos"]) for row in rows if "error" not in row}) > 1:
        notes.append("Not all methods were given photos of the same size: see `photos` in the file beside this one.")
    return "\n".join([*drawn, *(f"\n{note}" for note in notes)])


def _is_none(value: float | None) -> bool:
    return value is None or not math.isfinite(value)
