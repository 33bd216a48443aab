"""Parallax, tracks and baselines of known arrangements, and the gaps in a way round."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recon.datasets import coverage
from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.images import ArrayImage
from recon.datasets.scene import Points, Scene, View
from small_scene import small_scene


def scene(eyes: torch.Tensor, targets: torch.Tensor, points: Points | None = None) -> Scene:
    """Cameras at `eyes` [V,3] that look at `targets` [V,3], z up."""
    c2w = look_at(eyes.double(), targets.double(), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    cameras = Cameras.from_c2w(c2w, intrinsics(50, 50, 20, 15).expand(len(eyes), 3, 3), 40, 30)
    photo = ArrayImage(torch.zeros(30, 40, 3))
    views = tuple(View(f"v{i:03d}", cameras[i], photo) for i in range(len(eyes)))
    return Scene("made", views, tuple(range(len(eyes))), (), points)


def ring(degrees: list[float]) -> Scene:
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    eyes = torch.stack([3 * angle.cos(), 3 * angle.sin(), torch.ones_like(angle)], dim=-1)
    return scene(eyes, torch.zeros_like(eyes))


@given(st.lists(st.floats(-170, 170), min_size=2, max_size=7), st.integers(0, 3))
def test_the_widest_angle_of_rays_in_a_plane(directions: list[float], more: int) -> None:
    """Within half a turn, where the widest angle is that of the outer two."""
    angle = np.radians(np.array(directions) / 2)
    rays = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=-1) * 7
    lonely = np.tile([1.0, 0, 0], (more, 1))
    point = np.concatenate([np.zeros(len(rays), int), np.arange(1, more + 1)])
    found = coverage.widest_angles(np.concatenate([rays, lonely]), point)
    assert found[0] == pytest.approx((max(directions) - min(directions)) / 2, abs=1e-5)
    assert (found[1:] == 0).all()


@given(st.integers(0, 1000))
def test_the_widest_angle_is_never_more_than_the_truth(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rays = rng.normal((2, 0, 0), size=(9, 3))
    unit = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    truth = np.degrees(np.arccos((unit @ unit.T).clip(-1, 1))).max()
    found = coverage.widest_angles(rays, np.zeros(9, int))[0]
    assert truth / 2 - 1e-5 <= found <= truth + 1e-5  # the farthest from any ray is at least half as far


def test_what_points_say() -> None:
    """Two cameras a step of 1 apart and a third one behind, that look at points 2 ahead of the middle of the two."""
    eyes = torch.tensor([[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, -5.0, 0.0]])
    xyz = torch.tensor([[0.0, 2.0, 0.0]]).repeat(4, 1).double()
    tracks = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0], [2, 0], [3, 0], [3, 1], [3, 2]])
    error = torch.tensor([1.0, 2.0, 9.0, 3.0])
    points = Points(xyz, torch.zeros(4, 3), error, tracks)
    found = coverage.seen(scene(eyes, eyes + torch.tensor([0.0, 1, 0]), points))
    assert found is not None
    angle = 2 * math.degrees(math.atan2(0.5, 2))
    assert found.lengths.tolist() == [0, 1, 2, 1] + [0] * (coverage.LONGEST_TRACK - 3)
    assert found.parallax == pytest.approx(angle)
    assert found.view_points.tolist() == [4, 3, 1]
    assert found.view_parallax == pytest.approx([angle] * 3)
    assert found.view_errors == pytest.approx([(1 + 2 + 9 + 3) / 4, 2.0, 3.0])
    assert found.view_baselines[:2] == pytest.approx([1 / math.hypot(0.5, 2)] * 2)
    assert found.view_baselines[2] == pytest.approx(math.hypot(0.5, 5) / 7)


def test_nothing_is_said_without_tracks() -> None:
    made = small_scene()
    assert made.points is not None
    assert coverage.seen(replace(made, points=None)) is None
    assert coverage.seen(replace(made, points=Points(made.points.xyz, made.points.rgb))) is None
    assert coverage.seen(made) is not None


def test_a_whole_way_round_has_no_gap() -> None:
    assert coverage.top(ring([i * 18.0 for i in range(20)])).gaps == ()


def test_a_gap_is_found_and_names_its_ends() -> None:
    degrees = [i * 10.0 for i in range(36) if not 12 < i < 20]
    (gap,) = coverage.top(ring(degrees)).gaps
    assert gap.angle == pytest.approx(80, abs=1)
    assert {degrees[gap.before], degrees[gap.after]} == {120.0, 200.0}


@pytest.mark.parametrize("turn", [0.0, 77.0, 180.0])
def test_part_of_a_way_round_is_meant(turn: float) -> None:
    """An arc is what the photographer wanted, not a gap of the rest."""
    assert coverage.top(ring([turn + i * 10.0 for i in range(15)])).gaps == ()


def test_cameras_side_by_side_have_no_way_round() -> None:
    eyes = torch.stack([torch.linspace(-1, 1, 12), torch.zeros(12), torch.zeros(12)], dim=-1)
    found = coverage.top(scene(eyes, eyes + torch.tensor([0.0, 1.0, 0.0])))
    assert found.gaps == ()
    assert np.abs(found.headings[:, 0]).max() < 1e-6


def test_the_view_from_above_is_from_above() -> None:
    found = coverage.top(ring([i * 30.0 for i in range(12)]))
    distance = np.linalg.norm(found.positions, axis=1)
    assert distance == pytest.approx([distance[0]] * 12)
    inwards = -(found.positions * found.headings).sum(axis=1) / distance / np.linalg.norm(found.headings, axis=1)
    assert inwards == pytest.approx([1.0] * 12)
