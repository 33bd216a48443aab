"""Masks of photos without poses: which files, and that no features are found where nothing counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import photo_files
from recon.datasets import masked_photos, matching, photo_folder, sources
from recon.datasets.decode import decode
from recon.datasets.errors import InputError
from recon.datasets.matching import Features
from recon.datasets.photo_folder import Photo

SIZE = (320, 240)


def ignore(stage: str, done: int, total: int) -> None:
    pass


def photographed(folder: Path, orientation: int = 1, suffix: str = ".jpg") -> list[Photo]:
    for i in range(3):
        photo_files.write(folder / f"p {i}{suffix}", SIZE, seed=i, tags={photo_files.ORIENTATION: orientation})
    return photo_folder.find(folder)


def collected(photos: list[Photo], folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    sources._collect(photos, folder / "images", 1, ignore)
    return folder / "images"


def left_half(folder: Path, size: tuple[int, int]) -> None:
    """A mask of which the left half counts, for each photo."""
    folder.mkdir()
    mask = np.zeros(size[::-1], np.uint8)
    mask[:, : size[0] // 2] = 255
    for i in range(3):
        Image.fromarray(mask).save(folder / f"p {i}_mask.png")


def test_no_features_are_found_where_nothing_counts(tmp_path: Path) -> None:
    photos = photographed(tmp_path / "photos")
    images = collected(photos, tmp_path / "work")
    left_half(tmp_path / "masks", SIZE)
    matching.extract(tmp_path / "all.db", images, photos, Features(), 1, ignore)
    masked_photos.write([str(tmp_path / "masks")], photos[:2], images, 2, ignore)
    matching.extract(tmp_path / "some.db", images, photos, Features(), 1, ignore)
    for number, photo in enumerate(photos):
        found = {}
        for name in ("all", "some"):
            with matching.open_database(tmp_path / f"{name}.db") as opened:
                ids = {image.name: image.image_id for image in opened.read_all_images()}
                found[name] = opened.read_keypoints(ids[photo.name])[:, 0]
        assert (found["all"] > 165).sum() > 5
        assert (found["some"] < 155).sum() == (found["all"] < 155).sum() > 5
        assert (found["some"] > 161).any() == (number == 2)  # of which there is no mask


@pytest.mark.parametrize(
    ("orientation", "as_shown"), [*((o, True) for o in range(1, 9)), *((o, False) for o in range(5, 9))]
)
def test_masks_are_of_the_pixels_as_they_are_stored(tmp_path: Path, orientation: int, as_shown: bool) -> None:
    """Other programs make masks of photos as they are shown; COLMAP's own are of what is stored."""
    photos = photographed(tmp_path / "photos", orientation)
    images = collected(photos, tmp_path / "work")
    turned = orientation >= 5
    left_half(tmp_path / "masks", SIZE[::-1] if as_shown and turned else SIZE)
    masked_photos.write([str(tmp_path / "masks")], photos, images, 1, ignore)
    written = decode(tmp_path / "work" / "masks" / "p_0.jpg.png")[..., 0] > 0
    assert written.shape == SIZE[::-1]
    # Where the left side of the picture is in what is stored, from the meaning of EXIF's tag.
    sides = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "bottom", 7: "bottom", 8: "top"}
    whole = slice(None)
    half: dict[str, tuple[slice, slice]] = {
        "left": (whole, slice(160)),
        "right": (whole, slice(160, None)),
        "top": (slice(120), whole),
        "bottom": (slice(120, None), whole),
    }
    expected = np.zeros(SIZE[::-1], bool)
    expected[half[sides[orientation] if as_shown else "left"]] = True
    np.testing.assert_array_equal(written, expected)


def test_a_copy_in_another_format_has_the_mask_of_its_photo(tmp_path: Path) -> None:
    photos = photographed(tmp_path / "photos", suffix=".webp")
    images = collected(photos, tmp_path / "work")
    left_half(tmp_path / "masks", SIZE)
    masked_photos.write([str(tmp_path / "masks"), "key:#123456:0"], photos, images, 1, ignore)
    names = sorted(file.name for file in (tmp_path / "work" / "masks").iterdir())
    assert names == [f"p_{i}.webp.png.png" for i in range(3)]
    assert decode(tmp_path / "work" / "masks" / names[0]).mean() == pytest.approx(127.5, abs=1)


def test_rules_that_say_nothing_of_any_photo_are_wrong(tmp_path: Path) -> None:
    photos = photographed(tmp_path / "photos")
    images = collected(photos, tmp_path / "work")
    with pytest.raises(InputError, match=r"masks alpha: none for any of the 3 photos, such as .*p 0\.jpg"):
        masked_photos.write(["alpha"], photos, images, 1, ignore)


def test_other_masks_are_another_capture(tmp_path: Path) -> None:
    photos = photographed(tmp_path / "photos")
    left_half(tmp_path / "masks", SIZE)
    rules = [str(tmp_path / "masks")]
    before = masked_photos.key(rules, photos)
    assert masked_photos.key(rules, photos) == before
    assert masked_photos.key([*rules, "key:#00ff00"], photos) != before
    Image.fromarray(np.full((10, 10), 255, np.uint8)).save(tmp_path / "masks" / "p 1_mask.png")
    assert masked_photos.key(rules, photos) != before
