"""Where photos are looked for, and what views are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from recon.datasets.images import (
    choose_image_folder,
    view_names,
)


@pytest.mark.parametrize(
    ("folders", "downscale", "expected"),
    [
        (["images", "images_2", "images_4"], 1, "images"),
        (["images", "images_2", "images_4"], 4, "images_4"),
        (["images", "images_2", "images_4"], 8, "images_4"),
        (["images", "images_2", "images_4"], 6, "images_2"),
        (["images", "images_2", "images_4"], 3, "images"),
        (["images_2", "images_4"], 3, "images_2"),
        (["images_2", "images_4"], 1, "images_2"),
        (["images_x", "images_0"], 1, None),
        ([], 1, None),
    ],
)
def test_the_folder_for_a_downscale(tmp_path: Path, folders: list[str], downscale: int, expected: str | None) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
    chosen = choose_image_folder(tmp_path / "images", downscale)
    assert chosen == (None if expected is None else tmp_path / expected)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["images/a.jpg", "images/b.png"], ["a", "b"]),
        (["images/x/a.jpg", "images/y/a.jpg"], ["x/a", "y/a"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["train/r_0", "train/r_1.5"], ["r_0", "r_1.5"]),
        (["only.jpg"], ["only"]),
        ([], []),
    ],
)
def test_names_of_views(paths: list[str], names: list[str]) -> None:
    assert view_names(paths) == names
