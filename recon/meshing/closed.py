"""A surface without holes around the same body, and convex parts that it is made of.

Shape letters: V vertices, F triangles.
"""

from __future__ import annotations

import numpy as np

from recon.datasets.errors import InputError
from recon.meshes import Mesh
from recon.meshing import clean, open3d, poisson

SAMPLES = 400_000  # points of a surface that a closed one is made from
ACROSS = 192  # cells, of the grid of insides and outsides
INSIDE_RAYS = 5  # whose votes say which it is


def is_watertight(mesh: Mesh) -> bool:
    """Whether each edge belongs to two triangles that go around it the opposite ways (trimesh's word for it)."""
    import trimesh

    made = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    return bool(len(mesh.faces) and made.is_watertight and made.is_winding_consistent)


def watertight(mesh: Mesh, voxel: float, triangles: int | None = None) -> Mesh:
    """A closed surface about as fine as a voxel, with colours from the nearest places of `mesh`.

    Poisson's reconstruction of samples of it bridges its holes smoothly. Where that, or making it simpler, leaves
    something open, the boundary of what is inside, in a grid, takes its place, which never is.

    Args:
        triangles: the most there are to be.
    Raises:
        InputError: so few triangles cannot be closed.
    """
    made = _simple(clean.largest(_bridged(mesh, voxel)), triangles)
    if not is_watertight(made):
        made = _simple(clean.largest(boundary(made, ACROSS)), triangles)
    if not is_watertight(made):
        raise InputError(f"--triangles {triangles}: too few for a surface without holes")
    return _coloured(made, mesh)


def _simple(mesh: Mesh, triangles: int | None) -> Mesh:
    return mesh if triangles is None else clean.simplified(mesh, triangles)


def _bridged(mesh: Mesh, voxel: float) -> Mesh:
    import trimesh

    made = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    count = int(np.clip(4 * made.area / voxel**2, 1000, SAMPLES))
    points, face = trimesh.sample.sample_surface(made, count, seed=0)
    normals = clean.face_crosses(mesh)[face]
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    grey = np.full(points.shape, 0.5)  # the real ones come later, and finer
    return poisson.surface(np.asarray(points), normals, grey, voxel, trim=False)


def boundary(mesh: Mesh, across: int) -> Mesh:
    """The boundary of the inside of a surface, which may have gaps, in a grid of so many cells along its longest side.

    Closed by construction: it is an isosurface that stays away from the sides of its grid.
    """
    o3d = open3d.library()
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    cell = float((high - low).max()) / across
    origin = low - 3 * cell
    counts = np.ceil((high - low) / cell).astype(int) + 6
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(open3d.to_tensors(Mesh(mesh.vertices, mesh.faces)))
    x, y, z = (origin[i] + cell * np.arange(counts[i]) for i in range(3))
    values = np.empty(counts, np.float32)
    for i in range(counts[0]):  # a layer at a time, which bounds the memory
        places = np.stack(np.broadcast_arrays(x[i], y[:, None], z[None, :]), axis=-1).astype(np.float32)
        values[i] = -scene.compute_signed_distance(o3d.core.Tensor(places), nsamples=INSIDE_RAYS).numpy()
    for side in (0, -1):
        values[side] = values[:, side] = values[:, :, side] = -cell
    # Open3D's axes are the other way round, and triangles are counter-clockwise as seen from where values are low.
    made = open3d.from_tensors(o3d.t.geometry.TriangleMesh.create_isosurfaces(o3d.core.Tensor(values.T.copy()), [0.0]))
    return Mesh(made.vertices * cell + origin, made.faces)


def _coloured(mesh: Mesh, source: Mesh) -> Mesh:
    """With the colour of the nearest vertex of `source`."""
    if source.colors is None:
        return Mesh(mesh.vertices, mesh.faces)
    from scipy.spatial import cKDTree

    nearest = cKDTree(source.vertices).query(mesh.vertices)[1]
    return Mesh(mesh.vertices, mesh.faces, source.colors[nearest])
