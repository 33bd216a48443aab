"""Bundler's bundle.out."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import readers
from recon.datasets import bundler, load_scene
from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage, save_image
from recon.datasets.scene import View
from small_scene import assert_same_cameras, small_scene

# A camera at (1, -5, 0) that looks along +y with z up: Bundler's rows are right x, up z, backwards -y.
CAMERA = "1 0 0\n0 0 1\n0 -1 0\n-1 0 -5\n"
TEXT = (
    "# Bundle file v0.3\n3 2\n"
    f"40 0 0\n{CAMERA}"
    "0 0 0\n0 0 0\n0 0 0\n0 0 0\n0 0 0\n"
    f"50 0.01 0.002\n{CAMERA}"
    "2 0 1\n255 127.5 0\n2 0 7 8 8 2 1 10 10\n"
    "1 0 0\n0 0 255\n2 1 0 5 5 2 3 0 0\n"
)


def _capture(path, text=TEXT, names=("a", "b", "c")):
    for i, name in enumerate(names):
        save_image(path / f"{name}.png", torch.full((30, 40, 3), i / 10))
    (path / "bundle.out").write_text(text)
    return path


def test_axes_lens_points_and_tracks(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(_capture(tmp_path), test_every=0)
    assert [view.name for view in scene.views] == ["a", "c"]
    assert len(caplog.records) == 1
    assert "of 3 photos 1 are left out: 1 are not registered, 0 not there" in caplog.text
    camera = scene.views[0].camera
    assert camera.positions[0].tolist() == pytest.approx([1, -5, 0])
    assert camera.forward[0].tolist() == pytest.approx([0, 1, 0])
    assert camera.up[0].tolist() == pytest.approx([0, 0, 1])
    assert torch.allclose(camera.Ks, intrinsics(40, 40, 20, 15))
    pixel, _ = camera.project(scene.points.xyz[:1])
    assert pixel[0, 0].tolist() == pytest.approx([20 + 8, 15 - 8])
    assert float(scene.views[1].camera.Ks[0, 0, 0]) == pytest.approx(50, rel=0.02)
    assert float(scene.views[1].load().mean()) == pytest.approx(0.2, abs=0.01)
    assert torch.allclose(scene.points.rgb, torch.tensor([[1, 0.5, 0], [0, 0, 1]]))
    # The second camera has gone, the third is view 1 now.
    assert scene.points.tracks.tolist() == [[0, 0], [0, 1], [1, 1]]
    assert scene.points.xyz.dtype == torch.float64


def test_lens_is_bundlers_radial_polynomial(tmp_path):
    """A photo whose pixel values are a smooth function of the undistorted direction comes out as that function."""
    _capture(tmp_path, TEXT.replace("50 0.01 0.002", "300 -0.2 0.05"))
    width, height, focal, k1, k2 = 320, 240, 300, -0.2, 0.05
    y, x = np.mgrid[0:height, 0:width] + 0.5
    distorted = np.stack([x - width / 2, y - height / 2], axis=-1) / focal
    direction = distorted
    for _ in range(50):  # invert p' = p (1 + k1 |p|^2 + k2 |p|^4)
        square = (direction**2).sum(axis=-1, keepdims=True)
        direction = distorted / (1 + k1 * square + k2 * square**2)
    picture = np.concatenate([0.5 + 0.6 * direction, np.full((height, width, 1), 0.5)], axis=-1)
    save_image(tmp_path / "c.png", torch.from_numpy(picture))
    view = load_scene(tmp_path, test_every=0).views[1]
    seen = view.load()
    rows, columns = torch.meshgrid(
        torch.arange(view.camera.height) + 0.5, torch.arange(view.camera.width) + 0.5, indexing="ij"
    )
    K = view.camera.Ks[0]
    expected = torch.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1]], dim=-1) * 0.6 + 0.5
    valid = view.mask.load()[..., 0] > 0 if view.mask is not None else torch.ones_like(rows, dtype=torch.bool)
    assert float(valid.double().mean()) > 0.95
    assert float((seen[..., :2] - expected).abs()[valid].max()) < 2 / 255


@pytest.mark.parametrize("where", ["beside", "above"])
def test_list_gives_the_photos_in_its_own_order(tmp_path, where):
    _capture(tmp_path)
    (tmp_path / "photos with space").mkdir()
    (tmp_path / "c.png").rename(tmp_path / "photos with space" / "first one.png")
    (tmp_path / "list.txt").write_text("./photos with space/first one.png 0 532.5\nb.png\n\nelsewhere/a.png 0 500\n")
    if where == "above":
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle.out").rename(tmp_path / "bundle" / "bundle.out")
    scene = load_scene(tmp_path, test_every=0)
    focal = {view.name: float(view.camera.Ks[0, 0, 0]) for view in scene.views}
    assert focal == {"a": pytest.approx(50, rel=0.02), "photos with space/first one": 40}
    assert scene.points.tracks.tolist() == [[0, 1], [0, 0], [1, 0]]


def test_a_listed_photo_that_is_not_there_is_left_out(tmp_path, caplog):
    _capture(tmp_path)
    (tmp_path / "list.txt").write_text("a.png\nb.png\nc.png\n")
    (tmp_path / "c.png").unlink()
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(tmp_path)
    assert [view.name for view in scene.views] == ["a"]
    assert scene.points.tracks.tolist() == [[0, 0]]
    assert "of 3 photos 2 are left out: 1 are not registered, 1 not there" in caplog.text


def test_save_and_load_again(tmp_path):
    scene = small_scene()
    bundler.save(scene, tmp_path)
    again = load_scene(tmp_path)
    assert_same_cameras(again, scene)
    for view, other in zip(again.views, scene.views, strict=True):
        assert torch.allclose(view.load(), other.load(), atol=1e-6)
    assert torch.equal(again.points.xyz, scene.points.xyz)
    assert torch.allclose(again.points.rgb, scene.points.rgb)
    assert sorted(again.points.tracks.tolist()) == sorted(scene.points.tracks.tolist())
    bundle = bundler.read_bundle(tmp_path / "bundle.out")
    for (point, camera), position in zip(bundle.seen, bundle.positions, strict=True):
        pixel, _ = scene.views[camera].camera.project(scene.points.xyz[point : point + 1])
        assert position.tolist() == pytest.approx([float(pixel[0, 0, 0]) - 24, 18 - float(pixel[0, 0, 1])], abs=1e-9)
    bundler.save(replace(scene, points=None), tmp_path / "bare")
    assert load_scene(tmp_path / "bare").points is None


def test_save_writes_the_frame_of_the_source(tmp_path):
    scene = small_scene()
    to_source = torch.eye(4, dtype=torch.float64)
    to_source[:3, :3] *= 2
    to_source[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    bundler.save(replace(scene, source_from_world=to_source), tmp_path)
    again = load_scene(tmp_path)
    assert torch.allclose(again.views[0].camera.positions, 2 * scene.views[0].camera.positions + to_source[:3, 3])
    assert torch.allclose(again.points.xyz, 2 * scene.points.xyz + to_source[:3, 3])


def test_what_the_format_cannot_hold_is_refused(tmp_path):
    scene = small_scene()
    stretched = Cameras(scene.views[0].camera.viewmats, intrinsics(50, 51, 24, 18), 48, 36)
    views = (View("odd", stretched, ArrayImage(torch.zeros(36, 48, 3))), *scene.views[1:])
    with pytest.raises(InputError, match="view odd is not centred with square pixels"):
        bundler.save(replace(scene, views=views), tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# Bundle file v0.3", "# Bundle file v0.4", "starts with '# Bundle file v0.4'"),
        (TEXT, "", "starts with ''"),
        (TEXT, "# Bundle file v0.3\n3", "has no counts"),
        ("3 2\n", "3 1099511627776\n", "cut short: 77 numbers cannot be 3 cameras and 1099511627776 points"),
        ("3 2\n", "1099511627776 2\n", "cut short: 77 numbers cannot be 1099511627776 cameras"),
        ("3 2\n", "-3 2\n", "count -3 is not a whole number"),
        ("3 2\n", "3 1.5\n", "count 1.5 is not a whole number"),
        ("3 2\n", "3 nan\n", "count nan is not a whole number"),
        ("3 2\n", "3 inf\n", "count inf is not a whole number"),
        ("3 2\n", "3 1\n", "15 numbers follow the 1 points"),
        ("3 2\n", "2 2\n", "31 numbers follow the 2 points"),
        ("3 2\n", "3 3\n", "cut short in point 2 of 3"),
        ("2 0 7 8 8", "4503599627370496 0 7 8 8", "cut short in point 0 of 2"),
        ("2 0 7 8 8", "-1 0 7 8 8", "point 0: length of the view list -1 is not a whole number"),
        ("2 0 7 8 8", "2 9 7 8 8", "a view list names camera 9, there are 3"),
        ("2 0 7 8 8", "2 nan 7 8 8", "a view list names camera nan, there are 3"),
        ("40 0 0", "forty 0 0", "has something that is no number"),
        ("40 0 0", "-40 0 0", "camera 0: focal length -40 is not positive"),
        ("40 0 0", "nan 0 0", r"camera 0: .*\(nan, 20, 15\) are not finite"),
        ("40 0 0\n1 0 0", "40 0 0\nnan 0 0", "camera 0: pose has values that are not finite"),
        ("40 0 0\n1 0 0", "40 0 0\n2 0 0", "camera 0: pose is not a rotation"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, old, new, message):
    assert old in TEXT
    _capture(tmp_path, TEXT.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        load_scene(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "bundle.out") in str(caught.value)


def test_photos_that_do_not_fit_the_file(tmp_path):
    _capture(tmp_path, names=("a", "b"))
    with pytest.raises(InputError, match=r"has 3 cameras, but .* has 2 photos"):
        load_scene(tmp_path)
    (tmp_path / "list.txt").write_text("a.png\nb.png\nc.png\nd.png\n")
    with pytest.raises(InputError, match=r"has 3 cameras, but .*list.txt has 4 photos"):
        load_scene(tmp_path)
    (tmp_path / "list.txt").write_text("x.png\ny.png\nz.png\n")
    with pytest.raises(InputError, match=r"none of its 2 registered photos is there, such as .*x.png"):
        load_scene(tmp_path)
    (tmp_path / "list.txt").unlink()
    save_image(tmp_path / "c.png", torch.zeros(30, 40, 3))
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"a.png: cannot be read as an image"):
        load_scene(tmp_path)
    empty = "# Bundle file v0.3\n3 0\n" + "0 0 0\n" * 15
    (tmp_path / "bundle.out").write_text(empty)
    with pytest.raises(InputError, match="none of its 3 photos is registered"):
        load_scene(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        bundler.read_bundle(tmp_path / "no such file")


def test_points_that_are_not_finite_are_left_out(tmp_path, caplog):
    _capture(tmp_path, TEXT.replace("2 0 1\n255", "nan 0 1\n255"))
    with caplog.at_level(logging.WARNING, logger="recon"):
        points = load_scene(tmp_path, test_every=0).points
    assert points.xyz.tolist() == [[1, 0, 0]]
    assert points.tracks.tolist() == [[0, 1]]
    assert "1 points that are not finite" in caplog.text


def test_a_file_cut_at_any_place_is_noticed(tmp_path):
    """A cut inside the last number leaves a shorter number; everything else is missing numbers."""
    file = tmp_path / "bundle.out"
    last = len(TEXT.rstrip())
    for length in range(last):
        file.write_text(TEXT[:length])
        if TEXT[:length].split() == TEXT.split():
            continue
        with pytest.raises(InputError) as caught:
            bundler.read_bundle(file)
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return _capture(tmp_path_factory.mktemp("bundler"))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, len(TEXT) - 1), st.sampled_from("0123456789.-+eE \nnaif#x\x00é")), max_size=4))
def test_any_damage_is_an_input_error_or_a_scene(capture, changes):
    text = list(TEXT)
    for place, character in changes:
        text[place] = character
    (capture / "bundle.out").write_text("".join(text), encoding="utf-8")
    scene = readers.read_or_refused(bundler.load, capture)
    assert scene is None or scene.points is None or torch.isfinite(scene.points.xyz).all()


def test_kermit(real_data, caplog):
    """9 of 11 photos are registered; the file's own measurements say how well the points must project."""
    path = real_data("kermit")
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(path)
    assert len(caplog.records) == 1
    assert "of 11 photos 2 are left out: 2 are not registered" in caplog.text
    assert len(scene.views) == 9
    assert len(scene.points) == 634
    assert scene.test == (0, 8)
    for view in scene.views:
        assert abs(view.camera.width - 640) < 12
        assert abs(view.camera.height - 480) < 12
        assert view.load().shape == (view.camera.height, view.camera.width, 3)

    bundle = bundler.read_bundle(path / "bundle.out")
    registered = np.flatnonzero(bundle.lenses[:, 0])
    errors = []
    for view, i in zip(scene.views, registered, strict=True):
        seen = bundle.seen[:, 1] == i
        assert seen.sum() > 50
        xyz = scene.points.xyz[torch.from_numpy(bundle.seen[seen, 0])]
        pixels, depth = view.camera.project(xyz)
        assert float(depth.min()) > 0
        size = torch.tensor([view.camera.width, view.camera.height])
        assert float(((pixels[0] > -2) & (pixels[0] < size + 2)).all(dim=-1).double().mean()) > 0.99
        K = view.camera.Ks[0]
        direction = ((pixels[0] - K[:2, 2]) / K[[0, 1], [0, 1]]).numpy()  # x right, y down, before the lens
        focal, k1, k2 = bundle.lenses[i]
        square = (direction**2).sum(axis=1, keepdims=True)
        expected = focal * (1 + k1 * square + k2 * square**2) * direction * [1, -1]
        errors.append(np.linalg.norm(expected - bundle.positions[seen], axis=1))
    assert np.median(np.concatenate(errors)) < 0.5
    assert np.percentile(np.concatenate(errors), 95) < 3


def test_kermit_points_have_the_colours_of_the_photos_where_they_project(real_data):
    scene = load_scene(real_data("kermit"))
    own, shifted = [], []
    for index, view in enumerate(scene.views):
        image = view.load()
        rows = scene.points.tracks[scene.points.tracks[:, 1] == index, 0]
        pixels, _ = view.camera.project(scene.points.xyz[rows])
        for errors, offset in ((own, 0), (shifted, 15)):
            x, y = (pixels[0] + offset).long().unbind(dim=-1)
            inside = (x >= 0) & (x < view.camera.width) & (y >= 0) & (y < view.camera.height)
            errors.append((image[y[inside], x[inside]] - scene.points.rgb[rows[inside]]).abs().mean())
    assert float(torch.stack(own).mean()) < 0.6 * float(torch.stack(shifted).mean())
