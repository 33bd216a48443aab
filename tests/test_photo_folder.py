"""Which photos are in a folder, and what their EXIF data says."""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path

import pytest
from PIL import Image

import photo_files
from captures import message
from photo_files import FOCAL, FOCAL_35MM, MAKE, MODEL, ORIENTATION, PLANE_UNIT, PLANE_X, write
from recon.datasets import photo_folder
from recon.datasets.errors import InputError


def test_the_focal_length_follows_from_its_35_mm_equivalent(tmp_path: Path) -> None:
    photo = photo_folder.describe(write(tmp_path / "a.jpg", (600, 400), exif={FOCAL: 40.0, FOCAL_35MM: 60}), "a.jpg")
    assert photo.focal == pytest.approx(60 * math.hypot(600, 400) / math.hypot(36, 24))
    assert photo.focal == pytest.approx(60 * 600 / 36)  # the sensor has the same shape


@pytest.mark.parametrize(("unit", "density"), [(2, 2540.0), (3, 1000.0), (4, 100.0)])
def test_the_focal_length_follows_from_the_resolution_of_the_sensor(tmp_path: Path, unit: int, density: float) -> None:
    """100 px/mm and 8 mm, of a picture that was taken at twice the size."""
    exif = {FOCAL: 8.0, PLANE_X: density, PLANE_UNIT: unit, photo_files.EXIF_WIDTH: 1200}
    photo = photo_folder.describe(write(tmp_path / "a.jpg", (600, 400), exif=exif), "a.jpg")
    assert photo.focal == pytest.approx(400)


@pytest.mark.parametrize("exif", [{}, {FOCAL: 0.0}, {FOCAL: 50.0}, {FOCAL_35MM: 0}, {FOCAL: 9e9, PLANE_X: 9e9}])
def test_no_focal_length_is_made_up(tmp_path: Path, exif: dict) -> None:
    assert photo_folder.describe(write(tmp_path / "a.jpg", exif=exif), "a.jpg").focal is None


def test_photos_share_a_camera_by_camera_focal_length_and_size(tmp_path: Path) -> None:
    nikon, other = {MAKE: "NIKON", MODEL: "D3200"}, {MAKE: "NIKON", MODEL: "D90"}
    write(tmp_path / "a.jpg", tags=nikon, exif={FOCAL: 40.0})
    write(tmp_path / "b.jpg", tags=nikon | {ORIENTATION: 6}, exif={FOCAL: 40.0})  # stored as the others are
    write(tmp_path / "c.jpg", tags=nikon, exif={FOCAL: 50.0})
    write(tmp_path / "d.jpg", tags=other, exif={FOCAL: 40.0})
    write(tmp_path / "e.jpg", (40, 60), tags=nikon, exif={FOCAL: 40.0})
    write(tmp_path / "f.jpg", tags=nikon, exif={FOCAL: 40.0})
    shared = [[photo.name for photo in group] for group in photo_folder.groups(photo_folder.find(tmp_path))]
    assert shared == [["a.jpg", "b.jpg", "f.jpg"], ["c.jpg"], ["d.jpg"], ["e.jpg"]]


def test_the_place_is_read(tmp_path: Path) -> None:
    gps = {1: "S", 2: (33.0, 51.0, 36.0), 3: "E", 4: (151.0, 12.0, 36.0)}
    place = photo_folder.describe(write(tmp_path / "a.jpg", gps=gps), "a.jpg").place
    assert place == pytest.approx((-33.86, 151.21))
    assert photo_folder.describe(write(tmp_path / "b.jpg"), "b.jpg").place is None


def test_names_are_such_that_lists_of_pairs_and_colmap_can_have_them(tmp_path: Path) -> None:
    for name in ("a b.jpg", "a_b.jpg", "c.webp", "c.png", "d.TIF"):
        write(tmp_path / name)
    found = photo_folder.find(tmp_path)
    assert [photo.path.name for photo in found] == ["a b.jpg", "a_b.jpg", "c.png", "c.webp", "d.TIF"]
    assert [photo.name for photo in found] == ["a_b.jpg", "_a_b.jpg", "c.png", "c.webp.png", "d.TIF"]


def test_photos_may_lie_in_a_folder_images(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / "images" / f"{i}.jpg")
    assert len(photo_folder.find(tmp_path)) == 3
    assert photo_folder.has_photos(tmp_path)


def test_the_fingerprint_is_of_the_photos_and_the_settings(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / f"{i}.jpg", seed=i)
    found = photo_folder.find(tmp_path)
    key = photo_folder.fingerprint(found, "settings")
    assert photo_folder.fingerprint(photo_folder.find(tmp_path), "settings") == key
    assert photo_folder.fingerprint(found, "others") != key
    assert photo_folder.fingerprint(found[1:], "settings") != key
    os.utime(tmp_path / "2.jpg", ns=(1, 1))
    assert photo_folder.fingerprint(photo_folder.find(tmp_path), "settings") != key


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder") as error:
        photo_folder.find(tmp_path / "gone")
    (tmp_path / "readme.txt").write_text("none")
    with pytest.raises(InputError, match="no photos here") as error:
        photo_folder.find(tmp_path)
    assert str(tmp_path) in message(error)
    write(tmp_path / "a.jpg")
    write(tmp_path / "b.jpg")
    with pytest.raises(InputError, match="2 photos are too few"):
        photo_folder.find(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"not a photo")
    with pytest.raises(InputError, match=r"broken\.jpg"):
        photo_folder.find(tmp_path)


def test_a_photo_that_is_cut_short_is_named(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.jpg", (600, 400)).read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a\.jpg: cannot be read as a photo"):
        photo_folder.thumbnail(tmp_path / "a.jpg")


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is not None, reason="HEIC can be read here")
def test_heic_without_its_library_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "a.HEIC").write_bytes(b"")
    with pytest.raises(InputError, match="pillow-heif, which is not installed"):
        photo_folder.find(tmp_path)


def test_the_same_picture_again_and_again_is_refused(tmp_path: Path) -> None:
    for i, quality in enumerate((95, 80, 60)):
        photo = write(tmp_path / f"{i}.jpg", (600, 400))
        with Image.open(photo) as image:
            image.load()
        image.save(photo, quality=quality)
    found = photo_folder.find(tmp_path)
    with pytest.raises(InputError, match="all 3 photos are the same picture"):
        photo_folder.check(found, [photo_folder.thumbnail(photo.path) for photo in found])
    write(tmp_path / "2.jpg", (600, 400), seed=5)
    photo_folder.check(found, [photo_folder.thumbnail(photo.path) for photo in found])
