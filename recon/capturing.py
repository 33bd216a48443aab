"""From the command to photos with poses, with progress bars; also what a training of photos or a video begins with."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft

from recon.datasets import capture, has_poses, photo_folder, sources
from recon.datasets.capture import Report
from recon.datasets.sources import Wishes
from recon.kernels.runtime import get_threads
from recon.terminal import console, say


def capture_photos(source: Path, scene: Path, wishes: Wishes = sources.USUAL) -> Report:
    """Find the poses of photos or a video and write a scene, with a bar for each stage."""
    try:
        with _bars() as bars:
            return capture.capture(source, scene, threads=get_threads(), say=say, progress=bars, wishes=wishes)
    except KeyboardInterrupt:
        say(f"Stopped. What is done is kept in {scene}; the same command goes on from there.")
        raise


def posed(source: Path, output: Path) -> Path:
    """The capture at `source`; of photos without poses, or a video, the scene made of them, kept beside the runs in
    `output`."""
    if not source.exists() or has_poses(source) or not sources.is_source(source):
        return source
    what = "photos" if photo_folder.has_photos(source) else "a video"
    name = (source.resolve().name if source.is_dir() else source.stem) or "photos"
    place = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:8]
    scene = output / "captures" / place / name
    say(f"{source}: {what} without poses. Finding them; the scene is kept for the next time: {scene}")
    capture_photos(source, scene)
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
