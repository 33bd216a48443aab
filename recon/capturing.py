"""From the command to photos with poses, with progress bars; also what a training of plain photos begins with."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft

from recon.datasets import capture, has_poses, photo_folder
from recon.datasets.capture import Report
from recon.datasets.errors import InputError
from recon.terminal import console, say


def capture_photos(source: Path, scene: Path, threads: int | None, masks: Sequence[str] = ()) -> Report:
    """Find the poses of photos and write a scene, with a bar for each stage."""
    most = 4 * (os.cpu_count() or 1)
    if threads is not None and not 1 <= threads <= most:
        raise InputError(f"--threads {threads}: not between 1 and {most}")
    try:
        with _bars() as bars:
            cores = threads or os.cpu_count() or 1
            return capture.capture(source, scene, threads=cores, say=say, progress=bars, masks=masks)
    except KeyboardInterrupt:
        say(f"Stopped. What is done is kept in {scene}; the same command goes on from there.")
        raise


def posed(source: Path, output: Path, threads: int | None, masks: Sequence[str] = ()) -> Path:
    """The capture at `source`; of photos without poses, the scene made of them, kept beside the runs in `output`."""
    if not source.is_dir() or has_poses(source) or not photo_folder.has_photos(source):
        return source
    name = source.resolve().name or "photos"
    place = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:8]
    scene = output / "captures" / place / name
    say(f"{source}: photos without poses. Finding them; the scene is kept for the next time: {scene}")
    capture_photos(source, scene, threads, masks)
    return scene


class _Bars:
    """A bar for each stage, made when the stage begins."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._stage = ""
        self._task: TaskID | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage or self._task is None:
            if self._task is not None:
                self._shown.remove_task(self._task)
            self._task = self._shown.add_task(stage, total=total)
            self._stage = stage
        self._shown.update(self._task, completed=done, total=total)


@contextlib.contextmanager
def _bars() -> Iterator[_Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeLeft(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        yield _Bars(shown)
