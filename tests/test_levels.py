"""The exposures of photos from what they show of one surface: made-up gains are found again."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from recon.meshing import levels
from recon.meshing.samples import Samples

VIEWS, TEXELS = 9, 4000


def made_up(seed: int = 0, strays: float = 0.0, views: int = VIEWS) -> tuple[Samples, NDArray]:
    """Samples of a surface by photos whose gains [V,3] are known; each texel is seen by up to 4 of them."""
    generator = np.random.default_rng(seed)
    gains = generator.normal(0, 0.15, (views, 1)) + generator.normal(0, 0.05, (views, 3))
    gains -= gains.mean(axis=0)
    surface = generator.uniform(0.1, 0.6, (TEXELS, 3))
    samples = Samples(TEXELS)
    for view in range(views):
        rows = np.flatnonzero(generator.random(TEXELS) < 4 / views)
        shown = surface[rows] * np.exp(gains[view]) + generator.normal(0, 0.004, (len(rows), 3))
        stray = generator.random(len(rows)) < strays
        shown[stray] = generator.uniform(0.05, 0.95, (stray.sum(), 3))
        samples.add(view, rows, shown, generator.uniform(1, 2, len(rows)))
    return samples, gains


@pytest.mark.parametrize(("strays", "error"), [(0.0, 0.002), (0.15, 0.01)])
def test_made_up_gains_are_found(strays: float, error: float) -> None:
    samples, gains = made_up(strays=strays)
    found = levels.gains(samples, VIEWS)
    assert found.shape == (VIEWS, 3)
    assert np.allclose(found.mean(axis=0), 0, atol=1e-9)
    assert np.abs(found - gains).max() < error
    assert np.abs(gains).max() > 10 * error


def test_what_is_too_bright_tells_nothing() -> None:
    """Where one photo is cut off at white, it seems to be darker than it is."""
    generator = np.random.default_rng(0)
    surface = generator.uniform(0.1, 1.0, (TEXELS, 1)) * np.ones(3)
    samples = Samples(TEXELS)
    samples.add(0, np.arange(TEXELS), surface * 0.9, np.ones(TEXELS))
    samples.add(1, np.arange(TEXELS), (surface * 2).clip(0, 1), np.ones(TEXELS))
    found = levels.gains(samples, 2)
    assert np.allclose(found[1] - found[0], np.log(2 / 0.9), atol=0.01)


def test_photos_that_share_nothing_stay_as_they_are() -> None:
    samples, _ = made_up(views=VIEWS)
    found = levels.gains(samples, VIEWS + 2)
    assert np.abs(found[VIEWS:] - found[VIEWS]).max() < 1e-9
    assert np.abs(found[VIEWS]).max() < 1e-3
    assert np.array_equal(levels.gains(Samples(10), 3), np.zeros((3, 3)))
