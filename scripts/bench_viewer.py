#!/usr/bin/env python
"""How fast the viewer is: pictures per second that reach a browser, how soon after a move, and what a training loses.

    python scripts/bench_viewer.py                     idle and while training, one browser
    python scripts/bench_viewer.py --browsers 10 --seconds 300    ten browsers at once: memory, and who is starved
    python scripts/bench_viewer.py --device cuda       drawn and trained on a GPU
    python scripts/bench_viewer.py --document          the first, into docs/benchmarks.md

The scene is that of `bench_raster.py --fps`: 200,000 random Gaussians, SH degree 3, that fill a picture of 1280x720. A
browser is a process that speaks to the viewer as its page does, and decodes nothing; its camera moves 50 times a
second, as often as a page tells. Latency is the time from a move, after a rest, to the first picture that shows it. In
"whole" every picture has the window's size; in "adaptive" those of a moving camera are as large as a thirtieth of a
second allows. While training, a fifth of the time is for looking, as it is by default.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from _bench_report import DOCUMENT, run, section, table, write_section
from _bench_scene import make_camera, make_model, make_training
from _viewer_client import CAMERA, PICTURE, ViewerClient, decoded, drawn
from recon import machine
from recon.live import LiveView
from recon.options import Address
from recon.subject import SplatSubject
from recon.train import train
from recon.viewer.viewer import Viewer
from recon.viewing import Shown, make_viewer

WIDTH, HEIGHT, COUNT = 1280, 720, 200_000
RESTS = 30  # moves after a rest that latency is measured with

Row = dict[str, Any]


def browse(port: int, seconds: float, whole: bool, latency: bool) -> Row:
    """Be a browser: move about, count what comes."""
    start = make_camera(WIDTH, HEIGHT)
    position, forward = start.positions[0].double().numpy(), start.forward[0].double().numpy()
    up = start.up[0].double().numpy()

    def look(client: ViewerClient, angle: float) -> float:
        to = forward + 0.15 * np.sin(angle) * np.cross(forward, up) + 0.1 * np.sin(1.7 * angle) * up
        return client.look(position, position + 3 * to, up=up)

    with ViewerClient(port, WIDTH, HEIGHT, keep=lambda kind: kind != CAMERA) as client:
        look(client, 0.0)
        client.hello()
        client.picture()
        if whole:
            client.set("Smaller while moving", False)
        time.sleep(1.0)
        client.keep = lambda kind: kind == PICTURE
        waits = []
        for number in range(RESTS if latency else 0):
            time.sleep(0.6)
            client.received.clear()
            said = look(client, 0.3 + 0.2 * number)
            client.picture(since=said)
            waits.append(1e3 * (client.received[0].at - said))
        before, sizes, began = client.pictures, [], time.perf_counter()
        while (now := time.perf_counter() - began) < seconds:
            look(client, now)
            time.sleep(0.02)
            if len(client.received) > 20:
                sizes.append(decoded(client.received[-1]).shape[:2])
                client.received.clear()
        height, width = sorted(sizes)[len(sizes) // 2] if sizes else (0, 0)
        row: Row = {"fps": (client.pictures - before) / seconds, "size": f"{width}x{height}"}
        if waits:
            row |= {"latency ms": statistics.median(waits), "95 %": float(np.quantile(waits, 0.95))}
        return row | {"MB/s": client.traffic / 1e6 / (time.perf_counter() - began)}


def browser(port: int, arguments: argparse.Namespace, *, whole: bool, latency: bool = True) -> subprocess.Popen[str]:
    options = ["--port", str(port), "--seconds", str(arguments.seconds)]
    options += ["--whole"] * whole + ["--latency"] * latency
    return subprocess.Popen([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True)


def result_of(process: subprocess.Popen[str]) -> Row:
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit("a browser failed")
    row: Row = json.loads(said)
    return row


def make(subject: SplatSubject) -> Viewer:
    return make_viewer(Shown(subject, "benchmark", Path.cwd()), Address(port=0), edits=False)


def a_scene(arguments: argparse.Namespace) -> SplatSubject:
    return SplatSubject(make_model(COUNT, WIDTH, HEIGHT, 1.0).to(machine.pick_device(arguments.device)))


def idle(arguments: argparse.Namespace) -> list[Row]:
    """Nothing else is done."""
    rows = []
    for whole in (True, False):
        row: Row = {"while": "idle", "pictures": "whole" if whole else "adaptive"}
        with drawn(make(a_scene(arguments))) as viewer:
            rows.append(row | result_of(browser(viewer.port, arguments, whole=whole)))
    return rows


class Enough(Exception):
    """The browser has seen what it wanted."""


def training(arguments: argparse.Namespace) -> list[Row]:
    """Steps on photos of 480x270; without a browser, with one, and without again."""
    before, _ = trained(arguments, looked_at=False)
    rate, row = trained(arguments, looked_at=True)
    after, _ = trained(arguments, looked_at=False)
    alone = (before + after) / 2
    seen: Row = {"while": "training", "pictures": "adaptive"}
    return [seen | row | {"steps/s": rate, "alone": alone, "slower %": 100 * (1 - rate / alone)}]


def trained(arguments: argparse.Namespace, *, looked_at: bool) -> tuple[float, Row]:
    """Steps per second, and what the browser says."""
    state, views = make_training(COUNT, 480, 270, 1.0, machine.pick_device(arguments.device))
    subject = SplatSubject(state.model)
    viewer = make(subject)
    process = browser(viewer.port, arguments, whole=False) if looked_at else None
    first, began = state.step, time.perf_counter()

    def watch(*_: Any) -> None:
        if process.poll() is not None if process else time.perf_counter() - began > arguments.seconds:
            raise Enough

    with contextlib.suppress(Enough):
        train(state, views, callbacks=[LiveView(viewer, subject, state), watch])
    rate = (state.step - first) / (time.perf_counter() - began)
    viewer.close()
    return rate, {} if process is None else result_of(process)


def crowd(arguments: argparse.Namespace) -> list[Row]:
    """Many browsers at once: pictures of the one that got fewest and most, and memory at the start and at the end."""
    memory, process = [], psutil.Process()
    with drawn(make(a_scene(arguments))) as viewer:
        processes = [browser(viewer.port, arguments, whole=False, latency=False) for _ in range(arguments.browsers)]
        while any(other.poll() is None for other in processes):
            memory.append(process.memory_info().rss / 1e6)
            time.sleep(1.0)
        results = [result_of(other) for other in processes]
    settled = len(memory) // 5
    return [
        {
            "browsers": arguments.browsers,
            "seconds": arguments.seconds,
            "fewest fps": min(row["fps"] for row in results),
            "most fps": max(row["fps"] for row in results),
            "memory MB": memory[settled],
            "at the end": memory[-2],
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="that a camera moves")
    parser.add_argument("--browsers", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="cpu")
    parser.add_argument("--document", action="store_true", help=f"write the tables to {DOCUMENT.name}")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--latency", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.port is not None:
        print(json.dumps(browse(arguments.port, arguments.seconds, arguments.whole, arguments.latency)))
        return
    machine.use_threads(arguments.threads)
    name = "viewer" if arguments.browsers == 1 else "viewer crowd"
    rows = idle(arguments) + training(arguments) if arguments.browsers == 1 else crowd(arguments)
    print(table(rows, ".1f"))
    if arguments.document:
        write_section(DOCUMENT, name, section(table(rows, ".1f")))


if __name__ == "__main__":
    run(main)
