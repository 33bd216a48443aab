"""Faces of 360-degree photos, against rotations that SciPy makes and pictures whose colour says the direction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

import photo_files
import videos
from captures import message
from recon.datasets import panorama, sources
from recon.datasets.errors import InputError
from recon.datasets.folders import EXTENSIONS
from recon.datasets.sources import Wishes

WIDTH = 256
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description GPano:ProjectionType="%s"/></x:xmpmeta>'


def directions(width: int) -> NDArray[np.float64]:
    """[H,W,3] through the pixels of a panorama: a turn about the vertical axis of a tilt of the axis forward."""
    longitude = 360 * (np.arange(width) + 0.5) / width - 180
    latitude = 90 - 180 * (np.arange(width // 2) + 0.5) / (width // 2)
    rows = []
    for degrees in latitude:
        forward = Rotation.from_euler("x", degrees, degrees=True).apply([0, 0, 1])
        rows.append(Rotation.from_euler("y", longitude[:, None], degrees=True).apply(forward))
    return np.array(rows)


def colour(of: NDArray[np.float64]) -> NDArray[np.float64]:
    """[...,3] 0..255 of directions [...,3]: smooth, and different for all."""
    unit = of / np.linalg.norm(of, axis=-1, keepdims=True)
    return 127.5 + 90 * unit + 20 * unit[..., [1, 2, 0]] * unit


def coded(width: int = WIDTH) -> NDArray[np.uint8]:
    return np.rint(colour(directions(width))).astype(np.uint8)


def turn(face: int) -> Rotation:
    """From a face to the panorama."""
    if face < panorama.AROUND:
        return Rotation.from_euler("y", 60 * face, degrees=True)
    return Rotation.from_euler("x", 90 if face == panorama.UP else -90, degrees=True)


def rays(face: int, side: int) -> NDArray[np.float64]:
    """[side,side,3] of a pinhole camera with square pixels, their centres at +0.5."""
    focal = side / 2 / np.tan(panorama.HALF)
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    own = np.stack([x / focal, y / focal, np.ones_like(x)], axis=-1)
    return turn(face).apply(own.reshape(-1, 3)).reshape(side, side, 3)


@pytest.mark.parametrize("face", range(panorama.COUNT))
def test_a_face_shows_what_lies_in_its_directions(face: int) -> None:
    assert panorama.face_from_panorama(face) == pytest.approx(turn(face).inv().as_matrix(), abs=1e-12)
    side = 61
    assert np.abs(panorama.cut(coded(), face, side) - colour(rays(face, side))).max() < 1.6


def test_faces_are_continuous_across_the_seam_and_at_the_poles() -> None:
    """Where the panorama's first and last column meet, and its rows all are one point."""
    for face in (3, panorama.UP, panorama.DOWN):
        cut = panorama.cut(coded(64), face, 64).astype(int)
        steps = max(np.abs(np.diff(cut, axis=0)).max(), np.abs(np.diff(cut, axis=1)).max())
        assert steps < 14


UNIT = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1)


@settings(max_examples=200, deadline=None)
@given(UNIT)
def test_every_direction_is_in_a_face_and_lies_where_that_says(direction: tuple[float, float, float]) -> None:
    way = np.array(direction)
    inside = 0
    for face in range(panorama.COUNT):
        x, y, z = panorama.face_from_panorama(face) @ way
        if z > 0 and max(abs(x), abs(y)) <= z * np.tan(panorama.HALF):
            inside += 1
    assert 1 <= inside <= 4
    x, y = panorama.pixels_of(way, 400, 200)
    assert 0 <= x <= 400
    assert 0 <= y <= 200
    back = Rotation.from_euler("YX", [x / 400 * 360 - 180, 90 - y / 200 * 180], degrees=True).apply([0, 0, 1])
    assert back == pytest.approx(way / np.linalg.norm(way), abs=1e-9)


def test_pixels_are_those_of_a_plain_definition() -> None:
    places = panorama.pixels_of(directions(32), 32, 16)
    y, x = np.mgrid[:16, :32] + 0.5
    assert places == pytest.approx(np.stack([x, y], axis=-1), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, panorama.COUNT - 1), st.floats(0.1, panorama.LOWEST))
def test_a_mask_leaves_out_what_is_below(face: int, nadir: float) -> None:
    kept = panorama.mask(face, 40, nadir)
    ways = rays(face, 40)
    angle = np.degrees(np.arccos(ways[..., 1] / np.linalg.norm(ways, axis=-1)))
    clear = np.abs(angle - nadir) > 1e-9
    if kept is None:
        assert (angle[clear] > nadir).all()
    else:
        assert (kept == (angle > nadir))[clear].all()
        assert not kept.all()
    assert panorama.mask(face, 40, 0) is None


def test_a_face_is_as_fine_as_the_panorama_or_as_large_as_is_of_use() -> None:
    side, focal = panorama.face_size(2048)
    assert focal == pytest.approx(2048 / (2 * np.pi), rel=0.01)
    assert side / 2 / focal == pytest.approx(np.tan(panorama.HALF))
    assert panorama.face_size(12_000)[0] == panorama.LARGEST


def test_a_large_panorama_is_reduced_not_skipped_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern finer than the pixels of a face becomes its mean."""
    monkeypatch.setattr(panorama, "LARGEST", 64)
    pixels = np.zeros((512, 1024, 3), np.uint8)
    pixels[:, ::2] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    targets = [tmp_path / f"{face}.png" for face in range(panorama.COUNT)]
    panorama.split(tmp_path / "a.png", targets)
    middle = np.asarray(Image.open(targets[0]), float)[16:48, 16:48]
    assert middle.shape == (32, 32, 3)
    assert np.abs(middle - 100).max() < 25


def room(folder: Path, count: int = 3, xmp: bytes | None = None) -> Path:
    """Panoramas with one colour above and below, and texture between that has no seam."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        half = videos.texture(256, 256, seed=i)
        pixels = np.concatenate([half, half[:, ::-1]], axis=1)
        pixels[:40], pixels[-40:] = 200, 60
        Image.fromarray(pixels).save(folder / f"{i}.jpg", quality=95, xmp=xmp)
    return folder


@pytest.mark.parametrize("wish", ["auto", "yes"])
def test_panoramas_are_recognised_by_what_they_show(tmp_path: Path, wish: str) -> None:
    assert sources.find(room(tmp_path / "a"), Wishes(panorama=wish)).panorama  # type: ignore[arg-type]
    assert not sources.find(tmp_path / "a", Wishes(panorama="no")).panorama


def test_panoramas_are_recognised_by_what_they_say(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(videos.texture(64, 128, seed=i)).save(folder / f"{i}.jpg", xmp=XMP % b"equirectangular")
    assert sources.find(folder, Wishes()).panorama
    assert not sources.find(room(tmp_path / "b", xmp=XMP % b"cylindrical"), Wishes()).panorama


def test_other_photos_twice_as_wide_as_high_are_left_as_they_are(tmp_path: Path) -> None:
    for i in range(3):
        photo_files.write(tmp_path / "a" / f"{i}.png", (128, 64), seed=i)
        studio = np.full((64, 128, 3), 255, np.uint8)
        studio[20:40, 40 + i : 80] = 30
        (tmp_path / "b").mkdir(exist_ok=True)
        Image.fromarray(studio).save(tmp_path / "b" / f"{i}.png")
    assert not sources.find(tmp_path / "a", Wishes()).panorama
    assert not sources.find(tmp_path / "b", Wishes()).panorama


def test_no_photo_of_a_pinhole_camera_is_taken_for_a_panorama(real_data: Callable[[str], Path]) -> None:
    for name in ("banana", "fox/images", "fern/images_8"):
        for file in sorted(real_data(name).iterdir())[::4]:
            if file.suffix.lower() in EXTENSIONS:
                pixels = np.asarray(Image.open(file).convert("RGB"))
                assert not panorama.looks_like_one(panorama.small(pixels[: pixels.shape[1] // 2]))


def test_a_mixed_folder_and_wrong_shapes_are_refused(tmp_path: Path) -> None:
    folder = room(tmp_path / "a")
    photo_files.write(folder / "other.png", (60, 40))
    with pytest.raises(InputError, match="3 of 4 photos are 360-degree ones") as error:
        sources.find(folder, Wishes())
    assert str(folder) in message(error)
    with pytest.raises(InputError, match="is 60x40, and a 360-degree photo is twice as wide as high") as error:
        sources.find(folder, Wishes(panorama="yes"))
    assert str(folder / "other.png") in message(error)
    with pytest.raises(InputError, match="--nadir 80: not between 0 and 45"):
        sources.find(folder, Wishes(nadir=80))


def test_a_panoramic_video_is_recognised(tmp_path: Path) -> None:
    frames = [np.asarray(Image.open(room(tmp_path / "a", 1) / "0.jpg"))] * 3
    path = videos.write(tmp_path / "a.mp4", frames)
    assert sources.find(path, Wishes()).panorama
    assert not sources.find(path, Wishes(panorama="no")).panorama
    plain = videos.write(tmp_path / "b.mp4", [videos.texture(64, 128)] * 3)
    assert not sources.find(plain, Wishes()).panorama
    narrow = videos.write(tmp_path / "c.mp4", [videos.texture(64, 96)] * 3)
    with pytest.raises(InputError, match="is 96x64, and a 360-degree video is twice as wide as high"):
        sources.find(narrow, Wishes(panorama="yes"))


def test_faces_keep_what_is_known_of_their_panorama(tmp_path: Path) -> None:
    source = sources.find(room(tmp_path / "a"), Wishes(nadir=30))
    shots = sources.prepare(source, tmp_path, 1, lambda _: None, lambda *_: None)
    assert len(shots.photos) == 3 * panorama.COUNT
    assert shots.origins(photo.name for photo in shots.photos) == {"0.jpg", "1.jpg", "2.jpg"}
    assert len({photo.camera for photo in shots.photos}) == panorama.COUNT
    for photo in shots.photos:
        assert (tmp_path / "images" / photo.name).is_file()
        assert photo.focal == pytest.approx(photo.size[0] / 2 / np.tan(panorama.HALF))
    masks = {path.name for path in (tmp_path / "masks").iterdir()}
    assert masks == {f"{i}_{panorama.DOWN}.jpg.png" for i in range(3)}
    for file in (tmp_path / "images").iterdir():
        file.touch()
    stamps = [file.stat().st_mtime_ns for file in sorted((tmp_path / "images").iterdir())]
    sources.prepare(source, tmp_path, 1, lambda _: None, lambda *_: None)
    assert [file.stat().st_mtime_ns for file in sorted((tmp_path / "images").iterdir())] == stamps


def test_frames_of_a_panoramic_video_become_faces(tmp_path: Path) -> None:
    """The camera turns, so the picture goes round."""
    pixels = np.asarray(Image.open(room(tmp_path / "a", 1) / "0.jpg"))
    path = videos.write(tmp_path / "a.mp4", [np.roll(pixels, 8 * i, axis=1) for i in range(20)])
    source = sources.find(path, Wishes(frames=5))
    shots = sources.prepare(source, tmp_path / "work", 1, lambda _: None, lambda *_: None)
    assert (shots.in_order, shots.panorama) == (True, True)
    assert 3 <= len(shots.times) <= 5
    assert len(shots.photos) == panorama.COUNT * len(shots.times)
    assert shots.origins(photo.name for photo in shots.photos) == set(shots.times)
