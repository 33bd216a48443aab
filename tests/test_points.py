"""First points for captures without any: on rays of pixels, mostly near surfaces."""

from dataclasses import replace

import pytest
import torch

from recon.datasets import load_scene
from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.images import ArrayImage, split_every
from recon.datasets.points import frustum_points
from recon.datasets.scene import Scene, View

WIDTH, HEIGHT = 96, 72


def _texture(xy):
    """Colours [...,3] of the plane z = 0."""
    waves = [torch.sin(a * xy[..., 0] + b * xy[..., 1] + c) for a, b, c in ((9, 4, 0), (-5, 11, 1), (3, -8, 2))]
    return 0.5 + 0.4 * torch.stack(waves, dim=-1)


def _plane(cameras, radius=torch.inf, channels=3):
    """Views of a textured disc on z = 0; black, or transparent with 4 channels, beyond `radius`."""
    views = []
    rows, columns = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1).reshape(-1, 2)
    for i in range(len(cameras)):
        origins, directions = cameras[i].rays(pixels)
        hit = origins[0] - directions[0] * (origins[0, :, 2:] / directions[0, :, 2:])
        inside = (directions[0, :, 2] < 0) & (hit[:, :2].norm(dim=-1) < radius)
        image = torch.cat([_texture(hit[:, :2]) * inside[:, None], inside[:, None]], dim=-1)[:, :channels]
        views.append(View(f"{i:02d}", cameras[i], ArrayImage(image.float().reshape(HEIGHT, WIDTH, channels))))
    train, test = split_every([view.name for view in views])
    return Scene("plane", tuple(views), train, test)


def _cameras(eyes, targets):
    c2w = look_at(eyes, targets.expand_as(eyes), torch.tensor([0.0, 0.0, 1.0]).double())
    Ks = intrinsics(90, 90, WIDTH / 2, HEIGHT / 2).expand(len(eyes), 3, 3)
    return Cameras.from_c2w(c2w, Ks, WIDTH, HEIGHT)


def _ring(count=14):
    angles = torch.arange(count).double() / count * 2 * torch.pi
    eyes = torch.stack([3 * angles.cos(), 3 * angles.sin(), torch.full_like(angles, 2.5)], dim=-1)
    return _cameras(eyes, torch.zeros(3).double())


def _row(count=9):
    index = torch.arange(count).double()
    eyes = torch.stack([index / (count - 1) - 0.5, 0.1 * (index % 3) - 4, torch.full_like(index, 3.0)], dim=-1)
    return _cameras(eyes, eyes + torch.tensor([0.0, 4.0, -3.0]).double())


@pytest.mark.parametrize("cameras", [_ring(), _row()], ids=["ring", "row"])
def test_points_lie_near_the_surface_in_its_colours(cameras):
    scene = _plane(cameras)
    points = frustum_points(scene, 3000)
    assert len(points) == 3000
    near_plane = points.xyz[:, 2].abs() < 0.15
    assert float(near_plane.double().mean()) > 0.6
    assert float((points.rgb - _texture(points.xyz[:, :2])).abs()[near_plane].mean()) < 0.2
    assert points.rgb.dtype == torch.float32
    assert torch.isfinite(points.xyz).all()


def test_rays_start_from_pixels_of_training_views_only():
    scene = _plane(_ring())
    behind_test = replace(scene, train=(1,), test=tuple(i for i in range(14) if i != 1))
    one = frustum_points(behind_test, 100)
    pixels, depth = scene.views[1].camera.project(one.xyz)
    assert float(depth.min()) > 0
    on_centres = (pixels[0] - 0.5).round()
    assert torch.allclose(pixels[0] - 0.5, on_centres, atol=1e-6)
    x, y = on_centres.long().unbind(dim=-1)
    assert torch.equal(one.rgb, scene.views[1].load()[y, x])


def test_same_seed_same_points():
    scene = _plane(_ring(6))
    first, same, other = (frustum_points(scene, 200, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.xyz, same.xyz)
    assert torch.equal(first.rgb, same.rgb)
    assert not torch.equal(first.xyz, other.xyz)


def test_no_points_where_photos_are_transparent():
    scene = _plane(_ring(), radius=0.8, channels=4)
    points = frustum_points(scene, 2000)
    assert len(points) == 2000
    assert float((points.xyz[:, 2].abs() < 0.15).double().mean()) > 0.6
    assert float((points.xyz[:, :2].norm(dim=-1) < 0.95).double().mean()) > 0.95
    nothing = replace(scene, views=tuple(replace(v, image=ArrayImage(0 * v.load())) for v in scene.views))
    assert len(frustum_points(nothing, 50)) == 0


def test_masked_pixels_send_out_no_rays():
    scene = _plane(_ring(6))
    mask = torch.zeros(HEIGHT, WIDTH, 1)
    mask[30:40, 40:60] = 1
    masked = replace(scene, views=tuple(replace(view, mask=ArrayImage(mask)) for view in scene.views))
    one = frustum_points(replace(masked, train=(2,)), 100)
    pixels, _ = scene.views[2].camera.project(one.xyz)
    x, y = pixels[0].unbind(dim=-1)
    assert ((x > 40) & (x < 60) & (y > 30) & (y < 40)).all()


def test_depth_maps_decide():
    scene = _plane(_ring(6))
    depth = torch.full((HEIGHT, WIDTH, 1), 1.25)
    depth[:, :48] = 0  # unknown
    known = replace(scene, views=tuple(replace(view, depth=ArrayImage(depth)) for view in scene.views))
    one = frustum_points(replace(known, train=(0,)), 400)
    pixels, depths = scene.views[0].camera.project(one.xyz)
    right = pixels[0, :, 0] > 48
    assert torch.allclose(depths[0][right], torch.tensor(1.25).double())
    assert (depths[0][~right] != 1.25).all()


@pytest.mark.parametrize("count", [1, 2])
def test_few_cameras(count):
    points = frustum_points(_plane(_ring(12)[:count]), 50)
    assert len(points) == 50
    assert torch.isfinite(points.xyz).all()


def test_cameras_in_one_place():
    eyes = torch.tensor([[1e5, 2e5, 300.0]]).double().expand(5, 3)
    targets = eyes + torch.tensor([[1.0, 0.1 * i, -0.5] for i in range(5)]).double()
    scene = _plane(_cameras(eyes, targets))
    points = frustum_points(scene, 60)
    assert len(points) == 60
    assert torch.isfinite(points.xyz).all()


def test_frame_does_not_matter():
    """In map coordinates and another unit the same points come out."""
    scene = _plane(_ring(6))
    to_map = torch.diag(torch.tensor([50.0, 50.0, 50.0, 1.0])).double()
    to_map[:3, 3] = torch.tensor([448_262.25, 5_411_932.5, 312.75])
    moved = replace(scene, views=tuple(replace(v, camera=v.camera.transformed(to_map)) for v in scene.views))
    points = frustum_points(scene, 300).xyz @ to_map[:3, :3].T + to_map[:3, 3]
    same = (frustum_points(moved, 300).xyz - points).norm(dim=-1) < 1e-3
    assert float(same.double().mean()) > 0.97  # ties may fall either way


def test_nonsense_is_a_mistake_of_the_caller():
    scene = _plane(_ring(2))
    with pytest.raises(ValueError, match="0 points from 1 training views"):
        frustum_points(scene, 0)
    with pytest.raises(ValueError, match="from 0 training views"):
        frustum_points(replace(scene, train=()), 10)


@pytest.mark.parametrize(("name", "downscale", "share"), [("fern", 8, 0.6), ("kermit", 2, 0.35)])
def test_on_real_photos_most_points_are_near_those_of_structure_from_motion(real_data, name, downscale, share):
    scene = load_scene(real_data(name), downscale=downscale)
    xyz = frustum_points(scene, 2000).xyz
    positions = torch.cat([view.camera.positions for view in scene.views])
    apart = torch.cdist(xyz, scene.points.xyz).min(dim=1).values / torch.cdist(xyz, positions).min(dim=1).values
    assert float((apart < 0.1).double().mean()) > share
