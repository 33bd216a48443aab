"""Photos of a scene as files."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

import captures
from recon.datasets.decode import decode
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage, make_view
from recon.datasets.scene import View
from recon.datasets.writing import Writing, write_photo, write_photos


def photo(folder: Path, name: str = "a.jpg", downscale: float = 1) -> View:
    iio.imwrite(folder / name, captures.noise(36, 40, 3))
    return make_view("a", folder / name, captures.PINHOLE, captures.viewmat(), downscale=downscale)


def test_a_photo_that_needs_nothing_is_copied_as_it_is(tmp_path: Path) -> None:
    copy = write_photo(photo(tmp_path), tmp_path / "out" / "v1.0")
    assert copy == tmp_path / "out" / "v1.0.jpg"
    assert copy.read_bytes() == (tmp_path / "a.jpg").read_bytes()
    assert not copy.samefile(tmp_path / "a.jpg")
    smaller = photo(tmp_path, downscale=2)
    written = write_photo(replace(smaller, name="b"), tmp_path / "out" / "b")
    assert written.suffix == ".png"
    np.testing.assert_allclose(decode(written) / 255, smaller.load().numpy(), atol=0.5 / 255 + 1e-6)


def test_a_link_is_the_file_and_a_copy_where_there_can_be_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = photo(tmp_path)
    assert write_photo(view, tmp_path / "out" / "linked", Writing(link=True)).samefile(tmp_path / "a.jpg")

    def refuse(*_: object) -> None:
        raise OSError(18, "another disk")

    monkeypatch.setattr("os.link", refuse)
    copy = write_photo(view, tmp_path / "out" / "copied", Writing(link=True))
    assert not copy.samefile(tmp_path / "a.jpg")
    assert copy.read_bytes() == (tmp_path / "a.jpg").read_bytes()


def test_what_the_format_does_not_read_is_written_as_one_that_it_does(tmp_path: Path) -> None:
    assert write_photo(photo(tmp_path), tmp_path / "out" / "a", Writing(jpeg=True), kept=(".png",)).suffix == ".png"
    assert write_photo(photo(tmp_path, "a.png"), tmp_path / "out" / "b", kept=(".png",)).suffix == ".png"


def test_a_photo_that_exif_turns_is_written_as_it_is_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(captures.noise(40, 36, 3)).save(tmp_path / "a.png", exif=exif)
    view = make_view("a", tmp_path / "a.png", captures.PINHOLE, captures.viewmat())
    written = write_photo(view, tmp_path / "out" / "a")
    np.testing.assert_array_equal(np.asarray(Image.open(written)), (view.load() * 255).round().numpy())


@pytest.mark.parametrize(("channels", "suffix"), [(3, ".jpg"), (4, ".png")])
def test_jpeg_for_what_has_no_alpha(tmp_path: Path, channels: int, suffix: str) -> None:
    view = View("a", photo(tmp_path).camera, ArrayImage(torch.rand(36, 40, channels)))
    assert write_photo(view, tmp_path / "out" / "a", Writing(jpeg=True)).suffix == suffix


def test_many_are_written_at_once_in_their_order_and_counted(tmp_path: Path) -> None:
    views = [View(f"{i}", photo(tmp_path).camera, ArrayImage(torch.full((36, 40, 3), i / 255))) for i in range(20)]
    told: list[tuple[int, int]] = []
    how = Writing(threads=4, progress=lambda done, total: told.append((done, total)))
    written = write_photos(views, [tmp_path / "out" / view.name for view in views], how)
    assert [int(decode(path)[0, 0, 0]) for path in written] == list(range(20))
    assert told == [(i + 1, 20) for i in range(20)]


def test_one_that_cannot_be_read_ends_it(tmp_path: Path) -> None:
    views = [photo(tmp_path, f"{i}.png", downscale=2) for i in range(6)]
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:200])
    with pytest.raises(InputError, match=r"3\.png: cannot be decoded"):
        write_photos(views, [tmp_path / "out" / f"{i}" for i in range(6)], Writing(threads=2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("recon-writing")]
