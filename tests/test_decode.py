"""Image files to arrays: every usual depth and format with all its bits, and damaged ones refused."""

from __future__ import annotations

import re
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

import captures
from captures import message, pinhole
from recon.datasets.decode import decode
from recon.datasets.errors import InputError
from recon.datasets.images import (
    image_size,
    make_view,
    save_image,
)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_every_kind_of_png_comes_with_all_its_bits(tmp_path: Path, channels: int, bits: int) -> None:
    pixels = captures.noise(20, 24, channels, bits=bits)
    captures.write_png(tmp_path / "a.png", pixels)
    view = make_view("a", tmp_path / "a.png", pinhole(24, 20), captures.viewmat())
    expected = pixels / (2**bits - 1)
    if channels <= 2:
        expected = np.concatenate([expected[..., :1]] * 3 + [expected[..., 1:]], axis=-1)
    assert view.load().dtype == torch.float32
    np.testing.assert_allclose(view.load().numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("transparency", [b"", bytes([0, 100, 255])])
def test_palettes_are_looked_up(tmp_path: Path, transparency: bytes) -> None:
    colours = np.array([[10, 20, 30], [200, 100, 0], [255, 255, 255], [1, 2, 3]], np.uint8)
    indices = np.random.default_rng(0).integers(0, 4, (20, 24, 1), dtype=np.uint8)
    captures.write_png(tmp_path / "a.png", indices, palette=colours.tobytes(), transparency=transparency)
    pixels = decode(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels[..., :3], colours[indices[..., 0]])
    if transparency:
        np.testing.assert_array_equal(pixels[..., 3], np.array([*transparency, 255])[indices[..., 0]])
    assert pixels.shape[2] == (4 if transparency else 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_of_8_and_16_bits(tmp_path: Path, channels: int, bits: int) -> None:
    pixels = captures.noise(20, 24, channels, bits=bits)
    captures.write_tiff(tmp_path / "a.tif", pixels)
    np.testing.assert_array_equal(decode(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize(("suffix", "options"), [(".jpg", {"quality": 95}), (".webp", {"quality": 95})])
def test_lossy_formats_decode_close_to_the_original(tmp_path: Path, suffix: str, options: dict) -> None:
    pixels = np.rint(captures.smooth(48, 40) * 255).astype(np.uint8)
    file = tmp_path / f"a{suffix}"
    iio.imwrite(file, pixels, plugin="pillow", **options)
    view = make_view("a", file, pinhole(40, 48), captures.viewmat())
    assert np.abs(view.load().numpy() - pixels / 255).mean() < 0.02


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr"])
def test_rarer_colour_modes(tmp_path: Path, mode: str) -> None:
    pixels = np.rint(captures.smooth(48, 40) * 255).astype(np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "a.tif")
    expected = np.asarray(image.convert("L" if mode == "1" else "RGB")).reshape(48, 40, -1)
    np.testing.assert_allclose(decode(tmp_path / "a.tif").astype(int), expected.astype(int), atol=1)


def _encoded(kind: str, path: Path) -> bytes:
    if kind == "png16":
        captures.write_png(path, captures.noise(40, 40, 3, bits=16))
    elif kind == "tiff":
        captures.write_tiff(path, captures.noise(40, 40, 3))
    else:
        iio.imwrite(path, captures.noise(40, 40, 3), plugin="pillow")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("kind", "suffix"), [("png", "png"), ("png16", "png"), ("jpeg", "jpg"), ("webp", "webp"), ("tiff", "tif")]
)
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path: Path, kind: str, suffix: str) -> None:
    file = tmp_path / f"photo.{suffix}"
    whole = _encoded(kind, file)
    for share in (0.0, 0.005, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        file.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match=re.escape(str(file))) as error:
            make_view("a", file, pinhole(40, 40), captures.viewmat()).load()
        message(error)


@given(st.binary(max_size=300), st.sampled_from(["png", "jpg", "webp", "tif", "npy"]))
@settings(deadline=None, max_examples=60)
def test_garbage_is_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    file = tmp_path_factory.mktemp("garbage") / f"a.{suffix}"
    file.write_bytes(data)
    with pytest.raises(InputError, match=re.escape(str(file))) as error:
        decode(file)
    message(error)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_headers_are_read_without_decoding(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(captures.noise(30, 24, 3)).save(tmp_path / f"a.{suffix}", exif=exif)
    Image.fromarray(captures.noise(30, 24, 3)).save(tmp_path / f"b.{suffix}")

    def load(_: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert image_size(tmp_path / f"a.{suffix}") == (30, 24)
    assert image_size(tmp_path / f"b.{suffix}") == (24, 30)


def test_images_without_pixels_or_files_are_refused(tmp_path: Path) -> None:
    missing, empty, folder = tmp_path / "missing.png", tmp_path / "empty.png", tmp_path / "folder.png"
    empty.touch()
    folder.mkdir()
    no_pixels = tmp_path / "zero.npy"
    np.save(no_pixels, np.zeros((0, 5)))
    for file, reason in [
        (missing, "there is no such image"),
        (empty, r"cannot be read as an image \(cannot identify image file\)"),
        (folder, "cannot be read as an image"),
        (no_pixels, "image size 5x0 is not positive"),
    ]:
        with pytest.raises(InputError, match=f"{re.escape(str(file))}: {reason}") as error:
            image_size(file)
        message(error)


def test_png_of_width_zero_is_refused(tmp_path: Path) -> None:
    captures.write_png(tmp_path / "a.png", np.zeros((5, 0, 3), np.uint8))
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "a.png"))) as error:
        make_view("a", tmp_path / "a.png", pinhole(40, 40), captures.viewmat())
    message(error)


@pytest.mark.parametrize(
    ("suffix", "bits", "channels"), [(".png", 8, 3), (".png", 8, 4), (".png", 16, 1), (".png", 8, 1)]
)
def test_what_is_saved_comes_back(tmp_path: Path, suffix: str, bits: int, channels: int) -> None:
    peak = 2**bits - 1
    image = torch.from_numpy(captures.noise(20, 24, channels, bits=bits) / peak).float()
    save_image(tmp_path / f"a{suffix}", image, bits=bits)
    np.testing.assert_allclose(decode(tmp_path / f"a{suffix}") / peak, image.numpy(), atol=1e-6)
