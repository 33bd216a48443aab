"""The .camera files of Strecha et al. 2008."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import readers
from recon.datasets import load_scene

# A camera at (x, -5, 0) that looks along +y with z up: columns of the rotation are right x, down -z, forward y.
TEXT = "50 0 20\n0 48 15\n0 0 1\n0 0 0\n1 0 0\n0 0 1\n0 -1 0\n{x} -5 0\n40 30\n"


def _capture(path: Path, text: str = TEXT.format(x=1), folder: str = "") -> Path:
    readers.photos(path / "images" if folder else path, ["0000.png", "0001.png"])
    (path / folder).mkdir(exist_ok=True)
    (path / folder / "0000.png.camera").write_text(text)
    (path / folder / "0001.png.camera").write_text(TEXT.format(x=0))
    return path


@pytest.mark.parametrize("folder", ["", "camera", "urd"])
def test_cameras(tmp_path: Path, folder: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(_capture(tmp_path, folder=folder), test_every=0)
    assert not caplog.records
    assert [view.name for view in scene.views] == ["0000", "0001"]
    camera = scene.views[0].camera
    assert camera.positions[0].tolist() == pytest.approx([1, -5, 0])
    assert camera.forward[0].tolist() == pytest.approx([0, 1, 0])
    assert camera.up[0].tolist() == pytest.approx([0, 0, 1])
    assert readers.pixel(scene.views[0], (2, 0, 1)) == pytest.approx([20 + 10, 15 - 9.6])


def test_photos_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _capture(tmp_path)
    (tmp_path / "0001.png").unlink()
    with caplog.at_level(logging.WARNING, logger="recon"):
        assert [view.name for view in load_scene(tmp_path / "0000.png.camera").views] == ["0000"]
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: 1 of 2 photos are not there; left out"]
    (tmp_path / "0000.png").unlink()
    assert "none of its 2 photos is there, such as 0000.png" in readers.refused(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("50 0 20", "", "is not 26 finite numbers"),
        ("40 30\n", "", "is not 26 finite numbers"),
        ("50 0 20", "nan 0 20", "'nan 0 20 0 48 15 0 0 1 0 0 0 1 0 0"),
        ("50 0 20", "f 0 20", "'f 0 20 0 48 15 0 0 1 0 0 0 1 0 0"),
        ("50 0 20", "-50 0 20", "focal length -50 is not positive"),
        ("50 0 20", "50 7 20", "skew 7 is not 0"),
        ("1 0 0\n0 0 1\n0", "1 0 0\n0 0 2\n0", "pose is not a rotation and a translation"),
        ("40 30", "40.5 30", "image size 40.5x30 is not of whole numbers"),
        ("40 30", "80 30", "image is 40x30, its camera is for 80x30"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = TEXT.format(x=1)
    assert old in text
    _capture(tmp_path, text.replace(old, new, 1))
    named = tmp_path if said.startswith("image is") else tmp_path / "0000.png.camera"
    assert said in readers.refused(tmp_path, named)


def test_a_file_cut_at_any_place_is_noticed(tmp_path: Path) -> None:
    """A cut inside the last number leaves a shorter number; everything else is missing numbers."""
    text = TEXT.format(x=1)
    for length in range(len(text.rstrip()) - 1):
        _capture(tmp_path, text[:length])
        assert "is not 26 finite numbers" in readers.refused(tmp_path, tmp_path / "0000.png.camera")
