#!/usr/bin/env python
"""Time training steps and renders on the CPU stage by stage, beside the machine's limits, the reference, or a commit.

Times are medians over repetitions in milliseconds: with one thread CPU time of the process, which other programs hardly
disturb, with more the time on the wall. The scenes are random Gaussians that fill the picture. Stages are those of
`recon.train.train`; "other" is all of a step that is not inside a kernel.

    python scripts/bench_raster.py                                  the stages, steps per second, and a render
    python scripts/bench_raster.py --roofline --sizes 480x270       beside what the machine allows
    python scripts/bench_raster.py --reference                      beside the PyTorch reference: times and errors
    python scripts/bench_raster.py --fps                            pictures per second of the public API
    python scripts/bench_raster.py --against main~3                 beside an earlier commit, taking turns
    python scripts/bench_raster.py --all --document                 the first four, into docs/benchmarks.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from _bench_commit import against
from _bench_report import DOCUMENT, append_json, describe, machine, run, section, table, write_section
from _bench_roofline import measure_work, peaks, roofline
from _bench_stages import compare_with_reference, time_render, time_stages
from recon.datasets.errors import InputError
from recon.kernels import runtime

FPS_SIZE, FPS_COUNT, FPS_GOAL = (1280, 720), 200_000, 24.0
REFERENCE_CASES = ((200, 64, 48), (1000, 64, 48), (1000, 160, 120))
REFERENCE_RADIUS = 2.0  # px: more overlap, and every pixel is covered

Rows = list[dict[str, Any]]


def cases(arguments: argparse.Namespace) -> Rows:
    """What is to be timed, in the order of the table."""
    return [
        {"size": f"{width}x{height}", "Gaussians": count, "threads": threads}
        for width, height in arguments.sizes
        for count in arguments.counts
        for threads in arguments.threads
    ]


def stages_of(case: dict[str, Any], arguments: argparse.Namespace) -> dict[str, float]:
    width, height = picture_size(case["size"])
    return time_stages(case["Gaussians"], width, height, case["threads"], arguments.repeat, arguments.radius)


def measure_stages(arguments: argparse.Namespace) -> tuple[Rows, str]:
    rows = [case | stages_of(case, arguments) for case in cases(arguments)]
    return rows, table(rows)


def measure_roofline(arguments: argparse.Namespace) -> tuple[Rows, str]:
    machine_peaks = [peaks(threads) for threads in arguments.threads]
    rows: Rows = [{"peaks": True} | row for row in machine_peaks]
    text = ["Peaks, measured: multiply-adds in all lanes, and copying within so much memory.", table(machine_peaks)]
    for width, height in arguments.sizes:
        for count in arguments.counts:
            work = measure_work(count, width, height, arguments.radius)
            common = {"size": f"{width}x{height}", "Gaussians": count}
            measured = {threads: stages_of(common | {"threads": threads}, arguments) for threads in arguments.threads}
            of_scene = roofline(work, measured)
            rows += [common | row for row in of_scene]
            text.append(
                f"{count:,} Gaussians at {width}x{height}: {work.visible:,.0f} visible, {work.entries:,.0f} entries in"
                f" tiles, {work.evaluated / 1e6:.2f} million pairs with pixels evaluated, of which"
                f" {work.drawn / work.evaluated:.0%} change their pixel."
            )
            text.append(table(of_scene))
    return rows, "\n\n".join(text)


def measure_reference(arguments: argparse.Namespace) -> tuple[Rows, str]:
    runtime.set_threads(max(arguments.threads))
    rows: Rows = []
    for count, width, height in REFERENCE_CASES:
        for seed in range(3):
            case = {"size": f"{width}x{height}", "Gaussians": count, "seed": seed}
            rows.append(case | compare_with_reference(count, width, height, REFERENCE_RADIUS, seed))
    return rows, table([in_short(row) for row in rows])


def in_short(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the comparison with the reference, with the worst of the gradients alone."""
    worst = max((name for name in row if name.startswith("d ")), key=lambda name: row[name])
    kept = {name: row[name] for name in ("size", "Gaussians", "seed", "pixels off")}
    times = {"reference ms": f"{row['reference ms']:.0f}", "ms": f"{row['ms']:.1f}", "times": f"{row['times']:.0f}"}
    errors = {name: f"{row[name]:.1e}" for name in ("rgb", "alpha", "depth")}
    return kept | times | errors | {"worst gradient": f"{worst.removeprefix('d ')} {row[worst]:.1e}"}


def measure_fps(arguments: argparse.Namespace) -> tuple[Rows, str]:
    rows: Rows = []
    width, height = FPS_SIZE
    for depth in (False, True):
        for threads in arguments.threads:
            ms = time_render(FPS_COUNT, width, height, threads, arguments.repeat, arguments.radius, depth=depth)
            case = {"size": f"{width}x{height}", "Gaussians": FPS_COUNT, "depth too": "yes" if depth else "no"}
            rows.append(case | {"threads": threads, "ms": ms, "frames/s": 1e3 / ms, "goal": FPS_GOAL})
    return rows, table(rows, ".1f")


MEASUREMENTS: dict[str, Callable[[argparse.Namespace], tuple[Rows, str]]] = {
    "stages": measure_stages,
    "roofline": measure_roofline,
    "reference": measure_reference,
    "fps": measure_fps,
}


def picture_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT as two numbers."""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) > 0 and int(height) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 480x270")
    return int(width), int(height)


def positive(text: str) -> int:
    if not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--roofline", dest="what", action="store_const", const=["roofline"])
    what.add_argument("--reference", dest="what", action="store_const", const=["reference"])
    what.add_argument("--fps", dest="what", action="store_const", const=["fps"])
    what.add_argument("--all", dest="what", action="store_const", const=list(MEASUREMENTS))
    what.add_argument("--against", nargs="?", const="HEAD~1", metavar="COMMIT", help="by default HEAD~1")
    parser.add_argument("--counts", type=positive, nargs="+", default=[14_000, 50_000, 200_000], help="Gaussians")
    parser.add_argument("--sizes", type=picture_size, nargs="+", default=[(480, 270), (960, 540)], help="WIDTHxHEIGHT")
    parser.add_argument("--threads", type=positive, nargs="+", default=sorted({1, runtime.available_cores()}))
    parser.add_argument("--repeat", type=positive, default=20, help="steps and renders that are timed")
    parser.add_argument("--rounds", type=positive, default=3, help="turns of each side, with --against")
    parser.add_argument("--radius", type=float, default=1.0, help="usual standard deviation of a Gaussian, px")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the measurements here, one per line")
    parser.add_argument("--document", type=Path, nargs="?", const=DOCUMENT, metavar="FILE", help="write the sections")
    arguments = parser.parse_args(given)
    if not arguments.radius > 0:
        raise InputError(f"--radius {arguments.radius}: must be more than 0")
    if arguments.against and arguments.document:
        raise InputError("--against is not a section of the document; leave out --document")
    arguments.what = arguments.what or ["stages"]
    return arguments


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)  # torch's own threads would spin beside ours
    found = machine()
    print(describe(found))
    if arguments.against:
        rows = against(arguments)
        print(table(rows))
        if arguments.json:
            append_json(arguments.json, [{"what": "against", "machine": found} | row for row in rows])
    else:
        for what in arguments.what:
            rows, text = MEASUREMENTS[what](arguments)
            print(f"\n{text}", flush=True)
            if arguments.json:
                append_json(arguments.json, [{"what": what, "machine": found} | row for row in rows])
            if arguments.document:
                write_section(arguments.document, what, section(text))


if __name__ == "__main__":
    run(main)
