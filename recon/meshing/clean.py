"""What makes a fused surface fit for use: parts that nobody sees and crumbs cut away, holes closed, fewer triangles.

All of it keeps colours, and takes a mesh without texture. Shape letters: V vertices, F triangles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recon.datasets.cameras import Cameras
from recon.datasets.raycast import RayCaster
from recon.meshes import Mesh
from recon.meshing import open3d

Array = NDArray[Any]

CRUMB = 0.02  # of the triangles of the largest part: a part of fewer is left out, where no number is given
FEWEST = 4  # triangles of a part; fewer enclose nothing


def rows(mesh: Mesh, kept: Array) -> Mesh:
    """The triangles where `kept` [F] is true, with the vertices that they have."""
    used, corners = np.unique(mesh.faces[kept], return_inverse=True)
    colors = None if mesh.colors is None else mesh.colors[used]
    return Mesh(mesh.vertices[used], corners.reshape(-1, 3).astype(np.int64), colors)


def parts_of(mesh: Mesh) -> Array:
    """[F] which part each triangle belongs to, 0 for the one of most triangles; parts share no vertex."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    first, second = np.concatenate([mesh.faces[:, :2], mesh.faces[:, 1:]]).T
    ones = np.ones(len(first), dtype=bool)
    count = len(mesh.vertices)
    labels = connected_components(coo_matrix((ones, (first, second)), shape=(count, count)), directed=False)[1]
    numbers, part, sizes = np.unique(labels[mesh.faces[:, 0]], return_inverse=True, return_counts=True)
    place = np.empty(len(numbers), dtype=np.int64)
    place[np.argsort(-sizes, kind="stable")] = np.arange(len(numbers))
    return place[part]


def largest(mesh: Mesh, count: int | None = None) -> Mesh:
    """The `count` parts of most triangles; None: all that are not crumbs beside the largest."""
    if not len(mesh.faces):
        return mesh
    part = parts_of(mesh)
    if count is None:
        sizes = np.bincount(part)
        count = int((sizes >= max(FEWEST, CRUMB * sizes[0])).sum())
    return rows(mesh, part < count)


def seen(mesh: Mesh, cameras: Sequence[Cameras], margin: float) -> Mesh:
    """The triangles of which some camera sees a vertex from in front, with no other part of the mesh between them.

    Args:
        cameras: batches of one.
        margin: how far from a vertex, towards the camera, other triangles do not hide it: its own neighbours.
    """
    caster = RayCaster(mesh.vertices, mesh.faces)
    normals = vertex_normals(mesh)
    found = np.zeros(len(mesh.vertices), dtype=bool)
    for camera in cameras:
        rest = np.flatnonzero(~found)
        inside = camera.pixels_of(torch.from_numpy(mesh.vertices[rest]))[1].numpy()
        to_camera = camera.positions[0].double().numpy() - mesh.vertices[rest]
        rest, to_camera = rest[inside], to_camera[inside]
        facing = (to_camera * normals[rest]).sum(axis=1) > 0
        rest, to_camera = rest[facing], to_camera[facing]
        start = margin / np.maximum(np.linalg.norm(to_camera, axis=1, keepdims=True), margin)
        found[rest] = ~caster.occluded(mesh.vertices[rest] + start * to_camera, (1 - start) * to_camera)
    return rows(mesh, found[mesh.faces].any(axis=1))


def vertex_normals(mesh: Mesh) -> Array:
    """[V,3] unit normals of vertices, outwards: the mean of those of their triangles, by area. 0 without any."""
    normals = np.zeros_like(mesh.vertices)
    crosses = face_crosses(mesh)
    for corner in range(3):
        np.add.at(normals, mesh.faces[:, corner], crosses)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)


def face_crosses(mesh: Mesh) -> Array:
    """[F,3] outward normals of triangles, twice as long as their areas."""
    first, second, third = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    return np.cross(second - first, third - first)


def in_box(mesh: Mesh, low: Sequence[float], high: Sequence[float]) -> Array:
    """[F] bool: which triangles lie in a box as a whole."""
    within = np.all((mesh.vertices >= low) & (mesh.vertices <= high), axis=1)
    return within[mesh.faces].all(axis=1)


def holes_filled(mesh: Mesh, size: float) -> Mesh:
    """With holes closed that are about so wide at most, by triangles between the vertices at their edges."""
    filled = open3d.from_tensors(open3d.to_tensors(mesh).fill_holes(float(size))).faces
    # Open3D puts its triangles behind those that are there, which stay as they are, and turns them the other way.
    added = filled[len(mesh.faces) :, ::-1]
    return Mesh(mesh.vertices, np.concatenate([mesh.faces, added]), mesh.colors)


def simplified(mesh: Mesh, triangles: int) -> Mesh:
    """At most so many triangles, by quadric error (Garland and Heckbert 1997)."""
    if len(mesh.faces) <= triangles:
        return mesh
    return open3d.from_legacy(open3d.to_legacy(mesh).simplify_quadric_decimation(triangles))


def smoothed(mesh: Mesh, times: int) -> Mesh:
    """Smoothed so many times without shrinking (Taubin 1995)."""
    return open3d.from_legacy(open3d.to_legacy(mesh).filter_smooth_taubin(times)) if times else mesh
