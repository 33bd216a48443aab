"""How fine a surface can be: by how far apart pixels are on it, and by the memory that its grid takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.datasets.errors import InputError
from recon.meshing import tsdf
from recon.meshing.depth import DepthMap

Array = NDArray[Any]

PIXELS = 2.0  # of a picture, on a surface at the usual distance, that a voxel is wide
BLOCK_BYTES = tsdf.BYTES + 16 * tsdf.BLOCK**3  # of a block: its values, and what is needed to make triangles of them
SPARSEST = 4  # of the pixels in each direction, one of so many tells where blocks are
FEWEST_CELLS = 64  # that a surface goes through; with fewer there is no shape left
COARSER = 1.2  # times, each time a grid does not fit


@dataclass(frozen=True)
class Grid:
    """Voxels near surfaces.

    Attributes:
        voxel: side of one, world units.
        blocks: [B,3] places of blocks; see `tsdf.blocks_near`.
        wanted: the side that was asked for, or that suits the pictures.
    """

    voxel: float
    blocks: Array
    wanted: float

    @property
    def bytes(self) -> int:
        """That it takes, with what is needed to make triangles of it."""
        return len(self.blocks) * BLOCK_BYTES


def usual_spacing(maps: Sequence[DepthMap]) -> float:
    """How far apart neighbouring pixels are on the surfaces that maps show, world units: the median.

    Raises:
        InputError: no map shows any.
    """
    spacing = [found.depth[found.known][::16] / float(found.camera.Ks[0, 0, 0]) for found in maps]
    every = np.concatenate([np.empty(0), *spacing])
    if not every.size:
        raise InputError("no camera sees a surface in this scene, so there is nothing to make a mesh of")
    return float(np.median(every))


def grid(maps: Sequence[DepthMap], voxel: float | None, memory: int) -> Grid:
    """The finest grid that is wanted and fits into so many bytes.

    Args:
        voxel: the side that is wanted; None: what suits the pictures.
    Raises:
        InputError: none fits, or there is no surface.
    """
    spacing = usual_spacing(maps)
    side = wanted = PIXELS * spacing if voxel is None else voxel
    while True:
        step = int(np.clip(tsdf.BAND * side / (2 * spacing), 1, SPARSEST))
        cells = tsdf.cells_of(maps, side, step)
        least = len(cells) / tsdf.CELLS * BLOCK_BYTES
        if least <= memory:  # or else the list of blocks itself may not fit
            found = Grid(side, tsdf.blocks_near(cells), wanted)
            if found.bytes <= memory:
                return found
        if len(cells) <= FEWEST_CELLS:
            raise InputError(
                f"a mesh of this scene does not fit into the {memory / 1e9:.3f} GB of memory that are free"
            )
        side *= max(COARSER, 0.9 * math.sqrt(least / memory))  # blocks go by the square of it
