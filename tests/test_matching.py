"""What COLMAP's database holds of photos: features where masks allow it, cameras that are shared, and rigs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import videos
from recon.datasets import matching, panorama
from recon.datasets.matching import Features, Matches
from recon.datasets.photo_folder import Photo, describe

SIZE = (160, 120)


def photos(folder: Path, count: int = 3) -> list[Photo]:
    (folder / "images").mkdir(parents=True)
    picture = videos.texture(200, 400, seed=2)
    found = []
    for i in range(count):
        name = f"{i}.png"
        Image.fromarray(videos.crop(picture, 20 * i, 10, *SIZE)).save(folder / "images" / name)
        found.append(describe(folder / "images" / name, name))
    return found


def extract(folder: Path, found: list[Photo]) -> Path:
    matching.extract(folder / "a.db", folder / "images", found, Features(peak=0.001), 1, lambda *_: None)
    return folder / "a.db"


def test_no_features_are_looked_for_where_a_mask_is_black(tmp_path: Path) -> None:
    found = photos(tmp_path)
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[:, :80] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "1.png.png")
    with matching.open_database(extract(tmp_path, found)) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        places = {name: np.asarray(opened.read_keypoints(ids[name]))[:, 0] for name in ids}
    for name in ("0.png", "2.png"):  # which have no mask
        assert places[name].max() > 100
        assert places[name].min() < 60
    assert len(places["1.png"]) > 5
    assert places["1.png"].max() <= 81


def test_photos_of_one_camera_share_it_and_others_do_not(tmp_path: Path) -> None:
    found = photos(tmp_path)
    found[2] = replace(found[2], camera=("another",), focal=150.0)
    with matching.open_database(extract(tmp_path, found)) as opened:
        cameras = {image.name: image.camera_id for image in opened.read_all_images()}
        assert cameras["0.png"] == cameras["1.png"] != cameras["2.png"]
        known = opened.read_camera(cameras["2.png"])
        assert (known.focal_length, known.has_prior_focal_length) == (150, True)
        assert not opened.read_camera(cameras["0.png"]).has_prior_focal_length
        assert opened.num_rigs() == 2
        assert opened.num_frames() == 3


def faces(folder: Path, count: int) -> list[Photo]:
    """Pictures that are said to be faces of panoramas."""
    found = photos(folder, count * panorama.COUNT)
    return [
        replace(photo, camera=("panorama", i % panorama.COUNT), focal=72.0, panorama=f"{i // 8}.jpg", face=i % 8)
        for i, photo in enumerate(found)
    ]


def test_faces_of_a_panorama_are_a_rig_with_one_centre(tmp_path: Path) -> None:
    found = faces(tmp_path, 2)
    with matching.open_database(extract(tmp_path, found)) as opened:
        (rig,) = opened.read_all_rigs()
        frames = opened.read_all_frames()
        images = {image.image_id: image for image in opened.read_all_images()}
    assert rig.num_sensors() == panorama.COUNT
    assert [len(list(frame.image_ids)) for frame in frames] == [panorama.COUNT] * 2
    by_name = {photo.name: photo for photo in found}
    for frame in frames:
        assert len({by_name[images[data.id].name].panorama for data in frame.image_ids}) == 1
        for data in frame.image_ids:
            photo = by_name[images[data.id].name]
            expected = panorama.face_from_panorama(photo.face)
            if not rig.is_ref_sensor(data.sensor_id):
                pose = rig.sensor_from_rig(data.sensor_id)
                assert pose is not None
                assert pose.rotation.matrix() == pytest.approx(expected, abs=1e-12)
                assert pose.translation == pytest.approx(np.zeros(3))


@pytest.mark.parametrize("breadth", [1, 3])
def test_faces_are_matched_with_those_of_other_panoramas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breadth: int
) -> None:
    """With those that may show the same; where more is to be tried, with all, as if the camera was tilted."""
    found = faces(tmp_path, 3)
    asked: set[tuple[int, int]] = set()
    monkeypatch.setattr(matching, "_match_some", lambda _, __, some, *___: asked.update(some))
    database = extract(tmp_path, found)
    matching.match(database, found, Matches(breadth=breadth), 1, lambda *_: None)
    expected = {
        (i, j)
        for i, j in itertools.combinations(range(len(found)), 2)
        if found[i].panorama != found[j].panorama
        and (breadth > 1 or found[i].face == found[j].face or max(found[i].face, found[j].face) < panorama.AROUND)
    }
    assert asked == expected
