"""Poses against matches: distances, the photo whose pose is wrong, and mistakes that all poses share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pycolmap
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import posed_matches
from posed_matches import COUNT, matched, turned
from recon.datasets import epipolar, pose_trouble
from recon.datasets.epipolar import Matched

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def changed(found: Matched, photo: int, pose: NDArray[np.float64]) -> Matched:
    poses = found.viewmats.copy()
    poses[photo] = pose
    return found.with_poses(poses)


def test_the_geometry_is_that_of_colmap() -> None:
    poses = posed_matches.viewmats()
    E = epipolar.essential(poses, np.array([[2, 5]]))[0]
    theirs = pycolmap.essential_matrix_from_pose(pycolmap.Rigid3d((poses[5] @ np.linalg.inv(poses[2]))[:3]))
    assert E / np.linalg.norm(E) == pytest.approx(theirs / np.linalg.norm(theirs), abs=1e-12)


def test_distances_are_those_of_the_definition() -> None:
    """Sampson's: how far the nearest pair of points that fits is, to first order; found here by small steps."""
    found = matched(noise=3.0)
    E = epipolar.essential(found.viewmats, found.pairs)[found.pair_of]
    distances = epipolar.sampson(E, found.a, found.b)
    for t in range(0, len(found.a), 97):
        x = np.concatenate([found.a[t], found.b[t]])
        for _ in range(20):  # Newton's method to the nearest point where b^T E a = 0
            a, b = np.append(x[:2], 1), np.append(x[2:], 1)
            slope = np.concatenate([(E[t].T @ b)[:2], (E[t] @ a)[:2]])
            start = np.concatenate([found.a[t], found.b[t]])
            x = start - slope * (b @ E[t] @ a + slope @ (start - x)) / (slope @ slope)
        assert distances[t] == pytest.approx(np.linalg.norm(x - start), rel=0.02)


def test_good_poses_are_good() -> None:
    judged = epipolar.judge(matched())
    assert judged.misfits == ()
    assert 0.1 < judged.usual < 1
    assert np.nanmax(judged.photos) < 2 * judged.usual
    assert pose_trouble.find(matched(), judged) is None
    assert epipolar.in_front(matched()) > 0.99


@given(photo=st.integers(0, COUNT - 1), degrees=st.floats(4, 60), axis=st.integers(0, 2), seed=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_one_turned_camera_is_found_and_only_that(photo: int, degrees: float, axis: int, seed: int) -> None:
    good = matched(seed)
    judged = epipolar.judge(changed(good, photo, turned(degrees, axis) @ good.viewmats[photo]))
    assert judged.misfits == (photo,)
    assert judged.photos[photo] > 3 * judged.usual
    assert judged.usual < 1


@given(photo=st.integers(0, COUNT - 1), seed=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_one_moved_camera_is_found_and_only_that(photo: int, seed: int) -> None:
    good = matched(seed)
    moved = good.viewmats[photo].copy()
    moved[:3, 3] += np.random.default_rng(seed).choice([-0.15, 0.15], 3)
    assert epipolar.judge(changed(good, photo, moved)).misfits == (photo,)


def test_pairs_that_match_by_chance_do_not_make_good_poses_bad() -> None:
    """Tiles and blinds match where nothing is shared: many pairs of a photo, each by fewer features."""
    good = matched()
    rng = np.random.default_rng(0)
    strangers = np.array([[0, k] for k in range(4, 13)])
    a, b = (np.concatenate([old, rng.uniform(-0.3, 0.3, (30 * len(strangers), 2))]) for old in (good.a, good.b))
    weights = np.concatenate([good.weights * 4, np.full(len(strangers), 30)])
    starts = np.concatenate([good.starts, good.starts[-1] + 30 * np.arange(1, len(strangers) + 1)])
    mixed = Matched(np.concatenate([good.pairs, strangers]), starts, weights, a, b, good.focal, good.viewmats)
    judged = epipolar.judge(mixed)
    assert judged.misfits == ()
    assert epipolar.by_chance(mixed, judged).tolist() == [False] * len(good.pairs) + [True] * len(strangers)


def test_photos_that_have_each_others_pose_are_found() -> None:
    good = matched()
    order = np.arange(COUNT)
    order[[4, 5]] = 5, 4
    swapped = changed(good.with_poses(good.viewmats[order]), 12, turned(20, 1) @ good.viewmats[12])
    judged = epipolar.judge(swapped)
    assert set(judged.misfits) == {4, 5, 12}
    assert pose_trouble.exchanged(swapped, judged) == [(4, 5)]


def mistaken() -> dict[str, tuple[str, Matched]]:
    """Kinds of mistakes, each made on purpose."""
    good = matched()
    poses = good.viewmats
    inverse: NDArray[np.float64] = np.linalg.inv(poses).astype(np.float64)

    def bent(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return points * (1 + 1.6 * (points**2).sum(axis=1, keepdims=True))

    return {
        "focal": ("focal", replace(good, a=good.a * 1.25, b=good.b * 1.25, focal=good.focal / 1.25)),
        "distortion": ("distortion", replace(good, a=bent(good.a), b=bent(good.b))),
        "OpenGL": ("axes", good.with_poses(OPENGL @ poses)),
        "mirrored": ("mirrored", replace(good, a=good.a * [-1, 1], b=good.b * [-1, 1])),
        "inverse": ("inverse", good.with_poses(inverse)),
        "inverse OpenGL": ("inverse", good.with_poses(inverse @ OPENGL)),
        "shifted": ("shifted", good.with_poses(np.roll(poses, 2, axis=0))),
        "reversed": ("reversed", good.with_poses(poses[::-1])),
        "backwards": ("backwards", good.with_poses(np.diag([-1.0, -1.0, -1.0, 1.0]) @ poses)),
        "random": ("unknown", good.with_poses(poses[np.random.default_rng(1).permutation(COUNT)])),
    }


def test_a_focal_length_that_is_a_little_off_is_no_fault_of_single_photos() -> None:
    good = matched()
    found = replace(good, a=good.a * 1.05, b=good.b * 1.05, focal=good.focal / 1.05)
    judged = epipolar.judge(found)
    assert 1 < judged.usual < 3
    trouble = pose_trouble.find(found, judged)
    assert trouble is not None
    assert trouble.kind == "focal"
    assert trouble.value == pytest.approx(1.05, abs=0.02)


@pytest.mark.parametrize("name", mistaken())
def test_a_mistake_that_all_poses_share_is_named(name: str) -> None:
    kind, found = mistaken()[name]
    trouble = pose_trouble.find(found, epipolar.judge(found))
    assert trouble is not None
    assert trouble.kind == kind
    if kind == "focal":
        assert trouble.value == pytest.approx(1.25, rel=0.05)
    if kind == "shifted":
        assert trouble.value == 2  # the pose of a photo stands so many later
    if kind not in ("unknown", "backwards"):
        assert trouble.after < trouble.before / 2


def test_few_pairs_do_not_tell_of_a_mistake() -> None:
    """Of two photos, some focal length or other would always fit better."""
    bad = replace(matched(noise=40.0), pairs=matched().pairs)
    keep = np.arange(len(bad.pairs)) < pose_trouble.FEWEST_PAIRS - 1
    few = pose_trouble._chosen(bad, keep)
    assert epipolar.judge(few).usual > pose_trouble.FAR_OFF
    assert pose_trouble.find(few, epipolar.judge(few)) is None


def test_cameras_in_one_place_are_not_judged() -> None:
    """No line follows from two photos of one place."""
    good = matched()
    poses = good.viewmats.copy()
    poses[:, :3, 3] = 0
    judged = epipolar.judge(good.with_poses(poses))
    assert np.isnan(judged.usual)
    assert judged.misfits == ()
    assert pose_trouble.find(good.with_poses(poses), judged) is None


def test_the_angle_between_rays_is_the_parallax() -> None:
    good = matched(noise=0)
    angles = epipolar.angles(good)
    centres = np.linalg.inv(good.viewmats)[:, :3, 3]
    for t in range(0, len(angles), 131):
        rays = []
        for side, at in enumerate((good.a[t], good.b[t])):
            pose = good.viewmats[good.pairs[good.pair_of[t], side]]
            rays.append(pose[:3, :3].T @ np.append(at, 1))
        cosine = rays[0] @ rays[1] / np.linalg.norm(rays[0]) / np.linalg.norm(rays[1])
        assert angles[t] == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-6)
    assert np.isfinite(centres).all()


@given(st.lists(st.tuples(st.floats(0, 9), st.integers(1, 5)), min_size=1, max_size=8))
def test_a_weighted_median_counts_each_so_often(pairs: list[tuple[float, int]]) -> None:
    values, weights = np.array([v for v, _ in pairs]), np.array([w for _, w in pairs])
    repeated = np.sort(np.repeat(values, weights))
    assert epipolar.middle(values, weights) == repeated[(len(repeated) - 1) // 2]


@given(st.lists(st.lists(st.floats(-5, 5), max_size=6), min_size=1, max_size=6))
def test_medians_of_runs(runs: list[list[float]]) -> None:
    starts = np.cumsum([0, *map(len, runs)])
    found = epipolar.medians(np.array([v for run in runs for v in run]), starts)
    for run, median in zip(runs, found.tolist(), strict=True):
        assert np.isnan(median) if not run else median == sorted(run)[len(run) // 2]
