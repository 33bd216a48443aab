"""How large a picture a browser gets: small enough to follow its camera, as large as its window when that rests."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

SMALLEST = 0.2  # of the window's sides
STEPS = 8  # sizes from the smallest to the whole, so that the size does not change with every breath
LONGEST = 2560  # px: what a picture's longer side never exceeds


@dataclass
class Pace:
    """Chooses sizes from how long pictures took: seconds = fixed + pixels * each, both followed as they change."""

    target: float = 1 / 30  # s that a picture may take while the camera moves
    _each: float = 30e-9
    _fixed: float = 0.004
    _told_apart: bool = False  # the two, by pictures of different sizes
    _known: list[tuple[float, float]] = field(default_factory=list)

    def took(self, pixels: int, seconds: float) -> None:
        """Learn from a picture of so many pixels that took so long."""
        self._known = [*self._known[-15:], (float(pixels), seconds)]
        xs, ys = zip(*self._known, strict=True)
        x, y = sum(xs) / len(xs), sum(ys) / len(ys)
        spread = sum((value - x) ** 2 for value in xs)
        if spread > (0.1 * x) ** 2:  # pictures of different sizes: a line through them
            slope = sum((a - x) * (b - y) for a, b in self._known) / spread
            self._each, self._told_apart = min(max(slope, 0.0), y / x), True
        elif self._told_apart:
            self._each = min(self._each, y / x)
        else:
            self._each = 0.7 * y / x  # a guess, which smaller pictures will put right
        self._fixed = max(0.0, y - x * self._each)

    def moving(self, width: int, height: int) -> tuple[int, int]:
        """The size with which a moving camera is followed in `target` seconds, as far as that is possible.

        Where what does not depend on the size takes too long already, half as long again goes into pixels: fewer would
        be worse to look at and hardly faster.
        """
        whole = self.resting(width, height)
        pixels = max(self.target - self._fixed, 0.5 * self._fixed) / max(self._each, 1e-12)
        share = math.sqrt(pixels / (whole[0] * whole[1]))
        steps = max(0, min(STEPS, math.floor((share - SMALLEST) / (1 - SMALLEST) * STEPS)))
        return _scaled(*whole, SMALLEST + (1 - SMALLEST) * steps / STEPS)

    @staticmethod
    def resting(width: int, height: int, share: float = 1.0) -> tuple[int, int]:
        """The window's own size, or a share of it, within `LONGEST`."""
        return _scaled(width, height, min(share, LONGEST / max(width, height)))


def _scaled(width: int, height: int, factor: float) -> tuple[int, int]:
    return max(1, round(width * factor)), max(1, round(height * factor))
