"""Depth that other cameras contradict, or do not confirm, is not that of a surface.

Shape letters: H and W image size, P points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recon.meshing.depth import DepthMap, back_projected

Array = NDArray[Any]

NEIGHBOURS = 4  # cameras that each is compared with
CONFIRMED = 1  # of them have to see a surface there


def agreeing(maps: Sequence[DepthMap], tolerance: float, progress: Callable[[int], None] | None = None) -> list[Array]:
    """For each map [H,W] bool: where its surface is confirmed by neighbouring cameras and contradicted by no more.

    A camera confirms a point where its own depth is the same, and contradicts it where it sees through it. One that
    sees something in front says nothing.

    Args:
        tolerance: what counts as the same, as a share of the depth.
        progress: called with the number of maps done.
    """
    result = []
    neighbours = _neighbours(maps)
    for number, found in enumerate(maps):
        points, _ = back_projected(found)
        confirmed = np.zeros(len(points), dtype=int)
        contradicted = np.zeros(len(points), dtype=int)
        for other in neighbours[number]:
            same, through = _compared(points, maps[other], tolerance)
            confirmed += same
            contradicted += through
        kept = np.zeros(found.depth.shape, dtype=bool)
        needed = min(CONFIRMED, len(neighbours[number]))
        kept[found.known] = (confirmed >= needed) & (confirmed >= contradicted)
        result.append(kept)
        if progress is not None:
            progress(number + 1)
    return result


def _compared(points: Array, other: DepthMap, tolerance: float) -> tuple[Array, Array]:
    """[P] bool each: whether a camera sees a surface at points [P,3], and whether it sees through them."""
    positions = torch.from_numpy(points)
    pixels, inside = other.camera.pixels_of(positions)
    depth = other.camera.project(positions)[1][0].numpy()
    seen = other.depth[pixels[:, 1], pixels[:, 0]]
    known = inside.numpy() & (seen > 0)
    allowed = tolerance * depth
    return known & (np.abs(seen - depth) <= allowed), known & (seen > depth + allowed)


def _neighbours(maps: Sequence[DepthMap]) -> list[list[int]]:
    """For each map the cameras that stand nearest, of those that look the same way to 60 degrees."""
    positions = torch.cat([found.camera.positions for found in maps])
    forward = torch.cat([found.camera.forward for found in maps])
    away = torch.cdist(positions, positions)
    away[(forward @ forward.T < 0.5) | torch.eye(len(maps), dtype=torch.bool)] = torch.inf
    order = away.argsort(dim=1)[:, :NEIGHBOURS]
    return [[int(k) for k in row if torch.isfinite(away[i, k])] for i, row in enumerate(order)]
