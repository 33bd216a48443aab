"""Points of a surface, with normals and colours, from depth maps.

Shape letters: P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recon import render
from recon.meshing.depth import DepthMap, back_projected

Array = NDArray[Any]


def oriented(maps: Sequence[DepthMap], voxel: float) -> tuple[Array, Array, Array]:
    """Points [P,3] of all maps, their unit normals [P,3] towards the cameras and their colours [P,3] 0..1.

    One for each voxel that has any: the means of all that are in it.
    """
    points, normals, colors = [np.empty((0, 3))], [np.empty((0, 3))], [np.empty((0, 3))]
    for found in maps:
        every = render.normals_from_depth(torch.from_numpy(found.depth), found.camera).numpy()[found.known]
        usable = np.isfinite(every).all(axis=1) & (np.abs(every).sum(axis=1) > 0)
        xyz, rgb = back_projected(found)
        points.append(xyz[usable])
        normals.append(every[usable])
        colors.append(rgb[usable] / 255)
    return _thinned(np.concatenate(points), np.concatenate(normals), np.concatenate(colors), voxel)


def _thinned(points: Array, normals: Array, colors: Array, voxel: float) -> tuple[Array, Array, Array]:
    if not len(points):
        return points, normals, colors
    cells = np.floor((points - points.min(axis=0)) / voxel).astype(np.int64)
    _, number, count = np.unique(
        np.ravel_multi_index(tuple(cells.T), tuple(cells.max(axis=0) + 1)), return_inverse=True, return_counts=True
    )

    def mean(values: Array) -> Array:
        return np.stack([np.bincount(number, values[:, k]) / count for k in range(3)], axis=1)

    turned = mean(normals)
    lengths = np.linalg.norm(turned, axis=1, keepdims=True)
    usable = lengths[:, 0] > 1e-6  # of opposite sides of a thin thing nothing is left
    return mean(points)[usable], (turned / np.maximum(lengths, 1e-30))[usable], mean(colors)[usable]
