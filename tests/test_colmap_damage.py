"""COLMAP captures that are cut, damaged or incomplete: refused in one line, or used with a warning."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import captures
from captures import as_text
from recon.datasets import colmap
from recon.datasets.errors import InputError


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A small capture, saved as COLMAP's binary model."""
    colmap.save(captures.scene(tmp_path / "source"), tmp_path / "capture")
    return tmp_path / "capture"


def refused(path: Path, **options: float) -> str:
    with pytest.raises(InputError) as error:
        colmap.load(path, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_a_binary_file_cut_anywhere_is_refused_by_name(capture: Path, name: str) -> None:
    file = capture / "sparse" / "0" / name
    whole = file.read_bytes()
    cuts = {*range(min(len(whole), 120)), *range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1}
    for cut in sorted(cuts - {len(whole)}):
        file.write_bytes(whole[:cut])
        assert refused(capture).startswith(f"{file}: truncated or damaged"), cut


@pytest.mark.parametrize("name", ["cameras.txt", "images.txt", "points3D.txt"])
def test_a_text_file_cut_anywhere_is_refused_by_name(capture: Path, name: str) -> None:
    as_text(capture)
    file = capture / "sparse" / "0" / name
    whole = file.read_bytes()
    for cut in range(1, len(whole) - 1, max(1, len(whole) // 150)):
        file.write_bytes(whole[:cut])
        assert str(file) in refused(capture), cut


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_flipped_bytes_never_crash(capture: Path, name: str) -> None:
    file = capture / "sparse" / "0" / name
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    said = []
    for position in rng.integers(0, min(len(whole), 400), 40):
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        file.write_bytes(damaged)
        try:
            colmap.load(capture)  # some damage, such as in a coordinate, cannot be seen
        except InputError as error:
            said.append(str(error))
    assert said
    assert not any("\n" in text for text in said)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_more_bytes_than_announced_are_refused(capture: Path, name: str) -> None:
    file = capture / "sparse" / "0" / name
    file.write_bytes(file.read_bytes() + b"12345678")
    assert refused(capture) == f"{file}: damaged: 8 bytes follow what its counts announce"


def test_what_is_missing_is_named(capture: Path, tmp_path: Path) -> None:
    model = capture / "sparse" / "0"
    (model / "images.bin").rename(tmp_path / "images.bin")
    assert refused(capture).startswith(f"{capture}: no whole COLMAP model")
    (tmp_path / "images.bin").rename(model / "images.bin")
    shutil.rmtree(capture / "images")
    assert refused(capture) == f"{capture}: none of the model's 5 photos is here, such as photo_00.png"


def test_a_camera_that_is_not_there_is_named(capture: Path) -> None:
    as_text(capture)
    file = capture / "sparse" / "0" / "cameras.txt"
    file.write_text(file.read_text().replace("\n1 PINHOLE", "\n9 PINHOLE"))
    assert "image photo_00.png has camera 1, not in" in refused(capture)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("PINHOLE", "PINPOINT", "camera 1 has the model PINPOINT, which is not known"),
        ("PINHOLE", "OPENCV", "camera 1: OPENCV has 4 parameters, not 8"),
        ("40 36 50", "40 36 nan", r"PINHOLE camera parameters (nan, 52, 19, 17.5) are not finite"),
        ("40 36 50", "40 36 -50", "focal length -50 is not positive"),
        ("40 36 50", "0 36 50", "camera size 0x36 is not positive"),
        ("40 36 50", "80 36 50", "image is 40x36, its camera is for 80x36"),
        ("40 36 50", "x 36 50", "makes no sense: '1 PINHOLE x 36 50 52"),
    ],
)
def test_unusable_cameras_are_named(capture: Path, old: str, new: str, said: str) -> None:
    as_text(capture)
    file = capture / "sparse" / "0" / "cameras.txt"
    file.write_text(file.read_text().replace(old, new))
    assert said in refused(capture)


def test_unusable_poses_are_named(capture: Path) -> None:
    as_text(capture)
    file = capture / "sparse" / "0" / "images.txt"
    lines = file.read_text().split("\n")
    row = next(i for i, line in enumerate(lines) if line.endswith("photo_02.png"))
    words = lines[row].split()
    for column, value, said in [(5, "nan", "pose has values that are not finite"), (1, "nan", "is not a quaternion")]:
        lines[row] = " ".join([*words[:column], value, *words[column + 1 :]])
        file.write_text("\n".join(lines))
        text = refused(capture)
        assert text.startswith(f"{file}: image photo_02.png: ")
        assert said in text
    lines[row] = " ".join([words[0], *["0"] * 4, *words[5:]])
    file.write_text("\n".join(lines))
    assert "rotation (0 0 0 0) is not a quaternion" in refused(capture)


def test_points_that_are_not_finite_are_left_out(capture: Path, caplog: pytest.LogCaptureFixture) -> None:
    as_text(capture)
    file = capture / "sparse" / "0" / "points3D.txt"
    lines = file.read_text().split("\n")
    row = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    words = lines[row].split()
    lines[row] = " ".join([words[0], "nan", *words[2:]])
    file.write_text("\n".join(lines))
    scene = colmap.load(capture)
    assert scene.points is not None
    assert len(scene.points) == 29
    assert "1 points that are not finite are left out" in caplog.text
    assert scene.points.tracks is not None
    assert scene.points.tracks[:, 0].max() == 28


@pytest.mark.parametrize("downscale", [0.5, 0, 10, 1000])
def test_a_downscale_out_of_range_is_named(capture: Path, downscale: float) -> None:
    assert f"downscale {downscale:g} " in refused(capture, downscale=downscale)


def test_a_long_name_of_a_model_is_not_repeated(capture: Path) -> None:
    as_text(capture)
    file = capture / "sparse" / "0" / "cameras.txt"
    file.write_text(file.read_text().replace("PINHOLE", "P" * 100_000))
    said = refused(capture)
    assert said.startswith(f"{file}: camera 1 has the model PPP")
    assert len(said) < len(str(file)) + 200
