"""Colours for what no photo shows, continued over the surface from what photos show around it.

On the mesh and not in the texture, where neighbours may be strangers: what the vertices of the mesh are known to lack
is spread over those of which nothing is known (the harmonic continuation), so that no edge is left where the photos
end. Where the mesh has colours of its own, only their difference from the photos is spread.

Shape letters: V vertices, F triangles, T texels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, cg

from recon.meshes import Mesh
from recon.meshing.atlas import Texels

Array = NDArray[Any]

PLAIN = 0.5  # the grey of a mesh of which no colour is known
PULL = 1e-6  # towards no difference: of parts of the mesh that no photo shows at all
TOLERANCE = 1e-4
ROUNDS = 500


def filled(mesh: Mesh, texels: Texels, colours: Array, known: Array) -> Array:
    """Colours [T,3] of texels, of which those are taken that are `known` [T]; the others are found.

    Where none is known, all are those of the mesh, or grey.
    """
    unknown = np.flatnonzero(~known)
    if not len(unknown):
        return colours
    base = mesh.colors
    if base is None:
        base = np.tile(colours[known].mean(axis=0) if known.any() else PLAIN, (len(mesh.vertices), 1))
    corners = mesh.faces[texels.face]
    weights = texels.weights.clip(0, 1)
    inside = np.flatnonzero(known)
    apart = colours[inside] - _inside(base, corners[inside], weights[inside])
    closest = np.where(weights[inside] > 0.5, weights[inside], 0)
    base = base + _spread(mesh.faces, *_at_corners(corners[inside], closest, apart, len(base)))
    result = colours.copy()
    result[unknown] = _inside(base, corners[unknown], weights[unknown])
    return result.clip(0, 1)


def _inside(values: Array, corners: Array, weights: Array) -> Array:
    """[T,3] of values [V,3] between the corners [T,3] of triangles, by weights [T,3] of about 1 together."""
    return np.einsum("tk,tkc->tc", weights, values[corners]) / weights.sum(axis=1, keepdims=True)


def _at_corners(corners: Array, weights: Array, values: Array, count: int) -> tuple[Array, Array]:
    """The means [V,3] at vertices of values [T,3] that count for the corners [T,3] by weights [T,3], and which vertices
    have any [V]."""
    owner = corners.ravel()
    total = np.bincount(owner, weights.ravel(), count)
    sums = [np.bincount(owner, (weights * values[:, c, None]).ravel(), count) for c in range(3)]
    return np.stack(sums, axis=1) / np.maximum(total, 1e-12)[:, None], total > 0


def _spread(faces: Array, values: Array, known: Array) -> Array:
    """Values [V,3] of which those are kept that are `known` [V], and others are the means of their neighbours."""
    count = len(values)
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ends = np.concatenate([ends, ends[:, ::-1]])
    ones = np.ones(len(ends))
    links = sparse.csr_array((ones, (ends[:, 0], ends[:, 1])), shape=(count, count))
    free = np.flatnonzero(~known & (np.diff(links.indptr) > 0))
    degree = links[free].sum(axis=1)
    matrix = (sparse.diags_array(degree * (1 + PULL)) - links[free][:, free]).tocsr()
    right = links[free] @ np.where(known[:, None], values, 0)
    result = np.where(known[:, None], values, 0)
    for colour in range(3):
        scale = LinearOperator(matrix.shape, lambda x: x / degree)
        result[free, colour] = cg(matrix, right[:, colour], rtol=TOLERANCE, maxiter=ROUNDS, M=scale)[0]
    return result
