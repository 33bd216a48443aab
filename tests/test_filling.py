"""Colours of what no photo shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recon.meshes import Mesh
from recon.meshing.atlas import Texels
from recon.meshing.filling import filled

SIDE = 17


def tube_and_triangle() -> Mesh:
    """A tube along x of SIDE x SIDE vertices, whose last row is joined to the first, and far away a triangle by itself.

    On it, what only depends on x and has straight ends is straight: it has no rim along x.
    """
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    corner = np.flatnonzero(columns < SIDE - 1)
    above = (corner + SIDE) % (SIDE * SIDE)
    lower = np.stack([corner, corner + 1, above + 1], axis=1)
    upper = np.stack([corner, above + 1, above], axis=1)
    vertices = np.stack([columns, rows, 0 * rows], axis=1).astype(float)
    alone = np.array([[100.0, 0, 0], [101, 0, 0], [100, 1, 0]])
    faces = np.concatenate([lower, upper, [[len(vertices) + k for k in range(3)]]])
    return Mesh(np.concatenate([vertices, alone]), faces)


def at_corners(mesh: Mesh) -> tuple[Texels, NDArray]:
    """A texel just inside of each corner of each triangle, and where that is."""
    face = np.repeat(np.arange(len(mesh.faces), dtype=np.int32), 3)
    weights = np.tile(np.eye(3) * 0.97 + 0.01, (len(mesh.faces), 1)).astype(np.float32)
    places = np.einsum("tk,tkc->tc", weights, mesh.vertices[mesh.faces[face]])
    return Texels(np.arange(len(face)), face, weights), places


def test_a_ramp_goes_on_between_known_ends() -> None:
    mesh = tube_and_triangle()
    texels, places = at_corners(mesh)
    x = places[:, :1]
    true = np.concatenate([0.2 + 0.03 * x, 0.8 - 0.02 * x, 0.5 + 0 * x], axis=1).astype(np.float32)
    known = (x[:, 0] < 2.5) | ((x[:, 0] > SIDE - 3.5) & (x[:, 0] < 50))
    found = filled(mesh, texels, np.where(known[:, None], true, 0), known)
    assert np.array_equal(found[known], true[known])
    tube = x[:, 0] < 50
    assert np.abs(found - true)[tube].max() < 0.005
    assert np.abs(found[~tube] - true[known].mean(axis=0)).max() < 0.01


def test_the_mesh_has_the_pattern_and_photos_the_brightness() -> None:
    mesh = tube_and_triangle()
    texels, places = at_corners(mesh)
    pattern = 0.4 + 0.2 * (np.arange(len(mesh.vertices)) % 2)
    mesh = Mesh(mesh.vertices, mesh.faces, np.tile(pattern[:, None], 3).astype(np.float32))
    own = np.einsum("tk,tkc->tc", texels.weights, np.tile(pattern[:, None], 3)[mesh.faces[texels.face]])
    known = places[:, 0] < SIDE / 2
    found = filled(mesh, texels, np.where(known[:, None], own + 0.1, 0).astype(np.float32), known)
    tube = places[:, 0] < 50
    assert np.abs(found - own - 0.1)[tube].max() < 0.01
    assert np.abs(found - own)[~tube].max() < 0.01


def test_without_any_photo_it_is_grey_or_the_colours_of_the_mesh() -> None:
    mesh = tube_and_triangle()
    texels, _ = at_corners(mesh)
    nothing = np.zeros((len(texels), 3), np.float32)
    unknown = np.zeros(len(texels), bool)
    assert np.allclose(filled(mesh, texels, nothing, unknown), 0.5)
    red = Mesh(mesh.vertices, mesh.faces, np.tile(np.array([1, 0, 0], np.float32), (len(mesh.vertices), 1)))
    assert np.allclose(filled(red, texels, nothing, unknown), [1, 0, 0])
