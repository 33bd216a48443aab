"""How meshes are scored against the truth, on balls whose distances are known."""

from __future__ import annotations

import numpy as np
import pytest

import balls
from sources import SCRIPTS

if not SCRIPTS:
    pytest.skip("the scripts are not beside the tests", allow_module_level=True)
pytest.importorskip("open3d", reason="Open3D cannot be loaded", exc_type=ImportError)

import _mesh_objects as objects
import _mesh_scores as measure

DIAGONAL = 2 * np.sqrt(3)  # of the box around a ball


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SAMPLES", 5000)


def truth(looks: int = 24) -> objects.Truth:
    ball = balls.mesh(4)
    every = np.ones(len(ball.faces), dtype=bool)
    return objects.Truth(ball.vertices, ball.faces, every, [sight.camera for sight in balls.looks(looks)])


def test_the_truth_scores_best() -> None:
    found = measure.scores(balls.mesh(4), truth())
    assert found.chamfer < 1e-6
    assert found.near == found.far == 1


def test_a_larger_ball_is_off_by_the_difference() -> None:
    found = measure.scores(balls.mesh(4, radius=1.02), truth())
    assert found.accuracy == pytest.approx(0.02 / DIAGONAL, rel=0.05)
    assert found.completeness == pytest.approx(0.02 / DIAGONAL, rel=0.05)
    assert (found.near, found.far) == (0, 1)  # 0.58 % of the diagonal


def test_only_what_is_asked_of_and_seen_counts() -> None:
    whole = truth()
    above = whole.vertices[whole.faces].mean(axis=1)[:, 2] > 0
    half = objects.Truth(whole.vertices, whole.faces, above, whole.cameras)
    assert measure.seen_points(half)[:, 2].min() > -0.01
    one = objects.Truth(whole.vertices, whole.faces, whole.asked, whole.cameras[:1])
    eye = one.cameras[0].positions[0].numpy()
    towards = eye / np.linalg.norm(eye)
    # From a distance d the part of a ball above 1 / d is seen.
    assert (measure.seen_points(one) @ towards).min() == pytest.approx(1 / 3.9, abs=0.05)


def test_pictures_of_an_object_cover_it_and_have_shades() -> None:
    ball = balls.mesh(3)
    shape = objects.Shape(ball.vertices, ball.faces, ball.vertices)
    cameras = objects.cameras_around(ball.vertices, 5, 40)
    caster = objects.RayCaster(ball.vertices, ball.faces)
    for i in range(5):
        picture = objects.picture(shape, caster, cameras[i], None)
        assert picture[20, 20, 3] == 1
        assert picture[0, 0, 3] == 0
        inside = picture[picture[..., 3] == 1]
        assert inside[:, :3].std(axis=0).min() > 0.01
        assert inside[:, :3].min() > 0.02
