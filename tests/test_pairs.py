"""Which pairs of photos are matched."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from recon.datasets import pairs


def unasked() -> np.ndarray:
    raise AssertionError("few photos need no descriptions")


def test_of_few_photos_all_pairs_are_matched() -> None:
    assert pairs.choose([None] * 20, unasked) == set(itertools.combinations(range(20), 2))
    assert len(pairs.choose([None] * 100, unasked, breadth=2)) == 100 * 99 // 2


def test_of_many_photos_the_likely_ones_are() -> None:
    """Photos that look like the one 100 later, as when a walk comes back, and were taken near the one 50 later."""
    count = 200
    angles = 2 * np.pi * np.arange(count) / 100
    alike = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)
    places = [(47.0 + 1e-3 * (i % 50), 8.0) for i in range(count)]
    chosen = pairs.choose([*places], lambda: alike)
    assert {(i, i + k) for i in range(count - 10) for k in range(1, 11)} <= chosen
    assert {(i, i + 100) for i in range(100)} <= chosen
    assert {(i, i + 50) for i in range(100)} <= chosen
    assert len(chosen) < count * (count - 1) / 4
    assert all(0 <= i < j < count for i, j in chosen)


def test_frames_of_a_video_are_matched_with_neighbours_and_where_the_camera_comes_back() -> None:
    """Once round twice: the second time each frame looks like the one 60 before."""
    count = 120
    angles = 2 * np.pi * np.arange(count) / 60
    alike = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)
    chosen = pairs.choose([None] * count, lambda: alike, in_order=True)
    assert {(i, i + k) for i in range(count - 10) for k in range(1, 11)} <= chosen
    assert {(i, i + 60) for i in range(60)} <= chosen
    others = chosen - pairs.in_sequence(count, pairs.NEIGHBOURS)
    assert others
    assert all(j - i > pairs.NEIGHBOURS for i, j in others)
    assert len(chosen) < 20 * count
    assert len(chosen) < len(pairs.choose([None] * count, lambda: alike))
    fewer = pairs.choose([None] * count, lambda: alike, in_order=True, breadth=1 / 3)
    assert fewer < chosen


def test_loops_are_the_most_alike_of_those_far_away() -> None:
    likeness = np.random.default_rng(1).normal(size=(20, 20))
    likeness += likeness.T
    expected = set()
    for i in range(20):
        for j in sorted((j for j in range(20) if abs(j - i) > 4), key=lambda j: -likeness[i, j])[:2]:
            expected.add((min(i, j), max(i, j)))
    assert pairs.loops(likeness, 4, 2) == expected
    assert pairs.loops(likeness[:4, :4], 4, 2) == set()


def test_a_sequence_reaches_ahead_in_doubling_steps() -> None:
    chosen = pairs.in_sequence(40, 2)
    assert sorted(j for i, j in chosen if i == 0) == [1, 2, 4, 8, 16, 32]


def test_the_nearest_are_those_of_a_plain_search() -> None:
    likeness = np.random.default_rng(0).normal(size=(12, 12))
    likeness += likeness.T
    expected = set()
    for i in range(12):
        for j in sorted((j for j in range(12) if j != i), key=lambda j: -likeness[i, j])[:3]:
            expected.add((min(i, j), max(i, j)))
    assert pairs.nearest(likeness, 3) == expected


def test_metres_on_the_ground() -> None:
    spots = pairs.on_ground([(60.0, 10.0), (60.0, 10.01), (60.01, 10.0)])
    east, north = np.linalg.norm(spots[1] - spots[0]), np.linalg.norm(spots[2] - spots[0])
    assert east == pytest.approx(556.6, rel=0.01)  # half of the equator's, at 60 degrees
    assert north == pytest.approx(1113.2, rel=0.01)


def test_photos_of_the_same_place_are_described_alike() -> None:
    rng = np.random.default_rng(1)
    places = [rng.integers(0, 256, (300, 128), dtype=np.uint8) for _ in range(6)]
    again = [np.concatenate([place[:200], rng.integers(0, 256, (100, 128), dtype=np.uint8)]) for place in places]
    described = pairs.describe([*places, *again, np.zeros((0, 128), np.uint8)])
    likeness = described[:6] @ described[6:12].T
    assert likeness.argmax(axis=1).tolist() == list(range(6))
    assert np.isfinite(described).all()
