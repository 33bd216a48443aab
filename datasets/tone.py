"""From scene-linear light, in which 1 is no limit, to what screens show (0..1), and back.

The curve is Reinhard's photographic one (Reinhard et al. 2002, eq. 3: x / (1 + x)) for each colour, after an exposure,
and then sRGB's (IEC 61966-2-1). It has no end, so no light is lost, its steps are about as even to the eye as those of
any photo, and it can be undone. Captures of linear light are trained in what it shows: viewers and splat files show
them right, bright lights do not rule the loss, and the inverse leads back to light.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BRIGHTEST = 1e6  # exposed light beyond it is the same


@dataclass(frozen=True)
class Tone:
    """The curve behind an exposure, which linear light is multiplied with."""

    exposure: float

    def shown(self, linear: NDArray[np.float32]) -> NDArray[np.float32]:
        """0..1 for linear light [...], which need not be finite; less than none is none."""
        light = (linear * np.float32(self.exposure)).clip(0, BRIGHTEST)
        return to_srgb(light / (1 + light))

    def linear(self, shown: NDArray[np.float32]) -> NDArray[np.float32]:
        """Back to light; 1, which would be infinitely bright, counts as the step of 16 bits before it."""
        compressed = from_srgb(shown.astype(np.float64).clip(0, 65534 / 65535))
        return (compressed / (1 - compressed) / self.exposure).astype(np.float32)


def to_srgb(linear: NDArray) -> NDArray:
    """Display-referred linear values 0..1 to sRGB's."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def from_srgb(encoded: NDArray) -> NDArray:
    """sRGB's values 0..1 to display-referred linear ones."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((np.maximum(encoded, 0.04045) + 0.055) / 1.055) ** 2.4)
