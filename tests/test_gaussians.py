"""The Gaussian scene: how it starts, how rows come and go, and that it looks the same in a moved world."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from recon import sh
from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.scene import Points
from recon.gaussians import FINAL, LEARNING_RATES, PARAMETERS, Gaussians, neighbour_distances
from recon.model import RenderOutput
from recon.raster import reference


def cloud(count: int, degree: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    options.setdefault("rasterizer", reference.rasterize)
    return Gaussians(
        0.5 * normal(count, 3),
        normal(count, 4),
        0.5 * normal(count, 3) - 1.5,
        normal(count),
        normal(count, 1, 3),
        0.2 * normal(count, sh.num_coefficients(degree) - 1, 3),
        **options,
    )


def cameras(count: int = 2, dtype: torch.dtype = torch.float64) -> Cameras:
    eyes = torch.tensor([[3.0, 0.5, 1.0], [-1.0, 2.5, -0.5], [0.0, -3.0, 2.0]], dtype=dtype)[:count]
    c2w = look_at(eyes, torch.zeros_like(eyes), torch.tensor([0.0, 0.0, 1.0]))
    Ks = intrinsics(26, 28, 13, 9).to(dtype).expand(count, 3, 3)
    return Cameras.from_c2w(c2w, Ks, 24, 19)


def similarity(seed: int) -> Tensor:
    """A random rotation, a scale from 1/5 to 5, a translation: [4,4] float64."""
    random = np.random.RandomState(seed)
    transform = np.eye(4)
    transform[:3, :3] = Rotation.random(random_state=random).as_matrix() * 5 ** random.uniform(-1, 1)
    transform[:3, 3] = random.normal(size=3) * 4
    return torch.from_numpy(transform)


similarities = st.integers(0, 2**32 - 1).map(similarity)


# --- how a scene starts


def test_points_become_gaussians_of_their_place_colour_and_distance() -> None:
    generator = torch.Generator().manual_seed(1)
    points = Points(torch.randn(40, 3, generator=generator).double(), torch.rand(40, 3, generator=generator).double())
    scene = Gaussians.from_points(points, opacity=0.2, scale=1.5, sh_degree=2, rasterizer=reference.rasterize)
    torch.testing.assert_close(scene.means.detach(), points.xyz.float())
    torch.testing.assert_close(sh.to_rgb(scene.sh0.detach())[:, 0], points.rgb.float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(scene.opacities.detach(), torch.full((40,), 0.2))
    nearest = torch.cdist(points.xyz, points.xyz).sort(dim=1).values[:, 1:4]
    expected = 1.5 * nearest.square().mean(dim=1).sqrt()
    torch.testing.assert_close(scene.scales.detach(), expected.float()[:, None].expand(-1, 3))
    torch.testing.assert_close(scene.quats.detach().norm(dim=1), torch.ones(40))
    assert scene.shN.shape == (40, 8, 3)
    assert not scene.shN.any()
    assert scene.sh_degree == 2
    assert all(value.dtype == torch.float32 and value.is_leaf for value in scene.parameters().values())


def test_a_grid_of_points_has_gaussians_of_its_spacing() -> None:
    axis = torch.arange(4) * 0.25
    xyz = torch.cartesian_prod(axis, axis, axis)
    scene = Gaussians.from_points(Points(xyz, torch.zeros_like(xyz)), rasterizer=reference.rasterize)
    torch.testing.assert_close(scene.scales.detach(), torch.full((64, 3), 0.25))


def test_points_that_coincide_and_lone_points_have_a_size() -> None:
    twice = torch.tensor([[0.0, 0, 0]] * 5 + [[2.0, 0, 0]], dtype=torch.float64)
    distances = neighbour_distances(twice)
    assert distances[5] == pytest.approx(2.0)
    assert distances[:5].tolist() == [2.0] * 5
    assert neighbour_distances(torch.zeros(7, 3)).tolist() == [1.0] * 7
    assert neighbour_distances(torch.zeros(1, 3)).tolist() == [1.0]
    assert neighbour_distances(torch.tensor([[0.0, 0, 0], [0, 3.0, 4.0]])).tolist() == [5.0, 5.0]


def test_no_points_are_refused() -> None:
    with pytest.raises(ValueError, match="no points"):
        Gaussians.from_points(Points(torch.zeros(0, 3), torch.zeros(0, 3)))


def test_the_start_depends_on_the_seed_alone() -> None:
    points = Points(torch.rand(9, 3), torch.rand(9, 3))
    first, again, other = (
        Gaussians.from_points(points, seed=seed, rasterizer=reference.rasterize).state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], again[name]) for name in PARAMETERS)
    assert not torch.equal(first["quats"], other["quats"])


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_of_the_wrong_shape_is_named(name: str) -> None:
    values: dict[str, Any] = cloud(4).state_dict()
    values[name] = values[name][:3] if name != "means" else values[name][:, :2]
    with pytest.raises(ValueError, match=f"^{name} is "):
        Gaussians(**values, rasterizer=reference.rasterize)


def test_a_number_of_coefficients_without_a_degree_is_refused() -> None:
    values: dict[str, Any] = cloud(4).state_dict() | {"shN": torch.zeros(4, 4, 3)}
    with pytest.raises(ValueError, match="5 SH coefficients"):
        Gaussians(**values, rasterizer=reference.rasterize)


def test_a_scene_keeps_no_hold_on_what_it_was_made_from() -> None:
    values: dict[str, Any] = cloud(4).state_dict()
    scene = Gaussians(**values, rasterizer=reference.rasterize)
    values["means"] += 1
    assert not torch.equal(scene.means.detach(), values["means"])


# --- what the training loop asks for


def test_each_parameter_is_a_group_and_only_the_means_scale_with_the_scene() -> None:
    scene = cloud(3)
    groups = {group["name"]: group for group in scene.param_groups(7.0)}
    assert tuple(groups) == PARAMETERS
    for name, group in groups.items():
        assert group["params"][0] is getattr(scene, name)
        unit = 7.0 if name == "means" else 1.0
        assert group["lr"] == pytest.approx(LEARNING_RATES[name] * unit)
        assert group["lr_final"] == pytest.approx(group["lr"] * FINAL[name])


def test_regularisers_are_weighted_means() -> None:
    assert cloud(3).regularisers() == {}
    scene = cloud(5, opacity_reg=0.5, scale_reg=2.0)
    terms = scene.regularisers()
    assert terms["opacity"].item() == pytest.approx(0.5 * scene.logit_opacities.sigmoid().mean().item())
    assert terms["scale"].item() == pytest.approx(2.0 * scene.log_scales.exp().mean().item())
    (terms["opacity"] + terms["scale"]).backward()  # type: ignore[no-untyped-call]
    assert scene.logit_opacities.grad is not None
    assert scene.log_scales.grad is not None


@pytest.mark.parametrize(
    ("degree", "train_frac", "used"), [(3, 0.0, 0), (3, 0.13, 1), (3, 0.26, 2), (3, 0.4, 3), (3, 1.0, 3), (1, 1.0, 1)]
)
def test_colour_comes_before_what_depends_on_the_direction(degree: int, train_frac: float, used: int) -> None:
    degrees = []

    def spy(*args: Any, sh_degree: int, **options: Any) -> RenderOutput:
        degrees.append(sh_degree)
        return reference.rasterize(*args, sh_degree=sh_degree, **options)

    cloud(2, degree, rasterizer=spy).render(cameras(1), train_frac=train_frac)
    assert degrees == [used]


def test_single_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="whole images"):
        cloud(2).render(cameras(1), pixels=torch.zeros(1, 1, 2))


# --- rows come and go


class NaiveAdam:
    """Kingma & Ba 2015, algorithm 1, on lists of rows: one (value, first moment, second moment) for each."""

    def __init__(self, values: np.ndarray, lr: float) -> None:
        self.rows = [(row, np.zeros_like(row), np.zeros_like(row)) for row in values]
        self.lr, self.time = lr, 0

    def edit(self, keep: list[int], new: np.ndarray) -> None:
        self.rows = [self.rows[i] for i in keep] + [(row, np.zeros_like(row), np.zeros_like(row)) for row in new]

    def step(self, gradients: np.ndarray) -> None:
        self.time += 1
        stepped = []
        for (value, first, second), gradient in zip(self.rows, gradients, strict=True):
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            unbiased = first / (1 - 0.9**self.time), second / (1 - 0.999**self.time)
            stepped.append((value - self.lr * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8), first, second))
        self.rows = stepped


@st.composite
def edits(draw: st.DrawFn) -> list[tuple[str, Any, int]]:
    """A history: steps, and edits that keep a mask or a list of rows and add some."""
    count, history = 5, []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["step", "mask", "order"]))
        if kind == "mask":
            kept: list[Any] = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        else:
            kept = draw(st.lists(st.integers(0, count - 1), max_size=8)) if count else []
        added = draw(st.integers(-1, 3)) if kind != "step" else 0  # -1: no `new` at all
        history.append((kind, kept, added))
        if kind != "step":
            count = (sum(kept) if kind == "mask" else len(kept)) + max(added, 0)
    return history


@settings(deadline=None, max_examples=60)
@given(history=edits(), seed=st.integers(0, 1000))
def test_rows_and_their_moments_stay_together_through_any_history(
    history: list[tuple[str, Any, int]], seed: int
) -> None:
    scene = cloud(5, degree=1, seed=seed, dtype=torch.float64)
    optimizer = torch.optim.Adam(scene.param_groups(extent=3.0))
    lrs = {group["name"]: group["lr"] for group in optimizer.param_groups}
    naive = {name: NaiveAdam(value.detach().numpy(), lrs[name]) for name, value in scene.parameters().items()}
    generator = torch.Generator().manual_seed(seed)

    def step() -> None:
        for name, value in scene.parameters().items():
            value.grad = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            naive[name].step(value.grad.numpy())
        optimizer.step()

    step()
    for index, (kind, kept, added) in enumerate(history):
        if kind == "step":
            step()
            continue
        new = cloud(max(added, 0), degree=1, seed=index, dtype=torch.float64).state_dict()
        rows = torch.tensor(kept, dtype=torch.bool if kind == "mask" else torch.int64)
        scene.edit_rows(optimizer, rows, new if added >= 0 else None)
        numbers = [i for i, kept_row in enumerate(kept) if kept_row] if kind == "mask" else kept
        for name in PARAMETERS:
            naive[name].edit(numbers, new[name].numpy())
    step()

    assert len(optimizer.state) == len(PARAMETERS)
    groups = {group["name"]: group["params"] for group in optimizer.param_groups}
    for name, value in scene.parameters().items():
        assert groups[name] == [value]
        assert value.is_leaf
        assert value.requires_grad
        assert len(value) == len(naive[name].rows) == len(scene)
        actual = (value.detach(), optimizer.state[value]["exp_avg"], optimizer.state[value]["exp_avg_sq"])
        for ours, theirs in zip(actual, zip(*naive[name].rows, strict=True), strict=False):
            np.testing.assert_allclose(ours.numpy(), np.stack(theirs), rtol=1e-9, atol=1e-12, err_msg=name)


def test_rows_can_be_edited_before_the_first_step() -> None:
    scene = cloud(4, degree=1)
    before = scene.state_dict()["means"].clone()
    optimizer = torch.optim.Adam(scene.param_groups(1.0))
    scene.edit_rows(optimizer, torch.tensor([3, 1]), scene.rows(torch.tensor([0])))
    assert torch.equal(scene.means.detach(), before[[3, 1, 0]])
    out = scene.render(cameras(1, torch.float32))
    out.rgb.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert not torch.equal(scene.means.detach(), before[[3, 1, 0]])


def test_rows_are_copies() -> None:
    scene = cloud(4)
    copies = scene.rows(torch.tensor([1, 1, 2]))
    assert {name: len(value) for name, value in copies.items()} == dict.fromkeys(PARAMETERS, 3)
    copies["means"].zero_()
    assert scene.means.detach().abs().min() > 0


# --- a moved world


@settings(deadline=None, max_examples=8)
@given(transform=similarities, seed=st.integers(0, 1000))
def test_a_moved_scene_looks_the_same_to_moved_cameras(transform: Tensor, seed: int) -> None:
    scene = cloud(12, seed=seed, dtype=torch.float64)
    views = cameras()
    background = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    moved = scene.transformed(transform)

    def draw(scene: Gaussians, views: Cameras) -> RenderOutput:
        parameters: dict[str, Any] = {**scene.parameters()}
        return reference.rasterize(**parameters, cameras=views, sh_degree=3, background=background, near=0.0, far=1e12)

    with torch.no_grad():
        before, after = draw(scene, views), draw(moved, views.transformed(transform))
    assert before.rgb.std() > 0.05
    torch.testing.assert_close(after.rgb, before.rgb, rtol=0, atol=1e-8)
    torch.testing.assert_close(after.alpha, before.alpha, rtol=0, atol=1e-8)
    scale = float(torch.linalg.det(transform[:3, :3])) ** (1 / 3)
    torch.testing.assert_close(after.depth, scale * before.depth, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_moved_scene_looks_the_same_in_single_precision(degree: int) -> None:
    scene, transform = cloud(12, degree, seed=degree), similarity(degree)
    with torch.no_grad():
        before = scene.render(cameras()).rgb
        after = scene.transformed(transform).render(cameras().transformed(transform)).rgb
    assert before.std() > 0.05
    assert (after - before).abs().max() < 1e-4


@settings(deadline=None, max_examples=15)
@given(first=similarities, second=similarities)
def test_moves_compose_and_can_be_undone(first: Tensor, second: Tensor) -> None:
    scene = cloud(6, dtype=torch.float64)
    twice, once = scene.transformed(first).transformed(second), scene.transformed(second @ first)
    back = scene.transformed(first).transformed(torch.linalg.inv(first))
    for got, wanted in ((twice, once), (back, scene)):
        for name in PARAMETERS:
            a, b = getattr(got, name).detach(), getattr(wanted, name).detach()
            if name == "quats":  # q and -q are the same rotation
                a, b = reference.rotations_from_quats(a), reference.rotations_from_quats(b)
            torch.testing.assert_close(a, b, rtol=0, atol=1e-8, msg=name)


def test_moving_leaves_the_scene_and_its_length_of_quaternions_alone() -> None:
    scene = cloud(6)
    before = {name: value.clone() for name, value in scene.state_dict().items()}
    moved = scene.transformed(similarity(1))
    assert all(torch.equal(before[name], value) for name, value in scene.state_dict().items())
    assert moved.rasterizer is scene.rasterizer
    torch.testing.assert_close(moved.quats.detach().norm(dim=1), before["quats"].norm(dim=1))


def test_a_mirrored_world_is_refused() -> None:
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0]))
    with pytest.raises(ValueError, match="mirrored"):
        cloud(2).transformed(mirror)


def test_normals_are_the_thin_axis() -> None:
    scene = cloud(3)
    with torch.no_grad():
        scene.log_scales[:] = torch.tensor([[-5.0, 0, 0], [0, -5.0, 0], [0, 0, -5.0]])
        scene.quats[:] = torch.tensor(
            [2 * math.cos(math.pi / 8), 0, 0, 2 * math.sin(math.pi / 8)]
        )  # 45 degrees about z
    half = math.sqrt(0.5)
    expected = torch.tensor([[half, half, 0], [-half, half, 0], [0, 0, 1]])
    along = (scene.normals() * expected).sum(dim=1).abs()
    torch.testing.assert_close(along, torch.ones(3))
    torch.testing.assert_close(scene.normals().norm(dim=1), torch.ones(3))


@settings(deadline=None, max_examples=10)
@given(transform=similarities)
def test_normals_turn_with_the_world(transform: Tensor) -> None:
    scene = cloud(8, dtype=torch.float64)
    rotation = transform[:3, :3] / torch.linalg.det(transform[:3, :3]) ** (1 / 3)
    turned = scene.transformed(transform).normals()
    torch.testing.assert_close((turned * (scene.normals() @ rotation.T)).sum(dim=1).abs(), torch.ones(8).double())
