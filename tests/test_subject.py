"""Gaussians as the viewer is handed them: every picture against one of Gaussians made for it, every edit checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from recon import export, render, sh
from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.errors import InputError
from recon.gaussians import PARAMETERS, Gaussians, logit
from recon.looks import SHADOW, SOLID_SIZE, TINT
from recon.raster.reference import covariances
from recon.raster.solid import RADIUS
from recon.render import draw_depth, find_depth_range, frames, to_uint8
from recon.subject import SplatSubject
from recon.viewer.look import Box, Fainter, Floaters, Larger, Look, Mode, Sphere
from recon.viewer.subject import Editor, Subject

COUNT = 300
BLUE = (0.1, 0.2, 0.9)
BALL = Sphere((0.1, 0.0, 0.1), 0.5)
BOX = Box((0.0, 0.1, 0.0), (0.7, 0.9, 5.0))


@pytest.fixture
def model() -> Gaussians:
    return tiny.gaussians(COUNT, seed=4, degree=2)


@pytest.fixture
def camera() -> Cameras:
    return tiny.ring(5, 80, 64)[1]


def kept(model: Gaussians, rows: np.ndarray) -> Gaussians:
    """A model of some rows alone."""
    return Gaussians(*model.rows(torch.from_numpy(rows)).values())


def inside_box(model: Gaussians) -> np.ndarray:
    offsets = np.abs(model.means.detach().numpy() - np.array(BOX.centre, np.float32))
    return (offsets <= np.array(BOX.size, np.float32) / 2).all(axis=1)


def inside_ball(model: Gaussians) -> np.ndarray:
    return np.linalg.norm(model.means.detach().numpy() - np.array(BALL.centre, "f4"), axis=1) <= BALL.radius


def plain(model: Gaussians, camera: Cameras, mode: render.Mode = "rgb") -> np.ndarray:
    return next(frames(model, camera, mode=mode, background=BLUE, depth_range=(2.0, 4.0)))


def test_it_is_what_the_viewer_is_handed(model: Gaussians) -> None:
    subject: Subject = SplatSubject(model)
    editor: Editor = SplatSubject(model)
    assert subject.count == COUNT
    assert subject.sh_degree == 2
    assert (editor.selected, editor.deleted, editor.scale) == (0, 0, 1.0)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["rgb", "depth", "normals", "alpha", "points"])
def test_a_gpu_draws_the_same(model: Gaussians, camera: Cameras, mode: Mode) -> None:
    look, pictures = Look(mode, depth_range=(2.0, 4.0), crop=BOX), []
    for subject in (SplatSubject(model, BLUE), SplatSubject(model.to("cuda"), BLUE)):
        subject.select(BALL, "replace", BOX)
        pictures.append(subject.draw(camera, look).astype(float))
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.1  # of 255: single pixels differ where an alpha is cut
    assert np.ptp(pictures[1]) > 100


@pytest.mark.gpu
def test_ellipsoids_and_picks_on_a_gpu(model: Gaussians, camera: Cameras) -> None:
    on_cpu, on_gpu = SplatSubject(model, BLUE), SplatSubject(model.to("cuda"), BLUE)
    assert np.ptp(on_gpu.draw(camera, Look("ellipsoids"))) > 100
    expected = on_cpu.pick(camera, 40.5, 32.5, Look())
    assert expected is not None
    assert on_gpu.pick(camera, 40.5, 32.5, Look()) == pytest.approx(expected, abs=1e-3)
    assert len(on_gpu.splats(100, Look()).centres) == 100


@pytest.mark.parametrize("mode", ["rgb", "depth", "normals", "alpha"])
def test_pictures_are_those_of_a_render(model: Gaussians, camera: Cameras, mode: render.Mode) -> None:
    subject = SplatSubject(model, BLUE)
    assert np.array_equal(subject.draw(camera, Look(mode, depth_range=(2.0, 4.0))), plain(model, camera, mode))


@pytest.mark.parametrize("mode", ["rgb", "depth", "normals", "alpha", "ellipsoids", "points"])
def test_what_is_deleted_or_cropped_is_as_if_it_had_never_been_there(
    model: Gaussians, camera: Cameras, mode: Mode
) -> None:
    look = Look(mode, depth_range=(2.0, 4.0), size=1.5)
    cropped = Look(mode, depth_range=(2.0, 4.0), size=1.5, crop=BOX)
    subject = SplatSubject(model)
    whole = subject.draw(camera, look)
    count = subject.select(BALL)
    assert 20 < count < COUNT - 20
    assert subject.delete() == count
    assert subject.count == COUNT - count
    rest = ~inside_ball(model)
    assert np.array_equal(subject.draw(camera, look), SplatSubject(kept(model, rest)).draw(camera, look))
    both = rest & inside_box(model)
    assert np.array_equal(subject.draw(camera, cropped), SplatSubject(kept(model, both)).draw(camera, look))
    subject.undo()
    only = inside_box(model)
    subject.clear()
    assert np.array_equal(subject.draw(camera, cropped), SplatSubject(kept(model, only)).draw(camera, look))
    assert np.array_equal(subject.draw(camera, look), whole)


def test_near_far_degree_background_and_size_count(model: Gaussians, camera: Cameras) -> None:
    subject = SplatSubject(model, BLUE)
    depths = camera.project(model.means.detach())[1][0].numpy()
    between = (depths > 2.8) & (depths < 3.2)
    assert 20 < between.sum() < COUNT - 20
    assert np.array_equal(subject.draw(camera, Look(near=2.8, far=3.2)), plain(kept(model, between), camera))
    flat = model.state_dict() | {"shN": torch.zeros(COUNT, 0, 3)}
    assert np.array_equal(subject.draw(camera, Look(sh_degree=0)), plain(Gaussians(*flat.values()), camera))
    assert np.array_equal(subject.draw(camera, Look(sh_degree=3)), plain(model, camera))  # more than there is
    larger = model.state_dict() | {"log_scales": model.log_scales.detach() + np.log(1.5)}
    assert np.array_equal(subject.draw(camera, Look(size=1.5)), plain(Gaussians(*larger.values()), camera))
    assert np.array_equal(subject.draw(camera, Look(background=(0.0, 0.0, 0.0))), next(frames(model, camera)))


def test_depth_is_drawn_in_the_map_that_is_wanted_over_the_range_that_is_there(
    model: Gaussians, camera: Cameras
) -> None:
    out = render.render_one(model, camera, depth=True)
    depth, alpha = render.depth_of(out), out.alpha[0, ..., 0]
    seen = find_depth_range(model, camera)
    for name, middle in (("grey", "808080"), ("turbo", "a4fc3c")):
        look = Look("depth", colour_map=name, depth_range=(1.0, 9.0))  # type: ignore[arg-type]
        picture = SplatSubject(model).draw(camera, look)
        assert picture.shape == (64, 80, 3)
        near = (1 / depth - 1 / 9.0) / (1 - 1 / 9.0)
        level = (alpha > 0.999) & ((near - 0.5).abs() < 0.03)
        wanted = np.frombuffer(bytes.fromhex(middle), np.uint8).astype(int)
        if level.any():
            assert np.abs(picture[level.numpy()].astype(int) - wanted).max() < 30
    automatic = SplatSubject(model).draw(camera, Look("depth"))
    expected = to_uint8(draw_depth(depth, alpha, seen, (0.0, 0.0, 0.0)))
    assert np.abs(automatic.astype(int) - expected).mean() < 12


def test_what_is_selected_is_tinted_and_so_is_a_preview(model: Gaussians, camera: Cameras) -> None:
    subject = SplatSubject(model)
    x, y, z = camera.positions[0].tolist()
    front = Sphere((x, y, z), 3.0)
    for mode in ("rgb", "ellipsoids", "points"):
        look = Look(mode)  # type: ignore[arg-type]
        before = subject.draw(camera, look).astype(float)
        count = subject.preview(front)
        shown = subject.draw(camera, look).astype(float)
        toward = np.abs(shown - 255 * np.array(TINT)).sum(axis=-1) - np.abs(before - 255 * np.array(TINT)).sum(axis=-1)
        changed = (shown != before).any(axis=-1)
        assert changed.sum() > 50
        assert toward.mean() < 0
        assert toward.min() < -60
        assert subject.selected == 0
        assert subject.undoable == 0
        assert subject.preview(None) == 0
        assert np.array_equal(subject.draw(camera, look), before)
        assert subject.select(front) == count
        assert np.array_equal(subject.draw(camera, look), shown)
        subject.undo()
    untouched = subject.draw(camera, Look("depth", depth_range=(2.0, 4.0)))
    subject.select(front)
    assert np.array_equal(subject.draw(camera, Look("depth", depth_range=(2.0, 4.0))), untouched)


def test_points_are_dots_of_so_many_pixels_at_any_distance() -> None:
    """Two splats of very different size, at 2 and at 8 from the camera, side by side."""
    camera = Cameras(torch.eye(4, dtype=torch.float64)[None], intrinsics(100, 100, 60, 30), 120, 60)
    means = torch.tensor([[-0.4, 0.0, 2.0], [2.4, 0.0, 8.0]])
    model = Gaussians(
        means,
        torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0]]),
        torch.tensor([[0.5] * 3, [1e-4] * 3]).log(),
        torch.tensor([logit(0.1), logit(0.9)]),
        sh.from_rgb(torch.ones(2, 1, 3)),
        torch.zeros(2, 0, 3),
    )
    for size in (2.0, 6.0, 12.0):
        picture = SplatSubject(model).draw(camera, Look("points", size=size))[..., 0]
        for left in (picture[:, :65], picture[:, 65:]):
            across = (left.max(axis=0) > 127).sum()
            assert abs(across - size) <= 1.5


def test_ellipsoids_are_solids_with_sharp_edges_whatever_their_opacity() -> None:
    """A faint needle seen from the side: a filled ellipse of known axes, of its colour, shaded."""
    rgb = np.array([0.9, 0.5, 0.2])
    model = Gaussians(
        torch.tensor([[0.0, 0.0, 4.0]]),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.tensor([[0.6, 0.2, 0.2]]).log(),
        torch.tensor([logit(0.05)]),
        sh.from_rgb(torch.from_numpy(rgb).float().expand(1, 1, 3)),
        torch.zeros(1, 0, 3),
    )
    camera = Cameras(torch.eye(4, dtype=torch.float64)[None], intrinsics(200, 200, 80, 40), 160, 80)
    picture = SplatSubject(model).draw(camera, Look("ellipsoids", background=(0.0, 0.0, 1.0)))
    x, y = np.meshgrid(np.arange(160) + 0.5, np.arange(80) + 0.5)
    distance = np.hypot((x - 80) / 30, (y - 40) / 10) / (SOLID_SIZE * RADIUS)
    assert (picture[distance > 1.03] == [0, 0, 255]).all()
    inside = picture[distance < 0.93]
    assert len(inside) > 500
    assert np.ptp(inside, axis=0).max() <= 1
    shade = inside.mean(axis=0) / 255 / rgb
    assert np.ptp(shade) < 0.02
    assert SHADOW - 0.01 < shade[0] < 1.01


def disc(depth: float, tilt: float = 0.0) -> Gaussians:
    """A wall of opaque splats, all on the plane z = depth + tilt x."""
    x, y = torch.meshgrid(torch.linspace(-3, 3, 60), torch.linspace(-3, 3, 60), indexing="xy")
    means = torch.stack([x, y, depth + tilt * x], dim=-1).reshape(-1, 3)
    count = len(means)
    angle = -np.arctan(tilt) / 2
    quats = torch.tensor([np.cos(angle), 0.0, np.sin(angle), 0.0], dtype=torch.float32).expand(count, 4)
    scales = torch.tensor([0.08, 0.08, 1e-4]).log().expand(count, 3)
    return Gaussians(
        means, quats, scales, torch.full((count,), 4.0), torch.zeros(count, 1, 3), torch.zeros(count, 0, 3)
    )


def test_a_pick_is_the_point_of_the_surface_that_a_pixel_shows() -> None:
    c2w = look_at(
        torch.tensor([[0.5, -0.4, -1.0]]).double(), torch.tensor([[0.1, 0.2, 2.0]]).double(), torch.tensor([0, -1.0, 0])
    )
    camera = Cameras.from_c2w(c2w, intrinsics(90, 95, 42, 30), 80, 60)
    subject = SplatSubject(disc(2.0, tilt=0.3))
    origins, directions = camera.rays(torch.tensor([[10.25, 50.5], [40.5, 30.0], [79.5, 0.5]]).double())
    for (x, y), origin, direction in zip(
        [(10.25, 50.5), (40.5, 30.0), (79.5, 0.5)], origins[0], directions[0], strict=True
    ):
        found = subject.pick(camera, x, y, Look())
        assert found is not None
        along = (2.0 + 0.3 * origin[0] - origin[2]) / (direction[2] - 0.3 * direction[0])
        expected = origin + along * direction
        assert np.abs(np.array(found) - expected.numpy()).max() < 0.03  # a third of a splat
        across = np.cross(np.array(found) - origin.numpy(), direction.numpy())
        assert np.abs(across).max() < 1e-5  # on the ray, whatever the depth


def test_nothing_is_picked_where_nothing_solid_is(model: Gaussians, camera: Cameras) -> None:
    assert SplatSubject(model).pick(camera, 0.5, 0.5, Look()) is None
    wall = SplatSubject(disc(2.0))
    front = Cameras(torch.eye(4, dtype=torch.float64)[None], intrinsics(60, 60, 40, 30), 80, 60)
    assert wall.pick(front, 40, 30, Look()) is not None
    assert wall.pick(front, 40, 30, Look(far=1.5)) is None
    assert wall.pick(front, 40, 30, Look(crop=Box((2.0, 0.0, 2.0), (1.0, 9.0, 9.0)))) is None
    wall.select(Sphere((0.0, 0.0, 2.0), 1.0))
    wall.delete()
    assert wall.pick(front, 40, 30, Look("points", size=5.0)) is None


def test_splats_for_a_browser_are_those_that_show_most(model: Gaussians) -> None:
    subject = SplatSubject(model)
    every = subject.splats(COUNT, Look())
    assert every.centres.shape == (COUNT, 3)
    assert np.array_equal(every.centres, model.means.detach().numpy())
    expected = covariances(model.quats.detach(), model.log_scales.detach()).numpy()
    assert np.allclose(every.covariances, expected, atol=1e-7)
    assert np.allclose(every.opacities[:, 0], model.opacities.detach().numpy())
    assert np.allclose(every.rgbs, sh.to_rgb(model.sh0.detach()[:, 0]).clamp(0, 1).numpy())
    values = [
        float(opacity) * float(np.prod(sorted(scales)[1:]))
        for opacity, scales in zip(model.opacities.tolist(), model.scales.tolist(), strict=True)
    ]
    best = sorted(sorted(range(COUNT), key=lambda row: -values[row])[:40])
    assert np.array_equal(subject.splats(40, Look()).centres, model.means.detach().numpy()[best])
    subject.select(BALL)
    subject.delete()
    left = subject.splats(COUNT, Look(crop=BOX))
    assert np.array_equal(left.centres, model.means.detach().numpy()[inside_box(model) & ~inside_ball(model)])
    assert np.allclose(subject.splats(5, Look(size=2.0)).covariances, 4 * subject.splats(5, Look()).covariances)


def test_what_is_saved_is_what_is_left_in_the_frame_of_the_capture(model: Gaussians, tmp_path: Path) -> None:
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3, :3] = 2.5 * torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    transform[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    subject = SplatSubject(model, source_from_world=transform)
    subject.select(BALL)
    subject.delete()
    subject.set_scale(2.0)
    path = tmp_path / "scene.ply"
    assert subject.saver(Look(crop=BOX))(path) == path.stat().st_size
    loaded = export.load(path)
    left = kept(model, ~inside_ball(model) & inside_box(model))
    larger = transform.clone()
    larger[:3] *= 2.0
    expected = left.transformed(larger)
    for name in PARAMETERS:
        assert torch.allclose(getattr(loaded, name), getattr(expected, name), atol=1e-6), name
    means = left.means.detach().double() @ transform[:3, :3].T + transform[:3, 3]
    assert torch.allclose(loaded.means.double(), 2 * means, atol=1e-5)
    subject.undo()
    assert subject.scale == 1.0


def test_nothing_left_is_not_saved(model: Gaussians, tmp_path: Path) -> None:
    subject = SplatSubject(model)
    subject.invert()
    assert subject.delete() == COUNT
    assert subject.count == 0
    with pytest.raises(InputError, match="nothing is left"):
        subject.saver(Look())(tmp_path / "a.ply")
    assert not list(tmp_path.iterdir())
    black = subject.draw(tiny.ring(1)[0], Look())
    assert not black.any()
    assert subject.select(Floaters(1.0)) == 0


def test_selecting_looks_only_at_what_is_there(model: Gaussians) -> None:
    subject = SplatSubject(model)
    inside, ball = inside_box(model), inside_ball(model)
    assert subject.select(Fainter(2.0), crop=BOX) == inside.sum()
    assert subject.select(BALL, "subtract", BOX) == (inside & ~ball).sum()
    assert subject.select(BALL, "add") == (inside | ball).sum()
    subject.delete()
    assert subject.select(Larger(0.0)) == (~inside & ~ball).sum()
    assert subject.invert() == 0
    subject.undo()
    subject.undo()
    assert subject.selected == 0
    assert subject.invert(BOX) == (inside & ~ball & ~inside).sum() == 0
    subject.undo()
    assert subject.selected == (inside | ball).sum()
    assert subject.deleted == 0


def test_the_model_is_never_changed_and_may_change_by_itself(model: Gaussians, camera: Cameras) -> None:
    """As in a training: other values in the same tensors, then other rows."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    subject = SplatSubject(model)
    look = Look("ellipsoids", size=0.7, crop=BOX)
    subject.select(BALL)
    subject.draw(camera, look)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    with torch.no_grad():
        model.means += 0.1
        model.log_scales += 0.2
    subject.follow(model)
    assert subject.selected == 0
    assert np.array_equal(subject.draw(camera, look), SplatSubject(model).draw(camera, look))
    fewer = kept(model, np.arange(COUNT) < 100)
    subject.follow(fewer)
    assert subject.count == 100
    assert np.array_equal(subject.draw(camera, look), SplatSubject(fewer).draw(camera, look))
