"""What is kept of the samples that photos give, and how they are mixed: against obvious versions of both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recon.meshing.blending import blended
from recon.meshing.samples import KEPT, Samples


def samples_of(colours: NDArray, quality: NDArray) -> Samples:
    """One texel: colours [N,3] by photos 0 ... N-1."""
    samples = Samples(1)
    for view in range(len(colours)):
        samples.add(view, np.array([0]), colours[view : view + 1], quality[view : view + 1])
    return samples


def mixed(colours: NDArray, quality: NDArray) -> NDArray:
    return blended(samples_of(colours, quality), np.zeros((len(colours), 3)))[0]


@given(st.integers(0, 10_000), st.integers(1, 15))
def test_the_best_are_kept(seed: int, views: int) -> None:
    generator = np.random.default_rng(seed)
    quality = generator.permutation(np.linspace(1, 2, views * 20)).reshape(views, 20).astype(np.float32)
    shown = generator.random((views, 20)) < 0.7
    colours = generator.random((views, 20, 3))
    samples = Samples(20)
    for view in range(views):
        rows = np.flatnonzero(shown[view])
        samples.add(view, rows, colours[view, rows], quality[view, rows])
    for texel in range(20):
        by_quality = sorted((quality[v, texel], v) for v in range(views) if shown[v, texel])[::-1][:KEPT]
        there = samples.quality[texel] > 0
        kept = sorted(zip(samples.quality[texel, there], samples.views[texel, there], strict=True))[::-1]
        assert kept == by_quality
        for place in np.flatnonzero(there):
            expected = colours[samples.views[texel, place], texel]
            assert np.abs(samples.colours[texel, place] / 65535 - expected).max() <= 0.51 / 65535
    assert np.array_equal(samples.is_seen, shown.any(axis=0))


def test_one_sample_is_the_colour() -> None:
    assert np.allclose(mixed(np.array([[0.2, 0.5, 0.7]]), np.array([3.0])), [0.2, 0.5, 0.7], atol=1e-5)
    assert np.array_equal(blended(Samples(3), np.zeros((1, 3))), np.zeros((3, 3)))


@pytest.mark.parametrize("count", [2, KEPT])
def test_equally_good_ones_count_alike(count: int) -> None:
    colours = np.linspace(0.40, 0.44, count)[:, None] * np.ones(3)
    assert np.allclose(mixed(colours, np.full(count, 5.0)), 0.42, atol=2e-3)


def test_the_best_decides() -> None:
    colours = np.array([[0.50] * 3, [0.54] * 3, [0.54] * 3])
    assert np.abs(mixed(colours, np.array([1.0, 0.3, 0.3])) - 0.5).max() < 0.002


def test_nothing_jumps_where_the_worst_is_replaced() -> None:
    quality = np.linspace(2, 1, KEPT)
    colours = np.tile(np.linspace(0.3, 0.32, KEPT)[:, None], 3)
    other = colours.copy()
    other[-1] += 0.02
    assert np.abs(mixed(colours, quality) - mixed(other, quality)).max() < 1e-4


def test_a_passer_by_leaves_no_trace() -> None:
    """In the best of photos, somebody stands before the wall."""
    colours = np.full((5, 3), 0.6)
    colours[2] = (0.1, 0.1, 0.3)
    assert np.abs(mixed(colours, np.array([1.0, 1.1, 1.5, 0.9, 0.8])) - 0.6).max() < 0.03


def test_exposures_are_taken_out() -> None:
    gains = np.array([[0.3, 0.1, 0.0], [-0.3, -0.1, 0.0]])
    colours = np.array([0.4, 0.5, 0.6]) * np.exp(gains)
    assert np.allclose(blended(samples_of(colours, np.ones(2)), gains)[0], [0.4, 0.5, 0.6], atol=1e-4)
