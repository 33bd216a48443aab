"""Palettes and code books."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.cluster.vq import kmeans2

from recon.export.clustering import codebook, palette


def error(values: np.ndarray, stand_ins: np.ndarray) -> float:
    return float(np.square(values - stand_ins).mean())


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.float32, st.integers(0, 60), elements=st.floats(-1e6, 1e6, width=32)), st.integers(2, 8))
def test_each_value_gets_its_nearest_code(values: np.ndarray, size: int) -> None:
    codes, labels = codebook(values, size)
    assert 1 <= len(codes) <= size
    assert (np.diff(codes) >= 0).all()
    nearest = np.abs(values[:, None].astype(np.float64) - codes).min(axis=1) if len(values) else np.zeros(0)
    np.testing.assert_allclose(np.abs(values - codes[labels].astype(np.float64)), nearest, rtol=1e-5, atol=1e-3)


def test_few_values_are_their_own_codes() -> None:
    values = np.array([[3.0, -1.0], [3.0, 7.5]], np.float32)
    codes, labels = codebook(values)
    assert codes.tolist() == [-1.0, 3.0, 7.5]
    assert np.array_equal(codes[labels], values)


def test_a_code_book_is_about_as_good_as_kmeans_and_keeps_rare_values() -> None:
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(-4, 1, 50_000), [9.0, 12.0]]).astype(np.float32)
    codes, labels = codebook(values, 64)
    centres, own = kmeans2(
        values[:, None].astype(np.float64), codes[:, None].astype(np.float64), iter=50, minit="matrix"
    )
    assert error(values, codes[labels]) < 1.05 * error(values, centres[own, 0])
    assert abs(codes[labels[-1]] - 12) < 0.5


def test_a_palette_of_all_is_exact() -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 9)).astype(np.float32)
    entries, labels = palette(vectors, 20, np.ones(20))
    assert np.array_equal(entries[labels], vectors)


@pytest.mark.parametrize("size", [64, 700])
def test_a_palette_is_nearly_as_good_as_plain_kmeans(size: int) -> None:
    generator = np.random.default_rng(1)
    heaps = generator.normal(size=(40, 9))
    vectors = (heaps[generator.integers(0, 40, 4000)] + 0.3 * generator.normal(size=(4000, 9))).astype(np.float32)
    entries, labels = palette(vectors, size, np.ones(4000))
    assert len(entries) <= size
    assert labels.min() >= 0
    assert labels.max() < len(entries)
    plain, own = kmeans2(vectors.astype(np.float64), size, iter=6, minit="points", seed=0)
    assert error(vectors, entries[labels]) < 1.25 * error(vectors, plain[own])


def test_equal_vectors_and_few_distinct_ones_have_no_error() -> None:
    vectors = np.repeat(np.eye(9, dtype=np.float32)[:3], 500, axis=0)
    entries, labels = palette(vectors, 600, np.ones(1500))
    assert error(vectors, entries[labels]) < 1e-12


def test_a_palette_is_nearest_to_what_weighs_most() -> None:
    generator = np.random.default_rng(2)
    vectors = generator.normal(size=(4000, 9)).astype(np.float32)
    weights = np.where(np.arange(4000) < 400, 100.0, 1.0)
    heavy, light = slice(0, 400), slice(400, 4000)

    def errors(weighing: np.ndarray) -> tuple[float, float]:
        entries, labels = palette(vectors, 300, weighing)
        return error(vectors[heavy], entries[labels[heavy]]), error(vectors[light], entries[labels[light]])

    weighed, plain = errors(weights), errors(np.ones(4000))
    assert weighed[0] < 0.6 * plain[0]
    assert weighed[1] < 1.5 * plain[1]
