"""Measuring an earlier commit and the working tree side by side."""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from _bench_report import ROOT
from recon.datasets.errors import InputError

Case = tuple[str, int, int]  # size, Gaussians, threads


def against(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each case and stage: medians over rounds of the commit `arguments.against` and of the working tree.

    Each measurement is a process of its own, of this very script with the package of the one or the other. They take
    turns, each round in the other order, so that both meet the same disturbances.
    """
    with tempfile.TemporaryDirectory(prefix="recon-bench-") as temporary:
        folder = Path(temporary)
        unpack_commit(arguments.against, folder / "before")
        # Its kernels, too, are compiled into the temporary folder (on Linux).
        before = {"PYTHONPATH": str(folder / "before"), "XDG_CACHE_HOME": str(folder / "cache")}
        sides = {"before": before, "now": {"PYTHONPATH": str(ROOT)}}
        samples: dict[Case, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(dict))
        for turn in range(arguments.rounds):
            for side in sorted(sides, reverse=bool(turn % 2)):
                for row in measure_in(sides[side], arguments, folder / f"{side}-{turn}.jsonl"):
                    case = (row["size"], row["Gaussians"], row["threads"])
                    for stage, value in row.items():
                        if isinstance(value, float):
                            samples[case][stage].setdefault(side, []).append(value)
    return compared(samples)


def unpack_commit(commit: str, folder: Path) -> None:
    """The files of a commit; InputError if there is no such commit."""
    archive = subprocess.run(["git", "archive", "--format=tar", commit], cwd=ROOT, capture_output=True)
    if archive.returncode != 0:
        raise InputError(f"--against {commit}: {archive.stderr.decode().strip().splitlines()[-1]}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")


def measure_in(environment: dict[str, str], arguments: argparse.Namespace, output: Path) -> list[dict[str, Any]]:
    """The stages as a process with this environment measures them; InputError with its last line if it fails."""
    sizes = [f"{width}x{height}" for width, height in arguments.sizes]
    command: list[Any] = [sys.executable, ROOT / "scripts" / "bench_raster.py", "--json", output]
    command += ["--counts", *arguments.counts, "--sizes", *sizes, "--threads", *arguments.threads]
    command += ["--repeat", arguments.repeat, "--radius", arguments.radius]
    done = subprocess.run([str(word) for word in command], env=os.environ | environment, capture_output=True, text=True)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        raise InputError(f"{environment['PYTHONPATH']}: cannot be measured ({reason[0]})")
    return [json.loads(line) for line in output.read_text().splitlines()]


def compared(samples: dict[Case, dict[str, dict[str, list[float]]]]) -> list[dict[str, Any]]:
    """Medians and their ratio; None where a side lacks a stage. More is faster for what is "per second"."""
    rows = []
    for (size, count, threads), stages in samples.items():
        for stage, by_side in stages.items():
            before, now = (statistics.median(by_side[s]) if s in by_side else None for s in ("before", "now"))
            ratio = None if not before or not now else (now / before if stage.endswith("/s") else before / now)
            case = {"size": size, "Gaussians": count, "threads": threads, "stage": stage}
            rows.append(case | {"before": before, "now": now, "times faster": ratio})
    return rows
