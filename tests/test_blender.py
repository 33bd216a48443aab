"""The layout of the NeRF-synthetic scenes."""

import json
import math
from dataclasses import replace

import pytest
import torch

from recon.datasets import blender, load_scene
from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage, save_image
from recon.datasets.scene import Scene, View
from small_scene import assert_same_cameras, small_scene


def _write_photo(path, shade=0.5, size=(20, 10)):
    image = torch.full((size[1], size[0], 4), shade)
    image[..., 3] = 1
    image[: size[1] // 2, :, 3] = 0
    save_image(path, image)


def _write_json(path, frames, **fields):
    fields = {"camera_angle_x": 2 * math.atan(0.5), "frames": frames} | fields
    path.write_text(json.dumps(fields))


def _frame(name, x=0.0):
    """A camera at (x, -5, 0) that looks along +y with z up, with OpenGL axes: right x, up z, backwards -y."""
    matrix = [[1.0, 0, 0, x], [0, 0, -1.0, -5], [0, 1.0, 0, 0], [0, 0, 0, 1]]
    return {"file_path": name, "rotation": 0.01, "transform_matrix": matrix}


def test_axes_intrinsics_split_alpha_and_background(tmp_path):
    for part in ("train", "test", "val"):
        (tmp_path / part).mkdir()
        for i in range(2):
            _write_photo(tmp_path / part / f"r_{i}.png")
        _write_json(tmp_path / f"transforms_{part}.json", [_frame(f"./{part}/r_{i}", x=i) for i in range(2)])
    (tmp_path / "test" / "r_0_depth_0001.png").write_bytes(b"not read")
    scene = load_scene(tmp_path)
    assert scene.name == tmp_path.name
    assert [view.name for view in scene.views] == ["test/r_0", "test/r_1", "train/r_0", "train/r_1"]
    assert (scene.train, scene.test) == ((2, 3), (0, 1))
    assert scene.background == (1.0, 1.0, 1.0)
    assert scene.up.tolist() == [0, 0, 1]
    assert scene.points is None
    camera = scene.views[3].camera
    assert camera.positions[0].tolist() == pytest.approx([1, -5, 0])
    assert camera.forward[0].tolist() == pytest.approx([0, 1, 0])
    assert camera.up[0].tolist() == pytest.approx([0, 0, 1])
    assert (camera.width, camera.height) == (20, 10)
    assert torch.allclose(camera.Ks, intrinsics(20, 20, 10, 5))
    # One unit right of the axis and up, at depth 5: 4 px right of the centre and 4 up.
    pixel, depth = camera.project(torch.tensor([[2.0, 0.0, 1.0]]))
    assert pixel[0, 0].tolist() == pytest.approx([14, 1])
    assert float(depth) == pytest.approx(5)
    image = scene.views[0].load()
    assert image.shape == (10, 20, 4)
    assert float(image[0, 0, 3]) == 0
    assert float(image[9, 0, 3]) == 1


def test_val_is_held_out_without_test_and_every_nth_without_both(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        for i in range(4):
            _write_photo(tmp_path / part / f"r_{i}.png")
        _write_json(tmp_path / f"transforms_{part}.json", [_frame(f"./{part}/r_{i}", x=i) for i in range(4)])
    scene = blender.load(tmp_path)
    assert [scene.views[i].name for i in scene.test] == [f"val/r_{i}" for i in range(4)]
    (tmp_path / "transforms_val.json").unlink()
    scene = load_scene(tmp_path / "transforms_train.json", test_every=2)
    assert (scene.train, scene.test) == ((1, 3), (0, 2))


@pytest.mark.parametrize("channels", [3, 4])
def test_save_and_load_again(tmp_path, channels):
    scene = small_scene(channels=channels)
    blender.save(scene, tmp_path / "saved")
    again = load_scene(tmp_path / "saved")
    names = {view.name.rpartition("/")[2]: view for view in again.views}
    renamed = replace(again, views=tuple(replace(names[v.name], name=v.name) for v in scene.views))
    assert_same_cameras(renamed, scene)
    for view in scene.views:
        opaque = view.load()[..., -1:] > 0 if channels == 4 else True
        assert ((names[view.name].load() - view.load()).abs() * opaque < 1 / 255).all()
    assert {again.views[i].name for i in again.train} == {f"train/photo_{i}" for i in range(1, 5)}
    assert {again.views[i].name for i in again.test} == {"test/photo_0"}
    blender.save(again, tmp_path / "twice")
    assert_same_cameras(load_scene(tmp_path / "twice"), again)


def test_save_writes_the_frame_of_the_source(tmp_path):
    scene = small_scene()
    to_source = torch.eye(4, dtype=torch.float64)
    to_source[:3, :3] *= 2
    to_source[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    blender.save(replace(scene, source_from_world=to_source), tmp_path)
    again = load_scene(tmp_path)
    expected = 2 * scene.views[0].camera.positions + to_source[:3, 3]
    assert torch.allclose(again.views[again.test[0]].camera.positions, expected)


def test_what_the_layout_cannot_hold_is_refused(tmp_path):
    scene = small_scene()
    camera = scene.views[1].camera
    others = [
        Cameras(camera.viewmats, intrinsics(50, 50, 20, 18), 48, 36),
        Cameras(camera.viewmats, intrinsics(50, 52, 24, 18), 48, 36),
        Cameras(camera.viewmats, intrinsics(60, 60, 24, 18), 48, 36),
        Cameras(camera.viewmats, intrinsics(50, 50, 24, 19), 48, 38),
    ]
    for other in others:
        views = list(scene.views)
        views[1] = View("odd", other, ArrayImage(torch.zeros(other.height, other.width, 3)))
        with pytest.raises(InputError, match="view odd does not fit into Blender's layout"):
            blender.save(Scene("odd", tuple(views), (1, 2), (0,)), tmp_path / "odd")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "transforms_train.json").write_text("{"), "transforms_train.json: is not JSON"),
        (lambda p: _write_json(p / "transforms_train.json", []), "transforms_train.json: has no list of frames"),
        (lambda p: _write_json(p / "transforms_train.json", [_frame("./train/none")]), "none of its 1 photos is there"),
        (
            lambda p: _write_json(p / "transforms_train.json", [_frame("./train/r_0", x=math.nan)]),
            r"frame train/r_0: transform_matrix has values that are not finite",
        ),
        (
            lambda p: _write_json(p / "transforms_train.json", [_frame("./train/r_0")], camera_angle_x=7.0),
            "field of view 7 is not between 0 and pi",
        ),
        (lambda p: (p / "train" / "r_0.png").write_bytes(b"\x89PNG\r\n\x1a\n"), "r_0.png: cannot be read as an image"),
        (lambda p: (p / "transforms_test.json").write_text("[]"), "transforms_test.json: has no list of frames"),
    ],
)
def test_bad_input_is_named_in_one_line(tmp_path, damage, message):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        _write_photo(tmp_path / part / "r_0.png")
        _write_json(tmp_path / f"transforms_{part}.json", [_frame(f"./{part}/r_0")])
    load_scene(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        load_scene(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
