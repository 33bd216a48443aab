"""Corrections of cameras: the maths against other libraries, and poses that are known to be off put right."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

import tiny
from recon import checkpoint
from recon.along import between
from recon.config import AdaptiveConfig, TrainConfig
from recon.datasets import blender, load_scene, nerfstudio
from recon.datasets.cameras import Cameras
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage
from recon.datasets.scene import Scene
from recon.evaluate import evaluate
from recon.exposure import Shot
from recon.gaussians import Gaussians
from recon.opening import corrected
from recon.poses import MOTION, Poses, motion_gradient, moved, rotations, wanted
from recon.raster import cpu
from recon.registration import placed
from recon.train import TrainState, start, train

SMALL = st.floats(-0.5, 0.5)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(turn=st.tuples(SMALL, SMALL, SMALL), step=st.tuples(SMALL, SMALL, SMALL), zoom=SMALL)
def test_a_camera_turns_about_its_centre_steps_along_its_axes_and_zooms(
    turn: tuple[float, ...], step: tuple[float, ...], zoom: float
) -> None:
    camera = tiny.ring(5)[3]
    motion = torch.tensor([[*turn, 0, 0, 0, 0]], dtype=torch.float64)
    turned = moved(camera, motion)
    wanted = torch.from_numpy(Rotation.from_rotvec(turn).as_matrix())
    torch.testing.assert_close(turned.viewmats[0, :3, :3], wanted @ camera.viewmats[0, :3, :3], rtol=0, atol=1e-8)
    torch.testing.assert_close(turned.positions, camera.positions, rtol=0, atol=1e-8)
    stepped = moved(camera, torch.tensor([[0, 0, 0, *step, zoom]], dtype=torch.float64))
    torch.testing.assert_close(stepped.viewmats[0, :3, 3] - camera.viewmats[0, :3, 3], torch.tensor(step).double())
    torch.testing.assert_close(stepped.Ks[0, :2, :2], camera.Ks[0, :2, :2] * math.exp(zoom))
    torch.testing.assert_close(stepped.Ks[0, :, 2], camera.Ks[0, :, 2])


def test_the_gradient_of_a_motion_follows_from_those_of_the_matrices() -> None:
    generator = torch.Generator().manual_seed(2)
    camera = tiny.ring(5, 60, 40)[1].to("cpu", torch.float64)
    weights = [torch.randn(1, size, size, generator=generator, dtype=torch.float64) for size in (4, 3)]
    motion = torch.zeros(1, MOTION, dtype=torch.float64, requires_grad=True)
    there = moved(camera, motion)
    ((there.viewmats * weights[0]).sum() + (there.Ks * weights[1]).sum()).backward()
    assert motion.grad is not None
    torch.testing.assert_close(motion_gradient(camera, *weights), motion.grad[0])


def test_rotations_are_differentiable_at_zero() -> None:
    turns = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotations, turns)


def off_by(scene: Scene, turn: float, step: float, only: tuple[int, ...] | None = None) -> Scene:
    """The capture with cameras that are turned (radians) and moved at random."""
    generator = torch.Generator().manual_seed(4)
    views = []
    for number, view in enumerate(scene.views):
        motion = torch.randn(1, MOTION, generator=generator, dtype=torch.float64)
        motion *= torch.tensor([turn] * 3 + [step] * 3 + [0.0])
        kept = only is not None and number not in only
        views.append(view if kept else dataclasses.replace(view, camera=moved(view.camera, motion)))
    return dataclasses.replace(scene, views=tuple(views))


def trained(scene: Scene, refine: bool, steps: int = 300) -> TrainState:
    config = TrainConfig(
        steps=steps,
        lr_scale=1.0,
        coarse=0.0,
        refine_poses=refine,
        strategy=AdaptiveConfig(max_gaussians=len(scene.points or ()), refine_from=1.0),
    )
    state = start(tiny.gaussians(60, degree=0), config, scene)  # what the photos show
    train(state, scene.train_views)
    return state


def turned_by(a: Cameras, b: Cameras) -> float:
    """The angle between two cameras, radians."""
    product = a.viewmats[0, :3, :3].double() @ b.viewmats[0, :3, :3].double().T
    return float(Rotation.from_matrix(product.numpy()).magnitude())


def seen_apart(a: Cameras, b: Cameras, points: Tensor) -> float:
    """How far apart two cameras see points, mean px: what a turn and a step that cancel each other leave."""
    return float((a.project(points)[0] - b.project(points)[0]).norm(dim=-1).mean())


def test_rough_poses_are_put_right() -> None:
    exact = tiny.scene(16, 96, 72)
    rough = off_by(exact, 0.01, 0.01)
    kept, refined = trained(rough, refine=False), trained(rough, refine=True)
    scores = []
    for state in (kept, refined):
        views = [placed(state.gaussians, view, background=torch.zeros(3)) for view in rough.test_views]
        scores.append(evaluate(state.model, views, lpips=False).psnr or 0)
    assert scores[1] > scores[0] + 2
    now = corrected(rough, refined)
    assert exact.points is not None
    before, after = (
        np.mean([seen_apart(a.camera, b.camera, exact.points.xyz) for a, b in zip(*pair, strict=True)])
        for pair in ((rough.train_views, exact.train_views), (now.train_views, exact.train_views))
    )
    assert after < 0.4 * before
    assert corrected(rough, kept) is rough


def test_corrections_leave_the_frame_of_the_capture() -> None:
    scene = off_by(tiny.scene(), 0.004, 0.004)
    poses = Poses.of(scene)
    generator = torch.Generator().manual_seed(0)
    for number in range(40):
        # all are pulled the same way, and away from the middle
        poses.learn(number % 7, torch.ones(MOTION) + 0.3 * torch.randn(MOTION, generator=generator), 0.5)
    turns, steps = poses.state_dict()["turns"], poses.state_dict()["steps"]
    assert turns.abs().max() > 1e-4
    torch.testing.assert_close(turns.mean(dim=0), torch.zeros(3).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(steps.mean(dim=0), torch.zeros(3).double(), rtol=0, atol=1e-9)
    places = torch.cat([view.camera.positions for view in scene.train_views])
    away = places - places.mean(dim=0)
    assert float((away * steps).sum()) == pytest.approx(0, abs=1e-9)


def test_nothing_is_learned_before_the_scene_is_there() -> None:
    poses = Poses.of(tiny.scene())
    poses.learn(0, torch.ones(MOTION), 0.1)
    assert not any(np.any(poses.state_dict()[name].numpy()) for name in ("turns", "steps", "zooms"))


def test_estimated_poses_are_refined_where_there_is_time_and_exact_ones_are_kept() -> None:
    estimated = tiny.scene()
    exact = dataclasses.replace(estimated, exact_poses=True)
    assert wanted("auto", estimated, 1000)
    assert not wanted("auto", estimated, 999)
    assert not wanted("auto", exact, 10_000)
    assert wanted("refine", exact, 10)
    assert not wanted("keep", estimated, 10_000)


def test_rendered_captures_say_that_their_poses_are_exact(tmp_path: Path) -> None:
    scene = dataclasses.replace(tiny.scene(), exact_poses=True)
    for name, module in (("blender", blender), ("nerfstudio", nerfstudio)):
        module.save(scene, tmp_path / name)
        assert load_scene(tmp_path / name).exact_poses
    nerfstudio.save(tiny.scene(), tmp_path / "estimated")
    assert not load_scene(tmp_path / "estimated").exact_poses


def test_all_photos_of_a_lens_have_one_zoom() -> None:
    scene = tiny.scene()
    wide = [dataclasses.replace(scene.views[i], camera=moved(scene.views[i].camera, torch.tensor([[0.0] * 6 + [0.3]])))
            for i in (1, 2)]  # fmt: skip
    scene = dataclasses.replace(scene, views=(scene.views[0], *wide, *scene.views[3:]))
    poses = Poses.of(scene)
    for _ in range(5):
        poses.learn(0, torch.tensor([0.0] * 6 + [1.0]), 0.5)
    factors = [
        float(poses.camera(row, view.camera).Ks[0, 0, 0] / view.camera.Ks[0, 0, 0])
        for row, view in enumerate(scene.train_views)
    ]
    assert factors[0] == factors[1] < 1
    assert factors[2:] == [1.0] * 5


def test_held_out_photos_move_with_their_neighbours() -> None:
    """Where the corrections change slowly along the way; and stay where these have nothing to do with each other."""
    scene = dataclasses.replace(tiny.scene(24), train=tuple(i for i in range(24) if i % 4), test=tuple(range(0, 24, 4)))
    poses, generator = Poses.of(scene), torch.Generator().manual_seed(1)
    angles = torch.tensor(scene.train) * (2 * math.pi / 24)
    smooth = torch.stack([angles.cos(), angles.sin(), 0 * angles], dim=1).double() * 0.01
    for turns, least, most in ((smooth, 0.8, 1.1), (torch.randn(18, 3, generator=generator).double() * 0.01, 0, 0.6)):
        learned = Poses(**(poses.state_dict() | {"turns": turns}))
        views = learned.corrected(scene.views)
        of_test = np.mean([turned_by(views[i].camera, scene.views[i].camera) for i in scene.test[1:-1]])
        of_train = np.mean([turned_by(views[i].camera, scene.views[i].camera) for i in scene.train])
        assert least <= of_test / of_train <= most


def test_between_is_exact_for_what_changes_evenly_along_a_line() -> None:
    eyes = torch.zeros(6, 4, 4).double() + torch.eye(4).double()
    eyes[:, 0, 3] = torch.tensor([0.0, 1, 2.5, 3, 4, 6])
    cameras = Cameras(torch.linalg.inv(eyes), torch.eye(3).double().expand(6, 3, 3), 10, 10)
    values = eyes[:, :1, 3].numpy()
    known, wanted = [0, 1, 3, 5], [2, 4]
    found = between(values[known], [cameras[i] for i in range(6)], known, wanted)
    believed = found / values[wanted]
    assert believed[0] == pytest.approx(believed[1])  # each is what lies between, in the same measure
    assert 0.8 < believed[0, 0] <= 1


@pytest.mark.parametrize("rasterizer", [None, cpu.rasterize], ids=["straight", "autograd"])
def test_a_photo_is_placed_where_it_was_taken(rasterizer) -> None:  # type: ignore[no-untyped-def]
    scene = tiny.scene(8, 96, 72)
    model = tiny.gaussians(60, degree=0)
    if rasterizer is not None:
        model = Gaussians(*model.parameters().values(), rasterizer=rasterizer)
    shot = Shot(torch.tensor([[0.2, -0.1, 0.0, 0.0]] * 3), (48.0, 36.0, 60.0))
    dark = shot.exposed(scene.views[0].load())
    mask = torch.ones(72, 96, 1)
    mask[:20, :30] = 0
    photo = torch.where(mask > 0, dark, torch.rand(dark.shape, generator=torch.Generator().manual_seed(0)))
    view = dataclasses.replace(scene.views[0], image=ArrayImage(photo), mask=ArrayImage(mask))
    away = off_by(dataclasses.replace(scene, views=(view, *scene.views[1:])), 0.01, 0.02).views[0]
    found = placed(model, away, background=torch.zeros(3), shot=shot)
    points = model.means.detach().double()
    assert seen_apart(away.camera, view.camera, points) > 1.5
    assert seen_apart(found.camera, view.camera, points) < 0.3
    assert found.camera.viewmats.dtype == away.camera.viewmats.dtype


def test_a_small_photo_is_placed_without_the_coarse_rounds() -> None:
    scene = tiny.scene()
    view = placed(tiny.gaussians(60, degree=0), scene.views[0], background=torch.zeros(3))
    assert turned_by(view.camera, scene.views[0].camera) < 0.002


def test_damaged_poses_in_a_checkpoint_are_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    state = trained(tiny.scene(), refine=True, steps=3)
    assert state.poses is not None
    broken: Tensor = state.poses.state_dict()["turns"][:-1]
    state.poses.turns = broken.numpy()
    checkpoint.save(state, tmp_path / "state.safetensors")
    with pytest.raises(InputError, match="turns of the poses are"):
        checkpoint.load(tmp_path / "state.safetensors")
