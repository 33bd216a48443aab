"""Which splats are selected and which are deleted, and the steps that lead back and forth between such states.

A step is what it changed: the bits of both masks that flipped, and the scale on its other side. To take it back and to
take it again is the same then. Every change is a step, selections too: who paints a selection in many strokes wants the
last one back, not to begin anew.

Shape letter: N splats.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]  # [N]

MAX_BYTES = 1 << 26  # that steps may take together; a step of a million splats takes 250 kB


class Step(NamedTuple):
    """What lies between two states: packed bits, where the masks differ; and the scale of the one that is not now."""

    selected: NDArray[np.uint8]
    deleted: NDArray[np.uint8]
    scale: float

    @property
    def bytes(self) -> int:
        return self.selected.nbytes + self.deleted.nbytes


class Edits:
    """The state of an edited scene of N splats. Deleted ones are never selected; the masks are never written to.

    Attributes:
        version: another number for every state there has been.
    """

    def __init__(self, count: int, *, max_bytes: int = MAX_BYTES) -> None:
        self.selected: Mask = np.zeros(count, bool)
        self.deleted: Mask = np.zeros(count, bool)
        self.scale = 1.0
        self.version = 0
        self._max_bytes = max_bytes
        self._done: list[Step] = []
        self._undone: list[Step] = []

    @property
    def undoable(self) -> int:
        return len(self._done)

    @property
    def redoable(self) -> int:
        return len(self._undone)

    def select(self, rows: Mask) -> None:
        """Make the splats of a mask the selection, those that are deleted left out."""
        self._change(rows & ~self.deleted, self.deleted, self.scale)

    def delete(self) -> int:
        """Delete what is selected; returns how many that were."""
        count = int(self.selected.sum())
        self._change(np.zeros_like(self.selected), self.deleted | self.selected, self.scale)
        return count

    def set_scale(self, factor: float) -> None:
        self._change(self.selected, self.deleted, factor)

    def undo(self) -> bool:
        """Take the last step back; False where there is none."""
        return self._move(self._done, self._undone)

    def redo(self) -> bool:
        return self._move(self._undone, self._done)

    def _change(self, selected: Mask, deleted: Mask, scale: float) -> None:
        step = Step(np.packbits(self.selected ^ selected), np.packbits(self.deleted ^ deleted), self.scale)
        if step.selected.any() or step.deleted.any() or scale != self.scale:
            self.selected, self.deleted, self.scale = selected, deleted, scale
            self.version += 1
            self._undone.clear()
            self._done.append(step)
            total = sum(step.bytes for step in self._done)
            while total > self._max_bytes and len(self._done) > 1:
                total -= self._done.pop(0).bytes

    def _move(self, source: list[Step], target: list[Step]) -> bool:
        if not source:
            return False
        step, count = source.pop(), len(self.selected)
        target.append(step._replace(scale=self.scale))
        self.selected = self.selected ^ np.unpackbits(step.selected, count=count).view(bool)
        self.deleted = self.deleted ^ np.unpackbits(step.deleted, count=count).view(bool)
        self.scale = step.scale
        self.version += 1
        return True
