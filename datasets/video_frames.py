"""Which frames of a video become photos: by how far the camera moved, not by the clock; of each stretch the sharpest.

The video is decoded once. A stretch ends where the picture has moved a little since it began, and its sharpest frame is
written; of too many, neighbouring stretches are joined. So a pause gives one frame, and memory and disk stay small.

WORK/frames/frame_000123.jpg    the frame's number in the video
WORK/frames/frames.json         their times; written last
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recon.datasets import video_file
from recon.datasets.decode import save_pixels
from recon.datasets.errors import InputError
from recon.datasets.files import TEMPORARY, atomic_write
from recon.datasets.matching import Progress
from recon.datasets.motion import motion, sharpness
from recon.datasets.photo_folder import FEWEST
from recon.datasets.video_file import Frame, Video

STEP = 0.015  # of the picture's longer side, by which it moves in a stretch
SPACING = 0.04  # of it, between the frames that are taken
USUAL_LEAST, USUAL_MOST = 30, 120  # frames, where it is not said how many
MOST = 2000
BLURRED = 0.35  # times as sharp as its neighbours: a frame that is left out where these overlap without it
BRIDGED = 0.3  # of the picture, by which two frames may lie apart so that what is between them is not needed
MOVING, LOOKING = 160, 640  # px, longest side of the frames whose motion and sharpness are measured

LIST = "frames.json"


@dataclass(frozen=True)
class Stretch:
    """A part of the video in which the picture moves by `moved` (of its longer side), and its sharpest frame."""

    number: int
    time: float
    sharp: float
    moved: float

    @property
    def name(self) -> str:
        return f"frame_{self.number:06d}.jpg"


def take(
    video: Video, folder: Path, wanted: int | None, say: Callable[[str], None], progress: Progress
) -> dict[str, float]:
    """Write the frames of a video into `folder`, unless an earlier call did; their times in seconds by name.

    Args:
        wanted: how many frames at most; None: as many as the motion asks for.
    Raises:
        InputError: no frames can be decoded, or they all show the same.
    """
    try:
        return dict(json.loads((folder / LIST).read_text("utf-8")))
    except (OSError, ValueError):
        shutil.rmtree(folder, ignore_errors=True)
    unfinished = folder.with_name(folder.name + TEMPORARY)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    stretches, decoded = _stretches(video, unfinished, 4 * (wanted or USUAL_MOST), say, progress)
    chosen = choose(stretches, wanted)
    if len(chosen) < FEWEST:
        raise InputError(
            f"{video.path}: the camera hardly moves in this video ({len(stretches)} of {decoded} frames differ); at"
            f" least {FEWEST} different ones are needed"
        )
    for number in set(range(len(stretches))) - set(chosen):
        (unfinished / stretches[number].name).unlink()
    times = {stretches[number].name: round(stretches[number].time, 4) for number in chosen}
    with atomic_write(unfinished / LIST) as file:
        file.write(json.dumps(times).encode())
    unfinished.rename(folder)
    return times


def choose(stretches: Sequence[Stretch], wanted: int | None) -> list[int]:
    """Which of the stretches' frames to take: at even distances of motion, there the sharpest, and none that is blurred
    where its neighbours overlap without it."""
    ends = np.cumsum([stretch.moved for stretch in stretches])
    total = float(ends[-1])
    if wanted is None:
        wanted = min(max(round(total / SPACING), USUAL_LEAST), USUAL_MOST)
    if wanted >= len(stretches):
        best = list(range(len(stretches)))
    else:
        middles = ends - 0.5 * np.array([stretch.moved for stretch in stretches])
        slots = np.minimum((middles / total * wanted).astype(int), wanted - 1)
        best = [
            max(np.flatnonzero(slots == slot).tolist(), key=lambda i: stretches[i].sharp) for slot in np.unique(slots)
        ]
    return _without_blur(stretches, ends.tolist(), best)


def _without_blur(stretches: Sequence[Stretch], ends: Sequence[float], chosen: list[int]) -> list[int]:
    kept: list[int] = []
    for place, number in enumerate(chosen):
        around = [stretches[i].sharp for i in chosen[max(0, place - 3) : place + 4] if i != number]
        following = chosen[place + 1 : place + 2]
        if (
            kept
            and following
            and stretches[number].sharp < BLURRED * float(np.median(around))
            and ends[following[0]] - ends[kept[-1]] <= BRIDGED
        ):
            continue
        kept.append(number)
    return kept


def _stretches(
    video: Video, folder: Path, most: int, say: Callable[[str], None], progress: Progress
) -> tuple[list[Stretch], int]:
    """The stretches of a video, at most `most`, the frames of which are in `folder`; and how many frames there are."""
    expected = round(video.seconds * video.rate)
    done: list[Stretch] = []
    longest = STEP
    start = best = last = None
    moved = 0.0
    for frame in video_file.frames(video, say):
        small = frame.grey(MOVING)
        sharp = sharpness(frame.grey(LOOKING))
        if start is None or best is None:
            start, best = small, (sharp, frame)
        elif (moved := motion(start, small)) >= STEP:
            done[-1:] = _joined([*done[-1:], _write(folder, *best, moved)], longest, folder)
            start, best, moved = small, (sharp, frame), 0.0
        elif sharp > best[0]:
            best = (sharp, frame)
        while len(done) > most:
            longest *= 2
            done = _joined(done, longest, folder)
        last = frame
        progress("Taking frames", frame.number, max(expected, frame.number))
    assert best is not None
    assert last is not None
    done.append(_write(folder, *best, moved))
    return done, last.number + 1


def _write(folder: Path, sharp: float, frame: Frame, moved: float) -> Stretch:
    stretch = Stretch(frame.number, frame.time, sharp, moved)
    save_pixels(folder / stretch.name, frame.rgb())
    return stretch


def _joined(stretches: Sequence[Stretch], longest: float, folder: Path) -> list[Stretch]:
    """Stretches that follow each other as one where that is no longer than `longest`; files of less sharp ones go."""
    joined: list[Stretch] = []
    for stretch in stretches:
        if not joined or joined[-1].moved + stretch.moved > longest:
            joined.append(stretch)
            continue
        worse, best = sorted((joined.pop(), stretch), key=lambda one: one.sharp)
        (folder / worse.name).unlink()
        joined.append(replace(best, moved=worse.moved + best.moved))
    return joined
