"""Middlebury's NAME_par.txt, as https://vision.middlebury.edu/mview/data/ describes it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import readers
from recon.datasets import load_scene, middlebury

# A camera at (x, -5, 0) that looks along +y with z up: t = -R c.
LINE = "{name} 50 0 20 0 48 15 0 0 1 1 0 0 0 0 -1 0 1 0 {t} 0 5"
TEXT = f"2\n{LINE.format(name='a.png', t=-1)}\n{LINE.format(name='b.png', t=0)}\n"


def _capture(path: Path, text: str = TEXT) -> Path:
    readers.photos(path, ["a.png", "b.png"])
    (path / "temple_par.txt").write_text(text)
    return path


def test_cameras(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(_capture(tmp_path), test_every=0)
    assert not caplog.records
    assert [view.name for view in scene.views] == ["a", "b"]
    camera = scene.views[0].camera
    assert camera.positions[0].tolist() == pytest.approx([1, -5, 0])
    assert camera.forward[0].tolist() == pytest.approx([0, 1, 0])
    assert camera.up[0].tolist() == pytest.approx([0, 0, 1])
    assert readers.pixel(scene.views[0], (2, 0, 1)) == pytest.approx([20 + 10, 15 - 9.6])


def test_photos_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _capture(tmp_path)
    (tmp_path / "b.png").unlink()
    with caplog.at_level(logging.WARNING, logger="recon"):
        assert [view.name for view in load_scene(tmp_path / "temple_par.txt").views] == ["a"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/temple_par.txt: 1 of 2 photos are not there; left out"
    ]
    (tmp_path / "a.png").unlink()
    assert "none of its 2 photos is there, such as a.png" in readers.refused(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (TEXT, "", "starts with '', not with the number of its photos"),
        ("2\n", "", "starts with 'a.png 50 0 20 "),
        ("2\n", "3\n", "says that it has 3 photos, but has 2 lines of them"),
        ("2\n", "-2\n", "starts with '-2', not with"),
        ("b.png 50", "b.png", "b.png: '0 20 0 48 15"),
        ("a.png 50", "a.png fifty", "a.png: 'fifty 0 20 0 48"),
        ("a.png 50", "a.png nan", "a.png: 'nan 0 20 0 48 15 0 0 1 1 0 0 0 0 -1 0 1 0 -1 0 5' is not 21 finite numbers"),
        ("a.png 50", "a.png -50", "a.png: focal length -50 is not positive"),
        ("a.png 50 0", "a.png 50 9", "a.png: skew 9 is not 0"),
        ("0 0 1 1 0 0", "0 0 1 2 0 0", "a.png: pose is not a rotation and a translation"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in TEXT
    _capture(tmp_path, TEXT.replace(old, new, 1))
    assert said in readers.refused(tmp_path, tmp_path / "temple_par.txt")


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _capture(tmp_path_factory.mktemp("middlebury"))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, len(TEXT) - 1), st.sampled_from("0123456789.-+eE \nnaif#x\x00é")), max_size=4))
def test_any_damage_is_an_input_error_or_a_scene(capture: Path, changes: list[tuple[int, str]]) -> None:
    text = list(TEXT)
    for place, character in changes:
        text[place] = character
    (capture / "temple_par.txt").write_text("".join(text), encoding="utf-8")
    readers.read_or_refused(middlebury.load, capture)
