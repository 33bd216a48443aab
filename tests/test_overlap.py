"""Matches of a COLMAP database as arrays, and the groups that hang together by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recon.datasets import matching, overlap
from recon.datasets.overlap import ENOUGH, Overlap
from recon.datasets.survey import find_twins

NAMES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
FLAT = pycolmap.TwoViewGeometryConfiguration.PLANAR_OR_PANORAMIC


def keypoints(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0, 100, (500, 2)).astype(np.float32)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Photos in another order than by name; a and b with many matches, c and a with few, d with none."""
    path = tmp_path / "matches.db"
    with matching.open_database(path) as opened:
        camera = pycolmap.Camera.create_from_model_name(0, "SIMPLE_PINHOLE", 100.0, 100, 80)
        camera.camera_id = opened.write_camera(camera)
        ids = {}
        for k, name in enumerate(reversed(NAMES)):
            ids[name] = opened.write_image(pycolmap.Image(name=name, camera_id=camera.camera_id))
            if name != "d.jpg":
                opened.write_keypoints(ids[name], keypoints(k))
        for one, other, count, config in (("a.jpg", "b.jpg", 400, FLAT), ("c.jpg", "a.jpg", 18, 3)):
            geometry = pycolmap.TwoViewGeometry()
            geometry.config = int(config.value) if config is FLAT else config  # type: ignore[attr-defined]
            geometry.inlier_matches = np.stack([np.arange(count), np.arange(count)[::-1]], axis=-1).astype(np.uint32)
            opened.write_two_view_geometry(ids[one], ids[other], geometry)
    return path


def read(database: Path) -> Overlap:
    found = overlap.read(database, NAMES, [(100, 80)] * len(NAMES))
    assert found is not None
    return found


def test_a_database_is_read_as_it_was_written(database: Path) -> None:
    found = read(database)
    assert found.features.tolist() == [500, 500, 500, 0]
    rows = {tuple(pair): k for k, pair in enumerate(found.pairs.tolist())}
    assert set(rows) == {(0, 1), (0, 2)}
    assert [int(found.counts[rows[pair]]) for pair in ((0, 1), (0, 2))] == [400, 18]
    assert [bool(found.flat[rows[pair]]) for pair in ((0, 1), (0, 2))] == [True, False]
    k = rows[0, 2]
    positions = found.positions[found.starts[k] : found.starts[k + 1]]
    a, c = keypoints(3), keypoints(1)  # as they were written
    pairs = {(*a[17 - i].tolist(), *c[i].tolist()) for i in range(18)}
    assert {tuple(row) for row in positions.tolist()} == pairs
    assert found.moved[k] == pytest.approx(np.median(np.linalg.norm(a[17::-1] - c[:18], axis=1)) / 100)
    assert found.starts[rows[0, 1] + 1] - found.starts[rows[0, 1]] == overlap.KEPT


def test_of_very_many_pairs_less_is_kept(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "MOST_KEPT", 80)
    found = read(database)
    assert sorted(np.diff(found.starts).tolist()) == [18, 40]
    assert found.counts.sum() == 418


def test_few_matches_are_chance(database: Path) -> None:
    found = read(database)
    assert found.neighbours().tolist() == [1, 1, 0, 0]
    assert found.neighbours_of(0) == [1]
    assert found.best().tolist() == [400, 400, 18, 0]
    assert len(found.strong()) == 1
    rest = found.without(found.counts < ENOUGH)
    assert rest.pairs.tolist() == [[0, 1]]
    assert len(rest.positions) == overlap.KEPT
    assert rest.pair_of.tolist() == [0] * overlap.KEPT


def test_what_is_no_database_has_no_matches(tmp_path: Path, database: Path) -> None:
    assert overlap.read(tmp_path / "none.db", NAMES, [(1, 1)] * 4) is None
    (tmp_path / "text.db").write_text("no database")
    assert overlap.read(tmp_path / "text.db", NAMES, [(1, 1)] * 4) is None
    assert overlap.read(database, ["other.jpg"], [(1, 1)]) is None


@settings(deadline=None)  # scipy is loaded by the first
@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=14))
def test_groups_are_what_is_reached(count: int, pairs: list[tuple[int, int]]) -> None:
    pairs = [(i, j) for i, j in pairs if max(i, j) < count]
    found = overlap.groups(count, np.array(pairs, np.int64).reshape(-1, 2))
    assert sorted(i for group in found for i in group) == list(range(count))
    assert [len(group) for group in found] == sorted((len(group) for group in found), reverse=True)
    for group in found:
        reached = {group[0]}
        while more := {b for pair in pairs for a, b in (pair, pair[::-1]) if a in reached} - reached:
            reached |= more
        assert reached == set(group)


def test_the_same_picture_is_found_again() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.uniform(0, 255, (32, 32)).astype(np.float32) for _ in range(2))
    noisy = one + rng.normal(0, 0.5, one.shape).astype(np.float32)
    brighter = one + np.float32(10)
    assert find_twins([one, other, noisy, brighter, one], None) == [None, None, 0, None, 0]


def test_bare_walls_are_alike_and_not_the_same() -> None:
    walls = [np.full((32, 32), 200, np.float32) + np.linspace(0, 8, 32, dtype=np.float32) + k for k in range(4)]
    assert find_twins(walls, None) == [None] * 4


def test_matches_that_moved_make_no_twins(database: Path) -> None:
    """As of a turntable, before a background that stays."""
    found = read(database)
    picture = np.random.default_rng(0).uniform(0, 255, (32, 32)).astype(np.float32)
    assert find_twins([picture] * 2, found) == [None, None]
