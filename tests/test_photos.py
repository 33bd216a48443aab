"""Photos that a capture's file lists: where they are found, and what is said when they are not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import captures
import readers
from recon.datasets import photos
from recon.datasets.errors import InputError
from recon.datasets.photos import Shot
from recon.datasets.scene import Points

FILES = ("images/a.png", "images/sub/b.png", "images_2/a.jpg", "c.png", "images/d.PNG")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    readers.photos(tmp_path, FILES)
    return tmp_path


@pytest.mark.parametrize(
    ("written", "downscale", "expected"),
    [
        ("a.png", 1, "images/a.png"),
        ("a", 1, "images/a.png"),
        ("images/a.png", 1, "images/a.png"),
        ("./images/a.png", 1, "images/a.png"),
        ("../elsewhere/a.png", 1, "images/a.png"),
        ("/home/somebody/photos/a.png", 1, "images/a.png"),
        ("C:\\photos\\a.png", 1, "images/a.png"),
        ("C:\\photos\\sub\\b.png", 1, "images/sub/b.png"),
        ("sub/a.png", 1, "images/a.png"),
        ("a.png", 2, "images_2/a.jpg"),
        ("images/a.png", 4, "images_2/a.jpg"),
        ("sub/b.png", 2, "images/sub/b.png"),
        ("c.png", 2, "c.png"),
        ("d", 1, "images/d.PNG"),
    ],
)
def test_as_much_of_a_path_is_used_as_leads_to_a_photo(
    root: Path, written: str, downscale: float, expected: str
) -> None:
    assert photos.find(root / "file", [written], downscale=downscale) == {0: root / expected}


def test_an_absolute_path_leads_where_it_says(tmp_path: Path) -> None:
    readers.photos(tmp_path / "elsewhere", ["x.png"])
    written = str(tmp_path / "elsewhere" / "x.png")
    assert photos.find(tmp_path / "capture" / "file", [written]) == {0: Path(written)}


@pytest.mark.parametrize("written", ["", "/", ".", "..", "a" * 300, "a\0.png", "\ud800", "images", "images/sub"])
def test_what_is_no_name_of_a_photo_is_not_there(root: Path, written: str) -> None:
    assert photos.find(root / "file", [written, "c.png"]) == {1: root / "c.png"}


def test_what_is_missing_is_counted_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="recon"):
        assert list(photos.find(root / "file", ["x", "a", "y", "c"], why="2 are blind")) == [1, 3]
    assert [record.getMessage() for record in caplog.records] == [
        f"{root}/file: 2 of 4 photos are not there, 2 are blind; left out"
    ]
    with pytest.raises(InputError, match=r"file: none of its 2 photos is there, such as x \(2 are blind\)"):
        photos.find(root / "file", ["x", "y"], why="2 are blind")
    with pytest.raises(InputError, match=r"file: has no photos$"):
        photos.find(root / "file", [])
    with pytest.raises(InputError, match=r"file: photos 1/a.png and 2/a.png would both be .*images/a.png"):
        photos.find(root / "file", ["1/a.png", "2/a.png"])


def test_tracks_follow_their_shots_into_views(root: Path) -> None:
    """Shots 5, 2 and 0 become views b, a, c, sorted by name; tracks of shot 1 are dropped, like points at infinity."""
    shots = [
        Shot(number, root / file, captures.pinhole(40, 30), captures.viewmat((1.0, -3.0, number)), "somewhere")
        for number, file in ((5, "images/sub/b.png"), (2, "images/a.png"), (0, "c.png"))
    ]
    xyz = torch.tensor([[0.0, 0, 0], [float("inf"), 0, 0], [1, 1, 1]], dtype=torch.float64)
    tracks = torch.tensor([[0, 5], [0, 1], [1, 2], [2, 0], [2, 5]])
    scene = photos.scene(root, shots, points=Points(xyz, torch.zeros(3, 3), tracks=tracks), test_every=0)
    assert [view.name for view in scene.views] == ["c", "images/a", "images/sub/b"]
    assert scene.points is not None
    assert scene.points.tracks is not None
    assert scene.points.xyz.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert sorted(scene.points.tracks.tolist()) == [[0, 2], [1, 0], [1, 2]]


def test_points_at_infinity_alone_are_none(root: Path) -> None:
    shot = Shot(0, root / "c.png", captures.pinhole(40, 30), captures.viewmat(), "somewhere")
    points = Points(torch.full((1, 3), torch.nan), torch.zeros(1, 3))
    assert photos.scene(root, [shot], points=points).points is None
