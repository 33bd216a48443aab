"""COLMAP captures: against pycolmap's own reader, round trips, and the folders of photos."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pycolmap
import pytest
import torch

import captures
from captures import as_text
from recon.datasets import colmap, colmap_files, nerfstudio
from recon.datasets.errors import InputError
from recon.datasets.images import SourceCamera, make_view
from recon.datasets.scene import Scene


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A small capture, saved as COLMAP's binary model."""
    colmap.save(captures.scene(tmp_path / "source"), tmp_path / "capture")
    return tmp_path / "capture"


def assert_same(a: Scene, b: Scene) -> None:
    assert [view.name for view in a.views] == [view.name for view in b.views]
    assert (a.train, a.test) == (b.train, b.test)
    for view, other in zip(a.views, b.views, strict=True):
        assert torch.allclose(view.camera.viewmats, other.camera.viewmats, rtol=0, atol=1e-9)
        assert torch.allclose(view.camera.Ks, other.camera.Ks, rtol=0, atol=1e-9)
        assert torch.equal(view.load(), other.load())


# ---- what is read


@pytest.mark.parametrize("text", [False, True])
def test_a_saved_scene_comes_back(tmp_path: Path, capture: Path, text: bool) -> None:
    scene = captures.scene(tmp_path / "source")
    if text:
        as_text(capture)
    loaded = colmap.load(capture)
    assert_same(scene, loaded)
    assert loaded.name == "capture"
    assert loaded.points is not None
    assert scene.points is not None
    assert torch.allclose(loaded.points.xyz, scene.points.xyz, rtol=0, atol=1e-9)
    assert torch.allclose(loaded.points.rgb, scene.points.rgb, rtol=0, atol=1e-6)
    assert loaded.points.error is not None
    assert scene.points.error is not None
    assert torch.allclose(loaded.points.error, scene.points.error)
    assert loaded.points.tracks is not None
    assert scene.points.tracks is not None
    assert sorted(loaded.points.tracks.tolist()) == sorted(scene.points.tracks.tolist())


@pytest.mark.parametrize("text", [False, True])
def test_the_reader_agrees_with_pycolmap(capture: Path, text: bool) -> None:
    if text:
        as_text(capture)
    _assert_read_as_by_pycolmap(capture / "sparse" / "0")


@pytest.mark.parametrize("text", [False, True])
def test_the_reader_agrees_with_pycolmap_on_a_real_model(
    real_data: Callable[[str], Path], tmp_path: Path, text: bool
) -> None:
    model = real_data("fox_colmap") / "sparse" / "0"
    if text:
        pycolmap.Reconstruction(model).write_text(tmp_path)
        model = tmp_path
    _assert_read_as_by_pycolmap(model)


def _assert_read_as_by_pycolmap(model: Path) -> None:
    expected = pycolmap.Reconstruction(model)
    cameras_file, images_file = colmap_files.find_file(model, "cameras"), colmap_files.find_file(model, "images")
    assert cameras_file is not None
    assert images_file is not None
    cameras = colmap_files.read_cameras(cameras_file)
    assert set(cameras) == set(expected.cameras.keys())
    for key, camera in expected.cameras.items():
        read = cameras[key]
        assert (read.model, read.width, read.height) == (camera.model.name, camera.width, camera.height)
        assert read.params == pytest.approx(list(camera.params), rel=1e-12)
    images = {image.name: image for image in colmap_files.read_images(images_file)}
    assert len(images) == expected.num_reg_images()
    for image in expected.images.values():
        read_image = images[image.name]
        assert colmap.viewmat(read_image, "").numpy()[:3] == pytest.approx(image.cam_from_world().matrix(), abs=1e-9)
        ids = [p.point3D_id if p.has_point3D() else -1 for p in image.points2D]
        np.testing.assert_array_equal(read_image.point_ids, np.array(ids, np.int64))
    points = colmap.read_points(model)
    points_file = colmap_files.find_file(model, "points3D")
    assert points_file is not None
    order = [expected.points3D[int(i)] for i in colmap_files.read_points(points_file).ids]
    assert len(order) == len(expected.points3D)
    np.testing.assert_allclose(points.xyz.numpy(), np.array([p.xyz for p in order]), rtol=1e-12)
    np.testing.assert_array_equal((points.rgb.numpy() * 255).round(), np.array([p.color for p in order]))
    assert points.error is not None
    np.testing.assert_allclose(points.error.numpy(), np.array([p.error for p in order]), rtol=1e-9)


@pytest.mark.parametrize("model", sorted(set(pycolmap.CameraModelId.__members__) - {"INVALID", "EQUIRECTANGULAR"}))
@pytest.mark.parametrize("text", [False, True])
def test_every_camera_model_is_read(tmp_path: Path, model: str, text: bool) -> None:
    camera = pycolmap.Camera.create_from_model_name(1, model, 50.0, 40, 36)
    reconstruction = pycolmap.Reconstruction()
    reconstruction.add_camera_with_trivial_rig(camera)
    image = pycolmap.Image(image_id=1, camera_id=1, name="a.png")
    pose = captures.viewmat().numpy()[:3]
    reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose))
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    write = reconstruction.write_text if text else reconstruction.write_binary
    write(tmp_path / "sparse" / "0")
    (tmp_path / "images").mkdir()
    iio.imwrite(tmp_path / "images" / "a.png", captures.noise(36, 40, 3))
    scene = colmap.load(tmp_path)
    assert scene.views[0].load().shape[:2] == (scene.views[0].camera.height, scene.views[0].camera.width)
    assert torch.allclose(scene.views[0].camera.viewmats[0], captures.viewmat(), atol=1e-9)
    source = SourceCamera(model, tuple(camera.params.tolist()), 40, 36)
    direct = make_view("a", tmp_path / "images" / "a.png", source, captures.viewmat())
    assert torch.allclose(scene.views[0].camera.Ks, direct.camera.Ks, atol=1e-9)


def test_poses_of_cameras_in_a_rig_are_the_images_own(tmp_path: Path) -> None:
    """Newer models keep a rig and its frames beside; images.bin still says where each camera was."""
    reconstruction = pycolmap.Reconstruction()
    for camera_id in (1, 2):
        reconstruction.add_camera(
            pycolmap.Camera(camera_id=camera_id, model="PINHOLE", width=40, height=36, params=captures.PINHOLE.params)
        )
    rig = pycolmap.Rig(rig_id=1)
    rig.add_ref_sensor(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, 1))
    second_from_rig = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([0.1, 0.2, 0.3])), np.array([0.5, 0.1, -0.2]))
    rig.add_sensor(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, 2), second_from_rig)
    reconstruction.add_rig(rig)
    frame = pycolmap.Frame(frame_id=1, rig_id=1)
    rig_from_world = pycolmap.Rigid3d(captures.viewmat().numpy()[:3])
    frame.rig_from_world = rig_from_world
    for image_id in (1, 2):
        frame.add_data_id(pycolmap.data_t(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, image_id), image_id))
    reconstruction.add_frame(frame)
    (tmp_path / "images").mkdir()
    for image_id in (1, 2):
        image = pycolmap.Image(image_id=image_id, camera_id=image_id, name=f"{image_id}.png")
        image.frame_id = 1
        reconstruction.add_image(image)
        iio.imwrite(tmp_path / "images" / f"{image_id}.png", captures.noise(36, 40, 3))
    reconstruction.register_frame(1)
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    reconstruction.write_binary(tmp_path / "sparse" / "0")
    scene = colmap.load(tmp_path)
    expected = (second_from_rig * rig_from_world).matrix()
    np.testing.assert_allclose(scene.views[0].camera.viewmats[0, :3].numpy(), rig_from_world.matrix(), atol=1e-9)
    np.testing.assert_allclose(scene.views[1].camera.viewmats[0, :3].numpy(), expected, atol=1e-9)


def test_a_normalised_scene_is_saved_in_the_captures_own_frame(tmp_path: Path, capture: Path) -> None:
    scene = colmap.load(capture)
    world_from_source = torch.eye(4, dtype=torch.float64)
    world_from_source[:3, :3] = 0.25 * captures.viewmat()[:3, :3]
    world_from_source[:3, 3] = torch.tensor([0.3, -1.0, 2.0])
    assert scene.points is not None
    moved = Scene(
        "moved",
        tuple(
            type(view)(view.name, view.camera.transformed(world_from_source), view.image) for view in scene.views
        ),
        scene.train,
        scene.test,
        points=type(scene.points)(
            scene.points.xyz @ world_from_source[:3, :3].T + world_from_source[:3, 3], scene.points.rgb
        ),
        source_from_world=torch.linalg.inv(world_from_source),
    )  # fmt: skip
    colmap.save(moved, tmp_path / "again")
    again = colmap.load(tmp_path / "again")
    assert_same(scene, again)
    assert again.points is not None
    assert torch.allclose(again.points.xyz, scene.points.xyz, atol=1e-9)


def test_masks_are_found_by_either_name_and_saved(tmp_path: Path, capture: Path) -> None:
    (capture / "masks").mkdir()
    mask = np.full((36, 40), 255, np.uint8)
    mask[:10] = 0
    iio.imwrite(capture / "masks" / "photo_00.png.png", mask)
    iio.imwrite(capture / "masks" / "photo_01.png", mask)
    scene = colmap.load(capture)
    colmap.save(scene, tmp_path / "again")
    for loaded in (scene, colmap.load(tmp_path / "again")):
        assert [view.mask is not None for view in loaded.views] == [True, True, False, False, False]
        for view in loaded.views[:2]:
            assert view.mask is not None
            np.testing.assert_array_equal(view.mask.load()[..., 0].numpy(), mask > 0)


# ---- where the photos are


def test_the_model_may_be_in_other_places(capture: Path) -> None:
    reference = colmap.load(capture)
    assert_same(reference, colmap.load(capture / "sparse" / "0"))
    assert colmap.load(capture / "sparse" / "0").name == "capture"
    (capture / "colmap").mkdir()
    (capture / "sparse").rename(capture / "colmap" / "sparse")
    assert_same(reference, colmap.load(capture))
    (capture / "colmap" / "sparse" / "0").rename(capture / "sparse")
    assert_same(reference, colmap.load(capture))
    for file in (capture / "images").iterdir():
        file.rename(capture / file.name)
    (capture / "images").rmdir()
    for file in (capture / "sparse").iterdir():
        file.rename(capture / file.name)
    assert_same(reference, colmap.load(capture))


def test_of_several_models_the_largest_is_taken(
    capture: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = captures.scene(tmp_path / "small", 2)
    colmap.save(small, tmp_path / "other")
    (capture / "sparse" / "0").rename(capture / "sparse" / "1")
    shutil.copytree(tmp_path / "other" / "sparse" / "0", capture / "sparse" / "0")
    assert len(colmap.load(capture).views) == 5
    assert "2 models that are not joined; the largest is 1" in caplog.text


def test_smaller_copies_are_used_and_reduced_further(tmp_path: Path) -> None:
    camera = SourceCamera("PINHOLE", (150.0, 152.0, 78.0, 70.0), 160, 144)
    colmap.save(captures.scene(tmp_path / "source", 2, camera=camera), tmp_path / "capture")
    (tmp_path / "capture" / "images_2").mkdir()
    for file in (tmp_path / "capture" / "images").iterdir():
        iio.imwrite(
            tmp_path / "capture" / "images_2" / f"{file.stem}.webp", np.full((72, 80, 3), 100, np.uint8), lossless=True
        )
    full = colmap.load(tmp_path / "capture")
    for downscale, is_copy in [(2, True), (4, True), (3, False), (5, False), (8, True)]:
        scene = colmap.load(tmp_path / "capture", downscale=downscale)
        view = scene.views[0]
        assert (view.camera.width, view.camera.height) == (round(160 / downscale), round(144 / downscale))
        assert torch.allclose(
            view.camera.Ks, full.views[0].camera.resized(view.camera.width, view.camera.height).Ks, atol=1e-9
        )
        constant = torch.allclose(view.load(), torch.tensor(100 / 255), atol=1e-4)
        assert constant == is_copy
    shutil.rmtree(tmp_path / "capture" / "images")
    assert colmap.load(tmp_path / "capture").views[0].camera.width == 80  # the largest that there are


def test_photos_that_are_missing_are_left_out_with_one_warning(capture: Path, caplog: pytest.LogCaptureFixture) -> None:
    (capture / "images" / "photo_01.png").unlink()
    (capture / "images" / "photo_03.png").unlink()
    with caplog.at_level(logging.WARNING):
        scene = colmap.load(capture)
    assert [view.name for view in scene.views] == ["photo_00", "photo_02", "photo_04"]
    assert len(caplog.records) == 1
    assert "2 of the model's 5 photos are not there" in caplog.text
    assert scene.points is not None
    assert scene.points.tracks is not None
    assert scene.points.tracks[:, 1].max() == 2


def test_photos_of_different_sizes_keep_their_own(tmp_path: Path) -> None:
    small = captures.scene(tmp_path / "a", 2)
    large = captures.scene(tmp_path / "b", 2, camera=SourceCamera("PINHOLE", (60.0, 60.0, 30.0, 25.0), 60, 50))
    views = (*small.views, *(type(v)(f"large_{v.name}", v.camera, v.image) for v in large.views))
    colmap.save(Scene("mixed", views, (0, 1, 2, 3), ()), tmp_path / "capture")
    loaded = colmap.load(tmp_path / "capture")
    assert sorted((v.camera.width, v.camera.height, *v.load().shape) for v in loaded.views) == (
        [(40, 36, 36, 40, 3)] * 2 + [(60, 50, 50, 60, 3)] * 2
    )
    assert loaded.points is None


def test_a_single_photo_is_for_training(tmp_path: Path) -> None:
    colmap.save(captures.scene(tmp_path / "source", 1), tmp_path / "capture")
    scene = colmap.load(tmp_path / "capture")
    assert (scene.train, scene.test) == ((0,), ())


# ---- the real capture


@pytest.mark.parametrize(("downscale", "size"), [(4, (269, 478)), (2, (538, 957)), (8, (134, 239))])
def test_fox_colmap(real_data: Callable[[str], Path], downscale: int, size: tuple[int, int]) -> None:
    scene = colmap.load(real_data("fox_colmap"), downscale=downscale)
    assert scene.name == "fox_colmap"
    assert len(scene.views) == 50
    assert scene.test == (0, 8, 16, 24, 32, 40, 48)
    assert {(view.camera.width, view.camera.height) for view in scene.views} == {size}
    assert scene.views[7].load().shape == (size[1], size[0], 3)
    assert scene.points is not None
    assert len(scene.points) == 13684
    # The model's own error is of features found in the full photos; each lies in front of the cameras that saw it.
    assert scene.points.tracks is not None
    for view in (0, 25):
        seen = scene.points.tracks[scene.points.tracks[:, 1] == view, 0]
        pixels, depths = scene.views[view].camera.project(scene.points.xyz[seen])
        assert len(seen) > 500
        assert (depths > 0).all()
        assert ((pixels >= -1) & (pixels <= torch.tensor(size) + 1)).all()


def test_both_poses_of_the_fox_agree_up_to_a_similarity(real_data: Callable[[str], Path]) -> None:
    a, b = nerfstudio.load(real_data("fox"), downscale=8), colmap.load(real_data("fox_colmap"), downscale=8)
    assert [view.name for view in a.views] == [view.name for view in b.views]
    source, target = (torch.cat([view.camera.positions for view in scene.views]).numpy() for scene in (a, b))
    similarity = pycolmap.estimate_sim3d(source, target)
    assert similarity is not None
    moved = np.stack([similarity * position for position in source])
    spread = np.linalg.norm(target - target.mean(axis=0), axis=1).mean()
    assert np.linalg.norm(moved - target, axis=1).max() < 0.01 * spread
    rotation = torch.from_numpy(similarity.rotation.matrix())
    for one, other in zip(a.views, b.views, strict=True):
        cosine = float((one.camera.forward[0] @ rotation.T) @ other.camera.forward[0])
        assert cosine > np.cos(np.radians(1.0))


def test_a_text_model_written_by_hand_needs_no_points(capture: Path) -> None:
    as_text(capture)
    model = capture / "sparse" / "0"
    reference = colmap.load(capture)
    (model / "points3D.txt").write_text("")
    rows = [line for line in (model / "images.txt").read_text().split("\n") if line.endswith(".png")]
    (model / "images.txt").write_text("\n\n".join(rows) + "\n")  # an empty line for the observations of each
    scene = colmap.load(capture)
    assert_same(reference, scene)
    assert scene.points is None


def test_points_alone_can_be_read(real_data: Callable[[str], Path]) -> None:
    points = colmap.read_points(real_data("fern") / "sparse" / "0")
    assert len(points) == 10091
    assert torch.isfinite(points.xyz).all()
    with pytest.raises(InputError, match=r"images_8: no points3D\.bin or points3D\.txt"):
        colmap.read_points(real_data("fern") / "images_8")
