"""Depth maps fused in a grid of truncated signed distances (Curless and Levoy 1996), of which the surface is the zero.

The grid has values only near surfaces: Open3D's `VoxelBlockGrid`, in blocks of 8x8x8 voxels. Shape letters: B blocks,
P points, H and W image size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.meshes import Mesh
from recon.meshing import open3d
from recon.meshing.depth import DepthMap, back_projected

Array = NDArray[Any]

BLOCK = 8  # voxels along each side of a block
BAND = 4.0  # voxels on either side of a surface that it has a say in
BYTES = BLOCK**3 * 4 * (1 + 1)  # of a block: distance, weight
CELLS = (BLOCK / BAND) ** 3  # cells of a band's width that a block has room for
LEAST = 1.0  # maps that have to show a voxel


def cells_of(maps: Sequence[DepthMap], voxel: float, step: int) -> Array:
    """[N,3] places of the cells, a band wide, that surfaces go through; every `step`-th pixel is looked at."""
    cells = [np.unique(np.floor(back_projected(found, step)[0] / (BAND * voxel)), axis=0) for found in maps]
    return np.unique(np.concatenate([np.empty((0, 3)), *cells]), axis=0)


def blocks_near(cells: Array) -> Array:
    """[B,3] int64 places of the blocks that have to do with surfaces in cells [N,3]; a block is 8 voxels wide."""
    # What is within a band of a cell as wide as that lies in it or in one beside it.
    around = np.stack(np.meshgrid(*3 * [[-1.0, 0.0, 1.0]]), axis=-1).reshape(-1, 3)
    return np.unique(np.floor((cells[:, None] + around).reshape(-1, 3) * BAND / BLOCK).astype(np.int64), axis=0)


def fuse(maps: Sequence[DepthMap], voxel: float, blocks: Array, progress: Callable[[int], None] | None = None) -> Mesh:
    """The surface that maps have in common, without colours; triangles are counter-clockwise as seen from outside.

    All maps have a say in all blocks: where one sees through a place, nothing is left there of another's noise.

    Args:
        voxel: side of a voxel, world units.
        blocks: [B,3] of `blocks_near`.
        progress: called with the number of maps done.
    """
    o3d = open3d.library()
    core, image = o3d.core, o3d.t.geometry.Image
    grid = grid_of(voxel, len(blocks))
    places = core.Tensor(blocks.astype(np.int32))
    for number, found in enumerate(maps):
        depth = found.depth
        farthest = float(depth[np.isfinite(depth)].max(initial=1.0))
        beyond = 1e3 * farthest  # where nothing is, all that is near is before something far away
        grid.integrate(
            places,
            image(core.Tensor(np.where(np.isinf(depth), np.float32(beyond), depth))),
            core.Tensor(found.camera.Ks[0].double().numpy()),
            core.Tensor(found.camera.viewmats[0].double().numpy()),
            1.0,
            2 * beyond,
            BAND,
        )
        if progress is not None:
            progress(number + 1)
    return triangles_of(grid, LEAST - 0.5)


def grid_of(voxel: float, blocks: int) -> Any:
    """Open3D's grid of distances and weights, with room for so many blocks."""
    o3d = open3d.library()
    kinds = 2 * (o3d.core.float32,)
    return o3d.t.geometry.VoxelBlockGrid(("tsdf", "weight"), kinds, ((1,), (1,)), voxel, BLOCK, max(1, blocks))


def triangles_of(grid: Any, least: float) -> Mesh:
    """Where the distance is 0, between voxels whose weight is at least this."""
    try:
        return open3d.from_tensors(grid.extract_triangle_mesh(least))
    except RuntimeError:  # of a grid through which no surface goes, Open3D makes no empty mesh, but this
        return Mesh(np.empty((0, 3)), np.empty((0, 3), np.int64))
