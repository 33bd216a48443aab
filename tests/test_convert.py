"""Captures written in other programs' formats: read again by ourselves, by pycolmap, and by a few plain lines here."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pycolmap
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import captures
from recon import cli
from recon.datasets import blender, colmap, convert, load_scene, nerfstudio
from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage
from recon.datasets.ply import read_vertices
from recon.datasets.scene import Scene, View
from small_scene import assert_same_cameras, small_scene

Entry = tuple[NDArray[np.float64], tuple[float, float, float, float], tuple[int, int]]  # w2c, lens, size


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def from_opengl(matrix: Any) -> NDArray[np.float64]:
    """World to camera (OpenCV axes), from camera to world with y up and z backwards."""
    right, up, back, centre = np.array(matrix, np.float64)[:3].T
    rotation = np.stack([right, -up, -back])
    w2c = np.eye(4)
    w2c[:3, :3], w2c[:3, 3] = rotation, -rotation @ centre
    return w2c


def with_pycolmap(folder: Path) -> dict[str, Entry]:
    model = pycolmap.Reconstruction(folder / "sparse" / "0")
    entries = {}
    for image in model.images.values():
        w2c = np.eye(4)
        w2c[:3] = image.cam_from_world().matrix()
        camera = model.cameras[image.camera_id]
        assert camera.model.name == "PINHOLE"
        entries[Path(image.name).stem] = (w2c, tuple(camera.params), (camera.width, camera.height))
        assert (folder / "images" / image.name).is_file()
    return entries


def with_transforms(folder: Path) -> dict[str, Entry]:
    entries = {}
    for frame in read_json(folder / "transforms.json")["frames"]:
        lens = (frame["fl_x"], frame["fl_y"], frame["cx"], frame["cy"])
        size = (frame["w"], frame["h"])
        entries[Path(frame["file_path"]).stem] = (from_opengl(frame["transform_matrix"]), lens, size)
        height, width = iio.imread(folder / frame["file_path"]).shape[:2]
        assert (width, height) == size
    return entries


def with_blender(folder: Path) -> dict[str, Entry]:
    """As the readers of these files do: one angle, the size of the picture, NAME + ".png"."""
    entries = {}
    for part in ("train", "test"):
        meta = read_json(folder / f"transforms_{part}.json")
        for frame in meta["frames"]:
            height, width = iio.imread(folder / (frame["file_path"] + ".png")).shape[:2]
            focal = 0.5 * width / math.tan(0.5 * meta["camera_angle_x"])
            lens = (focal, focal, width / 2, height / 2)
            entries[Path(frame["file_path"]).name] = (from_opengl(frame["transform_matrix"]), lens, (width, height))
    return entries


READERS: dict[str, Callable[[Path], dict[str, Entry]]] = {
    "colmap": with_pycolmap,
    "nerfstudio": with_transforms,
    "blender": with_blender,
}


def assert_read_alike(entries: dict[str, Entry], scene: Scene) -> None:
    assert sorted(entries) == sorted(Path(view.name).name for view in scene.views)
    for view in scene.views:
        w2c, lens, size = entries[Path(view.name).name]
        K = view.camera.Ks[0].double()
        assert size == (view.camera.width, view.camera.height)
        np.testing.assert_allclose(w2c, view.camera.viewmats[0].double().numpy(), atol=1e-9)
        np.testing.assert_allclose(lens, [K[0, 0], K[1, 1], K[0, 2], K[1, 2]], rtol=1e-9)


poses = st.tuples(
    st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: math.hypot(*q) > 0.1), st.tuples(*[st.floats(-50, 50)] * 3)
)
lenses = st.tuples(st.floats(10, 40), st.floats(10, 40), st.floats(3, 13), st.floats(2, 10))


@given(st.lists(st.tuples(poses, lenses), min_size=2, max_size=4), st.sampled_from(sorted(READERS)))
@settings(deadline=None, max_examples=30)
def test_any_cameras_are_read_as_they_were_written(written: list[Any], format: str) -> None:
    """Also by readers of others, which know nothing of this package."""
    views = []
    for i, ((quaternion, position), (fx, fy, cx, cy)) in enumerate(written):
        viewmat = torch.eye(4, dtype=torch.float64)
        viewmat[:3, :3] = torch.from_numpy(Rotation.from_quat(quaternion).as_matrix())
        viewmat[:3, 3] = torch.tensor(position, dtype=torch.float64)
        K = intrinsics(20, 20, 8, 6) if format == "blender" else intrinsics(fx, fy, cx, cy)
        views.append(View(f"v{i}", Cameras(viewmat[None], K, 16, 12), ArrayImage(torch.full((12, 16, 3), i / 255))))
    scene = Scene("s", tuple(views), tuple(range(1, len(views))), (0,))
    with tempfile.TemporaryDirectory() as name:
        {"colmap": colmap, "nerfstudio": nerfstudio, "blender": blender}[format].save(scene, Path(name))
        assert_read_alike(READERS[format](Path(name)), scene)
        again = load_scene(name)
        renamed = tuple(replace(view, name=view.name.rpartition("/")[2]) for view in again.views)
        in_order = tuple(sorted(renamed, key=lambda view: view.name))
        assert_same_cameras(replace(again, views=in_order), scene)
        assert {renamed[i].name for i in again.test} == {"v0"}


def moved_scene(folder: Path) -> Path:
    """A capture whose world was turned, scaled and moved since its files were made, with masks and depth of some."""
    source = captures.scene(folder / "photos")
    mask = torch.ones(36, 40, 1)
    mask[:9] = 0
    first = replace(source.views[0], mask=ArrayImage(mask), depth=ArrayImage(torch.rand(36, 40, 1) + 1))
    to_source = torch.eye(4, dtype=torch.float64)
    to_source[:3, :3] = 3.0 * captures.viewmat()[:3, :3]
    to_source[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    up = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    scene = replace(
        source, views=(first, *source.views[1:]), train=(0, 2, 4), test=(1, 3), source_from_world=to_source, up=up
    )
    nerfstudio.save(scene, folder / "capture")
    return folder / "capture"


@pytest.mark.parametrize("format", ["colmap", "nerfstudio"])
def test_everything_that_the_format_holds_comes_along_in_the_frame_of_the_source(tmp_path: Path, format: str) -> None:
    capture = moved_scene(tmp_path)
    done = convert.convert(capture, tmp_path / "out", format)
    source = load_scene(capture)
    again = load_scene(tmp_path / "out")
    assert done.kept == 5
    assert torch.equal(again.source_from_world, torch.eye(4, dtype=torch.float64))
    assert (again.train, again.test) == ((0, 2, 4), (1, 3))
    to_source = source.source_from_world
    moved = replace(source, views=tuple(replace(v, camera=v.camera.transformed(to_source)) for v in source.views))
    assert_same_cameras(again, moved)
    assert_read_alike(READERS[format](tmp_path / "out"), moved)
    assert again.points is not None
    assert source.points is not None
    for view, old in zip(again.views, moved.views, strict=True):
        assert torch.equal(view.load(), old.load())
        expected, depth = old.camera.project(source.points.xyz @ to_source[:3, :3].T + to_source[:3, 3])
        pixels, _ = view.camera.project(again.points.xyz)
        assert torch.allclose(pixels[depth > 0.5], expected[depth > 0.5], atol=1e-3)
        assert view.mask is not None
        assert old.mask is not None
        assert torch.equal(view.mask.load(), old.mask.load())
        if format == "nerfstudio":
            assert view.depth is not None
            assert old.depth is not None
            assert torch.allclose(view.depth.load(), 3 * old.depth.load(), rtol=1e-6)
    assert torch.allclose(again.points.rgb, source.points.rgb, atol=1e-6)
    assert any("depth" in remark for remark in done.remarks) == (format == "colmap")
    if format == "nerfstudio":
        assert again.up is not None
        assert source.up is not None
        assert torch.allclose(again.up, to_source[:3, :3] @ source.up / 3)


def test_masks_and_depths_are_of_all_photos_or_of_none(tmp_path: Path) -> None:
    """nerfstudio refuses others."""
    frames = read_json(moved_scene(tmp_path) / "transforms.json")["frames"]
    for key in ("mask_path", "depth_file_path"):
        assert len({frame[key] for frame in frames}) == 5
        assert all((tmp_path / "capture" / frame[key]).is_file() for frame in frames)
    nerfstudio.save(captures.scene(tmp_path / "more"), tmp_path / "plain")
    meta = read_json(tmp_path / "plain" / "transforms.json")
    assert not any("mask_path" in frame or "depth_file_path" in frame for frame in meta["frames"])
    assert meta["val_filenames"] == meta["test_filenames"] == ["images/photo_00.png"]
    nerfstudio.save(replace(captures.scene(tmp_path / "more"), test=()), tmp_path / "all")
    assert "train_filenames" not in read_json(tmp_path / "all" / "transforms.json")  # it would miss the others


def test_points_and_tracks_and_errors_stay_in_colmaps(tmp_path: Path) -> None:
    colmap.save(captures.scene(tmp_path / "photos"), tmp_path / "capture")
    convert.convert(tmp_path / "capture", tmp_path / "out", "colmap")
    before, after = (pycolmap.Reconstruction(tmp_path / name / "sparse" / "0") for name in ("capture", "out"))
    assert before.num_points3D() == after.num_points3D() == 30
    for number, point in before.points3D.items():
        other = after.points3D[number]
        np.testing.assert_allclose(point.xyz, other.xyz, atol=1e-12)
        np.testing.assert_array_equal(point.color, other.color)
        assert point.error == pytest.approx(other.error)
        assert point.track.length() == other.track.length()


def test_blender_gets_one_centred_camera_and_points_for_3dgs(tmp_path: Path) -> None:
    colmap.save(captures.scene(tmp_path / "photos", suffix=".jpg"), tmp_path / "capture")
    done = convert.convert(tmp_path / "capture", tmp_path / "out", "blender")
    assert "one centred camera, 38x33" in done.remarks[0]
    assert done.kept == 0
    assert_read_alike(with_blender(tmp_path / "out"), done.scene)
    vertices = read_vertices(tmp_path / "out" / "points3d.ply")
    assert vertices.dtype.names == ("x", "y", "z", "nx", "ny", "nz", "red", "green", "blue")
    assert done.scene.points is not None
    np.testing.assert_allclose(vertices["y"], done.scene.points.xyz[:, 1].numpy(), rtol=1e-6)
    assert load_scene(tmp_path / "out").points is None  # 3DGS leaves random points under that name


def test_pngs_that_fit_are_kept_for_blender_and_jpegs_are_not(tmp_path: Path) -> None:
    nerfstudio.save(small_scene(), tmp_path / "capture")
    assert convert.convert(tmp_path / "capture", tmp_path / "a", "blender").kept == 5
    for file in (tmp_path / "capture" / "images").iterdir():
        iio.imwrite(file.with_suffix(".jpg"), iio.imread(file))
        file.unlink()
    captures.edit_transforms(
        tmp_path / "capture",
        lambda meta: [f.update(file_path=f["file_path"].replace(".png", ".jpg")) for f in meta["frames"]],
    )
    assert convert.convert(tmp_path / "capture", tmp_path / "b", "blender").kept == 0
    assert len(with_blender(tmp_path / "b")) == 5


def test_names_stay_inside_the_folder_and_apart(tmp_path: Path) -> None:
    names = ["../../a/x", "b/x", "b_x", "B/X"]
    camera = small_scene().views[0].camera
    views = tuple(View(name, camera, ArrayImage(torch.zeros(36, 48, 3))) for name in names)
    assert [v.name for v in convert.renamed(views, flat=False)] == ["a/x", "b/x", "b_x", "B/X_2"]
    assert [v.name for v in convert.renamed(views, flat=True)] == ["a_x", "b_x", "b_x_2", "B_X_3"]


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    capture = captures.write_transforms(tmp_path / "capture")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    for target in (tmp_path / "there", tmp_path / "there" / "mine.txt", capture):
        with pytest.raises(InputError, match="is there already, and is not overwritten") as caught:
            convert.convert(capture, target, "colmap")
        assert str(target) in captures.message(caught)
    photo = capture / "images" / "2.png"
    photo.write_bytes(photo.read_bytes()[:300])
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match=r"2\.png: cannot be decoded"):
        convert.convert(capture, tmp_path / "out", "nerfstudio", downscale=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture = captures.write_transforms(tmp_path / "capture")
    cli.convert(capture, tmp_path / "out", "colmap", downscale=2, test_every=2, jpeg=True)
    assert (
        "2 photos to train on, 2 held out, no points; 0 photos as they were, 4 written anew" in capsys.readouterr().out
    )
    assert sorted(file.name for file in (tmp_path / "out" / "images").iterdir()) == [f"{i}.jpg" for i in range(4)]
    assert (tmp_path / "out" / "sparse" / "0" / "test.txt").read_text().split() == ["0.jpg", "2.jpg"]


@pytest.mark.parametrize(
    ("held_out", "test"), [("photo_03.png\r\nphoto_01.png\n", (1, 3)), ("none.png\n", (0,)), ("", (0,))]
)
def test_a_split_beside_a_model_is_kept_unless_it_is_none(
    tmp_path: Path, held_out: str, test: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    colmap.save(captures.scene(tmp_path / "photos"), tmp_path / "capture")
    (tmp_path / "capture" / "sparse" / "0" / "test.txt").write_bytes(held_out.encode())
    scene = load_scene(tmp_path / "capture")
    assert scene.test == test
    assert ("test.txt: holds out 0 of 5 photos; not used" in caplog.text) == (test == (0,))


# ---- real captures


@pytest.mark.parametrize(
    ("name", "format", "downscale"),
    [("fern", "colmap", 8), ("kermit", "nerfstudio", 1), ("fox", "blender", 8), ("fox_colmap", "nerfstudio", 4)],
)
def test_real_captures_come_back(
    real_data: Callable[[str], Path], tmp_path: Path, name: str, format: str, downscale: int
) -> None:
    done = convert.convert(real_data(name), tmp_path / "out", format, downscale=downscale)
    source, again = load_scene(real_data(name), downscale=downscale), load_scene(tmp_path / "out")
    assert_read_alike(READERS[format](tmp_path / "out"), done.scene)
    by_name = {Path(view.name).name: view for view in again.views}
    for view, written in zip(source.views, done.scene.views, strict=True):
        other = by_name[Path(view.name).name]
        assert torch.allclose(view.camera.viewmats, other.camera.viewmats, rtol=0, atol=1e-6)
        if format != "blender":
            assert torch.allclose(view.camera.Ks, other.camera.Ks, rtol=0, atol=1e-6)
            assert float((view.load() - other.load()).abs().max()) <= (0 if done.kept else 0.5 / 255 + 1e-5)
        else:
            assert torch.allclose(written.camera.Ks, other.camera.Ks, rtol=1e-6)
            assert float((written.load() - other.load()).abs().max()) <= 0.5 / 255 + 1e-5
    assert {again.views[i].name.rpartition("/")[2] for i in again.test} == {source.views[i].name for i in source.test}
    assert again.exact_poses == source.exact_poses
    assert (done.kept > 0) == (name in ("fern", "fox_colmap"))
    assert (again.points is None) == (source.points is None or format == "blender")
