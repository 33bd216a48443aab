"""What densification remembers of every step: how strongly each Gaussian was pulled, and that it was seen."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.kernels.geometry import load_pairs, load_scalars, store_scalars
from recon.kernels.lanes import atomic_add, has_bits
from recon.kernels.runtime import kernel, launch
from recon.kernels.simd import LANES, select, sqrt
from recon.kernels.splat import CHUNK

Floats = NDArray[np.float32]


def add_pulls(
    gradients: Floats, radii: NDArray[np.int32], scale: tuple[float, float], sums: Floats, times: Floats
) -> None:
    """sums += the lengths of the gradients times `scale`; times += 1 where a Gaussian was seen.

    Args:
        gradients: [N,2] of the centres.
        radii: [N,2] 0 for what was not seen.
        sums, times: [N].
    """
    launch(
        *(_add_pulls, len(sums), gradients.reshape(-1), radii.reshape(-1)),
        *(np.float32(scale[0]), np.float32(scale[1]), sums, times),
    )


@kernel("i8, f4[::1], i4[::1], f4, f4, f4[::1], f4[::1]")
def _add_pulls(
    rows: int,
    gradients: Any,
    radii: Any,
    scale_x: float,
    scale_y: float,
    sums: Any,
    times: Any,
    counter: Any,
    thread: int,
) -> None:
    while True:
        start = atomic_add(counter, 0, 4 * CHUNK)
        if start >= rows:
            break
        for first in range(start, min(start + 4 * CHUNK, rows), LANES):
            x, y = load_pairs(gradients, first, rows)
            x, y = x * scale_x, y * scale_y
            store_scalars(sums, first, rows, load_scalars(sums, first, rows) + sqrt(x * x + y * y))
            extent, _ = load_pairs(radii, first, rows)
            seen = select(has_bits(extent), np.float32(1), np.float32(0))
            store_scalars(times, first, rows, load_scalars(times, first, rows) + seen)
