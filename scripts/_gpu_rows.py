"""What the GPU check reports: rows with a figure, what it is held against, and how that went."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

OK, FAILED, MISSED, LEFT_OUT = "ok", "FAILED", "missed", "left out"

Part = Callable[[argparse.Namespace], Iterator["Row"]]


@dataclass(frozen=True)
class Row:
    """A line of the report.

    Attributes:
        what: was measured or tried.
        found: the figures, with units.
        goal: what they are held against.
        verdict: OK; FAILED, which makes the check fail; MISSED, for a goal of speed or quality; LEFT_OUT; nothing where
            there is nothing to judge.
        data: the figures as numbers, for the JSON file and for the table of the part.
    """

    what: str
    found: str
    goal: str = ""
    verdict: str = ""
    data: dict[str, Any] = field(default_factory=dict)


def left_out(what: str, why: str) -> Row:
    return Row(what, why, verdict=LEFT_OUT)


def held_against(reached: bool) -> str:
    """The verdict on a goal of speed or quality: missing one is no failure."""
    return OK if reached else MISSED


def append(file: Path, part: str, row: Row) -> None:
    """Add a row to a file of JSON lines, at once: what comes later may end the process."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"part": part, **asdict(row)}) + "\n")


def read(file: Path) -> list[tuple[str, Row]]:
    """The rows of a file, each with its part."""
    if not file.exists():
        return []
    values = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [(value.pop("part"), Row(**value)) for value in values]


# ------------------------------------------------------------------------------------------ the GPU


def usable_gpu() -> torch.device | None:
    """The GPU that recon would use; None where it would use the CPU."""
    import torch

    from recon.raster import gsplat_cuda

    return None if gsplat_cuda.problem() else torch.device("cuda")


def wait_for(device: torch.device) -> None:
    """Until all is done that a GPU was given to do."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Enough(Exception):
    """Ends a loop that is timed."""


class StopWatch:
    """Called after each step of a loop: warms up, guesses how many steps fit into `seconds`, times so many, and raises
    `Enough`. The time is that on the wall, the GPU's work included; it runs without a wait in between."""

    WARM_UP, TRIAL, MOST = 12, 8, 2000  # steps

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._device = device
        self._seconds = seconds
        self._steps = 0
        self._began = 0.0
        self._until = 0
        self.milliseconds = 0.0  # of a step

    def __call__(self, *_: object) -> None:
        self._steps += 1
        if self._steps == self.WARM_UP:
            self._began = self._now()
        elif self._steps == self.WARM_UP + self.TRIAL:
            now = self._now()
            step = max((now - self._began) / self.TRIAL, 1e-6)
            self._until = self._steps + min(max(int(self._seconds / step), self.TRIAL), self.MOST)
            self._began = now
        elif self._steps == self._until:
            timed = self._until - self.WARM_UP - self.TRIAL
            self.milliseconds = 1e3 * (self._now() - self._began) / timed
            raise Enough

    def _now(self) -> float:
        wait_for(self._device)
        return time.perf_counter()
