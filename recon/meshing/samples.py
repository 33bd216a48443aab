"""The colours in which photos show a surface: of each texel, the few that show it best.

So photos come one after the other, each is looked at once, and the memory does not depend on how many there are.

Shape letters: T texels, K samples kept of each, N of one photo.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

KEPT = 6


class Samples:
    """The best samples of each texel, in no order.

    Attributes:
        colours: [T,K,3] uint16, 65535 for 1.
        quality: [T,K] float32, 0 where there is none.
        views: [T,K] int16, which photo.
    """

    def __init__(self, count: int, kept: int = KEPT) -> None:
        self.colours = np.zeros((count, kept, 3), np.uint16)
        self.quality = np.zeros((count, kept), np.float32)
        self.views = np.zeros((count, kept), np.int16)

    def add(self, view: int, rows: Array, colours: Array, quality: Array) -> None:
        """What photo `view` shows: colours [N,3] 0..1 of texels `rows` [N], and how well it shows them [N]."""
        worst = self.quality[rows].argmin(axis=1)
        better = quality > self.quality[rows, worst]
        rows, worst = rows[better], worst[better]
        self.colours[rows, worst] = np.rint(colours[better].clip(0, 1) * 65535)
        self.quality[rows, worst] = quality[better]
        self.views[rows, worst] = view

    @property
    def is_seen(self) -> Array:
        """[T] whether any photo shows a texel."""
        return self.quality.max(axis=1) > 0
