"""transforms.json: both dialects, splits, points and round trips."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import captures
from recon.datasets import colmap, nerfstudio
from recon.datasets.cameras import similarity_scale
from recon.datasets.images import ArrayImage, SourceCamera, make_view
from recon.datasets.scene import Scene, View


def intrinsics_of(view: View) -> list[float]:
    K = view.camera.Ks[0]
    return [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])]


# ---- cameras


def test_poses_and_pixels(tmp_path: Path) -> None:
    scene = nerfstudio.load(captures.write_transforms(tmp_path / "capture"))
    assert scene.name == "capture"
    assert [view.name for view in scene.views] == ["0", "1", "2", "3"]
    assert (scene.train, scene.test) == ((1, 2, 3), (0,))
    for i, view in enumerate(scene.views):
        assert torch.allclose(view.camera.viewmats[0], captures.viewmat(captures.EYES[i]), atol=1e-12)
        assert intrinsics_of(view) == pytest.approx([50, 52, 19, 17.5], abs=1e-12)
        np.testing.assert_allclose(view.load().numpy(), captures.noise(36, 40, 3, seed=i) / 255, atol=1e-7)
    assert torch.equal(scene.source_from_world, torch.eye(4, dtype=torch.float64))
    assert scene.points is None
    assert scene.up is None


ANGLE_X, ANGLE_Y = 2 * math.atan(20 / 50), 2 * math.atan(18 / 52)


@pytest.mark.parametrize(
    ("shared", "own", "expected"),
    [
        ({}, {"fl_x": 50, "fl_y": 52, "cx": 19, "cy": 17, "w": 40, "h": 36}, [50, 52, 19, 17]),
        ({"fl_x": 50, "w": 40.0, "h": 36.0}, {}, [50, 50, 20, 18]),
        ({"fl_y": 52}, {}, [52, 52, 20, 18]),
        ({"camera_angle_x": ANGLE_X}, {}, [50, 50, 20, 18]),
        ({"camera_angle_x": ANGLE_X, "camera_angle_y": ANGLE_Y}, {}, [50, 52, 20, 18]),
        ({"x_fov": math.degrees(ANGLE_X)}, {}, [50, 50, 20, 18]),
        ({"fl_x": 50, "camera_angle_x": 0.3, "fl_y": 52, "camera_angle_y": 0.3}, {}, [50, 52, 20, 18]),
        ({"fl_x": 99, "fl_y": 98, "cx": 19}, {"camera_angle_x": ANGLE_X}, [50, 50, 19, 18]),
        ({"fl_x": 100, "cx": 38, "cy": 34, "w": 80, "h": 72}, {}, [50, 50, 19, 17]),
    ],
)
def test_intrinsics_in_every_form(
    tmp_path: Path, shared: dict[str, float], own: dict[str, float], expected: list[float]
) -> None:
    for view in nerfstudio.load(captures.write_transforms(tmp_path, shared, own)).views:
        assert intrinsics_of(view) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("where", ["shared", "own"])
@pytest.mark.parametrize(
    ("fields", "model", "lens"),
    [
        ({"k1": 0.1, "k2": -0.05, "p1": 0.002, "p2": 0.001}, "OPENCV", (0.1, -0.05, 0.002, 0.001)),
        ({"k1": 0.1, "camera_model": "SIMPLE_RADIAL"}, "OPENCV", (0.1, 0, 0, 0)),
        ({"k1": 0.1, "k3": 0.02, "camera_model": "OPENCV"}, "FULL_OPENCV", (0.1, 0, 0, 0, 0.02, 0, 0, 0)),
        ({"k1": 0.1, "camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE", (0.1, 0, 0, 0)),
        ({"k1": 0.1, "k4": 0.01, "is_fisheye": True}, "OPENCV_FISHEYE", (0.1, 0, 0, 0.01)),
        ({"k1": 0.0, "k2": 0, "camera_model": "OPENCV"}, "PINHOLE", ()),
    ],
)
def test_lenses_in_every_form(
    tmp_path: Path, where: str, fields: dict[str, Any], model: str, lens: tuple[float, ...]
) -> None:
    focal = {"fl_x": 50.0, "fl_y": 52.0, "cx": 19.0, "cy": 17.5}
    folder = (
        captures.write_transforms(tmp_path, focal | fields)
        if where == "shared"
        else captures.write_transforms(tmp_path, focal, fields)
    )
    view = nerfstudio.load(folder).views[1]
    source = SourceCamera(model, (50.0, 52.0, 19.0, 17.5, *lens), 40, 36)
    expected = make_view("1", tmp_path / "images" / "1.png", source, captures.viewmat(captures.EYES[1]))
    assert torch.equal(view.camera.Ks, expected.camera.Ks)
    assert torch.equal(view.load(), expected.load())


def test_file_paths_without_suffix_with_dots_and_backslashes(tmp_path: Path) -> None:
    captures.write_transforms(tmp_path)
    paths = ["./images/0", "images\\1.png", "./images/2.png", "images/3"]

    def rename(meta: dict[str, Any]) -> None:
        for frame, path in zip(meta["frames"], paths, strict=True):
            frame["file_path"] = path

    captures.edit_transforms(tmp_path, rename)
    scene = nerfstudio.load(tmp_path / "transforms.json")
    assert [view.name for view in scene.views] == ["0", "1", "2", "3"]


def test_views_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    captures.write_transforms(tmp_path)
    captures.edit_transforms(tmp_path, lambda meta: meta["frames"].reverse())
    scene = nerfstudio.load(tmp_path)
    assert [view.name for view in scene.views] == ["0", "1", "2", "3"]
    assert torch.allclose(scene.views[2].camera.viewmats[0], captures.viewmat(captures.EYES[2]), atol=1e-12)


def test_smaller_copies_are_used(tmp_path: Path) -> None:
    captures.write_transforms(tmp_path)
    (tmp_path / "images_2").mkdir()
    for i in range(4):
        iio.imwrite(tmp_path / "images_2" / f"{i}.png", np.full((18, 20, 3), 51, np.uint8))
    view = nerfstudio.load(tmp_path, downscale=2).views[0]
    assert intrinsics_of(view) == pytest.approx([25, 26, 9.5, 8.75])
    assert torch.allclose(view.load(), torch.tensor(0.2))
    assert not torch.allclose(nerfstudio.load(tmp_path).views[0].load(), torch.tensor(0.2))


def test_without_a_declared_size_smaller_copies_are_still_of_the_originals(tmp_path: Path) -> None:
    captures.write_transforms(tmp_path, {"fl_x": 50.0, "fl_y": 52.0, "cx": 19.0, "cy": 17.5})
    (tmp_path / "images_2").mkdir()
    for i in range(4):
        iio.imwrite(tmp_path / "images_2" / f"{i}.png", captures.noise(18, 20, 3))
    view = nerfstudio.load(tmp_path, downscale=2).views[0]
    assert (view.camera.width, view.camera.height) == (20, 18)
    assert intrinsics_of(view) == pytest.approx([25, 26, 9.5, 8.75])


# ---- what else a file may say


def test_splits_of_the_file_are_kept(tmp_path: Path) -> None:
    names = [f"images/{i}.png" for i in range(4)]
    cases: list[tuple[dict[str, Any], tuple, tuple]] = [
        ({"train_filenames": names[:2], "test_filenames": names[2:]}, (0, 1), (2, 3)),
        ({"train_filenames": names[1:3], "val_filenames": names[3:]}, (1, 2), (3,)),
        ({"test_filenames": names[1:2], "val_filenames": names[2:3]}, (0, 3), (1,)),
        ({"train_filenames": names, "test_filenames": ["./images/0.png"]}, (1, 2, 3), (0,)),
        ({"train_filenames": names[:3]}, (0, 1, 2), ()),
        ({"train_filenames": names, "test_filenames": names}, (1, 2, 3), (0,)),  # leaves nothing: not used
    ]
    for lists, train, test in cases:
        scene = nerfstudio.load(captures.write_transforms(tmp_path, {"fl_x": 50.0}, **lists))
        assert (scene.train, scene.test) == (train, test), lists


def test_the_applied_transform_leads_back_to_the_source(tmp_path: Path) -> None:
    applied = [[0.0, 1.0, 0.0, 0.5], [1.0, 0.0, 0.0, -1.0], [0.0, 0.0, -1.0, 2.0]]
    plain = nerfstudio.load(captures.write_transforms(tmp_path / "plain"))
    scene = nerfstudio.load(captures.write_transforms(tmp_path / "moved", applied_transform=applied, applied_scale=0.5))
    assert torch.equal(plain.views[0].camera.viewmats, scene.views[0].camera.viewmats)
    world_from_source = torch.eye(4, dtype=torch.float64)
    world_from_source[:3] = 0.5 * torch.tensor(applied)
    expected = torch.eye(4, dtype=torch.float64)
    assert torch.allclose(scene.source_from_world @ world_from_source, expected, atol=1e-12)


def test_points_from_a_ply(tmp_path: Path) -> None:
    captures.write_transforms(tmp_path, ply_file_path="points.ply")
    text = "ply\nformat ascii 1.0\nelement vertex 3\n" + "".join(
        f"property {kind} {name}\n"
        for kind, name in [*(("float", a) for a in "xyz"), *(("uchar", c) for c in ("red", "green", "blue"))]
    )
    (tmp_path / "points.ply").write_text(text + "end_header\n1 2 3 255 0 51\n4 5 6 0 255 0\nnan 1 1 0 0 0\n")
    points = nerfstudio.load(tmp_path).points
    assert points is not None
    assert torch.allclose(points.xyz, torch.tensor([[1.0, 2, 3], [4, 5, 6]], dtype=torch.float64))
    assert torch.allclose(points.rgb, torch.tensor([[1.0, 0, 0.2], [0, 1, 0]]))


def test_points_that_are_not_there_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert nerfstudio.load(captures.write_transforms(tmp_path, ply_file_path="points.ply")).points is None
    assert "the points points.ply are not there" in caplog.text


def test_points_of_the_model_that_the_file_was_made_from(tmp_path: Path) -> None:
    applied = [[0.0, 1.0, 0.0, 0.5], [1.0, 0.0, 0.0, -1.0], [0.0, 0.0, -1.0, 2.0]]
    captures.write_transforms(tmp_path, applied_transform=applied)
    source = captures.scene(tmp_path / "source")
    colmap.save(source, tmp_path / "colmap")
    scene = nerfstudio.load(tmp_path)
    assert scene.points is not None
    assert source.points is not None
    back = scene.points.xyz @ scene.source_from_world[:3, :3].T + scene.source_from_world[:3, 3]
    assert torch.allclose(back, source.points.xyz, atol=1e-9)


def test_masks_depth_and_up(tmp_path: Path) -> None:
    captures.write_transforms(
        tmp_path, own={"fl_x": 50.0, "mask_path": "mask.png", "depth_file_path": "depth.png"}, up=[0, 0, 2]
    )
    mask = np.full((36, 40), 255, np.uint8)
    mask[:10] = 0
    iio.imwrite(tmp_path / "mask.png", mask)
    iio.imwrite(tmp_path / "depth.png", np.full((36, 40), 2500, np.uint16))
    scene = nerfstudio.load(tmp_path)
    assert scene.up is not None
    assert scene.up.tolist() == [0, 0, 1]
    for view in scene.views:
        assert view.mask is not None
        np.testing.assert_array_equal(view.mask.load()[..., 0].numpy() > 0, mask > 0)
        assert view.depth is not None
        assert torch.allclose(view.depth.load(), torch.tensor(2.5))
    captures.edit_transforms(tmp_path, lambda meta: meta.update(integer_depth_scale=0.01))
    depth = nerfstudio.load(tmp_path).views[0].depth
    assert depth is not None
    assert torch.allclose(depth.load(), torch.tensor(25.0))


# ---- round trips


def test_a_saved_scene_comes_back(tmp_path: Path) -> None:
    source = captures.scene(tmp_path / "source")
    mask, depth = torch.ones(36, 40, 1), torch.rand(36, 40, 1) * 5
    mask[:9] = 0
    first = source.views[0]
    views = (View(first.name, first.camera, first.image, ArrayImage(mask), ArrayImage(depth)), *source.views[1:])
    source_from_world = torch.eye(4, dtype=torch.float64)
    source_from_world[:3, :3] = 3.0 * captures.viewmat()[:3, :3]
    source_from_world[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    up = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    scene = Scene("s", views, (0, 2, 4), (1, 3), source.points, source_from_world, up=up)
    nerfstudio.save(scene, tmp_path / "capture")
    loaded = nerfstudio.load(tmp_path / "capture")
    assert [view.name for view in loaded.views] == [view.name for view in scene.views]
    assert (loaded.train, loaded.test) == ((0, 2, 4), (1, 3))
    for view, other in zip(scene.views, loaded.views, strict=True):
        assert torch.allclose(view.camera.viewmats, other.camera.viewmats, rtol=0, atol=1e-9)
        assert torch.allclose(view.camera.Ks, other.camera.Ks, rtol=0, atol=1e-9)
        assert torch.equal(view.load(), other.load())
        assert other.mask is not None
        assert other.mask.load().all() == (view.mask is None)
    again = loaded.views[0]
    assert again.mask is not None
    assert torch.equal(again.mask.load(), mask)
    assert again.depth is not None
    assert torch.allclose(again.depth.load(), depth, rtol=1e-6)
    assert torch.allclose(loaded.source_from_world, source_from_world, atol=1e-9)
    assert float(similarity_scale(loaded.source_from_world)) == pytest.approx(3.0)
    assert loaded.up is not None
    assert torch.allclose(loaded.up, up, atol=1e-12)
    assert loaded.points is not None
    assert scene.points is not None
    assert torch.allclose(loaded.points.xyz, scene.points.xyz, atol=1e-6)
    assert torch.allclose(loaded.points.rgb, scene.points.rgb, atol=1e-6)


def test_fox(real_data: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        scene = nerfstudio.load(real_data("fox"), downscale=4)
    assert [record.getMessage() for record in caplog.records] == [
        f"{real_data('fox')}/transforms.json: 17 of 67 photos are not there and are left out"
    ]
    assert len(scene.views) == 50
    assert scene.test == (0, 8, 16, 24, 32, 40, 48)
    # 1080x1920 less what the lens bends out of the frame.
    assert {(view.camera.width, view.camera.height) for view in scene.views} == {(267, 474)}
    assert scene.views[0].load().shape == (474, 267, 3)
    assert all(view.mask is None for view in scene.views)
