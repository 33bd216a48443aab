"""Texture coordinates: charts do not overlap, and each texel shows the place of the surface that it should."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from recon.datasets.errors import InputError
from recon.meshes import Mesh
from recon.meshing import atlas

pytest.importorskip("xatlas")

SIZE = 128


def ball(subdivisions: int) -> Mesh:
    """A bumpy ball."""
    import trimesh

    found = trimesh.creation.icosphere(subdivisions=subdivisions)
    bumps = 1 + 0.2 * np.sin(4 * found.vertices[:, :1]) * np.cos(5 * found.vertices[:, 1:2])
    return Mesh(np.array(found.vertices * bumps), np.array(found.faces))


def inside(uvs: NDArray, size: int) -> tuple[NDArray, NDArray]:
    """How many triangles the centre of each texel [S,S] lies in, clear of their sides, and the last of them; the
    obvious way."""
    count, face = np.zeros((size, size), int), np.full((size, size), -1)
    for number, corners in enumerate(uvs.astype(np.float64) * size):
        left, low = np.floor(corners.min(axis=0)).astype(int)
        right, high = np.ceil(corners.max(axis=0)).astype(int)
        x, y = np.meshgrid(np.arange(left, right) + 0.5, np.arange(low, high) + 0.5)
        distances = []
        for k in range(3):
            start, side = corners[k], corners[(k + 1) % 3] - corners[k]
            distances.append((side[0] * (y - start[1]) - side[1] * (x - start[0])) / np.linalg.norm(side))
        signed = np.stack(distances)
        covered = np.maximum(signed.min(axis=0), (-signed).min(axis=0)) > 1e-3
        rows, columns = size - 1 - np.floor(y[covered]).astype(int), np.floor(x[covered]).astype(int)
        count[rows, columns] += 1
        face[rows, columns] = number
    return count, face


def areas(uvs: NDArray) -> NDArray:
    a, b, c = np.moveaxis(uvs.astype(np.float64), 1, 0)
    return np.abs(np.linalg.det(np.stack([b - a, c - a], axis=1))) / 2


def charts(mesh: Mesh, uvs: NDArray) -> NDArray:
    """[F] which triangles hang together in the texture."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    keys = np.concatenate([mesh.faces.reshape(-1, 1), np.round(uvs.reshape(-1, 2) * 1e5)], axis=1)
    _, corners = np.unique(keys, axis=0, return_inverse=True)
    faces = np.repeat(np.arange(len(mesh.faces)), 3)
    links = coo_array(
        (np.ones(len(faces)), (faces, corners.ravel() + len(mesh.faces))), shape=(len(mesh.faces) * 5,) * 2
    )
    return connected_components(links)[1][: len(mesh.faces)]


@pytest.mark.parametrize("subdivisions", [2, 3])
def test_charts_do_not_overlap(subdivisions: int) -> None:
    mesh = ball(subdivisions)
    uvs = atlas.unwrapped(mesh, SIZE)
    assert uvs.dtype == np.float32
    assert uvs.shape == (len(mesh.faces), 3, 2)
    assert uvs.min() >= 0
    assert uvs.max() <= 1
    assert areas(uvs).min() > 0
    count, _ = inside(uvs, SIZE)
    assert count.max() == 1
    assert count.mean() > 0.3


def test_all_charts_have_one_scale() -> None:
    mesh = ball(3)
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
    ratios = areas(atlas.unwrapped(mesh, SIZE)) / np.linalg.norm(np.cross(b - a, c - a), axis=1)
    low, middle, high = np.quantile(ratios, [0.01, 0.5, 0.99])
    assert middle / 2 < low < high < 2 * middle


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_a_mesh_may_have_any_size(scale: float) -> None:
    mesh = ball(2)
    uvs = atlas.unwrapped(Mesh(mesh.vertices * scale + 3 * scale, mesh.faces), SIZE)
    assert areas(uvs).min() > 0
    assert areas(uvs).sum() > 0.3


def test_triangles_without_area_and_twice_the_same_do_no_harm() -> None:
    mesh = ball(2)
    odd = np.array([[0, 0, 1], [2, 2, 2], mesh.faces[5], mesh.faces[7][::-1]])
    uvs = atlas.unwrapped(Mesh(mesh.vertices, np.concatenate([mesh.faces, odd])), SIZE)
    assert np.isfinite(uvs).all()
    assert areas(uvs[: len(mesh.faces)]).min() > 0
    assert len(np.unique(atlas.texels(uvs, SIZE).face)) > 0.9 * len(mesh.faces)
    with pytest.raises(InputError, match="without area"):
        atlas.unwrapped(Mesh(0 * mesh.vertices, mesh.faces), SIZE)


def test_charts_are_apart() -> None:
    """Looks between the texels of one chart never touch the rim of another, also where the texture is half as large."""
    mesh = ball(3)
    uvs = atlas.unwrapped(mesh, 512)
    chart = charts(mesh, uvs)
    assert 1 < chart.max() < 100
    found = atlas.texels(uvs, 512)
    picture = np.full(512 * 512, -1)
    picture[found.place] = chart[found.face]
    halves = picture.reshape(256, 2, 256, 2).swapaxes(1, 2).reshape(256, 256, 4)
    assert ((halves.max(axis=2) == halves.min(axis=2)) | (np.sort(halves, axis=2)[..., 0] == -1)).all()
    for number in range(chart.max() + 1):
        others = (halves != number) & (halves >= 0)
        assert not (others.any(axis=2) & (halves == number).any(axis=2)).any()


def test_large_meshes_are_cut_into_parts_that_hold_each_triangle_once() -> None:
    mesh = ball(4)
    parts = atlas._parts(mesh.vertices[mesh.faces].mean(axis=1))
    assert len(parts) == 8
    assert max(map(len, parts)) <= atlas.PART
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(mesh.faces)))
    uvs = atlas.unwrapped(mesh, SIZE)
    assert areas(uvs).min() > 0


def test_texels_are_where_the_coordinates_say() -> None:
    mesh = ball(2)
    uvs = atlas.unwrapped(mesh, SIZE)
    found = atlas.texels(uvs, SIZE)
    assert np.array_equal(np.unique(found.place), found.place)
    at = np.einsum("tk,tkc->tc", found.weights, uvs[found.face]) * SIZE
    assert np.allclose(at[:, 0], found.place % SIZE + 0.5, atol=1e-2)
    assert np.allclose(at[:, 1], SIZE - 0.5 - found.place // SIZE, atol=1e-2)
    assert np.allclose(found.weights.sum(axis=1), 1, atol=1e-4)
    _, expected = inside(uvs, SIZE)
    face = np.full(SIZE * SIZE, -1)
    face[found.place] = found.face
    assert np.array_equal(face[expected.ravel() >= 0], expected[expected >= 0])


def test_a_rim_goes_round_each_chart() -> None:
    """All four texels that a look inside of a chart is mixed from are there, but at the tips of slivers."""
    mesh = ball(2)
    uvs = atlas.unwrapped(mesh, SIZE)
    there = np.zeros(SIZE * SIZE, bool)
    there[atlas.texels(uvs, SIZE).place] = True
    generator = np.random.default_rng(0)
    weights = generator.dirichlet([0.3, 0.3, 0.3], (50, len(uvs)))
    at = np.einsum("nfk,fkc->nfc", weights, uvs).reshape(-1, 2) * SIZE
    columns, rows = np.floor(at[:, 0] - 0.5).astype(int), np.floor(SIZE - at[:, 1] - 0.5).astype(int)
    for down in (0, 1):
        for right in (0, 1):
            assert there[(rows + down).clip(0, SIZE - 1) * SIZE + (columns + right).clip(0, SIZE - 1)].mean() > 0.999


def test_what_is_to_be_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xatlas", None)
    with pytest.raises(InputError, match=r"xatlas: pip install recon3d\[mesh\]"):
        atlas.unwrapped(ball(1), SIZE)
