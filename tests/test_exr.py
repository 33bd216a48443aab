"""Pictures of linear light in files, beside a writer of our own, FFmpeg's, and the package OpenEXR where it is."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from captures import message
from exr_files import write_exr, write_rgb
from recon.datasets import exr
from recon.datasets.decode import decode, image_size, read_header, save_light
from recon.datasets.errors import InputError


def light(height: int = 21, width: int = 30, channels: int = 3, seed: int = 0) -> NDArray[np.float32]:
    """From darkness to a lamp."""
    return np.exp(np.random.default_rng(seed).uniform(-8, 8, (height, width, channels))).astype(np.float32)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize("channels", [3, 4])
def test_light_comes_as_it_was_written(tmp_path: Path, kind: Any, channels: int) -> None:
    pixels = light(channels=channels).astype(kind)
    if channels == 4:
        pixels[..., 3] = np.random.default_rng(1).choice([0.25, 0.5, 1.0], pixels.shape[:2])
    write_rgb(tmp_path / "100%d.exr", pixels)
    read = decode(tmp_path / "100%d.exr")
    assert read.dtype == np.float32
    expected = pixels.astype(np.float32)
    if channels == 4:
        expected[..., :3] /= expected[..., 3:]  # which EXR stores premultiplied
    np.testing.assert_allclose(read, expected, rtol=1e-6)
    header = read_header(tmp_path / "100%d.exr")
    assert (header.width, header.height, header.kind, header.has_alpha) == (30, 21, "linear", channels == 4)


def test_what_is_transparent_stays_finite(tmp_path: Path) -> None:
    pixels = light(channels=4)
    pixels[..., 3] = 0
    write_rgb(tmp_path / "a.exr", pixels)
    np.testing.assert_array_equal(decode(tmp_path / "a.exr")[..., :3], pixels[..., :3])


def test_grey_is_one_channel(tmp_path: Path) -> None:
    write_exr(tmp_path / "a.exr", {"Y": light()[..., 0]})
    np.testing.assert_array_equal(decode(tmp_path / "a.exr"), light()[..., :1])


def test_the_window_shown_counts(tmp_path: Path) -> None:
    planes = {name: light()[..., i].copy() for i, name in enumerate("RGB")}
    write_exr(tmp_path / "a.exr", planes, data=(4, 2), display=(0, 0, 39, 27))
    assert image_size(tmp_path / "a.exr") == (40, 28)
    expected = np.zeros((28, 40, 3), np.float32)
    expected[2:23, 4:34] = light()
    np.testing.assert_array_equal(decode(tmp_path / "a.exr"), expected)


def test_light_that_was_saved_comes_back(tmp_path: Path) -> None:
    save_light(tmp_path / "a.exr", light())
    np.testing.assert_array_equal(decode(tmp_path / "a.exr"), light())
    assert exr.read_header(tmp_path / "a.exr").compression == "ZIP"


def test_radiance_pictures(tmp_path: Path) -> None:
    """As the format has it: mantissas of 8 bits with a shared exponent, here without runs."""
    pixels = light(10, 5)  # rows this short are never packed
    _, exponent = np.frexp(pixels.max(axis=-1, keepdims=True))
    stored = np.concatenate([pixels * 2.0 ** (8 - exponent), exponent + 128], axis=-1)
    data = stored.astype(np.uint8).tobytes()
    (tmp_path / "a.hdr").write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 10 +X 5\n" + data)
    assert image_size(tmp_path / "a.hdr") == (5, 10)
    read = decode(tmp_path / "a.hdr")
    assert (np.abs(read - pixels) <= pixels.max(axis=-1, keepdims=True) / 128).all()


# ---- what only the package OpenEXR reads


@pytest.mark.parametrize(
    ("channels", "compression", "what"),
    [("RGB", 8, "compressed with DWAA"), ("RGB", 9, "compressed with DWAB"), ("Z", 0, "without R, G, B")],
)
def test_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: str, compression: int, what: str
) -> None:
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    write_exr(tmp_path / "a.exr", {name: light()[..., 0] for name in channels}, compression=compression)
    with pytest.raises(InputError, match=f"a.exr: an EXR {what} needs the package OpenEXR, which is not") as caught:
        decode(tmp_path / "a.exr")
    message(caught)


@pytest.mark.parametrize("names", ["RGB", "RGBA", "Z"])
def test_openexr_reads_it_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    planes = {name: light(seed=i)[..., 0].copy() for i, name in enumerate(names)}
    if "A" in planes:
        planes["A"] = np.ones_like(planes["A"])
    write_exr(tmp_path / "a.exr", planes, compression=8, data=(-1, 2), display=(0, 0, 39, 20))

    class File:
        def __init__(self, path: str, separate_channels: bool) -> None:
            assert (path, separate_channels) == (str(tmp_path / "a.exr"), True)

        def channels(self) -> dict[str, Any]:
            return {name: types.SimpleNamespace(pixels=plane) for name, plane in planes.items()}

    module = types.ModuleType("OpenEXR")
    module.File = File  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "OpenEXR", module)
    read = decode(tmp_path / "a.exr")
    expected = np.zeros((21, 40, len(names)), np.float32)
    for i, name in enumerate(names):
        expected[2:, :29, i] = planes[name][:19, 1:]
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("compression", ["NO", "RLE", "ZIPS", "ZIP", "PIZ", "DWAA", "DWAB"])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_openexr_agrees(tmp_path: Path, compression: str, kind: Any) -> None:
    library = pytest.importorskip("OpenEXR")
    pixels = light().astype(kind)
    header = {"compression": getattr(library, f"{compression}_COMPRESSION"), "type": library.scanlineimage}
    with library.File(header, {"RGB": pixels}) as file:
        file.write(str(tmp_path / "a.exr"))
    with library.File(str(tmp_path / "a.exr")) as file:
        expected = np.asarray(file.channels()["RGB"].pixels, np.float32)
    np.testing.assert_array_equal(decode(tmp_path / "a.exr"), expected)
    save_light(tmp_path / "b.exr", light())
    with library.File(str(tmp_path / "b.exr")) as file:
        np.testing.assert_array_equal(file.channels()["RGB"].pixels, light())


# ---- damage


@pytest.mark.parametrize("packed", [False, True])
def test_a_picture_that_was_cut_is_refused(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "a.exr"
    save_light(path, light()) if packed else write_rgb(path, light())
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.exr: cannot be (read as an image|decoded)"):
            decode(path)


@pytest.mark.parametrize("rows", [0, 3, 9])
def test_a_radiance_picture_that_was_cut_is_refused(tmp_path: Path, rows: int) -> None:
    header = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 10 +X 5\n"
    (tmp_path / "a.hdr").write_bytes(header + bytes([1, 2, 3, 128]) * 5 * rows)
    with pytest.raises(InputError, match=r"a\.hdr: cannot be decoded"):
        decode(tmp_path / "a.hdr")


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_damage_is_named_in_one_line_or_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damaged") / data.draw(st.sampled_from(["a.exr", "a.hdr"]))
    if path.suffix == ".exr":
        write_rgb(path, light(4, 5))
        whole = path.read_bytes()
    else:
        whole = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 4 +X 5\n" + bytes(range(80))
    changed = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if changed:
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(changed))
    said = ""
    try:
        assert decode(path).ndim == 3
    except InputError as error:
        said = str(error)
    assert not said or (str(path) in said and "\n" not in said)
