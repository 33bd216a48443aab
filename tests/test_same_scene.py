"""The procedural scene, written in every format and loaded again, is the same scene through every loader.

What formats cannot hold: Blender's layout has no points, and only Blender's and nerfstudio's know which views are held
out; LLFF's has points without tracks; depth survives in nerfstudio's alone.
"""

import pytest
import torch

pytest.importorskip("embreex", reason="embreex is not installed, the procedural scene needs it")

from recon.datasets import load_scene, synthetic
from recon.datasets.normalize import normalize

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def made():
    return synthetic.make(views=9, width=96, height=72, points=500)


@pytest.fixture(scope="module", params=synthetic.FORMATS)
def loaded(request, made, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    synthetic.write(made, folder, request.param)
    return request.param, load_scene(folder)


def _by_name(scene):
    return {view.name.rpartition("/")[2]: view for view in scene.views}


def _relative_poses(views):
    """Each camera in the frame of the first, [C,4,4]."""
    viewmats = torch.cat([view.camera.viewmats.double() for view in views])
    return viewmats @ torch.linalg.inv(viewmats[0])


def test_cameras_are_the_same(loaded, made):
    _, scene = loaded
    views = _by_name(scene)
    assert set(views) == {view.name for view in made.scene.views}
    assert len(scene.views) == 9
    same = [views[view.name] for view in made.scene.views]
    assert torch.allclose(_relative_poses(same), _relative_poses(made.scene.views), rtol=0, atol=TOLERANCE)
    for view, original in zip(same, made.scene.views, strict=True):
        assert (view.camera.width, view.camera.height) == (96, 72)
        assert torch.allclose(view.camera.Ks, original.camera.Ks, rtol=0, atol=TOLERANCE)
        in_source = view.camera.transformed(scene.source_from_world)
        assert torch.allclose(in_source.viewmats, original.camera.viewmats, rtol=0, atol=TOLERANCE)


def test_photos_are_the_same(loaded, made):
    _, scene = loaded
    views = _by_name(scene)
    for original in made.scene.views:
        photo = views[original.name].load()
        assert photo.shape == (72, 96, 3)
        assert float((photo - original.load()).abs().max()) < 1 / 255


def test_points_are_the_same(loaded, made):
    name, scene = loaded
    if name == "blender":
        assert scene.points is None
        return
    points, original = scene.points, made.scene.points
    assert len(points) == len(original)
    to_source = scene.source_from_world
    xyz = points.xyz.double() @ to_source[:3, :3].T + to_source[:3, 3]
    # A format may keep the points in another order.
    nearest = torch.cdist(xyz, original.xyz, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
    assert len(set(nearest.tolist())) == len(original)
    assert torch.allclose(xyz, original.xyz[nearest], rtol=0, atol=TOLERANCE)
    assert float((points.rgb - original.rgb[nearest]).abs().max()) < 1 / 255
    if name in ("colmap", "bundler"):
        names = [view.name for view in scene.views]
        tracks = {(int(nearest[p]), names[v]) for p, v in points.tracks.tolist()}
        assert tracks == {(p, made.scene.views[v].name) for p, v in original.tracks.tolist()}


def test_held_out_views_are_the_same(loaded, made):
    _, scene = loaded
    names = {scene.views[i].name.rpartition("/")[2] for i in scene.test}
    assert names == {made.scene.views[i].name for i in made.scene.test} == {"view_000", "view_008"}


def test_depth_is_the_same(loaded, made):
    name, scene = loaded
    views = _by_name(scene)
    for original in made.scene.views[:3]:
        depth = views[original.name].depth
        assert (depth is not None) == (name == "nerfstudio")
        if depth is not None:
            assert torch.allclose(depth.load(), original.depth.load(), rtol=1e-5)


def test_normalised_scenes_are_the_same_but_for_a_turn(loaded, made):
    """Formats that do not know which way is up have it estimated, to a degree or so."""
    _, scene = loaded
    views = _by_name(normalize(scene))
    expected = normalize(made.scene)
    for original in expected.views:
        ours, theirs = views[original.name].camera.positions[0], original.camera.positions[0]
        assert float(ours.norm()) == pytest.approx(float(theirs.norm()), abs=1e-5)
        assert float(ours[2]) == pytest.approx(float(theirs[2]), abs=0.04)
    back = normalize(scene)
    for view, original in zip(back.views, scene.views, strict=True):
        in_source = view.camera.transformed(back.source_from_world).positions
        before = original.camera.transformed(scene.source_from_world).positions
        assert torch.allclose(in_source, before, rtol=0, atol=1e-9)


@pytest.mark.parametrize("downscale", [2, 3])
def test_smaller_views_are_the_same(loaded, made, downscale, tmp_path):
    name, _ = loaded
    synthetic.write(made, tmp_path, name)
    views = _by_name(load_scene(tmp_path, downscale=downscale))
    original = made.scene.views[4]
    view = views[original.name]
    assert (view.camera.width, view.camera.height) == (96 // downscale, 72 // downscale)
    assert torch.allclose(view.camera.Ks, original.camera.resized(96 // downscale, 72 // downscale).Ks, atol=TOLERANCE)
    blocks = original.load().reshape(72 // downscale, downscale, 96 // downscale, downscale, 3)
    assert float((view.load() - blocks.mean(dim=(1, 3))).abs().max()) < 1 / 255
