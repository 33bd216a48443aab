"""Camera paths stay where the photos were taken and look at what they show."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.datasets import load_scene
from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.normalize import normalize
from recon.datasets.scene import Points
from recon.viewer.paths import interpolate, orbit
from small_scene import small_scene

UP = torch.tensor([0.0, 0.0, 1.0]).double()


def _cameras(eyes, targets, width=64, height=48, focal=60.0):
    eyes, targets = torch.as_tensor(eyes).double(), torch.as_tensor(targets).double()
    Ks = intrinsics(focal, focal + 1, width / 2 + 1, height / 2 - 1).expand(len(eyes), 3, 3)
    return Cameras.from_c2w(look_at(eyes, targets.expand_as(eyes), UP), Ks, width, height)


def _ring(count=20, arc=360.0, radius=3.0, height=1.2):
    angles = torch.deg2rad(torch.linspace(0, arc, count + (arc == 360))[:count]).double()
    eyes = torch.stack([radius * angles.cos(), radius * angles.sin(), torch.full_like(angles, height)], dim=-1)
    return _cameras(eyes, [0.0, 0.0, 0.1])


def _wall(count=25):
    """In front of something at y = 10."""
    index = torch.arange(count)
    eyes = torch.stack([(index % 5) * 0.5 - 1, 0.05 * (index % 3), (index // 5) * 0.3 - 0.6], dim=-1).double()
    return _cameras(eyes, eyes + torch.tensor([0.0, 10.0, 0.0]).double())


def _assert_proper(cameras, frames):
    assert len(cameras) == frames
    rotations = cameras.viewmats[:, :3, :3]
    eye = torch.eye(3, dtype=torch.float64).expand_as(rotations)
    assert torch.allclose(rotations @ rotations.transpose(1, 2), eye, atol=1e-9)
    assert (torch.linalg.det(rotations) > 0).all()
    assert torch.isfinite(cameras.viewmats).all()
    assert cameras.viewmats.dtype == torch.float64


def _steps(cameras, closed):
    positions = cameras.positions
    following = torch.roll(positions, -1, 0)
    steps = (following - positions).norm(dim=-1)
    return steps if closed else steps[:-1]


def test_turn_around_a_ring():
    path = orbit(_ring(), 60)
    _assert_proper(path, 60)
    assert torch.allclose(path.positions[:, :2].norm(dim=-1), torch.tensor(3.0).double(), atol=0.02)
    assert torch.allclose(path.positions[:, 2], torch.tensor(1.2).double(), atol=0.02)
    assert torch.allclose(path.up[:, 2], path.up[0, 2].expand(60))
    assert float(_steps(path, closed=True).max()) < 1.2 * 2 * torch.pi * 3 / 60
    pixels, depth = path.project(torch.tensor([[0.0, 0.0, 0.1]]).double())
    assert torch.allclose(pixels[:, 0], torch.tensor([32.0, 24.0]).double(), atol=1e-3)
    assert float(depth.min()) > 2.9
    assert torch.allclose(path.positions[0], _ring().positions[0], atol=0.05)  # begins where photos do
    assert torch.allclose(path.Ks, intrinsics(60, 61, 32, 24))


def test_turn_follows_an_elongated_capture():
    angles = torch.arange(40).double() / 40 * 2 * torch.pi
    eyes = torch.stack([5 * angles.cos(), 2.5 * angles.sin(), 1 + 0 * angles], dim=-1)
    path = orbit(_cameras(eyes, [0.0, 0.0, 0.0]), 80)
    radius = path.positions[:, :2].norm(dim=-1)
    assert float(radius.max()) > 1.2 * float(radius.min())
    assert float(radius.min()) > 2.5
    assert float(radius.max()) < 5


@pytest.mark.parametrize("arc", [40.0, 100.0, 200.0])
def test_path_stays_within_a_part_of_the_circle(arc):
    path = orbit(_ring(15, arc), 50)
    _assert_proper(path, 50)
    angles = torch.rad2deg(torch.atan2(path.positions[:, 1], path.positions[:, 0])) % 360
    assert float(angles.min()) > 0.1 * arc
    assert float(angles.max()) < 0.9 * arc
    assert float(angles.max() - angles.min()) > 0.5 * arc
    assert torch.allclose(path.positions[:, :2].norm(dim=-1), torch.tensor(3.0).double(), atol=0.05)
    assert float(_steps(path, closed=True).max()) < 0.6  # the last frame leads to the first


def test_ellipse_before_a_wall_looks_ahead():
    cameras = _wall()
    path = orbit(cameras, 40)
    _assert_proper(path, 40)
    low, high = cameras.positions.min(dim=0).values, cameras.positions.max(dim=0).values
    assert ((path.positions >= low - 1e-9) & (path.positions <= high + 1e-9)).all()
    assert float(path.positions[:, 0].max() - path.positions[:, 0].min()) > 0.8
    assert float(path.positions[:, 2].max() - path.positions[:, 2].min()) > 0.4
    assert float(path.forward[:, 1].min()) > 0.95
    assert float(path.up[:, 2].min()) > 0.9


def test_points_say_how_far_ahead_to_look():
    scene = small_scene()
    cameras = _wall(5)
    views = tuple(replace(view, camera=cameras[i]) for i, view in enumerate(scene.views))
    xyz = torch.tensor([[0.0, 3.0, 0.0], [0.1, 3.1, 0.2], [-0.3, 2.9, 0.1]]).double()
    path = orbit(replace(scene, views=views, points=Points(xyz, torch.zeros(3, 3))), 24)
    pixels, _ = path.project(torch.tensor([[0.0, 3.0, -0.6]]).double())
    assert float((pixels[:, 0] - torch.tensor([32.0, 24.0])).abs().max()) < 2


def test_panorama_is_looked_at_from_its_middle():
    angles = torch.arange(12).double() / 12 * 2 * torch.pi
    out = torch.stack([angles.cos(), angles.sin(), 0 * angles], dim=-1)
    path = orbit(_cameras(0.2 * out + 5, 9 * out + 5), 36)
    _assert_proper(path, 36)
    assert float((path.positions - 5).norm(dim=-1).max()) < 0.05
    turned = torch.rad2deg(torch.atan2(path.forward[:, 1], path.forward[:, 0]))
    assert sorted((turned - turned[0]).round().remainder(360).tolist()) == pytest.approx(list(range(0, 360, 10)))
    assert float(path.forward[:, 2].abs().max()) < 0.01


def test_corridor_is_ridden_along():
    eyes = torch.stack([torch.arange(12.0), torch.zeros(12), torch.zeros(12)], dim=-1).double()
    sides = torch.tensor([[0.0, 5.0, 0.0], [0.0, -5.0, 0.0]]).double().repeat(6, 1)
    path = orbit(_cameras(eyes, eyes + sides), 48)
    _assert_proper(path, 48)
    assert float(path.positions[:, 0].min()) >= -0.5
    assert float(path.positions[:, 0].max()) <= 11.5


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_cameras(count):
    for cameras in (_ring(count, 30.0), _wall(count)):
        path = orbit(cameras, 10)
        _assert_proper(path, 10)
        apart = (path.positions[:, None] - cameras.positions).norm(dim=-1).min(dim=1).values
        assert float(apart.max()) < 1


def test_cameras_that_look_straight_down():
    eyes = torch.tensor([[float(i % 4), float(i // 4), 9.0] for i in range(16)]).double()
    c2w = torch.eye(4, dtype=torch.float64).repeat(16, 1, 1)
    c2w[:, :3, :3] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    c2w[:, :3, 3] = eyes
    cameras = Cameras.from_c2w(c2w, intrinsics(60, 60, 32, 24).expand(16, 3, 3), 64, 48)
    path = orbit(cameras, 20, up=UP)
    _assert_proper(path, 20)
    assert float(path.forward[:, 2].max()) < -0.95


def test_strays_do_not_count():
    strays = _cameras([[500.0, 0.0, 90.0]], [0.0, 900.0, 0.0])
    path = orbit(Cameras.cat([_ring(), strays]), 30)
    assert torch.allclose(path.positions[:, :2].norm(dim=-1), torch.tensor(3.0).double(), atol=0.05)


def test_lens_and_up_can_be_given():
    lens = Cameras(torch.eye(4)[None], intrinsics(100, 100, 80, 45), 160, 90)
    tilted = torch.tensor([0.0, 0.3, 1.0])
    path = orbit(_ring(), 12, up=tilted, lens=lens)
    assert (path.width, path.height) == (160, 90)
    assert torch.allclose(path.Ks, lens.Ks)
    assert float((path.viewmats[:, 0, :3] @ tilted.double()).abs().max()) < 1e-9  # level by the up that was given
    assert float((orbit(_ring(), 12).viewmats[:, 0, :3] @ tilted.double()).abs().max()) > 0.1


def test_photos_of_several_sizes_get_the_usual_one():
    batches = [_ring(4), _ring(3, 90.0), _cameras([[0.0, -3.0, 1.0]], [0.0, 0.0, 0.0], 66, 48)]
    for path in (orbit(batches, 8), interpolate(batches, 8)):
        assert (path.width, path.height) == (64, 48)
    last = interpolate(batches, 8)[7]
    assert float(last.Ks[0, 0, 0]) == pytest.approx(60 * 64 / 66)


def test_path_goes_through_its_cameras():
    generator = torch.Generator().manual_seed(2)
    eyes = torch.cumsum(torch.rand(6, 3, generator=generator).double() + 0.2, dim=0)
    cameras = _cameras(eyes, eyes + torch.randn(6, 3, generator=generator).double())
    path = interpolate(cameras, 4001)
    _assert_proper(path, 4001)
    apart = (path.positions[:, None] - cameras.positions).norm(dim=-1)
    nearest = apart.argmin(dim=0)
    assert float(apart.min(dim=0).values.max()) < 2e-3
    assert (nearest.diff() > 0).all()
    assert torch.allclose(path.viewmats[nearest], cameras.viewmats, atol=0.01)
    assert torch.allclose(path.viewmats[[0, -1]], cameras.viewmats[[0, -1]], atol=1e-9)
    # Smooth: the second differences shrink with the square of the step.
    second = path.c2w.diff(dim=0).diff(dim=0).abs().max()
    assert float(second) < 1e-4


def test_closed_path_returns_after_a_whole_turn():
    cameras = _ring(8)
    path = interpolate(cameras, 400, closed=True)
    _assert_proper(path, 400)
    steps = _steps(path, closed=True)
    assert float(steps.max()) < 1.3 * float(steps.min())
    assert float((path.positions[:, :2].norm(dim=-1) - 3).abs().max()) < 0.05
    assert torch.allclose(path.viewmats[::50], cameras.viewmats, atol=1e-6)
    looped = torch.cat([path.c2w, path.c2w[:2]])
    assert float(looped.diff(dim=0).diff(dim=0).abs().max()) < 2e-3
    # It turns about the vertical without rolling.
    assert float(path.viewmats[:, 0, 2].abs().max()) < 0.02


def test_zoom_is_interpolated_too():
    near, far = (
        _cameras([[0.0, -3.0, 0.0]], [0.0, 0.0, 0.0], focal=50.0),
        _cameras([[1.0, -3.0, 0.0]], [0.0, 0.0, 0.0], focal=200.0),
    )
    path = interpolate([near, far], 3)
    assert path.Ks[:, 0, 0].tolist() == pytest.approx([50, 100, 200])


def test_repeated_cameras_count_once():
    one = _ring(5, 100.0)
    twice = one[[0, 0, 1, 2, 2, 2, 3, 4, 4]]
    assert torch.allclose(interpolate(twice, 20).viewmats, interpolate(one, 20).viewmats, atol=1e-9)
    still = interpolate(one[[1, 1, 1]], 5, closed=True)
    assert torch.allclose(still.viewmats, one[1].viewmats.expand(5, 4, 4), atol=1e-9)
    assert torch.allclose(interpolate(one[1], 3).viewmats, one[1].viewmats.expand(3, 4, 4), atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(*[st.floats(-5, 5)] * 6), min_size=1, max_size=7),
    st.integers(1, 30),
    st.booleans(),
    st.sampled_from([0.0, 5e5]),
)
def test_any_cameras_make_proper_paths(placed, frames, closed, offset):
    values = torch.tensor(placed, dtype=torch.float64)
    directions = torch.where(values[:, 3:].norm(dim=-1, keepdim=True) < 0.1, torch.tensor([1.0, 0.2, 0]), values[:, 3:])
    directions[:, 2] = directions[:, 2].clamp(-1, 1)
    directions[:, 0] += torch.where(directions[:, :2].norm(dim=-1) < 0.1, 0.5, 0.0)
    eyes = values[:, :3] + offset
    cameras = _cameras(eyes, eyes + directions)
    ride = interpolate(cameras, frames, closed=closed)
    _assert_proper(ride, frames)
    assert float((ride.positions - cameras.positions.mean(dim=0)).abs().max()) < 60
    _assert_proper(orbit(cameras, frames), frames)


def test_nonsense_is_a_mistake_of_the_caller():
    for path in (orbit, interpolate):
        with pytest.raises(ValueError, match="0 frames"):
            path(_ring(), 0)
        with pytest.raises(ValueError, match="at least one camera"):
            path([], 5)


def test_real_captures_are_looked_at_from_where_they_were_photographed(real_data):
    for name, downscale in (("fern", 8), ("kermit", 1), ("fox_colmap", 4)):
        scene = normalize(load_scene(real_data(name), downscale=downscale))
        path = orbit(scene, 40)
        positions = torch.cat([view.camera.positions for view in scene.views])
        apart = torch.cdist(positions, positions)
        apart.fill_diagonal_(torch.inf)
        from_photos = torch.cdist(path.positions, positions).min(dim=1).values
        assert float(from_photos.max()) < 2.5 * float(apart.min(dim=1).values.max()), name
        seen = 0.0
        for i in range(0, 40, 8):
            pixels, depth = path[i].project(scene.points.xyz)
            size = torch.tensor([path.width, path.height])
            seen += float((((pixels[0] >= 0) & (pixels[0] < size)).all(dim=-1) & (depth[0] > 0)).double().mean()) / 5
        assert seen > 0.6, name
        assert float(path.up[:, 2].min()) > 0.6
