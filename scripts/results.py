"""Train captures with the `recon` command and print one table row for each: quality, time and memory.

    python scripts/results.py fox_colmap:4 fern:8 demo/capture --preset default

A capture is a folder, by itself or below RECON_DATA, with the downscale after a colon. The wall time is that of the
whole command, from its start to the evaluated result.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from recon import runs

COLUMNS = ("capture", "photos", "size", "steps", "Gaussians", "PSNR", "SSIM", "wall s", "training s", "memory GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", nargs="+")
    parser.add_argument("--output", type=Path, default=Path("runs"))
    known, passed_on = parser.parse_known_args()
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
    for capture in known.captures:
        print("| " + " | ".join(row(capture, known.output, passed_on)) + " |", flush=True)


def row(capture: str, output: Path, passed_on: list[str]) -> list[str]:
    """Train one capture; InputError and failures of the command end the script."""
    name, _, downscale = capture.partition(":")
    folder = Path(name)
    if not folder.exists():
        folder = Path(os.environ.get("RECON_DATA", ".")) / name
    command = [sys.executable, "-m", "recon", "train", str(folder), "--output", str(output), *passed_on]
    if downscale:
        command += ["--downscale", downscale]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    summary = runs.read_json(runs.find(output).summary_file)
    return [capture, *figures(summary), f"{wall:.1f}", f"{summary['train_seconds']:.1f}", memory(summary)]


def figures(summary: dict[str, Any]) -> list[str]:
    views = summary["views"]
    sizes = sorted({f"{view['width']}x{view['height']}" for view in views})
    return [
        f"{len(views)} held out",
        ", ".join(sizes[:2]),
        f"{summary['step']:,}",
        f"{summary['count']:,}",
        f"{summary['psnr']:.2f}",
        f"{summary['ssim']:.3f}",
    ]


def memory(summary: dict[str, Any]) -> str:
    return f"{summary['peak_memory_bytes'] / 1e9:.2f}"


if __name__ == "__main__":
    main()
