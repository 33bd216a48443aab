#!/usr/bin/env python
"""Try everything that recon does on an NVIDIA GPU, measure it, and say what is wrong: one command, no network needed.

    python scripts/gpu_check.py                                       all parts, on scenes that it makes
    python scripts/gpu_check.py fox_colmap:4 fox_colmap:2             and on real captures, FOLDER[:DOWNSCALE]
    python scripts/gpu_check.py --only machine kernels tests          some parts
    python scripts/gpu_check.py --quick                               fewer and smaller measurements

The parts, each in a process of its own so that none can spoil another:

    machine     the GPU, its driver, the packages, the bandwidth of its memory
    kernels     gsplat's kernels and those of the loss, made ready and timed
    tests       pytest -m gpu
    agreement   pictures and gradients: GPU, CPU, the reference in float64
    steps       training steps per second beside gsplat's plain loop, the CPU and the bandwidth of memory
    renders     frames per second
    training    the `recon train` command: quality and seconds
    fields      the same of radiance fields
    two         two trainings on one card at once, one in two processes, and one that is divided among them
    resume      a run that goes on on the other device, both ways

Without a GPU it says so, does on the CPU what can be done there, and names what was left out. The folder of --output
gets results.json, table.md, and pictures. The exit code is 1 if anything failed; a goal of speed that is missed is
named, but is no failure.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from _bench_report import machine as this_machine
from _bench_report import run, table
from _gpu_rows import FAILED, LEFT_OUT, MISSED, Part, Row, append, read
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write

PARTS = {  # the module of each
    "machine": "_gpu_machine",
    "kernels": "_gpu_machine",
    "tests": "_gpu_tests",
    "agreement": "_gpu_agreement",
    "steps": "_gpu_speed",
    "renders": "_gpu_speed",
    "training": "_gpu_training",
    "fields": "_gpu_training",
    "two": "_gpu_training",
    "resume": "_gpu_training",
}
ROWS = "rows.jsonl"


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("captures", nargs="*", metavar="CAPTURE", help="FOLDER or FOLDER:DOWNSCALE to train on too")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help="these parts")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller measurements")
    parser.add_argument("--presets", nargs="+", default=["default"], metavar="PRESET", help="of recon train")
    parser.add_argument("--plain-steps", type=int, default=7000, metavar="N", help="of 3DGS's plain loop")
    parser.add_argument("--demo-capture", type=Path, metavar="DIR", help="the procedural scene, as recon demo left it")
    parser.add_argument("--limit", type=float, default=300.0, metavar="S", help="seconds after which a part is ended")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu_check"), metavar="DIR")
    parser.add_argument("--inside", choices=PARTS, help=argparse.SUPPRESS)  # the part that this process is for
    arguments = parser.parse_args(given)
    if not arguments.limit > 0:
        raise InputError(f"--limit {arguments.limit:g}: must be more than 0")
    if "training" in arguments.only:
        from bench_train import capture

        for text in arguments.captures:
            capture(text)
    return arguments


def do_part(name: str, arguments: argparse.Namespace) -> None:
    """Write and print a part's rows as they come; what it raises becomes a row."""

    def report(row: Row) -> None:
        append(arguments.output / ROWS, name, row)
        print(line(row), flush=True)

    part: Part = getattr(importlib.import_module(PARTS[name]), name)
    try:
        for row in part(arguments):
            report(row)
    except Exception as error:  # whatever it is, the other parts are still worth doing
        with (arguments.output / "errors.txt").open("a", encoding="utf-8") as file:
            file.write(f"{name}\n{traceback.format_exc()}\n")
        said = " ".join(str(error).split())[:300]
        report(Row(name, f"{type(error).__name__}: {said}; see errors.txt", verdict=FAILED))


def line(row: Row) -> str:
    verdict = f"{row.verdict}: " if row.verdict else ""
    goal = f" (goal: {row.goal})" if row.goal else ""
    return f"  {verdict}{row.what}: {row.found}{goal}"


def in_a_process(name: str, given: list[str], arguments: argparse.Namespace) -> None:
    """A part in a process of its own; a row if that is killed or takes too long."""
    began = time.monotonic()
    command = [sys.executable, str(Path(__file__).resolve()), *given, "--inside", name]
    # A group of its own, so that what it has started ends with it.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(arguments.limit)
        problem = f"the process ended with {code}" if code else None
    except subprocess.TimeoutExpired:
        problem = f"not done after {arguments.limit:g} s"
    finally:
        if process.poll() is None:
            end(process)
    if problem:
        row = Row(name, problem, verdict=FAILED)
        append(arguments.output / ROWS, name, row)
        print(line(row), flush=True)
    print(f"  ({name}: {time.monotonic() - began:.0f} s)", flush=True)


def end(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def write_results(arguments: argparse.Namespace) -> list[tuple[str, Row]]:
    """The rows of all parts as JSON and as tables."""
    rows = read(arguments.output / ROWS)
    values = [{"part": part, **vars(row)} for part, row in rows]
    with atomic_write(arguments.output / "results.json") as file:
        file.write(json.dumps({"machine": this_machine(), "rows": values}, indent=1).encode())
    tables = [summary_table(rows)]
    for part in PARTS:
        figures = [{part: row.what} | row.data for name, row in rows if name == part and row.data]
        if figures:
            tables.append(table(figures))
    with atomic_write(arguments.output / "table.md") as file:
        file.write(("\n\n".join(tables) + "\n").encode())
    return rows


def summary_table(rows: list[tuple[str, Row]]) -> str:
    return table(
        [
            {"part": part, "what": row.what, "found": row.found, "goal": row.goal, "verdict": row.verdict}
            for part, row in rows
        ]
    )


def main() -> None:
    given = sys.argv[1:]
    arguments = parse(given)
    if arguments.inside:
        do_part(arguments.inside, arguments)
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    for old in (ROWS, "errors.txt"):
        (arguments.output / old).unlink(missing_ok=True)
    shutil.rmtree(arguments.output / "runs", ignore_errors=True)
    (arguments.output / "runs").mkdir()
    began = time.monotonic()
    for name in arguments.only:
        print(name, flush=True)
        in_a_process(name, given, arguments)
        rows = write_results(arguments)  # each time: whoever ends this here has what was found so far
    print(f"\n{summary_table(rows)}\n")
    count = {verdict: sum(row.verdict == verdict for _, row in rows) for verdict in (FAILED, MISSED, LEFT_OUT)}
    print(
        f"{count[FAILED]} failed, {count[MISSED]} goals missed, {count[LEFT_OUT]} left out;"
        f" {time.monotonic() - began:.0f} s. All of it: {arguments.output / 'table.md'}"
    )
    if count[FAILED]:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
