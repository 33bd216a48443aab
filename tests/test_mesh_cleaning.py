"""What is cut away from a surface, what is closed, and how few triangles it may have."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

import balls
from recon.datasets.cameras import Cameras
from recon.datasets.errors import InputError
from recon.meshes import Mesh
from recon.meshing import clean, closed, convex

pytest.importorskip("open3d", reason="Open3D cannot be loaded", exc_type=ImportError)


def joined(*parts: Mesh) -> Mesh:
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    return Mesh(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + offset for part, offset in zip(parts, offsets, strict=True)]),
        np.concatenate([part.colors for part in parts if part.colors is not None])
        if parts[0].colors is not None
        else None,
    )


def torn(*, below: float) -> Mesh:
    """A ball without what is above a height."""
    ball = balls.mesh()
    return clean.rows(ball, ball.vertices[ball.faces].mean(axis=1)[:, 2] < below)


def body(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def test_parts_are_those_that_trimesh_finds() -> None:
    mesh = joined(balls.mesh(1), balls.mesh(3, 0.5, (3, 0, 0)), balls.mesh(2, 0.2, (0, 3, 0)))
    part = clean.parts_of(mesh)
    assert np.bincount(part).tolist() == [1280, 320, 80]
    split = body(mesh).split(only_watertight=False)
    assert sorted(len(each.faces) for each in split) == sorted(np.bincount(part).tolist())


def test_crumbs_go_and_so_many_parts_stay() -> None:
    mesh = joined(balls.mesh(4), balls.mesh(3, 0.5, (3, 0, 0)), balls.mesh(1, 0.1, (0, 3, 0)))
    assert len(clean.largest(mesh).faces) == 5120 + 1280
    assert len(clean.largest(mesh, 1).faces) == 5120
    assert len(clean.largest(mesh, 9).faces) == 5120 + 1280 + 80
    kept = clean.largest(mesh, 1)
    assert len(kept.vertices) == 2562
    assert kept.colors is not None
    assert np.abs(kept.colors - balls.colours(kept.vertices)).max() < 1e-6


def test_what_nobody_sees_goes() -> None:
    """A ball inside of another, and the far side of both."""
    mesh = joined(balls.mesh(3), balls.mesh(3, 0.5))
    eye = balls.looks()[0].camera
    found = clean.seen(mesh, [eye], 0.01)
    assert balls.radii(found).min() > 0.99
    towards = eye.positions[0].numpy() / np.linalg.norm(eye.positions[0].numpy())
    # From three radii away one sees as far as a third of the radius above the middle.
    assert (found.vertices @ towards).min() > 1 / 3 - 0.25  # and a triangle farther
    everyone: list[Cameras] = [sight.camera for sight in balls.looks()]
    assert len(clean.seen(mesh, everyone, 0.01).faces) == 1280


def test_small_holes_are_filled_and_large_ones_are_not() -> None:
    small, large = torn(below=0.97), torn(below=0.5)
    filled = clean.holes_filled(small, 1.0)
    assert closed.is_watertight(filled)
    assert balls.outwards(filled) == 1
    assert np.array_equal(filled.vertices, small.vertices)
    assert len(clean.holes_filled(large, 1.0).faces) == len(large.faces)
    whole = balls.mesh(2)
    assert len(clean.holes_filled(whole, 1.0).faces) == len(whole.faces)


def test_triangles_are_no_more_than_asked_for() -> None:
    ball = balls.mesh()
    assert clean.simplified(ball, 10**6) is ball
    for count in (2000, 301):
        simple = clean.simplified(ball, count)
        assert count - 2 <= len(simple.faces) <= count
        assert closed.is_watertight(simple)
        assert np.abs(balls.radii(simple) - 1).max() < 0.05
        assert simple.colors is not None
        assert np.abs(simple.colors - balls.colours(simple.vertices)).max() < 0.1


def test_smoothing_keeps_the_size() -> None:
    ball = balls.mesh(3)
    noise = np.random.default_rng(0).normal(scale=0.02, size=ball.vertices.shape)
    rough = Mesh(ball.vertices + noise, ball.faces, ball.colors)
    smooth = clean.smoothed(rough, 10)
    assert balls.radii(smooth).std() < 0.5 * balls.radii(rough).std()
    assert body(smooth).volume == pytest.approx(body(ball).volume, rel=0.05)
    assert clean.smoothed(rough, 0) is rough


def test_a_box_keeps_what_is_in_it_as_a_whole() -> None:
    ball = balls.mesh()
    mesh = clean.rows(ball, clean.in_box(ball, (-2, -2, 0), (2, 0.5, 2)))
    assert 0 < len(mesh.faces) < 5120
    assert mesh.vertices[:, 2].min() >= 0
    assert mesh.vertices[:, 1].max() <= 0.5


@pytest.mark.parametrize("below", [0.9, 0.3])
def test_a_torn_ball_is_closed(below: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed, "ACROSS", 64)  # which saves half a minute
    mesh = closed.watertight(torn(below=below), 0.1)
    made = body(mesh)
    assert made.is_watertight
    assert made.is_winding_consistent
    assert made.volume > 0
    assert made.body_count == 1
    there = mesh.vertices[:, 2] < below - 0.6  # where the bridge does not reach
    assert np.abs(balls.radii(mesh)[there] - 1).max() < 0.05
    assert mesh.colors is not None
    assert np.abs(mesh.colors[there] - balls.colours(mesh.vertices[there])).max() < 0.15


def test_a_closed_one_stays_closed_with_few_triangles() -> None:
    mesh = closed.watertight(torn(below=0.9), 0.1, 200)
    assert len(mesh.faces) <= 200
    assert body(mesh).is_watertight


def test_the_boundary_of_the_inside_is_closed_whatever_it_is_of() -> None:
    ball = closed.boundary(balls.mesh(), 40)
    assert closed.is_watertight(ball)
    assert body(ball).volume == pytest.approx(4 / 3 * np.pi, rel=0.02)
    assert np.abs(balls.radii(ball) - 1).max() < 0.01
    soup = balls.mesh(2)
    holes = clean.rows(soup, np.random.default_rng(0).random(len(soup.faces)) < 0.8)
    assert closed.is_watertight(closed.boundary(holes, 24))


def test_convex_parts_are_convex_and_cover_the_body() -> None:
    pytest.importorskip("coacd", reason="CoACD is not installed")
    arm = trimesh.creation.box((2.0, 0.4, 0.4))
    leg = trimesh.creation.box((0.4, 0.4, 2.0))
    leg.apply_translation((-0.8, 0, 0.8))
    boxes = [Mesh(np.array(box.vertices), np.array(box.faces, np.int64)) for box in (arm, leg)]
    parts = convex.parts(joined(*boxes))
    assert 2 <= len(parts) <= 6
    for part in parts:
        assert body(part).is_convex
    volume = sum(body(part).volume for part in parts)
    assert volume == pytest.approx(2 * 0.32 - 0.4**3, rel=0.15)


def test_what_cannot_be_closed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean, "simplified", lambda mesh, count: clean.rows(mesh, np.arange(len(mesh.faces)) < count))
    with pytest.raises(InputError, match="--triangles 50: too few for a surface without holes"):
        closed.watertight(torn(below=0.9), 0.2, 50)
