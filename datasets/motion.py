"""How far a picture moves from one frame to another, and how sharp it is: on small grey frames, in a millisecond."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.float32]

TILE = 40  # px: shifts of up to half of it are seen
TEXTURE = 3.0  # of 255: least contrast of a tile that can tell a shift
SURE = 0.3  # least height of the peak (1: the tile is the same, but shifted); that of noise is half of it
SMOOTH = 0.2  # cycles per px that count (one sigma): noise is in the higher ones
LOST = 0.1  # the motion where nothing is recognised: the camera was fast, or the picture is another


def sharpness(grey: Grey) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al. 2000): larger for the sharper of two frames of the same thing."""
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.var())


def motion(before: Grey, after: Grey) -> float:
    """How far the parts of a picture [h,w] moved on average, as a share of its longer side; `LOST` at most.

    Each tile is compared by itself (phase correlation, Kuglin and Hines 1975), so that an object in the middle that the
    camera goes round does not hide how the rest moves, and going forward counts too.
    """
    if before.shape != after.shape:  # a video may change its size
        return LOST
    one, other = _tiles(before), _tiles(after)
    textured = np.minimum(one.std(axis=(1, 2)), other.std(axis=(1, 2))) > TEXTURE
    if not textured.any():
        return 0.0
    window = np.hanning(TILE)[:, None] * np.hanning(TILE)
    spectra = [
        np.fft.rfft2((tiles - tiles.mean(axis=(1, 2), keepdims=True)) * window)
        for tiles in (one[textured], other[textured])
    ]
    cross = spectra[0].conj() * spectra[1]
    rows, columns = np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)
    weight = np.exp(-(rows**2 + columns**2) / (2 * SMOOTH**2))
    peaks = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-9) * weight, s=(TILE, TILE))
    peaks /= np.fft.irfft2(weight, s=(TILE, TILE))[0, 0]
    shifts = [_shift(peak) for peak in peaks if peak.max() > SURE]
    if len(shifts) < max(1, len(peaks) // 4):
        return LOST
    return min(float(np.mean(shifts)) / max(before.shape), LOST)


def _tiles(grey: Grey) -> Grey:
    """[T,40,40] the tiles that a picture is divided in, in its middle."""
    down, across = (max(1, side // TILE) for side in grey.shape)
    padded = np.pad(grey, [(0, max(0, TILE - side)) for side in grey.shape], mode="edge")
    top, left = (padded.shape[0] - down * TILE) // 2, (padded.shape[1] - across * TILE) // 2
    cut = padded[top : top + down * TILE, left : left + across * TILE]
    return cut.reshape(down, TILE, across, TILE).swapaxes(1, 2).reshape(-1, TILE, TILE)


def _shift(peak: NDArray[np.float64]) -> float:
    """px from the corner to the top of a peak that wraps round, between the pixels (a parabola through three)."""
    place = np.unravel_index(int(peak.argmax()), peak.shape)
    moved = []
    for axis, at in enumerate(place):
        line = np.take(peak, place[1 - axis], axis=1 - axis)
        top, left, right = line[at], line[at - 1], line[(at + 1) % TILE]
        bend = left + right - 2 * top
        between = 0.5 * (left - right) / bend if bend < 0 else 0.0
        moved.append(float((at + TILE // 2) % TILE - TILE // 2 + between))
    return math.hypot(*moved)
