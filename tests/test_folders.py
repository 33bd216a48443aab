"""Where photos are looked for, and what views are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from recon.datasets.images import (
    choose_image_folder,
    find_image,
    list_images,
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


def test_pictures_of_light_count_where_there_are_no_others(tmp_path: Path) -> None:
    for name in ("b.exr", "a.exr", "c.hdr"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.exr", "b.exr", "c.hdr"]
    (tmp_path / "a.jpg").touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg"]
    assert find_image(tmp_path / "a") == tmp_path / "a.jpg"
    assert find_image(tmp_path / "b") == tmp_path / "b.exr"
