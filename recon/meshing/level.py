"""The surface at which a density has a given value: marching cubes (Lorensen and Cline 1987), by Open3D.

Shape letters: P points, B blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.meshes import Mesh
from recon.meshing import open3d, tsdf
from recon.meshing.depth import DepthMap, back_projected

Array = NDArray[Any]
Density = Callable[[Tensor], Tensor]  # of world points [P,3], per unit: [P]

AT_ONCE = 512  # blocks whose density is asked for together
STEP = 4  # of the pixels in each direction, one of so many tells how dense surfaces are
HALF = 0.5  # of the density of surfaces, where one of a voxel's opacity is not reached


def usual_level(density: Density, maps: Sequence[DepthMap], voxel: float) -> float:
    """Where a voxel stops half of the light; of a field whose surfaces are thinner than that, at half their density."""
    surfaces = torch.from_numpy(np.concatenate([back_projected(found, STEP)[0] for found in maps]))
    there = torch.cat([density(part) for part in surfaces.split(AT_ONCE * tsdf.BLOCK**3)])
    return min(math.log(2) / voxel, HALF * float(there.median()))


def surface(
    density: Density, level: float, voxel: float, blocks: Array, progress: Callable[[int, int], None] | None = None
) -> Mesh:
    """The surface within blocks, without colours; triangles are counter-clockwise as seen from where it is less dense.

    Args:
        voxel: side of a voxel, world units.
        blocks: [B,3] of `tsdf.blocks_near`.
        progress: told how many blocks are done, and how many there are.
    """
    grid = tsdf.grid_of(voxel, len(blocks))
    core = open3d.library().core
    slots, _ = grid.hashmap().activate(core.Tensor(blocks.astype(np.int32)))
    for first in range(0, len(blocks), AT_ONCE):
        places, rows = grid.voxel_coordinates_and_flattened_indices(slots[first : first + AT_ONCE])
        found = density(torch.from_numpy(places.numpy()).double()).numpy()
        lacking = (1 - found / np.float32(level)).clip(-1, 1).astype(np.float32)[:, None]
        grid.attribute("tsdf").reshape((-1, 1))[rows] = core.Tensor(lacking)
        grid.attribute("weight").reshape((-1, 1))[rows] = core.Tensor(np.ones_like(lacking))
        if progress is not None:
            progress(min(first + AT_ONCE, len(blocks)), len(blocks))
    return tsdf.triangles_of(grid, 0.5)
