"""Captures are recognised by the files that are there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import captures
import recon.datasets
from recon.datasets import InputError, colmap, load_scene, nerfstudio


def refused(path: Path, **options: float) -> str:
    with pytest.raises(InputError) as error:
        load_scene(path, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_each_format_is_recognised(tmp_path: Path) -> None:
    scene = captures.scene(tmp_path / "source")
    colmap.save(scene, tmp_path / "a")
    nerfstudio.save(scene, tmp_path / "b")
    for path in (tmp_path / "a", tmp_path / "a" / "sparse" / "0", tmp_path / "b", tmp_path / "b" / "transforms.json"):
        assert len(load_scene(path).views) == 5
    (tmp_path / "a" / "sparse" / "0" / "test.txt").unlink()
    assert load_scene(tmp_path / "a", test_every=2).test == (0, 2, 4)
    assert load_scene(str(tmp_path / "a"), downscale=2).views[0].camera.width == 20


MODEL = ("sparse/0/cameras.bin", "sparse/0/images.bin")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (MODEL, "colmap"),
        (("sparse/0/cameras.txt", "sparse/0/images.txt"), "colmap"),
        (("sparse/cameras.bin", "sparse/images.bin"), "colmap"),
        (("cameras.bin", "images.bin"), "colmap"),
        (("colmap/sparse/0/cameras.bin", "colmap/sparse/0/images.bin"), "colmap"),
        (("transforms.json",), "nerfstudio"),
        (("transforms.json", *MODEL), "nerfstudio"),
        (("transforms_train.json", "transforms_test.json", "transforms.json"), "blender"),
        (("poses_bounds.npy",), "llff"),
        (("poses_bounds.npy", "sparse/0/cameras.bin", "sparse/0/points3D.bin"), "llff"),
        (("poses_bounds.npy", *MODEL), "colmap"),
        (("bundle.out",), "bundler"),
        (("bundle/bundle.out",), "bundler"),
        (("sfm_data.json",), "openmvg"),
        (("reconstruction_sequential/sfm_data.json", "bundle.out"), "openmvg"),
        (("reconstruction.json",), "opensfm"),
        (("opensfm/reconstruction.json", "images/a.jpg"), "opensfm"),
        (("cameras.npz",), "neus"),
        (("dinoSR_par.txt",), "middlebury"),
        (("0000.jpg.camera",), "strecha"),
        (("urd/0000.jpg.camera",), "strecha"),
        (("keyframes/cameras/1.json", "keyframes/images/1.jpg"), "polycam"),
        (("metadata.json", "rgb/0.jpg"), "record3d"),
        (("frame-000000.pose.txt", "frame-000000.color.png"), "rgbd"),
        (("sparse/0/cameras.bin",), "colmap"),  # whose loader says what is missing
    ],
)
def test_of_several_formats_the_one_that_knows_most_is_taken(
    tmp_path: Path, files: tuple[str, ...], expected: str
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert recon.datasets._format_of(tmp_path) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("transforms.json", "nerfstudio"),
        ("other.json", "nerfstudio"),
        ("transforms_train.json", "blender"),
        ("poses_bounds.npy", "llff"),
        ("bundle.out", "bundler"),
        ("sfm_data.json", "openmvg"),
        ("reconstruction.json", "opensfm"),
        ("some.xml", "metashape"),
        ("some.csv", "realitycapture"),
        ("cameras.json", "cameras_json"),
        ("cameras_sphere.npz", "neus"),
        ("dinoSR_par.txt", "middlebury"),
        ("0000.jpg.camera", "strecha"),
        ("metadata.json", "record3d"),
    ],
)
def test_a_file_may_be_given(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / name).touch()
    assert recon.datasets._format_of(tmp_path / name) == expected


def test_what_is_no_capture_is_said_with_what_was_looked_for(tmp_path: Path) -> None:
    text = refused(tmp_path)
    assert text.startswith(f"{tmp_path}: no capture is recognised here; looked for")
    for name in (
        "sparse/0",
        "transforms.json",
        "transforms_train.json",
        "poses_bounds.npy",
        "bundle.out",
        "sfm_data.json",
    ):
        assert name in text
    (tmp_path / "photo.jpg").touch()
    assert refused(tmp_path / "photo.jpg").startswith(f"{tmp_path}/photo.jpg: is neither a capture's folder nor")


def test_folders_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(tmp_path / "nowhere") == f"{tmp_path}/nowhere: cannot be read: No such file or directory"

    def denied(path: Path) -> None:  # root, as which tests may run, is denied nothing
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    assert refused(tmp_path) == f"{tmp_path}: cannot be read: Permission denied"


@pytest.mark.parametrize("downscale", [0, -2, 0.99, math.nan, math.inf])
def test_a_downscale_out_of_range_is_named(tmp_path: Path, downscale: float) -> None:
    assert refused(tmp_path, downscale=downscale) == f"{tmp_path}: downscale {downscale:g} is not 1 or more"


@pytest.mark.parametrize("every", [1, -1])
def test_a_split_that_cannot_be_is_named(tmp_path: Path, every: int) -> None:
    assert refused(tmp_path, test_every=every).startswith(f"{tmp_path}: test_every {every} is not 0")
