#!/usr/bin/env python
"""What each splat format costs: bytes, decibels and seconds.

    recon train fox_colmap --preset fast
    python scripts/bench_formats.py runs/fox_colmap --document

Bytes and decibels are of the scene as it is: pictures of what is read again, from the held-out views, against pictures
of the scene, and both against the photos. `numbers` are those of a splat that come back. Seconds are of `--count`
splats, which are so many copies of the scene's, each a little off, so that nothing compresses because it is there
twice; they are those of one core, whatever else runs.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from _bench_report import ROOT, run, section, table, write_section
from recon import export, exporting
from recon.export import sog
from recon.export.rows import Rows
from recon.gaussians import Gaussians
from recon.kernels.runtime import set_threads
from recon.loading import load_with_state

DOCUMENT = ROOT / "docs" / "formats.md"
OFF = 0.02  # of the spread of each parameter: how far copies are from each other


def many(model: Gaussians, count: int) -> Gaussians:
    """So many splats that are like those of a scene."""
    rows = Rows.of(model, Path("scene"))
    generator = np.random.default_rng(0)
    copies = rows.taken(np.arange(count) % len(rows))
    moved = [value + OFF * value.std() * generator.normal(size=value.shape) for value in copies.columns()]
    return Rows(*moved).gaussians("copies")


def seconds() -> float:
    """CPU time of this process and of those that it ran."""
    return sum(os.times()[:4])


def measured(source: Path, count: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each format."""
    model, to_capture, state = load_with_state(source)
    capture = exporting.capture_of(source, state)
    model = model.transformed(to_capture)
    large = many(model, count)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in export.SAVERS:
            if suffix == sog.META:  # is .sog without its zip
                continue
            path = Path(folder) / (f"scene{suffix}" if suffix.startswith(".") else f"scene/{suffix}")
            export.export(model, path)
            size = export.bytes_of(path)
            loaded = export.load(path)
            lost = exporting.loss(capture, model, loaded, to_capture)
            writing, reading = [], []
            for _ in range(repeats):
                began = seconds()
                export.export(large, path)
                written = seconds()
                export.load(path)
                writing.append(written - began)
                reading.append(seconds() - written)
            rows.append(
                {
                    "format": suffix,
                    "numbers": sum(value[0].numel() for value in loaded.parameters().values()),
                    "bytes": round(size / len(model), 1),
                    "MB of 100,000": round(size / len(model) / 10, 2),
                    "against the scene, dB": None if math.isinf(lost.decibels) else round(lost.decibels, 1),
                    "against the photos, dB": f"{lost.before:.2f} to {lost.after:.2f}" if lost.before else None,
                    "write, CPU s": min(writing),
                    "read, CPU s": min(reading),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="run, checkpoint or splat file")
    parser.add_argument("--count", type=int, default=1_000_000, help="splats that are timed")
    parser.add_argument("--repeats", type=int, default=3, help="times that are taken, of which the shortest counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--document", action="store_true", help=f"put the table into {DOCUMENT.name}")
    wanted = parser.parse_args()
    set_threads(wanted.threads)
    shown = table(measured(wanted.source, wanted.count, wanted.repeats))
    print(shown)
    if wanted.document:
        write_section(DOCUMENT, "formats", section(shown))


if __name__ == "__main__":
    run(main)
