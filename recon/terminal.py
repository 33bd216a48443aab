"""What commands say to the user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft

console = Console(highlight=False)


def say(text: str) -> None:
    """A line for the user; never broken, so that paths can be copied."""
    console.print(text, soft_wrap=True, markup=False)


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
def bars() -> Iterator[_Bars]:
    """Bars, told what is being done, how much of it is, and of how much; they go when all is done."""
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
