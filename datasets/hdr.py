"""Pictures of high dynamic range as ordinary ones: PQ and HLG (ITU-R BT.2100) to 8 bits with BT.709's colours."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

PQ, HLG = 16, 18  # transfer functions, by their numbers in ITU-T H.273
WHITE = 203.0  # cd/m2 of a white sheet of paper (BT.2408), which becomes the brightest of an ordinary picture
PEAK = 1000.0  # cd/m2 of the screen that HLG is meant for
KNEE = 0.75  # up to which brightness stays as it is; lights above are squeezed into the rest

# BT.2020's primaries in BT.709's (BT.2087).
_709_FROM_2020 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def to_sdr(pixels: NDArray[np.uint16], transfer: int) -> NDArray[np.uint8]:
    """[H,W,3] of 16 bits, in PQ or HLG with BT.2020's primaries, as 8 bits in BT.709's curve and primaries.

    The same brightness always becomes the same value, unlike with a curve made for each picture: what is seen in
    several frames stays alike.
    """
    linear = _decoding(transfer)[pixels] @ _709_FROM_2020.T
    brightest = linear.max(axis=-1, keepdims=True)
    squeezed = KNEE + (1 - KNEE) * (1 - np.exp((KNEE - brightest) / (1 - KNEE)))
    linear *= np.where(brightest > KNEE, squeezed / np.maximum(brightest, 1e-6), 1)
    linear = linear.clip(0, 1)
    curved = np.where(linear < 0.018, 4.5 * linear, 1.099 * np.power(linear, np.float32(0.45)) - 0.099)
    return np.rint(255 * curved).astype(np.uint8)


@lru_cache(maxsize=2)
def _decoding(transfer: int) -> NDArray[np.float32]:
    """[65536] brightness, 1 for `WHITE`, of every value.

    HLG's rise in contrast on the screen (its OOTF) depends on the luminance of all three channels; here each channel
    has it by itself, which keeps greys exact and makes colours a little stronger.
    """
    value = np.linspace(0, 1, 65536)
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = value ** (1 / m2)
        nits = 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12)
        nits = PEAK * scene**1.2
    return (nits / WHITE).astype(np.float32)
