"""Pictures along a path, against scenes whose depth and normals are known exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from recon.colormap import GREY, INFERNO, TABLES, VIRIDIS, colourise
from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.gaussians import Gaussians, logit
from recon.model import RenderOutput
from recon.render import (
    Mode,
    draw_depth,
    draw_normals,
    find_depth_range,
    frames,
    normals_from_depth,
    to_uint8,
)

BLACK = (0.0, 0.0, 0.0)


def camera_from(eye: tuple[float, float, float], *, width: int = 64, height: int = 48, focal: float = 60.0) -> Cameras:
    """Looks at the origin; the principal point is off the centre and the pixels are not square."""
    c2w = look_at(torch.tensor([eye], dtype=torch.float64), torch.zeros(1, 3), torch.tensor([0.0, 0.0, 1.0]))
    Ks = intrinsics(focal, 1.1 * focal, 0.55 * width, 0.45 * height)
    return Cameras.from_c2w(c2w, Ks, width, height)


def pixel_rays(camera: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """Origin [3], unit directions [H,W,3], and the factor [H,W] from a length along them to depth."""
    x, y = torch.meshgrid(torch.arange(camera.width) + 0.5, torch.arange(camera.height) + 0.5, indexing="xy")
    origins, directions = camera.rays(torch.stack([x, y], dim=-1).reshape(-1, 2).double())
    directions = directions.reshape(camera.height, camera.width, 3)
    return origins[0, 0], directions, directions @ camera.forward[0]


def plane_depth(camera: Cameras, normal: Tensor, offset: float) -> Tensor:
    """Depth [H,W] of the plane normal . x = offset."""
    origin, directions, along = pixel_rays(camera)
    return (offset - origin @ normal) / (directions @ normal) * along


def sphere_depth(camera: Cameras, radius: float) -> tuple[Tensor, Tensor]:
    """Depth [H,W], infinite beside it, and normals [H,W,3] of a sphere round the origin."""
    origin, directions, along = pixel_rays(camera)
    half = directions @ origin
    root = half**2 - origin @ origin + radius**2
    length = torch.where((root > 0) & (half < 0), -half - root.clamp_min(0).sqrt(), torch.full_like(root, math.inf))
    return length * along, (origin + length[..., None] * directions) / radius


class BallOnFloor:
    """A model whose depth is exact: a sphere of radius 1 round the origin, over the floor z = -1 or over nothing."""

    def __init__(self, *, floor: bool = True) -> None:
        self.floor = floor
        self.rendered: list[Cameras] = []

    def render(
        self, cameras: Cameras, *, background: Tensor | None = None, depth: bool = True, **_: object
    ) -> RenderOutput:
        assert not torch.is_grad_enabled()
        self.rendered.append(cameras)
        ball, normals = sphere_depth(cameras, 1.0)
        ground = plane_depth(cameras, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), -1.0)
        ground = torch.where((ground > 0) & torch.tensor(self.floor), ground, math.inf)
        distance = torch.minimum(ball, ground)
        alpha = distance.isfinite().float()[None, ..., None]
        light = (normals[..., 2].clamp_min(0) * 2).nan_to_num(0)  # over-exposed at the top
        rgb = torch.where(ball < ground, light, 0.5).float()[None, ..., None].expand(-1, -1, -1, 3)
        shown = rgb * alpha + (torch.zeros(3) if background is None else background) * (1 - alpha)
        seen = torch.where(distance.isfinite(), distance, 0.0).float()[None, ..., None]
        return RenderOutput(shown, alpha, seen if depth else None)

    def param_groups(self, extent: float) -> list:
        return []

    def regularisers(self) -> dict[str, Tensor]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {}


def ring(count: int, *, distance: float = 5.0, width: int = 40, height: int = 30) -> Cameras:
    turns = [2 * math.pi * i / count for i in range(count)]
    return Cameras.cat(
        [
            camera_from((distance * math.cos(t), distance * math.sin(t), 1.5), width=width, height=height, focal=width)
            for t in turns
        ]
    )


coordinate = st.floats(-1, 1)


@settings(deadline=None, max_examples=50)
@given(normal=st.tuples(coordinate, coordinate, coordinate), eye=st.tuples(coordinate, coordinate, coordinate))
def test_normals_of_a_plane_are_exact_up_to_the_border(
    normal: tuple[float, float, float], eye: tuple[float, float, float]
) -> None:
    """Any plane that fills the view: the differences between its points lie in it, whatever the perspective."""
    direction, position = torch.tensor(normal, dtype=torch.float64), torch.tensor(eye, dtype=torch.float64)
    assume(direction.norm() > 0.1 and position[:2].norm() > 0.05)
    direction, position = direction / direction.norm(), 3 * position / position.norm()
    camera = camera_from(tuple(position.tolist()), width=16, height=12)
    depth = plane_depth(camera, direction, 0.0)
    _, rays, _ = pixel_rays(camera)
    assume(depth.min() > 0.1 and (rays @ direction).abs().min() > 0.2)  # in front of the camera, not seen edge-on
    expected = direction if position @ direction > 0 else -direction
    found = normals_from_depth(depth, camera)
    assert (found - expected).norm(dim=-1).max() < 1e-9


def test_normals_of_a_sphere() -> None:
    camera = camera_from((3.0, -2.0, 1.0), width=200, height=150, focal=220)
    depth, exact = sphere_depth(camera, 1.0)
    _, directions, _ = pixel_rays(camera)
    facing = -(exact * directions).sum(dim=-1)
    inside = depth.isfinite() & (facing > 0.3)
    assert inside.sum() > 5000
    found = normals_from_depth(torch.where(depth.isfinite(), depth, 0.0), camera)
    degrees = torch.rad2deg(torch.acos((found * exact).sum(dim=-1)[inside].clamp(-1, 1)))
    assert degrees.max() < 1.0
    lengths = found.norm(dim=-1)
    assert (lengths[inside] - 1).abs().max() < 1e-9
    assert lengths[0, 0] == 0  # nothing is there


def test_normals_stay_sharp_where_one_surface_hides_another() -> None:
    """A nearer wall covers the left half of a farther one: both keep their normals right up to the edge."""
    camera = camera_from((4.0, 0.0, 0.0))
    tilted = torch.nn.functional.normalize(torch.tensor([1.0, 0.4, 0.3], dtype=torch.float64), dim=0)
    straight = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    depth = plane_depth(camera, straight, 0.0)
    depth[:, :30] = plane_depth(camera, tilted, 1.5)[:, :30]
    found = normals_from_depth(depth, camera)
    assert (found[:, :30] - tilted).abs().max() < 1e-9
    assert (found[:, 30:] - straight).abs().max() < 1e-9


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5), (5, 1), (2, 2)])
def test_normals_of_tiny_images(width: int, height: int) -> None:
    camera = camera_from((4.0, 0.0, 0.0), width=width, height=height)
    depth = torch.full((height, width), 3.0)
    lengths = normals_from_depth(depth, camera).norm(dim=-1)
    assert torch.allclose(lengths, torch.ones_like(lengths) if min(width, height) > 1 else torch.zeros_like(lengths))


def test_normal_colours_are_of_the_world_and_grey_where_nothing_is() -> None:
    camera = camera_from((4.0, 0.0, 0.0))
    depth = plane_depth(camera, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), 0.0)
    alpha = torch.ones_like(depth)
    alpha[:, 40:] = 0.3
    picture = draw_normals(depth, alpha, camera)
    assert torch.allclose(picture[:, :40], torch.tensor([1.0, 0.5, 0.5], dtype=picture.dtype))
    assert torch.equal(picture[:, 40:], torch.full_like(picture[:, 40:], 0.5))


@pytest.mark.parametrize(("name", "most"), [("viridis", 6), ("inferno", 6), ("turbo", 6), ("grey", 1)])
def test_colour_maps_are_those_of_their_names(name: str, most: int) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    positions = np.linspace(0, 1, 256)
    whole = matplotlib.colormaps["gray" if name == "grey" else name](positions)[:, :3]
    assert np.abs(colourise(positions, TABLES[name]) - whole).max() < (most + 0.5) / 255
    assert np.array_equal(colourise(np.array([np.nan]), TABLES[name]), colourise(np.array([0.0]), TABLES[name]))


@pytest.mark.parametrize("table", [VIRIDIS, INFERNO, GREY])
def test_colour_maps_run_evenly_from_dark_to_bright(table: str) -> None:
    colours = colourise(np.linspace(0, 1, 200), table)
    luma = colours @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luma) > 0).all()
    ends = colourise(np.array([[-3.0, 7.0]]), table)
    assert np.array_equal(ends[0], colours[[0, -1]])


def test_depth_is_bright_near_dark_far_and_the_background_beyond() -> None:
    depth = torch.tensor([[1.0, 2.0, 4.0, 8.0, 100.0, 0.0]])
    alpha = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 0.0]])
    picture = draw_depth(depth, alpha, (2.0, 8.0), (0.2, 0.4, 0.6))[0].numpy()
    dark, bright = colourise(np.array([0.0, 1.0]), VIRIDIS)
    middle = colourise(np.array([(1 / 4 - 1 / 8) / (1 / 2 - 1 / 8)]), VIRIDIS)[0]
    expected = [bright, bright, middle, dark, dark, np.array([0.2, 0.4, 0.6])]
    assert np.abs(picture - np.array(expected)).max() < 1e-6


def test_depth_of_a_flat_wall_and_of_nothing() -> None:
    wall = draw_depth(torch.full((2, 2), 3.0), torch.ones(2, 2), (3.0, 3.0), BLACK)
    assert wall.isfinite().all()
    away = look_at(torch.tensor([[0.0, -5.0, 0.0]]), torch.tensor([[0.0, -9.0, 0.0]]), torch.tensor([0.0, 0.0, 1.0]))
    cameras = Cameras.from_c2w(away.double(), intrinsics(40, 40, 20, 15), 40, 30)
    model = BallOnFloor(floor=False)
    near, far = find_depth_range(model, cameras)
    assert 0 < near < far
    (picture,) = frames(model, cameras, mode="depth")
    assert (picture == 0).all()


@pytest.mark.parametrize("depth_range", [(0.0, 1.0), (-1.0, 1.0), (3.0, 2.0), (math.nan, 1.0)])
def test_a_depth_range_must_be_positive_and_in_order(depth_range: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="depth range"):
        draw_depth(torch.ones(2, 2), torch.ones(2, 2), depth_range, BLACK)


def test_one_depth_range_for_the_whole_path_without_outliers() -> None:
    """The sphere alone, from 3 and from 9 away: its near point is at 2 from one, its rim at 8.9 from the other."""
    cameras = Cameras.cat([camera_from((3.0, 0.0, 0.0)), camera_from((9.0, 0.0, 0.0))])
    near, far = find_depth_range(BallOnFloor(floor=False), cameras, cut=0.0)
    assert near == pytest.approx(2.0, abs=0.01)
    assert far == pytest.approx(9 - 1 / 9, abs=0.1)
    floor_near, floor_far = find_depth_range(BallOnFloor(), ring(4), cut=0.0)
    cut_near, cut_far = find_depth_range(BallOnFloor(), ring(4), cut=0.05)
    assert floor_near < cut_near < cut_far < floor_far


def test_the_depth_range_is_found_at_small_cost() -> None:
    model = BallOnFloor()
    find_depth_range(model, ring(100, width=400, height=300), samples=8, size=160)
    assert len(model.rendered) == 8
    assert {(c.width, c.height) for c in model.rendered} == {(160, 120)}


def test_a_path_shares_one_depth_range() -> None:
    """The same surface at the same depth keeps its colour when another camera of the path sees farther."""
    model = BallOnFloor(floor=False)
    near, far = camera_from((3.0, 0.0, 0.0)), camera_from((30.0, 0.0, 0.0))
    alone = next(frames(model, near, mode="depth"))
    together = list(frames(model, Cameras.cat([near, far]), mode="depth"))
    fixed = next(frames(model, near, mode="depth", depth_range=find_depth_range(model, Cameras.cat([near, far]))))
    assert np.array_equal(together[0], fixed)
    assert not np.array_equal(together[0], alone)


@pytest.mark.parametrize("mode", ["rgb", "depth", "normals", "alpha"])
def test_frames_come_one_at_a_time(mode: Mode) -> None:
    model, cameras = BallOnFloor(), ring(5)
    path = frames(model, cameras, mode=mode, depth_range=(2.0, 9.0))
    assert torch.is_grad_enabled()
    for number in range(5):
        picture = next(path)
        assert torch.is_grad_enabled()  # whoever takes the frames may be training in between
        assert picture.dtype == np.uint8
        assert picture.shape == (30, 40, 3)
        assert len(model.rendered) == number + 1
        assert torch.equal(model.rendered[number].viewmats, cameras.viewmats[number : number + 1])
    assert next(path, None) is None


def test_torch_s_threads_rest_while_a_frame_is_made_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spinning, they made a frame of normals twenty times slower on a busy machine."""
    during = []
    original = BallOnFloor.render

    def watched(self: BallOnFloor, cameras: Cameras, **options: Any) -> RenderOutput:
        during.append(torch.get_num_threads())
        return original(self, cameras, **options)

    monkeypatch.setattr(BallOnFloor, "render", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for _ in frames(BallOnFloor(), ring(2), mode="normals"):
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert during == [1, 1]


def test_rgb_frames_are_the_clamped_and_rounded_picture_over_the_background() -> None:
    model, cameras = BallOnFloor(floor=False), ring(1)
    (picture,) = frames(model, cameras, background=(0.2, 0.4, 0.999))
    with torch.no_grad():
        out = model.render(cameras, background=torch.tensor([0.2, 0.4, 0.999]))
    assert out.rgb.max() > 1  # or there is nothing to clamp
    expected = np.round(np.clip(out.rgb[0].numpy(), 0, 1) * 255)
    assert np.array_equal(picture, expected)
    assert picture[0, 0].tolist() == [51, 102, 255]


def test_alpha_frames_are_white_where_opaque() -> None:
    model, cameras = BallOnFloor(floor=False), ring(1)
    (picture,) = frames(model, cameras, mode="alpha")
    seen = sphere_depth(cameras, 1.0)[0].isfinite().numpy()
    assert 0 < seen.sum() < seen.size
    assert np.array_equal(picture == 255, np.repeat(seen[..., None], 3, axis=2))
    assert set(np.unique(picture)) == {0, 255}


def test_normal_frames_of_the_floor_are_blue_from_everywhere() -> None:
    for picture in frames(BallOnFloor(), ring(3), mode="normals"):
        assert np.abs(picture[-1].astype(int) - [128, 128, 255]).max() <= 1


def test_to_uint8_rounds_to_the_nearest() -> None:
    values = torch.tensor([-1.0, 0.0, 0.49 / 255, 0.51 / 255, 254.4 / 255, 1.0, 7.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 254, 255, 255]


def wall_of_gaussians(count: int = 12) -> Gaussians:
    """Flat opaque discs in the plane x = 0.5, facing +x, without view-dependent colour."""
    y, z = torch.meshgrid(torch.linspace(-0.9, 0.9, count), torch.linspace(-0.9, 0.9, count), indexing="ij")
    total = count * count
    means = torch.stack([torch.full((total,), 0.5), y.reshape(-1), z.reshape(-1)], dim=-1)
    thin = torch.tensor([1e-3, 0.12, 0.12]).log().expand(total, 3)
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(total, 4)
    colour = torch.zeros(total, 1, 3)
    return Gaussians(means, quats, thin, torch.full((total,), logit(0.95)), colour, torch.zeros(total, 0, 3))


def test_gaussians_in_every_mode() -> None:
    """A wall of splats at depth 2.5, facing the camera along +x."""
    model = wall_of_gaussians()
    camera = camera_from((3.0, 0.0, 0.0), width=33, height=26, focal=60)
    inner = np.s_[8:18, 10:24]
    modes: tuple[Mode, ...] = ("rgb", "depth", "normals", "alpha")
    pictures = {
        mode: next(frames(model, camera, mode=mode, background=(1.0, 0.0, 0.0), depth_range=(1.0, 4.0)))[inner]
        for mode in modes
    }
    assert np.abs(pictures["rgb"].astype(int) - 128).max() <= 6
    assert pictures["alpha"].min() > 245
    nearness = (1 / 2.5 - 1 / 4) / (1 - 1 / 4)
    assert np.abs(pictures["depth"] / 255 - colourise(np.array(nearness), VIRIDIS)).max() < 0.06
    assert np.abs(pictures["normals"].astype(int) - [255, 128, 128]).max() <= 4
    assert model.means.grad is None
