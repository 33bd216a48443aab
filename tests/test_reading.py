"""Photos decoded ahead of the training."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from recon.datasets import cache
from recon.datasets.errors import InputError
from recon.reading import Reading

ALL = 6 * 80 * 64 * 3  # bytes


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> cache.ByteCache:
    images = cache.ByteCache(ALL)
    monkeypatch.setattr(cache, "images", images)
    return images


def told(reading: Reading) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    reading.wait(lambda done, count: found.append((done, count)))
    return found


def test_photos_are_there_when_it_is_done(tmp_path: Path, kept: cache.ByteCache) -> None:
    views = tiny.stored_views(tmp_path, 6)
    assert told(Reading(views)) == [(done, 6) for done in range(1, 7)]
    assert kept.held_bytes == ALL


def test_photos_that_cannot_all_be_kept_are_left_alone(tmp_path: Path, kept: cache.ByteCache) -> None:
    kept.limit = ALL - 1
    assert told(Reading(tiny.stored_views(tmp_path, 6))) == []
    assert kept.held_bytes == 0


@pytest.mark.parametrize("broken", [0, 3])
def test_a_broken_photo_is_an_error_when_it_is_used(tmp_path: Path, kept: cache.ByteCache, broken: int) -> None:
    views = tiny.stored_views(tmp_path, 6)
    path = tmp_path / f"{broken}.png"
    path.write_bytes(path.read_bytes()[:200])
    assert len(told(Reading(views))) == 6
    assert kept.held_bytes == ALL * 5 // 6
    with pytest.raises(InputError, match=rf"{broken}\.png"):
        views[broken].load()


def test_views_in_memory_need_no_reading() -> None:
    assert told(Reading(tiny.scene(4).views)) == []


def test_an_interruption_leaves_the_rest(tmp_path: Path, kept: cache.ByteCache) -> None:
    def interrupt(done: int, count: int) -> None:
        raise KeyboardInterrupt

    reading = Reading(tiny.stored_views(tmp_path, 6))
    with pytest.raises(KeyboardInterrupt):
        reading.wait(interrupt)
    assert all(future.done() or future.running() for future in reading._futures)
