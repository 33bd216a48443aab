"""Normalisation changes the frame and nothing else, for captures of every shape and in map coordinates."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.images import ArrayImage
from recon.datasets.normalize import look_at_point, normalize, up_direction
from recon.datasets.scene import Points, Scene, View

UTM = torch.tensor([448_262.25, 5_411_932.5, 312.75], dtype=torch.float64)


def _cameras(eyes, targets, up=(0.0, 0.0, 1.0)):
    eyes, targets = torch.as_tensor(eyes).double(), torch.as_tensor(targets).double()
    Ks = intrinsics(300, 310, 150, 110).expand(len(eyes), 3, 3)
    return Cameras.from_c2w(look_at(eyes, targets.expand_as(eyes), torch.tensor(up).double()), Ks, 320, 240)


def _ring(count=24, radius=3.0, height=1.5, arc=2 * torch.pi):
    angles = torch.arange(count).double() / count * arc
    eyes = torch.stack([radius * angles.cos(), radius * angles.sin(), torch.full_like(angles, height)], dim=-1)
    return _cameras(eyes, torch.tensor([0.0, 0.0, 0.2]))


def _forward_facing(count=20):
    generator = torch.Generator().manual_seed(4)
    eyes = torch.rand(count, 3, generator=generator).double() * torch.tensor([2.0, 0.2, 1.0]) - 1
    aims = torch.tensor([0.0, 12.0, 0.5]) + torch.rand(count, 3, generator=generator).double()
    return _cameras(eyes, aims)


def _panorama(count=16):
    angles = torch.arange(count).double() / count * 6.2832
    out = torch.stack([angles.cos(), angles.sin(), 0 * angles], dim=-1)
    return _cameras(0.1 * out, 5 * out)


def _scene(cameras, points=None, **options):
    views = tuple(View(f"{i:03d}", cameras[i], ArrayImage(torch.zeros(240, 320, 3))) for i in range(len(cameras)))
    if points is None:
        xyz = torch.randn(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        points = Points(xyz, torch.rand(50, 3), tracks=torch.zeros(3, 2, dtype=torch.int64))
    return Scene("capture", views, tuple(range(len(views))), (), points, **options)


def _all(scene):
    return Cameras.cat([view.camera for view in scene.views])


def _rotation(a, b, c):
    q = torch.tensor([a, b, c, 0.7], dtype=torch.float64)
    x, y, z, w = q / q.norm()
    return torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)]),
            torch.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)]),
            torch.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]),
        ]
    )


def _transformed(scene, target_from_world):
    """The same capture in files with another frame."""
    views = tuple(replace(view, camera=view.camera.transformed(target_from_world)) for view in scene.views)
    xyz = scene.points.xyz @ target_from_world[:3, :3].T + target_from_world[:3, 3]
    return replace(scene, views=views, points=replace(scene.points, xyz=xyz))


def _similarity(rotation, scale, translation):
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3], matrix[:3, 3] = scale * rotation, torch.as_tensor(translation).double()
    return matrix


CAPTURES = {
    "ring": _ring(),
    "arc": _ring(12, arc=1.5),
    "forward-facing": _forward_facing(),
    "panorama": _panorama(),
    "one camera": _ring(1),
    "two cameras": _ring(2, arc=1.0),
    "in one place": _cameras(torch.zeros(5, 3), torch.randn(5, 3, generator=torch.Generator().manual_seed(3))),
    "collinear": _cameras(torch.arange(6)[:, None] * torch.tensor([[1.0, 0.5, 0.1]]), torch.tensor([2.0, 9.0, 0.0])),
    "straight down": _cameras(
        torch.tensor([[float(i % 4), float(i // 4), 9.0] for i in range(16)]),
        torch.tensor([[float(i % 4), float(i // 4) + 1e-3, 0.0] for i in range(16)]),
    ),
}
every_capture = pytest.mark.parametrize("cameras", CAPTURES.values(), ids=CAPTURES.keys())


@every_capture
@pytest.mark.parametrize("offset", [torch.zeros(3).double(), UTM], ids=["at home", "in map coordinates"])
def test_photos_and_source_stay_what_they_were(cameras, offset):
    source = _transformed(_scene(cameras), _similarity(_rotation(0.3, -0.2, 0.5), 7.0, offset))
    new = normalize(source)
    before, depth_before = _all(source).project(source.points.xyz)
    after, depth_after = _all(new).project(new.points.xyz)
    # At 5e6 m the source's own view matrices place points to about 1e-9 m only.
    near = depth_before.abs() > 0.5
    assert torch.allclose(before[near], after[near], atol=1e-5)
    scale = float(torch.linalg.det(new.source_from_world[:3, :3])) ** (1 / 3)
    assert torch.allclose(depth_before, depth_after * scale, atol=1e-7)
    back = _all(new).transformed(new.source_from_world)
    assert torch.allclose(back.positions, _all(source).positions, rtol=0, atol=1e-8 if offset.any() else 1e-12)
    assert torch.allclose(back.viewmats[:, :3, :3], _all(source).viewmats[:, :3, :3], rtol=0, atol=1e-12)
    assert torch.allclose(back.viewmats, _all(source).viewmats, rtol=1e-15, atol=1e-9)
    assert torch.isfinite(after).all()
    assert new.source_from_world.dtype == torch.float64


@every_capture
def test_twice_is_once(cameras):
    once = normalize(_transformed(_scene(cameras), _similarity(_rotation(0.1, 0.6, -0.4), 0.02, [5.0, -3.0, 900.0])))
    twice = normalize(once)
    assert torch.allclose(_all(once).viewmats, _all(twice).viewmats, atol=1e-9)
    assert torch.allclose(once.points.xyz, twice.points.xyz, atol=1e-9)
    assert torch.allclose(once.source_from_world, twice.source_from_world, rtol=1e-9, atol=1e-9)
    assert torch.equal(twice.up, torch.tensor([0.0, 0.0, 1.0]).double())


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["ring", "arc", "forward-facing", "panorama", "two cameras", "collinear"]),
    st.tuples(*[st.floats(-1, 1)] * 3),
    st.floats(1e-3, 1e3),
    st.tuples(*[st.floats(-1e4, 1e4)] * 3),
)
def test_frame_of_the_files_does_not_matter(name, turn, scale, translation):
    """The same capture in another frame normalises to the same world, up to a turn about z."""
    plain = normalize(_scene(CAPTURES[name]))
    other = normalize(_transformed(_scene(CAPTURES[name]), _similarity(_rotation(*turn), scale, translation)))
    a, b = plain.points.xyz, other.points.xyz
    assert torch.allclose(a[:, 2], b[:, 2], atol=1e-6)
    assert torch.allclose(a[:, :2].norm(dim=-1), b[:, :2].norm(dim=-1), atol=1e-6)
    turned = torch.atan2(a[:, 1], a[:, 0]) - torch.atan2(b[:, 1], b[:, 0])
    far = a[:, :2].norm(dim=-1) > 0.05
    turned = torch.stack([turned[far].cos(), turned[far].sin()])
    assert torch.allclose(turned, turned[:, :1].expand_as(turned), atol=1e-4)


@every_capture
def test_cameras_fit_the_unit_ball(cameras):
    new = normalize(_scene(cameras))
    distances = _all(new).positions.norm(dim=-1)
    assert float(distances.max()) <= 1 + 1e-9
    if float((cameras.positions - cameras.positions[0]).norm(dim=-1).max()) > 1e-9:
        assert float(distances.max()) == pytest.approx(1)
    else:
        assert float(new.points.xyz.norm(dim=-1).median()) == pytest.approx(1)


def test_ring_is_centred_on_what_it_looks_at():
    cameras = _ring()
    assert torch.allclose(look_at_point(cameras), torch.tensor([0.0, 0.0, 0.2]).double(), atol=1e-6)
    new = normalize(_transformed(_scene(cameras), _similarity(_rotation(-0.5, 0.3, 0.2), 3.0, UTM)))
    positions = _all(new).positions
    assert torch.allclose(positions.mean(dim=0)[:2], torch.zeros(2).double(), atol=1e-6)
    assert float(positions[:, 2].std()) < 1e-6  # level again
    assert float(positions[0, 2]) == pytest.approx(1.3 / (9 + 1.3**2) ** 0.5)


@pytest.mark.parametrize("with_points", [True, False])
def test_cameras_in_one_place_far_from_home(with_points):
    source = _transformed(_scene(CAPTURES["in one place"]), _similarity(_rotation(0.3, 0.1, 0.2), 1.0, UTM))
    source = source if with_points else replace(source, points=None)
    once = normalize(source)
    twice = normalize(once)
    scale = float(torch.linalg.det(once.source_from_world[:3, :3])) ** (-1 / 3)
    assert float(_all(once).positions.norm(dim=-1).max()) < 1e-6
    assert scale == pytest.approx(1 / float(_scene(_ring()).points.xyz.norm(dim=-1).median()) if with_points else 1.0)
    assert torch.allclose(_all(once).viewmats, _all(twice).viewmats, atol=1e-8)


def test_axes_of_most_cameras_may_be_one_line():
    """Two of three look along the same line, which leaves the place on it to the third alone."""
    cameras = _cameras([[0.0, -3.0, 0.0], [0.0, -4.0, 0.0], [5.0, 0.5, 0.0]], [0.0, 0.5, 0.0])
    assert torch.allclose(look_at_point(cameras), torch.tensor([0.0, 0.5, 0.0]).double(), atol=1e-6)
    assert torch.isfinite(_all(normalize(_scene(cameras))).viewmats).all()


def test_strays_do_not_move_the_result():
    clean = _ring(40)
    strays = _cameras(torch.tensor([[900.0, 10.0, 4.0], [-30.0, 800.0, -9.0]]), torch.tensor([0.0, -2000.0, 0.0]))
    both = normalize(_scene(Cameras.cat([clean, strays])))
    alone = normalize(_scene(clean))
    assert torch.allclose(_all(both).positions[:40], _all(alone).positions, atol=0.02)


def test_no_common_point_in_forward_facing_captures_and_panoramas():
    assert look_at_point(CAPTURES["forward-facing"]) is None
    assert look_at_point(CAPTURES["panorama"]) is None
    assert look_at_point(CAPTURES["one camera"]) is None
    assert look_at_point(CAPTURES["straight down"]) is None


@pytest.mark.parametrize("name", ["ring", "arc", "forward-facing", "panorama", "collinear"])
def test_up_is_found(name):
    up = up_direction(CAPTURES[name])
    tolerance = 0.05 if name in ("ring", "arc", "panorama") else 0.2
    assert float((up - torch.tensor([0.0, 0.0, 1.0])).norm()) < tolerance


def test_up_survives_portrait_photos_and_a_shaky_hand():
    cameras = _ring(30)
    generator = torch.Generator().manual_seed(0)
    rolls = 0.05 * torch.randn(30, generator=generator).double()
    rolls[::4] += torch.pi / 2
    turns = torch.eye(4, dtype=torch.float64).repeat(30, 1, 1)
    turns[:, 0, 0] = turns[:, 1, 1] = rolls.cos()
    turns[:, 0, 1], turns[:, 1, 0] = -rolls.sin(), rolls.sin()
    up = up_direction(Cameras(turns @ cameras.viewmats, cameras.Ks, 320, 240))
    assert float(torch.rad2deg(torch.arccos(up[2]))) < 2


def test_photos_straight_down_are_seen_from_above():
    """A drone that turns round at the end of each line."""
    eyes = torch.tensor([[float(i % 4), float(i // 4), 9.0] for i in range(16)])
    north = torch.tensor([0.0, 1e-3, -9.0])
    targets = torch.stack(
        [eye + (north if i % 2 else north * torch.tensor([1.0, -1.0, 1.0])) for i, eye in enumerate(eyes)]
    )
    cameras = _cameras(eyes, targets)
    up = up_direction(cameras)
    assert float(up[2].abs()) > 0.99 or float(up[1].abs()) > 0.99  # lines of flight leave one more direction open
    turned = _cameras(eyes, eyes + torch.tensor([[i % 3 - 1.0, i % 4 - 1.5, -90.0] for i in range(16)]))
    assert float(up_direction(turned)[2]) > 0.99


def test_an_up_direction_that_is_known_is_kept():
    up = torch.tensor([0.0, 1.0, 0.0])
    new = normalize(_scene(_ring(), up=up))
    old_up = new.source_from_world[:3, :3] @ torch.tensor([0.0, 0.0, 1.0]).double()
    assert torch.allclose(old_up / old_up.norm(), up.double(), atol=1e-12)


def test_depth_scales_with_the_world_and_the_scene_is_left_alone():
    scene = _scene(_ring())
    depth = ArrayImage(torch.full((240, 320, 1), 3.0))
    scene = replace(scene, views=tuple(replace(view, depth=depth) for view in scene.views))
    before = _all(scene).viewmats.clone()
    new = normalize(scene)
    grown = float(torch.linalg.det(new.source_from_world[:3, :3])) ** (1 / 3)
    assert float(new.views[2].depth.load().mean()) == pytest.approx(3.0 / grown)
    assert float(depth.load().mean()) == 3.0
    assert torch.equal(_all(scene).viewmats, before)
    assert new.views[0].image is scene.views[0].image
    assert new.points.tracks is scene.points.tracks
    assert (new.train, new.test, new.name, new.background) == (scene.train, scene.test, scene.name, scene.background)


def test_frames_compose():
    scene = _scene(_ring())
    moved = _similarity(_rotation(0.2, 0.3, 0.4), 2.5, [1.0, 2.0, 3.0])
    with_past = replace(_transformed(scene, torch.linalg.inv(moved)), source_from_world=moved)
    back = _all(normalize(with_past)).transformed(normalize(with_past).source_from_world)
    assert torch.allclose(back.viewmats, _all(scene).viewmats, atol=1e-10)


def test_points_keep_their_type():
    scene = _scene(_ring())
    single = replace(scene, points=Points(scene.points.xyz.float(), scene.points.rgb))
    assert normalize(single).points.xyz.dtype == torch.float32
    assert normalize(replace(scene, points=None)).points is None


def test_no_views_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="without views"):
        normalize(Scene("empty", (), (), ()))
