#!/usr/bin/env python
"""Train captures with the `recon` command: quality over time, or how long it takes to start.

    python scripts/bench_train.py fox_colmap:4 fern:8 demo/capture                      as the command does by default
    python scripts/bench_train.py fox_colmap:4 --budgets 9 15 25 60 180 --document      quality over time
    python scripts/bench_train.py fox_colmap:4 --steps 200 500 --compare before.jsonl   beside an earlier result
    python scripts/bench_train.py fox_colmap:4 --start-up                               time to the first step

A capture is a folder, by itself or below RECON_DATA, with the downscale after a colon. Wall times are those of the
whole command, from its start to its end, the result evaluated. Options that this script does not know are passed on to
the command.

What is written into the folder of --output: measurements.jsonl, table.md, psnr.png (PSNR over wall time), training.png
(loss and count over the time in the loop, of each capture's longest run), and the runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _bench_report import (
    DOCUMENT,
    append_json,
    describe,
    machine,
    read_json,
    run,
    section,
    table,
    write_section,
)
from recon import runs
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.kernels.runtime import get_threads

Row = dict[str, Any]


@dataclass(frozen=True)
class Capture:
    """What to train on: `name` as it was asked for, its folder and the command's options for it."""

    name: str
    folder: Path
    options: tuple[str, ...]


def capture(text: str) -> Capture:
    """FOLDER or FOLDER:DOWNSCALE; InputError if there is no such folder."""
    name, _, downscale = text.rpartition(":") if text.rpartition(":")[2].isdigit() else (text, "", "")
    candidates = (Path(name), Path(os.environ.get("RECON_DATA", ".")) / name)
    for folder in candidates:
        if folder.is_dir():
            return Capture(text, folder, ("--downscale", downscale) if downscale else ())
    raise InputError(f"{name}: no such folder, neither here nor below RECON_DATA")


def settings(arguments: argparse.Namespace) -> list[tuple[str, tuple[str, ...]]]:
    """What each capture is trained for: a name, and the command's options."""
    chosen: list[tuple[str, tuple[str, ...]]]
    chosen = [(f"{seconds:g} s", ("--budget-seconds", f"{seconds:g}")) for seconds in arguments.budgets]
    chosen += [(f"{steps:,} steps", ("--steps", str(steps))) for steps in arguments.steps]
    return chosen or [("default", ())]


def train(
    chosen: Capture,
    options: Sequence[str],
    output: Path,
    environment: dict[str, str] | None = None,
    processes: int = 1,
) -> Row:
    """Train once, in a process of its own, or in several by torchrun; the row of the run. InputError with what the
    command said if it fails."""
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *torchrun, "-m", "recon", "train", str(chosen.folder), "--output", str(output)]
    command += [*chosen.options, *options]
    began, began_at = time.perf_counter(), time.time()
    done = subprocess.run(command, env=os.environ | (environment or {}), capture_output=True, text=True)
    wall = time.perf_counter() - began
    if done.returncode != 0:
        raise InputError(f"recon train {chosen.name}: {_reason(done.stderr) or f'ended with {done.returncode}'}")
    found = runs.find(output)
    if not found.summary_file.exists():
        raise InputError(f"{chosen.name}: no photo was held out, so there is no score")
    summary = runs.read_json(found.summary_file)
    return {
        "capture": chosen.name,
        "options": list(options),
        "held_out": len(summary["views"]),
        "size": ", ".join(sorted({f"{view['width']}x{view['height']}" for view in summary["views"]})[:2]),
        "wall": wall,
        "first_step": _first_step(found, began_at),
        "run": str(found.path),
        **{name: summary.get(name) for name in ("step", "count", "psnr", "ssim", "train_seconds")},
        **{name: summary.get(name) for name in ("peak_memory_bytes", "memory_estimate_bytes")},
    }


def _reason(text: str) -> str:
    """What went wrong, in one line: the line that says so, or all of the text without the frame drawn round it."""
    lines = [line.strip(" │╭╮╰╯─") for line in text.splitlines()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return said[-1] if said else " ".join(line for line in lines if line)[:300]


def _first_step(found: runs.Run, began: float) -> float | None:
    """Seconds from the start of a run to the end of its first step, which only a run of one step tells: the time at
    which it wrote its only line of metrics."""
    lines = runs.read_lines(found.metrics_file)
    return found.metrics_file.stat().st_mtime - began if len(lines) == 1 and lines[0]["step"] == 1 else None


# ------------------------------------------------------------------------------------------ quality over time


def measure(arguments: argparse.Namespace, passed_on: Sequence[str]) -> list[Row]:
    """Every capture for every setting, `repeat` times in turn; each result is written at once."""
    common = {"machine": machine(), "threads": arguments.threads}
    with tempfile.TemporaryDirectory(prefix="recon-bench-") as temporary:  # kernels are to be compiled before
        train(capture(arguments.captures[0]), ["--steps", "1", *passed_on], Path(temporary))
    rows = []
    for turn in range(arguments.repeat):
        for chosen in map(capture, arguments.captures):
            for name, options in settings(arguments):
                output = Path(tempfile.mkdtemp(prefix="run-", dir=arguments.output))
                row = {"setting": name, "turn": turn} | train(chosen, [*options, *passed_on], output) | common
                append_json(arguments.output / "measurements.jsonl", [row])
                print(f"{chosen.name}, {name}: {row['psnr']:.2f} dB after {row['wall']:.1f} s", flush=True)
                rows.append(row)
    return rows


def medians(rows: Sequence[Row]) -> list[Row]:
    """One row for each capture and setting, in the order of their first appearance; numbers are medians."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["capture"], row["setting"]), []).append(row)
    merged = []
    for group in groups.values():
        middle = dict(group[0])
        for key in ("wall", "first_step", "step", "count", "psnr", "ssim", "train_seconds", "peak_memory_bytes"):
            values = [row[key] for row in group if row.get(key) is not None]
            middle[key] = statistics.median(values) if values else None
        merged.append(middle)
    return merged


def shown(row: Row) -> Row:
    """The columns of the table."""
    return {
        "capture": row["capture"],
        "asked for": row["setting"],
        "held out": row["held_out"],
        "size": row["size"],
        "steps": int(row["step"]),
        "Gaussians": int(row["count"]),
        "PSNR": row["psnr"],
        "SSIM": format(row["ssim"], ".3f"),
        "wall s": row["wall"],
        "training s": row["train_seconds"],
        "memory GB": _gigabytes(row["peak_memory_bytes"]),
        "estimated GB": _gigabytes(row.get("memory_estimate_bytes")),
    }


def _gigabytes(size: float | None) -> float | None:
    return None if size is None else size / 1e9


def quality(arguments: argparse.Namespace, passed_on: Sequence[str]) -> None:
    import _bench_plot

    compared = read_json(arguments.compare) if arguments.compare else []
    rows = measure(arguments, passed_on)
    merged = medians(rows)
    turns = "one run" if arguments.repeat == 1 else f"medians of {arguments.repeat} runs"
    parts = [f"{arguments.threads} threads, {turns} each.", table([shown(row) for row in merged])]
    if compared:
        parts += [f"Before ({arguments.compare.name}):", table([shown(row) for row in medians(compared)])]
    text = "\n\n".join(parts)
    print(f"\n{text}")
    folder = arguments.output
    with atomic_write(folder / "table.md") as file:
        file.write((section(text) + "\n").encode())
    _bench_plot.psnr_over_time(merged, medians(compared), folder / "psnr.png")
    longest = {row["capture"]: row for row in sorted(rows, key=lambda row: row["step"])}
    logs = {name: runs.read_lines(Path(row["run"]) / "metrics.jsonl") for name, row in longest.items()}
    _bench_plot.training(logs, folder / "training.png")
    if arguments.document:
        picture = arguments.document.with_name("benchmark_psnr.png")
        _bench_plot.psnr_over_time(merged, medians(compared), picture)
        text += f"\n\n![Held-out PSNR over wall time]({picture.name})"
        write_section(arguments.document, "training", section(text))


# ------------------------------------------------------------------------------------------ start-up


def start_up(arguments: argparse.Namespace, passed_on: Sequence[str]) -> None:
    """Wall times of trainings of one step, with compiled kernels and (on Linux) without."""
    one_step = ["--steps", "1", *passed_on]
    rows = []
    with tempfile.TemporaryDirectory(prefix="recon-bench-") as temporary:
        folder = Path(temporary)
        for chosen in map(capture, arguments.captures):
            train(chosen, one_step, folder / "runs")  # the first one to be timed finds kernels, and files in memory
            for turn in range(arguments.repeat):
                for kernels in ("compiled before", "not compiled"):
                    output = Path(tempfile.mkdtemp(prefix=f"{turn}-", dir=folder))
                    environment = {} if kernels == "compiled before" else {"XDG_CACHE_HOME": str(output / "cache")}
                    row = {"setting": kernels} | train(chosen, one_step, output / "runs", environment)
                    if row["first_step"] is None:
                        raise InputError(f"{chosen.name}: the run does not tell when its first step was done")
                    rows.append(row)
    merged = [
        {
            "capture": row["capture"],
            "kernels": row["setting"],
            "first step done after s": row["first_step"],
            "one step and the evaluation s": row["wall"],
        }
        for row in medians(rows)
    ]
    text = f"{arguments.threads} threads, medians of {arguments.repeat}.\n\n{table(merged)}"
    print(f"\n{text}")
    append_json(arguments.output / "start_up.jsonl", [row | {"machine": machine()} for row in rows])
    if arguments.document:
        write_section(arguments.document, "start-up", section(text))


def parse(given: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The arguments, and those that go to the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("captures", nargs="+", metavar="CAPTURE", help="FOLDER or FOLDER:DOWNSCALE")
    parser.add_argument("--budgets", type=float, nargs="+", default=[], metavar="S", help="seconds to give the command")
    parser.add_argument("--steps", type=int, nargs="+", default=[], metavar="N", help="training steps")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each, of which the median counts")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), metavar="DIR")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="measurements.jsonl of an earlier result")
    parser.add_argument("--start-up", action="store_true", help="time to the first step instead")
    parser.add_argument("--document", type=Path, nargs="?", const=DOCUMENT, metavar="FILE", help="write the section")
    parser.add_argument("--threads", type=int, default=get_threads(), metavar="N", help="CPU threads of the command")
    arguments, passed_on = parser.parse_known_args(given)
    for name, values in (("--budgets", arguments.budgets), ("--steps", arguments.steps)):
        for value in values:
            if not value > 0:
                raise InputError(f"{name} {value}: must be more than 0")
    if arguments.repeat < 1:
        raise InputError(f"--repeat {arguments.repeat}: must be at least 1")
    if arguments.start_up and (arguments.budgets or arguments.steps or arguments.compare):
        raise InputError("--start-up takes one step; leave out --budgets, --steps and --compare")
    for text in arguments.captures:
        capture(text)
    return arguments, ["--threads", str(arguments.threads), *passed_on]


def main() -> None:
    arguments, passed_on = parse()
    arguments.output.mkdir(parents=True, exist_ok=True)
    print(describe(machine()), flush=True)
    (start_up if arguments.start_up else quality)(arguments, passed_on)


if __name__ == "__main__":
    run(main)
