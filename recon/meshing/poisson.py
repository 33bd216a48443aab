"""A surface through oriented points: screened Poisson reconstruction (Kazhdan and Hoppe 2013), by Open3D.

It closes what no camera has seen with a smooth guess. Shape letters: P points.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.meshes import Mesh
from recon.meshing import clean, open3d

Array = NDArray[Any]

DEEPEST = 10  # levels of the octree: 1024 cells across
ROOM = 1.5  # of the cube around the points, in their own size: with less, a surface that bulges is cut open
THIN = 0.03  # the share of a surface with the fewest points beside it that is a guess


def _cloud(points: Array, normals: Array, colors: Array) -> Any:
    o3d = open3d.library()
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    cloud.normals = o3d.utility.Vector3dVector(normals)
    cloud.colors = o3d.utility.Vector3dVector(colors)
    return cloud


def surface(points: Array, normals: Array, colors: Array, voxel: float, *, trim: bool, threads: int = 1) -> Mesh:
    """The surface through points with normals and colours, [P,3] each, about as fine as a voxel.

    Args:
        trim: whether what few points speak for is cut away; without it the surface is closed.
    """
    o3d = open3d.library()
    size = ROOM * float((points.max(axis=0) - points.min(axis=0)).max())
    depth = int(np.clip(math.ceil(math.log2(max(2.0, size / voxel))), 4, DEEPEST))
    made, densities = o3d.geometry.TriangleMesh.create_from_point_cloud_poisson(
        _cloud(points, normals, colors), depth=depth, scale=ROOM, n_threads=threads
    )
    mesh = open3d.from_legacy(made)
    if not trim:
        return mesh
    density = np.asarray(densities)
    kept = density >= np.quantile(density, THIN)
    return clean.rows(mesh, kept[mesh.faces].all(axis=1))
