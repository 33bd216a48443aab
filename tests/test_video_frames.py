"""Which frames of a video become photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import videos
from captures import message
from recon.datasets import video_file, video_frames
from recon.datasets.errors import InputError
from recon.datasets.video_frames import Stretch, choose

PICTURE = videos.texture(300, 2400, seed=5)
WIDTH, HEIGHT = 320, 192


def film(path: Path, places: list[float], blurred: range = range(0)) -> Path:
    """A camera that is at these places, in px of the picture, and shakes in some frames."""
    frames = (videos.crop(PICTURE, x, 50, WIDTH, HEIGHT, blur=20 if i in blurred else 0) for i, x in enumerate(places))
    return videos.write(path, frames)


def take(path: Path, folder: Path, wanted: int | None = None) -> list[int]:
    times = video_frames.take(video_file.read_header(path), folder, wanted, lambda _: None, lambda *_: None)
    return [int(name[6:12]) for name in times]


def test_frames_are_taken_by_motion_not_by_the_clock(tmp_path: Path) -> None:
    """Slowly, a pause, fast: the distance between the frames taken is the same."""
    places = [*np.arange(0, 300, 5.0), *[300.0] * 60, *np.arange(300, 1500, 20.0)]
    taken = take(film(tmp_path / "a.mp4", places), tmp_path / "frames", 30)
    at = [places[number] for number in taken]
    assert 20 <= len(taken) <= 30
    assert sum(60 <= number < 120 for number in taken) <= 2
    gaps = np.diff(at)
    assert gaps.max() < 3 * np.median(gaps)
    assert sum(x < 300 for x in at) < sum(x > 300 for x in at)


def test_blurred_frames_are_avoided(tmp_path: Path) -> None:
    places = list(np.arange(0, 600, 5.0))
    taken = take(film(tmp_path / "a.mp4", places, blurred=range(40, 52)), tmp_path / "frames", 20)
    assert len(taken) >= 15
    assert not set(taken) & set(range(40, 52))


def test_files_are_the_frames_that_they_say(tmp_path: Path) -> None:
    places = list(np.arange(0, 200, 5.0))
    path = film(tmp_path / "a.mp4", places)
    taken = take(path, tmp_path / "frames")
    files = sorted(file.name for file in (tmp_path / "frames").glob("*.jpg"))
    assert files == [f"frame_{number:06d}.jpg" for number in taken]
    for number in taken[::3]:
        shown = np.asarray(Image.open(tmp_path / "frames" / f"frame_{number:06d}.jpg"), float)
        written = videos.crop(PICTURE, places[number], 50, WIDTH, HEIGHT)
        assert np.abs(shown - written).mean() < 6


def test_an_earlier_call_is_not_repeated_and_an_unfinished_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "a.mp4", list(np.arange(0, 200, 5.0)))
    written = video_frames.save_pixels
    count = [0]

    def stop_at_the_third(file: Path, pixels: np.ndarray) -> None:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        written(file, pixels)

    monkeypatch.setattr(video_frames, "save_pixels", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        take(path, tmp_path / "frames")
    assert not (tmp_path / "frames").exists()
    first = take(path, tmp_path / "frames")
    monkeypatch.setattr(video_file, "frames", lambda *_: pytest.fail("they are there"))
    assert take(path, tmp_path / "frames") == first


def test_long_videos_do_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of far more stretches than are wanted, neighbours are joined on the way, and their files are gone."""
    most = [0]
    written = video_frames.save_pixels

    def count(file: Path, pixels: np.ndarray) -> None:
        written(file, pixels)
        most[0] = max(most[0], len(list(file.parent.glob("*.jpg"))))

    monkeypatch.setattr(video_frames, "save_pixels", count)
    taken = take(film(tmp_path / "a.mp4", list(np.arange(0, 2000, 14.0))), tmp_path / "frames", 8)
    assert 7 <= len(taken) <= 8
    assert most[0] <= 4 * 8 + 2
    assert np.diff(taken).max() < 2.5 * np.median(np.diff(taken))


def test_a_camera_that_stands_still_is_told(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [10.0] * 30)
    with pytest.raises(InputError, match=r"hardly moves in this video \(1 of 30 frames differ\)") as error:
        take(path, tmp_path / "frames")
    assert str(path) in message(error)


STRETCHES = st.lists(st.tuples(st.floats(0.001, 0.1), st.floats(0.1, 100)), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(STRETCHES, st.one_of(st.none(), st.integers(3, 70)))
def test_a_choice_is_in_order_no_larger_than_wanted_and_reaches_both_ends(
    parts: list[tuple[float, float]], wanted: int | None
) -> None:
    stretches = [Stretch(i, i / 30, sharp, moved) for i, (moved, sharp) in enumerate(parts)]
    chosen = choose(stretches, wanted)
    assert chosen == sorted(set(chosen))
    assert 1 <= len(chosen) <= (wanted or video_frames.USUAL_MOST)
    total = sum(stretch.moved for stretch in stretches)
    before = sum(stretch.moved for stretch in stretches[: chosen[0]])
    assert before <= total / min(wanted or len(parts), len(parts)) + 0.1 + video_frames.BRIDGED


def test_alike_stretches_are_all_taken_or_evenly() -> None:
    stretches = [Stretch(i, i / 30, 10.0, 0.03) for i in range(90)]
    assert len(choose(stretches, None)) == round(90 * 0.03 / video_frames.SPACING)
    assert len(choose(stretches, 90)) == 90
    assert np.ptp(np.diff(choose(stretches, 30))) == 0


def test_a_long_blurred_part_is_kept_rather_than_a_gap() -> None:
    def chosen(blurred: range) -> list[int]:
        return choose([Stretch(i, 0.0, 1.0 if i in blurred else 10.0, 0.1) for i in range(20)], 20)

    assert chosen(range(9, 10)) == [i for i in range(20) if i != 9]
    assert set(chosen(range(5, 15))) & set(range(5, 15))
