"""Frames to files, read back with PyAV and Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from recon.datasets.errors import InputError
from recon.video import save_frames, write_images, write_png, write_video


def gradient(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Smooth in x and y, so that 4:2:0 loses little, and brighter from frame to frame."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    picture = 0.3 * np.stack([1 + x, 1 + y, 2 - x - y + 0.1 * number], axis=-1)
    return (picture * 255).round().astype(np.uint8)


def read_video(path: Path) -> list[av.VideoFrame]:
    with av.open(path) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize("fps", [30, 24, 29.97, 12.5])
def test_a_video_has_the_frames_the_rate_and_the_colours(tmp_path: Path, fps: float) -> None:
    frames = [gradient(i) for i in range(12)]
    write_video(iter(frames), tmp_path / "a.mp4", fps=fps)
    rate = Fraction(fps).limit_denominator(65535)
    with av.open(tmp_path / "a.mp4") as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == rate
        assert stream.frames == 12
        assert container.duration is not None
        assert container.duration / 1e6 == pytest.approx(12 / fps, rel=0.01)
    decoded = read_video(tmp_path / "a.mp4")
    assert len(decoded) == 12
    for number, (frame, picture) in enumerate(zip(frames, decoded, strict=True)):
        assert picture.time == pytest.approx(number / fps, abs=1e-4)
        error = np.abs(picture.to_ndarray(format="rgb24").astype(int) - frame)
        assert error.mean() < 2
        assert error.max() < 12


def test_colours_are_tagged_and_mean_what_the_tags_say(tmp_path: Path) -> None:
    """Saturated patches, decoded by the BT.709 formula by hand: the tags must be true, not merely present."""
    patches = np.zeros((32, 96, 3), np.uint8)
    patches[:, :32], patches[:, 32:64], patches[:, 64:] = (220, 30, 30), (30, 220, 30), (30, 30, 220)
    write_video([patches] * 3, tmp_path / "a.mp4", crf=5)
    frame = read_video(tmp_path / "a.mp4")[0]
    assert (frame.colorspace, frame.color_range) == (1, 1)
    planes = frame.to_ndarray()  # [H + H/2, W]: Y, then U and V
    luma, chroma = planes[:32], planes[32:].reshape(2, 16, 48)
    for x in (16, 48, 80):
        y, cb, cr = (float(v) for v in (luma[16, x], chroma[0, 8, x // 2], chroma[1, 8, x // 2]))
        y, cb, cr = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
        rgb = np.array([y + 1.5748 * cr, y - 0.1873 * cb - 0.4681 * cr, y + 1.8556 * cb]) * 255
        assert np.abs(rgb - patches[16, x]).max() < 4


@pytest.mark.parametrize(("width", "height"), [(63, 48), (64, 47), (33, 17), (1, 1)])
def test_odd_sizes_are_padded_by_their_last_row_and_column(tmp_path: Path, width: int, height: int) -> None:
    frame = gradient(1, width, height)
    write_video([frame, frame], tmp_path / "a.mp4", crf=5)
    picture = read_video(tmp_path / "a.mp4")[-1].to_ndarray(format="rgb24").astype(int)
    assert picture.shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(picture[:height, :width] - frame).mean() < 3
    assert np.abs(picture[-1, :width] - frame[-1]).max() < 20
    assert np.abs(picture[:height, -1] - frame[:, -1]).max() < 20


def test_a_lower_crf_is_closer_and_larger(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 1), np.uint8).repeat(3, axis=2)
    errors = []
    for crf in (5, 40):
        write_video([noise] * 4, tmp_path / f"{crf}.mp4", crf=crf)
        decoded = read_video(tmp_path / f"{crf}.mp4")[0].to_ndarray(format="rgb24")
        errors.append(np.abs(decoded.astype(int) - noise).mean())
    assert errors[0] < errors[1]
    assert (tmp_path / "5.mp4").stat().st_size > (tmp_path / "40.mp4").stat().st_size


def test_an_interrupted_video_leaves_nothing_and_keeps_the_old_one(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield gradient(0)
        yield gradient(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(broken(), tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []
    write_video([gradient(0)] * 3, tmp_path / "a.mp4")
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_video(broken(), tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("frames", [[], [gradient(0), gradient(0, 32, 32)]], ids=["none", "of two sizes"])
def test_frames_that_make_no_video(tmp_path: Path, frames: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="frame"):
        write_video(frames, tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0, -30])
def test_a_frame_rate_must_be_positive(tmp_path: Path, fps: float) -> None:
    with pytest.raises(ValueError, match="frames per second"):
        write_video([gradient(0)], tmp_path / "a.mp4", fps=fps)


def test_frames_are_taken_one_at_a_time_and_reported(tmp_path: Path) -> None:
    """Each frame is written (and told) before the next one is asked for."""
    for out in (tmp_path / "a.mp4", tmp_path / "pngs"):
        events: list[object] = []

        def frames(events: list[object] = events) -> Iterator[np.ndarray]:
            for i in range(3):
                events.append(f"frame {i}")
                yield gradient(i)

        def note(done: int, total: int | None, events: list[object] = events) -> None:
            events.append((done, total))

        save_frames(frames(), out, total=3, progress=note)
        assert events == ["frame 0", (1, 3), "frame 1", (2, 3), "frame 2", (3, 3)]


def test_images_are_numbered_and_exact(tmp_path: Path) -> None:
    frames = [gradient(i, 33, 17) for i in range(3)]
    paths = write_images(iter(frames), tmp_path / "deep" / "folder")
    assert [path.name for path in paths] == ["00000.png", "00001.png", "00002.png"]
    assert sorted((tmp_path / "deep" / "folder").iterdir()) == paths
    for path, frame in zip(paths, frames, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), frame)


def test_a_grey_png(tmp_path: Path) -> None:
    write_png(gradient(0)[..., 0], tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), gradient(0)[..., 0])


def test_the_suffix_decides(tmp_path: Path) -> None:
    frames = [gradient(i) for i in range(2)]
    assert save_frames(frames, tmp_path / "A.MP4") == [tmp_path / "A.MP4"]
    assert len(read_video(tmp_path / "A.MP4")) == 2
    assert save_frames(frames, tmp_path / "plain") == [tmp_path / "plain" / f"0000{i}.png" for i in range(2)]
    dotted = tmp_path / "fox.v2"
    dotted.mkdir()
    assert save_frames(frames, str(dotted))[0] == dotted / "00000.png"


@pytest.mark.parametrize("name", ["a.gif", "a.mkv", "a.png"])
def test_other_suffixes_are_refused_before_anything_is_rendered(tmp_path: Path, name: str) -> None:
    def never() -> Iterator[np.ndarray]:
        raise AssertionError("a frame was taken")
        yield

    with pytest.raises(InputError, match=rf"{name}.*\.mp4") as caught:
        save_frames(never(), tmp_path / name)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(InputError, match="taken"):
        save_frames([gradient(0)], tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"
