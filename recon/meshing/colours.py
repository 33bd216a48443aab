"""Colours at the vertices of a mesh, as the cameras see them.

The grid that depth is fused in could keep colours, too, but not apart from what is behind: where a camera looks past a
surface, its voxels would take on what that camera shows there. Shape letters: V vertices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recon.meshes import Mesh
from recon.meshing.depth import DepthMap

Array = NDArray[Any]


def coloured(mesh: Mesh, maps: Sequence[DepthMap], tolerance: float) -> Mesh:
    """With the mean of what maps show at its vertices; the nearest vertex that one shows stands in for others.

    Args:
        tolerance: how far from a vertex a map's depth may be, world units, if it is that vertex that it shows.
    """
    positions = torch.from_numpy(mesh.vertices)
    sums, counts = np.zeros((len(mesh.vertices), 3)), np.zeros(len(mesh.vertices))
    for found in maps:
        pixels, inside = found.camera.pixels_of(positions)
        depth = found.camera.project(positions)[1][0].numpy()
        columns, rows = pixels.numpy().T
        shown = inside.numpy() & (np.abs(found.depth[rows, columns] - depth) <= tolerance)
        sums[shown] += found.rgb[rows[shown], columns[shown]]
        counts += shown
    shown = counts > 0
    if not shown.any():
        return mesh
    colors = sums / np.maximum(counts, 1)[:, None]
    if not shown.all():
        from scipy.spatial import cKDTree

        nearest = cKDTree(mesh.vertices[shown]).query(mesh.vertices[~shown])[1]
        colors[~shown] = colors[shown][nearest]
    return replace(mesh, colors=(colors / 255).astype(np.float32))
