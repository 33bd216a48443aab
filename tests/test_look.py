"""What pixels say of how a photo was taken: the width of edges whatever the texture, exposure, and the same picture."""

from __future__ import annotations

import io
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import captures
from recon.datasets import look
from recon.datasets.errors import InputError
from recon.datasets.pictures import is_dark, is_white


def squares(
    side: int = 12, low: float = 0.2, high: float = 0.8, size: tuple[int, int] = (300, 400)
) -> NDArray[np.float32]:
    """[H,W] squares of two greys at random, with edges of no width."""
    cells = np.random.default_rng(3).random((size[0] // side + 1, size[1] // side + 1)) > 0.5
    grid = np.kron(cells, np.ones((side, side)))[: size[0], : size[1]]
    return (low + (high - low) * grid).astype(np.float32)


def boxed(grey: NDArray[np.float32], width: int, axis: int | None = None) -> NDArray[np.float32]:
    """A mean of `width` pixels along an axis, or along both."""
    for along in (0, 1) if axis is None else (axis,):
        total = np.cumsum(np.insert(grey.astype(np.float64), 0, 0, axis=along), axis=along)
        grey = (
            (total.take(range(width, total.shape[along]), along) - total.take(range(total.shape[along] - width), along))
            / width
        ).astype(np.float32)
    return grey


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_edges_are_as_wide_as_a_box_made_them(width: int) -> None:
    """Of a step that is w pixels wide, the squared differences of neighbours are s^2 / w in all, and those of pixels
    FAR = 6 apart the sum of a trapezium."""
    flank = [min(k, 6, width, 6 + width - k) for k in range(1, 6 + width)]
    expected = sum((step / width) ** 2 for step in flank) / (width / width**2) / look.FAR
    measured = look.edge_width(boxed(squares(30), width))
    assert measured == pytest.approx(expected, rel=0.25)


@given(low=st.floats(0, 0.3), high=st.floats(0.5, 1), side=st.integers(14, 60))
@settings(max_examples=20, deadline=None)
def test_neither_contrast_nor_texture_counts(low: float, high: float, side: int) -> None:
    sharp, soft = (look.edge_width(boxed(squares(side, low, high), width)) for width in (1, 4))
    assert sharp is not None
    assert soft is not None
    assert sharp < 1.5 < 2 < soft


def test_a_blur_in_one_direction_is_a_blur() -> None:
    for axis in (0, 1):
        width = look.edge_width(boxed(squares(), 5, axis))
        assert width is not None
        assert width > 2.2


def test_a_sharp_part_is_enough() -> None:
    """As behind a lens wide open."""
    picture = boxed(squares(), 6)
    picture[100:200, 100:250] = squares()[100:200, 100:250]
    width = look.edge_width(picture)
    assert width is not None
    assert width < 1.5


def test_nothing_is_said_of_a_picture_without_edges() -> None:
    assert look.edge_width(np.full((200, 300), 0.5, np.float32)) is None
    noise = np.random.default_rng(0).normal(0.5, 0.01, (200, 300)).astype(np.float32)
    assert look.edge_width(noise) is None
    assert look.edge_width(np.zeros((4, 4), np.float32)) is None
    assert look.blurred([None, None]) == [False, False]


def test_blurred_is_what_is_wider_than_usual_or_hopeless() -> None:
    assert look.blurred([1.0, 1.1, 1.2, 3.0, None]) == [False, False, False, True, False]
    assert look.blurred([2.0, 2.2, 2.4, 2.6]) == [False] * 4  # all a little soft: that is this lens
    assert look.blurred([0.5, 0.6, 0.5, 1.2]) == [False] * 4  # much softer than the others, but sharp
    assert look.blurred([4.0, 4.1, 4.2]) == [True] * 3


def test_exposure_and_thumbnail() -> None:
    pixels = np.full((300, 600, 3), 128, np.uint8)
    pixels[:, :150] = 255
    pixels[:, 150:180] = 0
    found = look.look(pixels)
    assert found.size == (600, 300)
    assert found.bright == pytest.approx(0.25, abs=0.01)
    assert found.dark == pytest.approx(0.05, abs=0.01)
    assert found.brightness == pytest.approx(0.25 + 0.7 * 128 / 255, abs=0.01)
    assert found.colours.sum() == pytest.approx(1, abs=1e-5)
    assert iio.imread(io.BytesIO(found.thumbnail)).shape == (80, 160, 3)
    assert not is_white(found)
    assert is_white(look.look(np.maximum(pixels, 250)[:, :500] * 0 + 255))
    assert is_dark(look.look(pixels // 8))
    assert not is_dark(look.look(pixels))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_photos_of_every_depth_are_seen_alike(tmp_path: Path, channels: int, bits: int) -> None:
    pixels = captures.noise(20, 30, channels, bits=bits)
    captures.write_png(tmp_path / "a.png", pixels)
    read = look.read(tmp_path / "a.png")
    assert read.shape == (20, 30, 3)
    assert read.dtype == np.uint8
    expected = pixels[..., :3] if channels > 2 else pixels[..., [0, 0, 0]]
    assert np.abs(read.astype(float) - expected.astype(float) * 255 / (2**bits - 1)).max() <= 1


def test_a_damaged_photo_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"a\.jpg"):
        look.read(tmp_path / "a.jpg")


def test_a_photo_is_seen_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(captures.noise(20, 30, 3)).save(tmp_path / "a.jpg", exif=exif)
    assert look.read(tmp_path / "a.jpg").shape == (30, 20, 3)
