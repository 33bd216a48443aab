"""Unpacking of stored photos, compared with numpy's arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from recon.kernels.runtime import get_threads, set_threads
from recon.kernels.unpack import PIECE, unpack


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_planes_are_the_photo_over_the_background(dtype: type, channels: int) -> None:
    height, width = 37, PIECE // 30  # two pieces, the last one not whole
    full = np.iinfo(dtype).max
    pixels: NDArray[Any] = np.random.default_rng(0).integers(0, full + 1, (height, width, channels)).astype(dtype)
    pixels[0, 0], pixels[0, 1] = 0, full
    pixels.flags.writeable = False  # as the cache of decoded images gives them
    background = np.array([0.1, 0.5, 0.9], np.float32)
    values = pixels.astype(np.float64) / full
    alpha = values[..., 3:] if channels == 4 else 1.0
    expected = values[..., :3] * alpha + background * (1 - alpha)
    results = []
    before = get_threads()
    try:
        for threads in (1, 2, 3):
            set_threads(threads)
            planes = np.full((3, height, width), np.nan, np.float32)
            unpack(pixels, background, planes)
            results.append(planes)
    finally:
        set_threads(before)
    np.testing.assert_allclose(results[0], expected.transpose(2, 0, 1), rtol=0, atol=5e-7)
    assert all(np.array_equal(result, results[0]) for result in results)


def test_shapes_that_do_not_fit_are_refused() -> None:
    background = np.zeros(3, np.float32)
    for pixels, planes in (((4, 5, 2), (3, 4, 5)), ((4, 5, 3), (3, 5, 4))):
        with pytest.raises(ValueError, match="do not fit"):
            unpack(np.zeros(pixels, np.uint8), background, np.zeros(planes, np.float32))
