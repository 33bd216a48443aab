"""Pictures of meshes: compared with closed forms, and with Open3D's rays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.meshes import Mesh
from recon.meshing import draw

# A square from (-1, -1) to (1, 1) that faces +z.
CORNERS = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
FACES = np.array([[0, 1, 2], [0, 2, 3]])


def from_above(distance: float = 4.0, size: int = 64) -> Cameras:
    """Looks down at the square, +y up; the square is half as wide as the picture."""
    eye = torch.tensor([[0.0, 0.0, distance]], dtype=torch.float64)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    focal = size * distance / 4
    c2w = look_at(eye, torch.zeros_like(eye), up)
    return Cameras.from_c2w(c2w, intrinsics(focal, focal, size / 2, size / 2), size, size)


def test_the_upper_row_of_a_texture_is_shown_above() -> None:
    texture = np.zeros((2, 2, 3), np.uint8)
    texture[0, 0], texture[0, 1], texture[1, 0] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    uvs = ((CORNERS[:, :2] + 1) / 2).astype(np.float32)[FACES]
    (picture,) = draw.pictures(Mesh(CORNERS, FACES, None, uvs, texture), from_above())
    assert np.array_equal(picture[..., 3] == 1, np.pad(np.ones((32, 32), bool), 16))
    for (row, column), colour in {(18, 18): 0, (18, 45): 1, (45, 18): 2}.items():
        assert np.allclose(picture[row, column, :3], np.eye(3)[colour], atol=1e-5)


def test_a_texture_is_read_between_its_pixels() -> None:
    """A ramp of 16 pixels, across 32 pixels of the picture: half a step for each, as far as there are pixels."""
    texture = np.repeat(np.arange(16, dtype=np.uint8)[None, :, None] * 16, 3, axis=2)
    uvs = ((CORNERS[:, :2] + 1) / 2).astype(np.float32)[FACES]
    (picture,) = draw.pictures(Mesh(CORNERS, FACES, None, uvs, texture), from_above(), supersample=1)
    expected = np.clip((np.arange(32) + 0.5) / 2 - 0.5, 0, 15) * 16 / 255
    assert np.allclose(picture[30, 16:48, 0], expected, atol=1e-5)


def test_colours_of_vertices_are_mixed() -> None:
    colors = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    (picture,) = draw.pictures(Mesh(CORNERS, FACES, colors), from_above(), supersample=1)
    place = (np.arange(32) + 0.5) / 32
    assert np.allclose(picture[16:48, 16:48, 0], place[None], atol=1e-5)
    assert np.allclose(picture[16:48, 16:48, 1], place[::-1, None], atol=1e-5)


def test_the_back_of_a_triangle_is_red() -> None:
    front, back = Mesh(CORNERS, FACES), Mesh(CORNERS, FACES[:, ::-1])
    for mesh, red in ((front, False), (back, True)):
        (picture,) = draw.pictures(mesh, from_above(), kind="shape")
        middle = picture[32, 32]
        assert middle[3] == 1
        assert 0.5 < middle[0] <= 1
        assert (middle[1] < 0.5 * middle[0]) == red


def test_what_covers_half_of_a_pixel_is_half_there() -> None:
    (picture,) = draw.pictures(Mesh(CORNERS + np.array([1 / 32, 0, 0]), FACES), from_above())
    assert np.allclose(picture[32, [15, 16, 17, 47, 48], 3], [0, 0.5, 1, 1, 0.5])
    assert np.allclose(picture[32, 16, :3], draw.PLAIN)
    assert np.allclose(draw.over(picture, (0.0, 0.0, 0.0))[32, 16], draw.PLAIN / 2)


def test_it_shows_what_open3d_sees() -> None:
    o3d = pytest.importorskip("open3d", exc_type=ImportError)
    generator = np.random.default_rng(0)
    vertices = generator.normal(size=(60, 3)) * 0.5
    faces = generator.integers(0, 60, (40, 3))
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])]
    camera = from_above(size=48)
    (picture,) = draw.pictures(Mesh(vertices, faces, vertices.astype(np.float32)), camera, supersample=1)
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(vertices.astype(np.float32), faces.astype(np.uint32))
    rays = scene.create_rays_pinhole(camera.Ks[0].numpy(), camera.viewmats[0].numpy(), 48, 48)
    found = scene.cast_rays(rays, nthreads=1)
    met = np.isfinite(found["t_hit"].numpy())
    assert 100 < met.sum() < 2000
    assert np.array_equal(picture[..., 3] == 1, met)
    directions = rays.numpy()[..., 3:]
    places = rays.numpy()[..., :3] + directions * np.where(met, found["t_hit"].numpy(), 0)[..., None]
    assert np.allclose(picture[met, :3], places[met], atol=1e-4)
