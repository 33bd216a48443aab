"""Photos as they are stored, in whole numbers and pixel by pixel, to planes of floats."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.kernels.lanes import atomic_add
from recon.kernels.runtime import kernel, launch
from recon.kernels.simd import inline

PIECE = 1 << 14  # pixels that a thread takes at a time

_ONE = np.float32(1)


def unpack(pixels: NDArray[Any], background: NDArray[np.float32], planes: NDArray[np.float32]) -> None:
    """Write a photo, over a background where it is transparent.

    Args:
        pixels: [H,W,3|4] uint8 or uint16, contiguous, straight alpha; the largest number stands for 1.
        background: [3].
        planes: [3,H,W], contiguous; is written.
    """
    height, width, channels = pixels.shape
    if channels not in (3, 4) or planes.shape != (3, height, width):
        raise ValueError(f"pixels {pixels.shape} do not fit planes {planes.shape}")
    work = _unpack_8 if pixels.dtype == np.uint8 else _unpack_16
    launch(work, pixels.reshape(-1), height * width, channels, background, planes.reshape(-1))


@inline
def _unpack(
    pixels: Any, count: int, channels: int, full: Any, background: Any, planes: Any, counter: Any, thread: int
) -> None:
    red, green, blue = background[0], background[1], background[2]
    while True:
        start = atomic_add(counter, 0, PIECE)
        if start >= count:
            break
        size = min(PIECE, count - start)
        # Slices whose indices begin at 0: that they are not negative is what lets the loops be compiled to vectors.
        part = pixels[channels * start : channels * (start + size)]
        reds, greens = planes[start : start + size], planes[count + start : count + start + size]
        blues = planes[2 * count + start : 2 * count + start + size]
        if channels == 3:
            for i in range(size):
                reds[i] = np.float32(part[3 * i]) / full
                greens[i] = np.float32(part[3 * i + 1]) / full
                blues[i] = np.float32(part[3 * i + 2]) / full
        else:
            for i in range(size):
                alpha = np.float32(part[4 * i + 3]) / full
                through = _ONE - alpha
                reds[i] = np.float32(part[4 * i]) / full * alpha + red * through
                greens[i] = np.float32(part[4 * i + 1]) / full * alpha + green * through
                blues[i] = np.float32(part[4 * i + 2]) / full * alpha + blue * through


@kernel("Array(u1, 1, 'C', True), i8, i8, f4[::1], f4[::1]")
def _unpack_8(pixels: Any, count: int, channels: int, background: Any, planes: Any, counter: Any, thread: int) -> None:
    _unpack(pixels, count, channels, np.float32(255), background, planes, counter, thread)


@kernel("Array(u2, 1, 'C', True), i8, i8, f4[::1], f4[::1]")
def _unpack_16(pixels: Any, count: int, channels: int, background: Any, planes: Any, counter: Any, thread: int) -> None:
    _unpack(pixels, count, channels, np.float32(65535), background, planes, counter, thread)
