"""The procedural scene: exact where it claims to be, and worth looking at."""

import sys

import numpy as np
import pytest
import torch

pytest.importorskip("embreex", reason="embreex is not installed, the procedural scene needs it")

from recon.datasets import shading, synthetic
from recon.datasets.diorama import PLINTH_TOP, Material
from recon.datasets.errors import InputError
from recon.datasets.raycast import RayCaster


@pytest.fixture(scope="module")
def small():
    return synthetic.make(views=17, width=160, height=120, points=4000)


def test_every_eighth_view_is_held_out(small):
    assert len(small.scene.views) == 17
    assert small.scene.test == (0, 8, 16)
    assert sorted(small.scene.train + small.scene.test) == list(range(17))
    assert [view.name for view in small.scene.views] == sorted(view.name for view in small.scene.views)


def test_same_seed_same_scene_and_another_seed_another(small):
    same = synthetic.make(views=17, width=160, height=120, points=4000)
    other = synthetic.make(views=17, width=160, height=120, points=4000, seed=1)
    for view, twin in zip(small.scene.views, same.scene.views, strict=True):
        assert torch.equal(view.load(), twin.load())
        assert torch.equal(view.camera.viewmats, twin.camera.viewmats)
    assert torch.equal(small.scene.points.xyz, same.scene.points.xyz)
    assert torch.equal(small.scene.points.tracks, same.scene.points.tracks)
    assert not torch.equal(small.scene.views[0].camera.viewmats, other.scene.views[0].camera.viewmats)


def test_cameras_surround_the_scene_and_see_it(small):
    cameras = [view.camera for view in small.scene.views]
    azimuths = sorted(float(torch.atan2(c.positions[0, 1], c.positions[0, 0])) for c in cameras)
    gaps = np.diff([*azimuths, azimuths[0] + 2 * np.pi])
    assert gaps.max() < np.radians(50)
    for camera in cameras:
        pixel, depth = camera.project(torch.tensor([[0.0, 0.0, 0.4]]))
        assert depth > 3
        assert (pixel - torch.tensor([80.0, 60.0])).norm() < 20
        assert torch.linalg.det(camera.viewmats[0, :3, :3]) == pytest.approx(1)


def test_depth_and_normals_agree_with_every_triangle_of_the_mesh(small):
    """Against Moeller and Trumbore's test of each ray with each triangle, in float64."""
    view = small.scene.views[3]
    depth, normals = view.depth.load(), small.normals(3)
    assert depth.shape == (120, 160, 1)
    assert normals.shape == (120, 160, 3)
    corners = np.asarray(small.mesh.vertices)[np.asarray(small.mesh.faces)]
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    rng = np.random.default_rng(0)
    for x, y in rng.integers(0, (160, 120), (25, 2)):
        origins, directions = view.camera.rays(torch.tensor([[x + 0.5, y + 0.5]], dtype=torch.float64))
        o, d = origins[0, 0].numpy(), directions[0, 0].numpy()
        p = np.cross(d, ac)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / (ab * p).sum(axis=1)
            s = o - a
            u = (s * p).sum(axis=1) * inverse
            q = np.cross(s, ab)
            v = q @ d * inverse
            t = (q * ac).sum(axis=1) * inverse
        hit = np.flatnonzero((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0))
        first = hit[np.argmin(t[hit])]
        along_axis = t[first] * (d @ view.camera.forward[0].numpy())
        assert float(depth[y, x, 0]) == pytest.approx(along_axis, rel=1e-6)
        normal = np.cross(ab[first], ac[first])
        normal *= -np.sign(normal @ d) / np.linalg.norm(normal)
        np.testing.assert_allclose(normals[y, x].numpy(), normal, atol=1e-6)


def test_every_pixel_has_depth_and_a_unit_normal_that_faces_the_camera(small):
    for index in (0, 5, 11):
        camera = small.scene.views[index].camera
        assert float(small.scene.views[index].depth.load().min()) > 0.5
        normals = small.normals(index).reshape(-1, 3).double()
        assert torch.allclose(normals.norm(dim=-1), torch.ones(len(normals), dtype=torch.float64), atol=1e-6)
        rows, columns = torch.meshgrid(torch.arange(120) + 0.5, torch.arange(160) + 0.5, indexing="ij")
        _, directions = camera.rays(torch.stack([columns, rows], dim=-1).reshape(-1, 2))
        assert float((normals * directions[0]).sum(dim=-1).max()) <= 1e-6


def test_tracks_are_the_views_that_see_a_point(small):
    points = small.scene.points
    assert len(points) == 4000
    assert set(points.tracks[:, 1].tolist()) == set(small.scene.train)
    assert torch.bincount(points.tracks[:, 0], minlength=4000).min() >= 1  # at least the view it was drawn from
    for index in small.scene.train[:4]:
        view = small.scene.views[index]
        seen = points.tracks[points.tracks[:, 1] == index, 0]
        pixels, depth = view.camera.project(points.xyz[seen])
        x, y = pixels[0].long().unbind(dim=-1)
        beside = view.depth.load()[y, x, 0]
        # The depth at a pixel's centre is that of the point, but for slopes and outlines.
        assert float(((beside - depth[0]).abs() < 0.05).double().mean()) > 0.93
        unseen = torch.ones(len(points), dtype=torch.bool)
        unseen[seen] = False
        pixels, depth = view.camera.project(points.xyz[unseen])
        inside = ((pixels[0] >= 0) & (pixels[0] < torch.tensor([160, 120]))).all(dim=-1) & (depth[0] > 0)
        x, y = pixels[0][inside].long().unbind(dim=-1)
        behind = view.depth.load()[y, x, 0] < depth[0][inside] + 0.05
        assert float(behind.double().mean()) > 0.93


def _differences(small, chosen):
    """How much the colour of each chosen point changes between the views that see it."""
    points = small.scene.points
    colours = {int(i): [] for i in chosen.nonzero()[:, 0]}
    for index in small.scene.train:
        view = small.scene.views[index]
        image = view.load()
        for point in points.tracks[points.tracks[:, 1] == index, 0].tolist():
            if point in colours:
                pixel, _ = view.camera.project(points.xyz[point : point + 1])
                colours[point].append(image[int(pixel[0, 0, 1]), int(pixel[0, 0, 0])])
    return np.median([float(torch.stack(seen).std(dim=0).max()) for seen in colours.values() if len(seen) > 2])


def test_matt_surfaces_look_the_same_from_everywhere_and_gloss_does_not(small):
    xyz = small.scene.points.xyz
    boards = ((xyz[:, 2] - PLINTH_TOP).abs() < 1e-6) & (xyz[:, :2].norm(dim=-1) < 1)
    copper = (xyz - torch.tensor([0.12, -0.62, PLINTH_TOP + 0.2], dtype=torch.float64)).norm(dim=-1) < 0.201
    assert boards.sum() > 100
    assert copper.sum() > 10
    assert _differences(small, boards) < 0.04
    assert _differences(small, copper) > 0.08


def test_shadows_are_soft(small):
    stage = small.stage
    on_floor = (np.abs(stage.vertices[:, 2]) < 1e-6) & (np.hypot(*stage.vertices[:, :2].T) > 1.3)
    brightness = stage.light[on_floor].mean(axis=1)
    dark, bright = np.percentile(brightness, [0.5, 99])
    assert dark < 0.4 * bright
    between = (brightness > dark + 0.25 * (bright - dark)) & (brightness < bright - 0.25 * (bright - dark))
    assert between.mean() > 0.03


def test_pictures_are_well_exposed_and_detailed(small):
    images = torch.stack([view.load() for view in small.scene.views])
    assert images.shape == (17, 120, 160, 3)
    assert torch.equal(images * 255, (images * 255).round())
    assert 0.35 < float(images.mean()) < 0.75
    assert float(((images < 0.02) | (images > 0.98)).all(dim=-1).double().mean()) < 0.02
    assert float((images[:, :, 1:] - images[:, :, :-1]).abs().mean()) > 0.02


def test_more_rays_for_each_pixel_change_edges_only():
    coarse, fine = (synthetic.make(views=1, width=96, height=72, supersample=n, points=10) for n in (1, 3))
    difference = (coarse.scene.views[0].load() - fine.scene.views[0].load()).abs()
    assert float(difference.median()) < 0.02
    assert float(difference.max()) > 0.1
    assert torch.equal(coarse.scene.views[0].depth.load(), fine.scene.views[0].depth.load())


def test_mesh_is_the_whole_scene_in_colour(small):
    assert len(small.mesh.vertices) == len(small.stage.vertices)
    assert {int(m) for m in np.unique(small.stage.material)} == {int(m) for m in Material}
    assert small.mesh.visual.vertex_colors.shape == (len(small.mesh.vertices), 4)
    outwards = np.asarray(small.mesh.face_normals)
    mean = small.stage.normals[small.stage.faces].mean(axis=1)
    assert ((outwards * mean).sum(axis=1) > 0).mean() > 0.999


def test_wide_and_tall_and_tiny_pictures():
    for width, height in ((90, 30), (30, 90), (1, 1)):
        view = synthetic.make(views=1, width=width, height=height, points=5).scene.views[0]
        assert view.load().shape == (height, width, 3)


def test_progress_is_told():
    told = []
    synthetic.make(views=3, width=8, height=6, points=5, progress=told.append)
    assert told == [1, 2, 3]


@pytest.mark.parametrize("name", ["views", "width", "height", "supersample", "points"])
def test_counts_must_be_positive(name):
    with pytest.raises(InputError, match=f"synthetic scene: {name} 0"):
        synthetic.make(**{name: 0})


def test_unknown_format_is_named(tmp_path, small):
    with pytest.raises(InputError, match="'gltf' is none of colmap"):
        synthetic.write(small, tmp_path, "gltf")


def test_without_embreex_there_is_one_plain_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "embreex.rtcore_scene", None)
    with pytest.raises(InputError, match="needs the package embreex") as caught:
        RayCaster(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    assert "\n" not in str(caught.value)


def test_ray_caster_on_one_triangle():
    caster = RayCaster(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]]))
    origins = np.array([[0.25, 0.5, 2.0], [0.9, 0.9, 2.0]])
    down = np.array([[0.0, 0, -1], [0, 0, -1]])
    hits = caster.closest(origins, down)
    assert hits.face.tolist() == [0, -1]
    assert hits.distance[0] == pytest.approx(2)
    assert hits.uv[0].tolist() == pytest.approx([0.25, 0.5])
    assert caster.occluded(origins, 1.9 * down).tolist() == [False, False]
    assert caster.occluded(origins, 2.1 * down).tolist() == [True, False]


def test_tone_map_runs_from_black_to_white_without_a_step():
    values = shading.tone_map(np.linspace(0, 50, 5001, dtype=np.float32))
    assert values[0] == 0
    assert (np.diff(values) >= 0).all()
    assert values[-1] == pytest.approx(1)
    assert np.diff(shading.tone_map(np.linspace(0, 0.1, 1001, dtype=np.float32))).max() < 0.003
