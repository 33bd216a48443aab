"""The layout of LLFF: poses_bounds.npy."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recon.datasets import llff, load_scene
from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage, save_image
from recon.datasets.scene import View
from small_scene import assert_same_cameras, small_scene


def _capture(path, count=3, width=40, height=30):
    """Cameras at (i, -5, 0) looking along +y, z up: down -z, right x, backwards -y."""
    rows = []
    for i in range(count):
        save_image(path / "images" / f"{i}.png", torch.full((height, width, 3), i / 10))
        matrix = np.array([[0.0, 1, 0, i, height], [0, 0, -1, -5, width], [-1, 0, 0, 0, 40]])
        rows.append([*matrix.ravel(), 2.0, 9.0])
    np.save(path / "poses_bounds.npy", np.array(rows))
    return np.array(rows)


def test_axes_and_intrinsics(tmp_path):
    _capture(tmp_path)
    scene = load_scene(tmp_path, test_every=3)
    assert [view.name for view in scene.views] == ["0", "1", "2"]
    assert (scene.train, scene.test) == ((1, 2), (0,))
    camera = scene.views[2].camera
    assert camera.positions[0].tolist() == pytest.approx([2, -5, 0])
    assert camera.forward[0].tolist() == pytest.approx([0, 1, 0])
    assert camera.up[0].tolist() == pytest.approx([0, 0, 1])
    assert torch.allclose(camera.Ks, intrinsics(40, 40, 20, 15))
    pixel, _ = camera.project(torch.tensor([[3.0, 0.0, 1.0]]))
    assert pixel[0, 0].tolist() == pytest.approx([28, 7])
    assert scene.points is None


def test_smaller_copies_are_chosen_and_the_camera_follows(tmp_path):
    _capture(tmp_path, width=80, height=64)
    for n in (2, 4):
        for i in range(3):
            save_image(tmp_path / f"images_{n}" / f"{i}.png", torch.full((64 // n, 80 // n, 3), n / 10))
    for downscale, shade in ((1, 0.0), (2, 0.2), (4, 0.4)):
        view = load_scene(tmp_path, downscale=downscale).views[0]
        assert (view.camera.width, view.camera.height) == (80 // downscale, 64 // downscale)
        assert float(view.camera.Ks[0, 0, 0]) == pytest.approx(40 / downscale)
        assert float(view.load().mean()) == pytest.approx(shade, abs=0.01)


def test_only_smaller_copies(tmp_path, caplog):
    _capture(tmp_path, width=80, height=64)
    (tmp_path / "images").rename(tmp_path / "moved")
    for i in range(3):
        save_image(tmp_path / "images_4" / f"{i}.png", torch.zeros(16, 20, 3))
    with caplog.at_level(logging.WARNING, logger="recon"):
        view = load_scene(tmp_path).views[0]
    assert (view.camera.width, float(view.camera.Ks[0, 0, 0])) == (20, 10.0)
    assert "4 times smaller" in caplog.text


def test_save_and_load_again(tmp_path):
    scene = small_scene()
    scene = replace(scene, views=tuple(replace(view, name=f"{9 - i}") for i, view in enumerate(scene.views)))
    llff.save(scene, tmp_path)
    again = load_scene(tmp_path)
    backwards = replace(scene, views=scene.views[::-1])
    assert_same_cameras(again, backwards)
    for view, other in zip(again.views, backwards.views, strict=True):
        assert torch.allclose(view.load(), other.load(), atol=1e-6)
    assert torch.allclose(again.points.xyz, scene.points.xyz)
    assert torch.allclose(again.points.rgb, scene.points.rgb)
    rows = np.load(tmp_path / "poses_bounds.npy")
    depths = scene.views[-1].camera.project(scene.points.xyz)[1]
    assert float(depths.min()) <= rows[0, 15] < rows[0, 16] <= float(depths.max())


def test_bounds_without_points_come_from_depth_or_the_extent(tmp_path):
    scene = replace(small_scene(), points=None)
    llff.save(scene, tmp_path / "a")
    near, far = np.load(tmp_path / "a" / "poses_bounds.npy")[0, 15:]
    assert 0 < near < 4 < far
    depth = ArrayImage(torch.linspace(2, 3, 48 * 36).reshape(36, 48, 1))
    llff.save(replace(scene, views=tuple(replace(v, depth=depth) for v in scene.views)), tmp_path / "b")
    assert np.load(tmp_path / "b" / "poses_bounds.npy")[0, 15:] == pytest.approx([2, 3], abs=0.01)


def test_save_writes_the_frame_of_the_source(tmp_path):
    scene = small_scene()
    to_source = torch.eye(4, dtype=torch.float64)
    to_source[:3, :3] *= 2
    to_source[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    llff.save(replace(scene, source_from_world=to_source), tmp_path)
    again = load_scene(tmp_path)
    assert torch.allclose(again.views[0].camera.positions, 2 * scene.views[0].camera.positions + to_source[:3, 3])
    assert torch.allclose(again.points.xyz, 2 * scene.points.xyz + to_source[:3, 3])


def test_points_of_another_frame_are_left_out(tmp_path, caplog):
    scene = small_scene()
    llff.save(scene, tmp_path)
    rows = np.load(tmp_path / "poses_bounds.npy")
    rows[:, 3:15:5] += 100
    np.save(tmp_path / "poses_bounds.npy", rows)
    with caplog.at_level(logging.WARNING, logger="recon"):
        assert load_scene(tmp_path).points is None
    assert "points are left out" in caplog.text


def test_what_the_layout_cannot_hold_is_refused(tmp_path):
    scene = small_scene()
    off_centre = Cameras(scene.views[0].camera.viewmats, intrinsics(50, 50, 20, 18), 48, 36)
    views = (View("odd", off_centre, ArrayImage(torch.zeros(36, 48, 3))), *scene.views[1:])
    with pytest.raises(InputError, match="view odd is not centred"):
        llff.save(replace(scene, views=views), tmp_path)


def _set(index, value):
    def damage(path, rows):
        rows[1, index] = value
        np.save(path / "poses_bounds.npy", rows)

    return damage


def _pickled(path, rows):
    np.save(path / "poses_bounds.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _huge(path, rows):
    header = (path / "poses_bounds.npy").read_bytes()[:128]
    header = header.replace(b"(3, 17), }" + b" " * 17, b"(1099511627776, 17), }" + b" " * 5)
    assert b"1099511627776" in header
    (path / "poses_bounds.npy").write_bytes(header[:127] + b"\n" + b"\0" * 100)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_set(3, np.nan), r"poses_bounds.npy: pose of 1.png has values that are not finite: .*nan"),
        (_set(0, np.inf), r"poses_bounds.npy: pose of 1.png has values that are not finite: inf"),
        (_set(4, 0), r"pose of 1.png: image size 40x0 makes no sense"),
        (_set(9, 1e300), r"pose of 1.png: image size 1e\+300x30 makes no sense"),
        (_set(14, -5), r"pose of 1.png: focal length -5 is not positive"),
        (_set(4, 31.7), r"1.png: image is 40x30, its camera is for 40x32"),
        (_set(slice(0, 3), 0), "pose of 1.png is singular"),
        (_set(0, 3), "pose of 1.png: pose is not a rotation and a translation"),
        (lambda p, r: np.save(p / "poses_bounds.npy", r[:, :15]), r"poses_bounds.npy: is an array \[3, 15\]"),
        (lambda p, r: np.save(p / "poses_bounds.npy", r.astype(str)), r"not \[N,17\] of numbers"),
        (lambda p, r: np.save(p / "poses_bounds.npy", r[:0]), "poses_bounds.npy: "),
        (lambda p, r: np.save(p / "poses_bounds.npy", r[:2]), "has 2 poses, but .*images has 3 photos"),
        (lambda p, r: (p / "images" / "1.png").unlink(), "has 3 poses, but .*images has 2 photos"),
        (lambda p, r: (p / "images" / "1.png").write_bytes(b""), "1.png: cannot be read as an image"),
        (_pickled, "poses_bounds.npy: is not a .npy array"),
        (_huge, "poses_bounds.npy: is not a .npy array"),
        (lambda p, r: (p / "poses_bounds.npy").write_bytes(b""), "poses_bounds.npy: is not a .npy array"),
        (lambda p, r: (p / "poses_bounds.npy").write_bytes(b"PK\3\4rest"), "poses_bounds.npy: is not a .npy array"),
    ],
)
def test_bad_input_is_named_in_one_line(tmp_path, damage, message):
    rows = _capture(tmp_path)
    damage(tmp_path, rows)
    with pytest.raises(InputError, match=message) as caught:
        load_scene(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_no_photos_at_all(tmp_path):
    _capture(tmp_path)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"has 3 poses, but .* has 0 photos"):
        load_scene(tmp_path)
    with pytest.raises(InputError, match="there is no such file"):
        llff.load(tmp_path / "none.npy")


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llff")
    _capture(folder)
    return folder, (folder / "poses_bounds.npy").read_bytes()


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_an_input_error_or_a_scene(capture, data):
    folder, whole = capture
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    (folder / "poses_bounds.npy").write_bytes(content)
    message = ""
    try:
        scene = llff.load(folder)
        assert all(torch.isfinite(view.camera.viewmats).all() for view in scene.views)
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    assert not message or "poses_bounds.npy" in message or ".png" in message


def test_fern(real_data):
    """20 photos at an eighth of the size that the poses are for; points from the model they were made from."""
    path = real_data("fern")
    scene = load_scene(path, downscale=8)
    assert len(scene.views) == 20
    assert scene.test == (0, 8, 16)
    for view in scene.views:
        assert (view.camera.width, view.camera.height) == (504, 378)
        assert float(view.camera.Ks[0, 0, 0]) == pytest.approx(3260.5263 / 8)
    assert scene.views[0].load().shape == (378, 504, 3)
    assert len(scene.points) == 10091
    bounds = np.load(path / "poses_bounds.npy")[:, 15:]
    size = torch.tensor([504, 378])
    for view, (near, far) in zip(scene.views, bounds, strict=True):
        pixels, depth = view.camera.project(scene.points.xyz)
        inside = ((pixels[0] >= 0) & (pixels[0] < size)).all(dim=-1) & (depth[0] > 0)
        assert float(inside.double().mean()) > 0.9
        # The file's bounds are quantiles of the depths that each photo saw.
        within = (depth[0][inside] > 0.9 * near) & (depth[0][inside] < 1.1 * far)
        assert float(within.double().mean()) > 0.98


def test_fern_points_have_the_colours_of_the_photos_where_they_project(real_data):
    scene = load_scene(real_data("fern"), downscale=8)
    own, shifted = [], []
    for view in scene.views[::4]:
        image = view.load()
        pixels, _ = view.camera.project(scene.points.xyz)
        for errors, offset in ((own, 0), (shifted, 12)):
            x, y = (pixels[0] + offset).long().unbind(dim=-1)
            inside = (x >= 0) & (x < 504) & (y >= 0) & (y < 378)
            errors.append((image[y[inside], x[inside]] - scene.points.rgb[inside]).abs().mean())
    assert float(torch.stack(own).mean()) < 0.6 * float(torch.stack(shifted).mean())
