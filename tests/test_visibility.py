"""What a photo shows of a surface: compared with closed forms, and with lines of sight among balls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.images import ArrayImage
from recon.datasets.raycast import RayCaster
from recon.datasets.scene import View
from recon.meshes import Mesh
from recon.meshing import visibility
from recon.meshing.bake import planes

SIZE = 200


def square(half: float, z: float) -> tuple[NDArray, NDArray]:
    """Faces +z."""
    corners = np.array([[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]], float)
    return corners, np.array([[0, 1, 2], [0, 2, 3]])


def joined(*pieces: tuple[NDArray, NDArray]) -> Mesh:
    offsets = np.cumsum([0, *(len(vertices) for vertices, _ in pieces)])
    faces = [faces + offset for (_, faces), offset in zip(pieces, offsets, strict=False)]
    return Mesh(np.concatenate([vertices for vertices, _ in pieces]), np.concatenate(faces))


def camera(eye: tuple[float, float, float], size: int = SIZE) -> Cameras:
    """Looks at the origin; a unit there is as wide as a quarter of the picture from a distance of 4."""
    eyes = torch.tensor([eye], dtype=torch.float64)
    c2w = look_at(eyes, torch.zeros_like(eyes), torch.tensor([0.0, 1.0, 0.01], dtype=torch.float64))
    return Cameras.from_c2w(c2w, intrinsics(size, size, size / 2, size / 2), size, size)


def look(
    mesh: Mesh, at: Cameras, face: NDArray, weights: NDArray, usable: NDArray | None = None
) -> tuple[visibility.Seen, NDArray]:
    points = np.einsum("tk,tkc->tc", weights, mesh.vertices[mesh.faces[face]]).astype(np.float32)
    middles, normals, _ = planes(mesh)
    usable = np.ones((at.height, at.width), bool) if usable is None else usable
    found = visibility.outlook(RayCaster(mesh.vertices, mesh.faces), at, usable)
    return visibility.seen(found, at, points, face, middles, normals), points


def spread(mesh: Mesh, count: int = 4000) -> tuple[NDArray, NDArray]:
    """Places all over the triangles, as many on each."""
    generator = np.random.default_rng(0)
    face = np.arange(count) % len(mesh.faces)
    return face, generator.dirichlet([1, 1, 1], count)


def test_a_square_seen_straight_on() -> None:
    mesh = joined(square(1, 0))
    face, weights = spread(mesh)
    at = camera((0, 0, 4))
    found, points = look(mesh, at, face, weights)
    inner = np.abs(points[:, :2]).max(axis=1) < 0.93
    assert set(np.flatnonzero(inner)) <= set(found.rows)
    xy, _ = at.project(torch.from_numpy(points[found.rows]).double())
    assert np.allclose(found.xy, xy[0], atol=1e-3)
    assert np.allclose(found.density, SIZE**2 / 4**2, rtol=1e-4)
    assert found.quality.max() <= found.density.max() * (1 + 1e-6)
    assert found.quality.min() > 0


def test_a_slant_and_the_distance_thin_the_pixels() -> None:
    """The density is that of the map itself, by its derivative."""
    mesh = joined(square(1, 0))
    face, weights = spread(mesh, 200)
    at = camera((2.5, 1.0, 2.0))
    found, points = look(mesh, at, face, weights)
    step = 1e-4
    start, right, up = (
        at.project(torch.from_numpy(points[found.rows] + offset).double())[0][0].numpy()
        for offset in (np.zeros(3), np.array([step, 0, 0]), np.array([0, step, 0]))
    )
    area = np.abs(np.linalg.det(np.stack([right - start, up - start], axis=1))) / step**2
    assert len(found.rows) > 150
    assert np.allclose(found.density, area, rtol=5e-3)


def test_what_stands_before_it_hides_it() -> None:
    mesh = joined(square(1, 0), square(0.3, 1))
    face, weights = spread(mesh)
    found, points = look(mesh, camera((0, 0, 4)), face, weights)
    floor = points[:, 2] < 0.5
    shadow = np.abs(points[:, :2]).max(axis=1)  # the small square covers 0.4 of the floor
    seen = np.zeros(len(points), bool)
    seen[found.rows] = True
    assert not seen[floor & (shadow < 0.4)].any()
    assert seen[floor & (shadow > 0.5) & (shadow < 0.9)].all()
    assert seen[~floor & (shadow < 0.25)].all()
    pixel = 4 / SIZE
    assert not seen[floor & (shadow < 0.4 + visibility.EDGE * pixel)].any(), "beside an edge nothing is certain"
    assert not seen[~floor & (shadow > 0.3 - visibility.EDGE * 3 / SIZE)].any()


def test_beside_an_edge_a_photo_counts_less() -> None:
    mesh = joined(square(1, 0), square(0.3, 1))
    face, weights = spread(mesh)
    found, points = look(mesh, camera((0, 0, 4)), face, weights)
    beside = np.abs(points[found.rows, :2]).max(axis=1) - 0.4
    floor = points[found.rows, 2] < 0.5
    near = floor & (beside < 0.08) & (beside > 0)
    assert near.any()
    assert found.quality[near].max() < 0.5 * found.density[near].min()


def test_its_back_is_not_seen_nor_what_lies_behind_the_camera() -> None:
    mesh = joined(square(1, 0))
    face, weights = spread(mesh)
    for eye in ((0.0, 0.0, -4.0), (4.0, 0.0, 0.01)):
        assert len(look(mesh, camera(eye), face, weights)[0].rows) == 0
    behind = joined(square(1, 0), square(1, 8))
    face, weights = spread(behind)
    found, points = look(behind, camera((0, 0, 4)), face, weights)
    assert len(found.rows)
    assert points[found.rows, 2].max() < 1


def test_masks_and_alpha_say_which_pixels_show_it() -> None:
    mesh = joined(square(1, 0))
    face, weights = spread(mesh)
    at = camera((0, 0, 4))
    photo = torch.ones(SIZE, SIZE, 4)
    photo[:, : SIZE // 2, 3] = 0.5
    mask = torch.ones(SIZE, SIZE, 1)
    mask[: SIZE // 2] = 0
    view = View("a", at, ArrayImage(photo))
    for masked, left in ((view, 0.5), (replace(view, mask=ArrayImage(mask)), 0.25)):
        usable = visibility.usable_pixels(masked, masked.load().numpy())
        assert usable.mean() == left
        found, points = look(mesh, at, face, weights, usable)
        assert points[found.rows, 0].min() > 0
        assert (points[found.rows, 1].max() < 0) == (left == 0.25)  # the upper half of the photo does not count
        assert len(found.rows) > 0.7 * left * len(points)


def test_large_photos_are_looked_at_in_small() -> None:
    """Sizes of photos do not change what is seen, and places are those of the photo."""
    mesh = joined(square(1, 0), square(0.3, 1))
    face, weights = spread(mesh)
    found = []
    for size in (visibility.SIDE, 3 * visibility.SIDE):
        seen, _ = look(mesh, camera((0, 0, 4), size), face, weights)
        found.append(seen)
    assert np.array_equal(found[0].rows, found[1].rows)
    assert np.allclose(found[0].xy * 3, found[1].xy, atol=0.05)
    assert np.allclose(found[0].density * 9, found[1].density, rtol=1e-4)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
def test_lines_of_sight_among_balls(seed: int) -> None:
    """Nothing is seen through a ball; nearly all is seen that is far from the outlines of balls."""
    import trimesh

    generator = np.random.default_rng(seed)
    corners = np.stack(np.meshgrid([-0.6, 0.6], [-0.6, 0.6], [-1.0, 1.0]), axis=-1).reshape(-1, 3)
    centres, radii = corners + generator.uniform(-0.15, 0.15, (8, 3)), generator.uniform(0.3, 0.42, 8)
    unit = trimesh.creation.icosphere(subdivisions=3)
    mesh = joined(
        *((np.array(unit.vertices) * r + c, np.array(unit.faces)) for c, r in zip(centres, radii, strict=True))
    )
    face, weights = spread(mesh, 10240)
    at = camera((0.5, 0.3, 4))
    found, points = look(mesh, at, face, weights)
    eye = at.positions[0].numpy()
    owner = face // len(unit.faces)
    clearance = np.full(len(points), np.inf)  # of the line of sight from the other balls
    for ball, (centre, radius) in enumerate(zip(centres, radii, strict=True)):
        along = points - eye
        share = ((centre - eye) * along).sum(axis=1) / (along**2).sum(axis=1)
        distance = np.linalg.norm(eye + share.clip(0, 1)[:, None] * along - centre, axis=1) - radius
        clearance = np.where(owner == ball, clearance, np.minimum(clearance, distance))
    normals = (points - centres[owner]) / radii[owner, None]
    facing = (normals * (eye - points)).sum(axis=1) / np.linalg.norm(eye - points, axis=1)
    seen = np.zeros(len(points), bool)
    seen[found.rows] = True
    assert not seen[(clearance < -0.02) | (facing < 0)].any()
    xy = at.project(torch.from_numpy(points).double())[0][0].numpy()
    framed = ((xy > 5) & (xy < SIZE - 5)).all(axis=1)
    assert seen[framed & (clearance > 0.12) & (facing > 0.75)].mean() > 0.98
