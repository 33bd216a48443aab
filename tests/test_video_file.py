"""Reading videos: what the pixels are, whatever way they are stored, and what is said of damaged files."""

from __future__ import annotations

from pathlib import Path

import av.logging
import imageio.v3 as iio
import numpy as np
import pytest
from numpy.typing import NDArray

import videos
from captures import message
from recon.datasets import hdr, video_file
from recon.datasets.errors import InputError
from recon.datasets.video_file import Frame

SIZE = (96, 64)


def scene(count: int = 12, step: float = 2.0) -> list[NDArray[np.uint8]]:
    picture = videos.texture(200, 300)
    return [videos.crop(picture, 20 + step * i, 30, *SIZE) for i in range(count)]


def read(path: Path, said: list[str] | None = None) -> list[Frame]:
    lines = [] if said is None else said
    return list(video_file.frames(video_file.read_header(path), lines.append))


def near(one: NDArray, other: NDArray, most: float = 6) -> bool:
    return one.shape == other.shape and float(np.abs(one.astype(float) - other).mean()) < most


def test_the_frames_are_those_that_were_written(tmp_path: Path) -> None:
    frames = scene()
    path = videos.write(tmp_path / "a.mp4", frames)
    header = video_file.read_header(path)
    assert header.size == SIZE
    assert header.seconds == pytest.approx(12 / 30, abs=0.05)
    decoded = read(path)
    assert [frame.number for frame in decoded] == list(range(12))
    assert [frame.time for frame in decoded] == pytest.approx([i / 30 for i in range(12)], abs=2e-3)
    others = iio.imread(path, plugin="pyav")
    for frame, written, other in zip(decoded, frames, others, strict=True):
        assert near(frame.rgb(), written)
        assert near(frame.rgb(), other)
    grey = decoded[0].grey(48)
    assert grey.shape == (32, 48)
    assert grey.mean() == pytest.approx(frames[0].mean(), abs=12)


def test_a_rate_that_varies_is_kept(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 0.5, 1.7, 1.75]
    decoded = read(videos.write(tmp_path / "a.mkv", scene(6), times=times))
    assert [frame.time for frame in decoded] == pytest.approx(times, abs=2e-3)


@pytest.mark.parametrize(("quarter", "turns"), [("right", -1), ("left", 1), ("half", 2)])
def test_a_video_that_is_stored_on_its_side_is_turned(tmp_path: Path, quarter: str, turns: int) -> None:
    frames = scene(4)
    path = videos.write(tmp_path / "a.mp4", frames)
    videos.turn(path, quarter)
    assert near(read(path)[0].rgb(), np.rot90(frames[0], turns))


@pytest.mark.parametrize(("matrix", "size"), [(1, (96, 64)), (5, (96, 64)), (2, (1280, 720)), (2, (96, 64))])
def test_colours_are_right_in_every_matrix(tmp_path: Path, matrix: int, size: tuple[int, int]) -> None:
    """A video that does not say its matrix has that of its size: BT.709 from 720 rows on, or else BT.601."""
    colour = np.array([40, 200, 90], np.uint8)
    frame = np.tile(colour, (size[1], size[0], 1))
    written = matrix if matrix != 2 else (1 if size[1] >= 720 else 5)
    path = videos.write(tmp_path / "a.mp4", [frame] * 2, matrix=written)
    if matrix == 2:  # take the tag away, in the header of the track and in the stream's own
        path = videos.write(tmp_path / "b.mp4", _plain(frame, written), source="yuv420p", matrix=2, transfer=2)
    assert np.abs(read(path)[0].rgb().reshape(-1, 3).mean(0) - colour).max() < 4


def _plain(frame: NDArray[np.uint8], matrix: int) -> list[NDArray[np.uint8]]:
    """The frame in 4:2:0, by the definition of the matrix: one colour all over."""
    red, blue = {1: (0.2126, 0.0722), 5: (0.299, 0.114)}[matrix]
    r, g, b = frame[0, 0] / 255
    luma = red * r + (1 - red - blue) * g + blue * b
    values = [16 + 219 * luma, 128 + 112 * (b - luma) / (1 - blue), 128 + 112 * (r - luma) / (1 - red)]
    height, width = frame.shape[:2]
    planes = [
        np.full(n, round(v), np.uint8)
        for n, v in zip((1, 0.25, 0.25), values, strict=True)
        for n in (int(n * height * width),)
    ]
    return [np.concatenate(planes).reshape(height * 3 // 2, width)] * 2


def test_ten_bits_become_eight(tmp_path: Path) -> None:
    frames = scene(3)
    path = videos.write(tmp_path / "a.mp4", frames, codec="libx265", pixels="yuv420p10le")
    assert near(read(path)[0].rgb(), frames[0])


@pytest.mark.parametrize("transfer", [hdr.PQ, hdr.HLG])
def test_high_dynamic_range_becomes_ordinary(tmp_path: Path, transfer: int) -> None:
    """White paper is white, mid grey is mid grey, and lights above are no darker."""
    nits = np.array([0.0, 9.0, 36.5, 203.0, 600.0, 1000.0])
    signal = np.rint(65535 * _encoded(nits, transfer)).astype(np.uint16)
    frame = np.repeat(np.repeat(signal, 32)[None, :, None], 64, axis=0) * np.ones(3, np.uint16)
    path = videos.write(
        tmp_path / "a.mp4",
        [frame] * 2,
        codec="libx265",
        pixels="yuv420p10le",
        source="rgb48le",
        matrix=9,
        transfer=transfer,
        primaries=9,
    )
    pixels = read(path)[0].rgb()
    assert pixels.dtype == np.uint8
    values = pixels[32, 16::32].astype(float)
    assert np.ptp(values, axis=1).max() <= 3  # grey stays grey
    grey = values.mean(1)
    assert (np.diff(grey) > -1).all()
    assert grey[0] < 3
    # BT.709's curve of the reflectances 4.4 % and 18 %
    assert grey[1:3] == pytest.approx(255 * (1.099 * (nits[1:3] / 203) ** 0.45 - 0.099), abs=4)
    assert 230 < grey[3] <= 250
    assert grey[5] > 250


def _encoded(nits: NDArray[np.float64], transfer: int) -> NDArray[np.float64]:
    """ITU-R BT.2100, tables 4 and 5, the other way round than they are used."""
    if transfer == hdr.PQ:
        y = (nits / 10_000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375
    scene_light = (nits / 1000) ** (1 / 1.2)
    bright = 0.17883277 * np.log(np.maximum(12 * scene_light - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene_light <= 1 / 12, np.sqrt(3 * scene_light), bright)


def test_a_video_cut_short_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    path = videos.write(tmp_path / "a.mkv", scene(90), options={"g": "10"})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    said: list[str] = []
    decoded = read(path, said)
    assert 20 < len(decoded) < 80
    assert len(said) == 1
    assert f"{path}: ends after" in said[0]


def test_damage_in_the_middle_is_passed_over(tmp_path: Path) -> None:
    path = videos.write(tmp_path / "a.mkv", scene(90), options={"g": "10"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(data)
    said: list[str] = []
    decoded = read(path, said)
    assert 30 < len(decoded) <= 90
    assert decoded[-1].rgb().shape == (64, 96, 3)


def test_a_video_can_be_let_go_of_half_way(tmp_path: Path) -> None:
    """FFmpeg's threads have nothing to say to Python, for which they would wait: that is held by who lets go."""
    path = videos.write(tmp_path / "a.mp4", scene())
    for _ in range(20):
        next(video_file.frames(video_file.read_header(path), lambda _: None))
    assert av.logging.get_level() is None


def test_files_that_are_no_videos_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"this is not a video" * 100)
    with pytest.raises(InputError, match="cannot be read as a video") as error:
        video_file.read_header(path)
    assert str(path) in message(error)
    whole = videos.write(tmp_path / "b.mp4", scene(30)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # without its index, which is at the end
    with pytest.raises(InputError, match="cannot be read as a video"):
        video_file.read_header(path)


def test_a_video_of_nothing_but_damage_is_refused(tmp_path: Path) -> None:
    path = videos.write(tmp_path / "a.mp4", scene(8))
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 4 - start)
    path.write_bytes(data)
    with pytest.raises(InputError, match="no frame of this video can be decoded"):
        read(path)
