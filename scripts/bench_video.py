#!/usr/bin/env python
"""How well poses are found: of a video of the procedural scene, whose cameras are known, or of 360-degree photos of it.

    python scripts/bench_video.py                       a video of 360 frames, once round
    python scripts/bench_video.py --frames 60           of which at most 60 are taken
    python scripts/bench_video.py --panoramas 12        360-degree photos instead

Positions are in % of the trajectory's size, after the similarity that fits best; the times are those of the capture.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from rich.progress import track

from _filmed import FIELD, Errors, errors, film, film_cameras, panorama_poses, photograph_all_round
from recon import capturing, machine
from recon.datasets import panorama
from recon.datasets.sources import Wishes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench_video"), help="for video, photos and scenes")
    parser.add_argument("--length", type=int, default=360, help="frames of the video")
    parser.add_argument("--size", default="800x600", help="of the video")
    parser.add_argument("--frames", type=int, help="most frames to take of it")
    parser.add_argument("--panoramas", type=int, default=0, help="360-degree photos, 2048 px wide, instead of a video")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    machine.use_threads(arguments.threads)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    report = _panoramas(arguments) if arguments.panoramas else _video(arguments)
    print(report)


def _video(arguments: argparse.Namespace) -> str:
    width, height = (int(side) for side in arguments.size.split("x"))
    cameras = film_cameras(arguments.length, width, height)
    path = arguments.folder / f"film_{arguments.length}_{width}x{height}.mp4"
    if not path.exists():
        steps = iter(track(range(arguments.length), "Filming"))

        def advance(*_: int | None) -> None:
            next(steps, None)

        film(path, cameras, advance)
    scene = arguments.folder / f"{path.stem}_scene_{arguments.frames or 'usual'}"
    seconds = _timed(lambda: capturing.capture_photos(path, scene, Wishes(arguments.frames)))
    found = errors(scene, cameras.c2w, lambda name: int(name.split("_")[1]), FIELD * min(width, height))
    return _told(f"{arguments.length} frames of {width}x{height}", found, seconds)


def _panoramas(arguments: argparse.Namespace) -> str:
    folder = arguments.folder / f"panoramas_{arguments.panoramas}"
    poses = panorama_poses(arguments.panoramas)
    if not folder.exists():
        photograph_all_round(folder, poses, 2048)
    scene = arguments.folder / f"{folder.name}_scene"
    seconds = _timed(lambda: capturing.capture_photos(folder, scene))
    focal = panorama.face_size(2048)[1]
    return _told(f"{arguments.panoramas} 360-degree photos", errors(scene, poses, forward, focal), seconds)


def forward(name: str) -> int | None:
    """The number of the panorama of which a view is the face that looks as it does."""
    number, face = name.removeprefix("round_").split("_")
    return int(number) if face == "0" else None


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of all processors."""
    began = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def _told(what: str, found: Errors, seconds: tuple[float, float]) -> str:
    return (
        f"{what}: {found.cameras} poses in {seconds[0]:.0f} s ({seconds[1]:.0f} s of processors); position off by"
        f" {found.position[0]:.3f} % (at most {found.position[1]:.3f} %), rotation by {found.rotation[0]:.3f} degrees"
        f" (at most {found.rotation[1]:.3f}), focal length by {found.focal:.2f} %"
    )


if __name__ == "__main__":
    main()
