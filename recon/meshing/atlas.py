"""Texture coordinates for a mesh (with xatlas), and which point of its surface each texel shows.

A mesh is cut into charts, each flattened with little distortion and laid out beside the others in one square, all at
the same scale. xatlas takes more than ten times as long for four times as many triangles, so large meshes are divided
in space beforehand, and charts end at these cuts: 82,000 noisy triangles take 5 s instead of 70, and 498,000 53.

Shape letters: F triangles, T texels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from recon.datasets.errors import InputError
from recon.datasets.raycast import RayCaster
from recon.meshes import Mesh

Array = NDArray[Any]

PART = 1000  # triangles that are divided into charts together
GAP = 6  # texels between charts: more than both rims, and copies of the texture half as large are clean as well
RIM = 2.0  # texels beside those in a chart that a look between texels touches, but at the tips of slivers
ROWS_AT_ONCE = 256
FARTHEST = 4.0  # a rim's weights are not beyond: those of slivers would be


@dataclass(frozen=True)
class Texels:
    """The texels that show a surface, in the order of the texture's rows.

    Attributes:
        place: [T] int64, row times side plus column in the texture, the upper row first.
        face: [T] int32, the triangle.
        weights: [T,3] float32 of its corners. Those of texels just beside a chart lie outside of the triangle.
    """

    place: Array
    face: Array
    weights: Array

    def __len__(self) -> int:
        return len(self.place)


def unwrapped(mesh: Mesh, size: int) -> Array:
    """Texture coordinates [F,3,2] float32 of the corners of a mesh, for a texture of `size` texels each way."""
    try:
        import xatlas
    except ImportError as error:
        raise InputError("a texture needs the package xatlas: pip install recon3d[mesh]") from error
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
    side = np.sqrt(np.linalg.norm(np.cross(b - a, c - a), axis=1).mean())
    if not side > 0:
        raise InputError("a mesh without area cannot have a texture")
    atlas = xatlas.Atlas()
    parts = _parts((a + b + c) / 3)
    for rows in parts:
        used, faces = np.unique(mesh.faces[rows], return_inverse=True)
        # xatlas leaves out what is small beside 1.
        corners = np.ascontiguousarray((mesh.vertices[used] - mesh.vertices[used[0]]) / side, np.float32)
        atlas.add_mesh(corners, faces.reshape(-1, 3).astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution = size
    options.padding = GAP
    atlas.generate(xatlas.ChartOptions(), options)
    # xatlas hits the size that it is asked for by about a fifth, and its charts are as wide as high only about.
    scale = np.array([atlas.width, atlas.height], np.float32) / max(atlas.width, atlas.height)
    uvs = np.empty((len(mesh.faces), 3, 2), np.float32)
    for number, rows in enumerate(parts):
        _, faces, found = atlas.get_mesh(number)
        uvs[rows] = found[faces] * scale
    return uvs


def _parts(centres: Array) -> list[Array]:
    """Rows of centres [F,3], divided in halves across where they reach farthest until each has `PART` at most."""
    done, open_ = [], [np.arange(len(centres))]
    while open_:
        rows = open_.pop()
        if len(rows) <= PART:
            done.append(rows)
            continue
        axis = np.argmax(np.ptp(centres[rows], axis=0))
        order = np.argpartition(centres[rows, axis], len(rows) // 2)
        open_ += [np.sort(rows[half]) for half in np.split(order, [len(rows) // 2])]
    return done


def texels(uvs: Array, size: int) -> Texels:
    """What a texture of `size` texels each way shows at texture coordinates [F,3,2].

    Beside those whose centre lies in a triangle, those that a look between texels touches as well: they continue the
    nearest triangle, so that colours meet where charts do.
    """
    corners = uvs.reshape(-1, 2).astype(np.float64) * size
    flat = np.concatenate([corners, np.zeros((len(corners), 1))], axis=1)
    caster = RayCaster(flat, np.arange(len(corners)).reshape(-1, 3))
    face = np.empty((size, size), np.int32)
    columns = np.arange(size) + 0.5
    for top in range(0, size, ROWS_AT_ONCE):
        rows = size - 0.5 - np.arange(top, min(top + ROWS_AT_ONCE, size))
        x, y = np.meshgrid(columns, rows)
        origins = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1)
        hits = caster.closest(origins, np.broadcast_to([0.0, 0.0, -1.0], origins.shape))
        face[top : top + len(rows)] = hits.face.reshape(len(rows), size)
    distance, nearest = ndimage.distance_transform_edt(face < 0, return_indices=True)
    place = np.flatnonzero(distance <= RIM)
    face = face[tuple(indices.ravel()[place] for indices in nearest)]
    centres = np.stack([place % size + 0.5, size - 0.5 - place // size], axis=1)
    weights = _barycentric(corners.reshape(-1, 3, 2), face, centres)
    usable = np.abs(weights).max(axis=1) < FARTHEST
    return Texels(place[usable], face[usable], weights[usable].astype(np.float32))


def _barycentric(triangles: Array, face: Array, points: Array) -> Array:
    """[T,3] weights with which the corners of triangles [F,3,2] make points [T,2] of their planes; huge where a
    triangle has no area."""
    a, b, c = np.moveaxis(triangles, 1, 0)
    area = np.maximum(np.abs(_cross(b - a, c - a)), 1e-12) * np.sign(_cross(b - a, c - a))
    of_b = _cross(points - a[face], (c - a)[face]) / area[face]
    of_c = _cross((b - a)[face], points - a[face]) / area[face]
    return np.stack([1 - of_b - of_c, of_b, of_c], axis=1)


def _cross(a: Array, b: Array) -> Array:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
