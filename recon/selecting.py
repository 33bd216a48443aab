"""Which splats a shape means: their centres decide, not how far they reach.

Shape letters: N splats, S corners of a stroke.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from recon.floaters import loneliness, threshold
from recon.raster.reference import rotations_from_quats
from recon.viewer.look import Box, Brush, Fainter, Farther, Floaters, How, Larger, Shape, Sphere

Mask = NDArray[np.bool_]  # [N]
FORGET = 32  # lines of a stroke after which what was found is left out


class Cloud:
    """Splats as far as selecting looks at them.

    Attributes:
        means: [N,3] world units.
        scales: [N,3] standard deviations, world units.
        opacities: [N] 0..1.
    """

    def __init__(self, means: NDArray[np.float32], scales: NDArray[np.float32], opacities: NDArray[np.float32]) -> None:
        self.means, self.scales, self.opacities = means, scales, opacities
        self._lonely: tuple[Mask, NDArray[np.float64]] | None = None

    def loneliness(self, among: Mask) -> NDArray[np.float64]:
        """[N] of splats as if only those `among` were there, 0 for the others; kept, as it may take a second."""
        if self._lonely is None or not np.array_equal(self._lonely[0], among):
            values = np.zeros(len(among))
            values[among] = loneliness(self.means[among], self.scales[among], self.opacities[among])
            self._lonely = (among, values)
        return self._lonely[1]


def within(shape: Shape, cloud: Cloud, among: Mask) -> Mask:
    """The splats that a shape means.

    Args:
        among: those that there are; only floaters depend on who their neighbours are.
    """
    match shape:
        case Box():
            return among & in_box(shape, cloud.means)
        case Sphere():
            return among & (_distances(cloud.means, shape.centre) <= shape.radius)
        case Farther():
            return among & (_distances(cloud.means, shape.centre) > shape.distance)
        case Brush():
            return among & _under(shape, cloud.means)
        case Fainter():
            return among & (cloud.opacities < shape.opacity)
        case Larger():
            return among & (cloud.scales.max(axis=1) > shape.scale)
        case Floaters():
            return cloud.loneliness(among) > threshold(shape.strength)


def combined(before: Mask, found: Mask, how: How) -> Mask:
    """The selection that was there before, changed by what was found."""
    if how == "add":
        return before | found
    return before & ~found if how == "subtract" else found


def in_box(box: Box, points: NDArray[np.float32]) -> Mask:
    """Which of points [N,3] are in a box, its faces included."""
    offsets = points - np.array(box.centre, np.float32)
    return (np.abs(offsets @ axes_of(box)) <= np.array(box.size, np.float32) / 2).all(axis=1)


def axes_of(box: Box) -> NDArray[np.float32]:
    """[3,3] the directions of the sides, in columns."""
    return rotations_from_quats(torch.tensor([box.wxyz], dtype=torch.float64))[0].numpy().astype(np.float32)


def _distances(points: NDArray[np.float32], centre: tuple[float, float, float]) -> NDArray[np.float32]:
    return np.linalg.norm(points - np.array(centre, np.float32), axis=1)


def _under(brush: Brush, points: NDArray[np.float32]) -> Mask:
    """Which of points [N,3] a stroke passes over, as its camera sees them: those behind the camera are not seen.

    Whoever scribbles passes over the same places again and again, so what was found is not looked at any more.
    """
    positions, depths = (values[0].numpy() for values in brush.camera.to("cpu").project(torch.from_numpy(points)))
    corners = brush.points.astype(positions.dtype)
    low, high = corners.min(axis=0) - brush.radius, corners.max(axis=0) + brush.radius
    found = (depths > 0) & ((positions >= low) & (positions <= high)).all(axis=1)
    rows = np.flatnonzero(found)
    rows = rows[np.argsort(positions[rows, 0])]
    xs, ys = positions[rows].T.copy()
    found[:] = False
    last = max(1, len(corners) - 1)  # a stroke of one corner is a line to itself
    for number, (start, end) in enumerate(zip(corners[:last], corners[-last:], strict=True)):
        if number % FORGET == 0:
            missing = ~found[rows]
            rows, xs, ys = rows[missing], xs[missing], ys[missing]
        low, high = np.minimum(start, end) - brush.radius, np.maximum(start, end) + brush.radius
        first, stop = np.searchsorted(xs, [low[0], high[0]])
        near = rows[first:stop][(ys[first:stop] >= low[1]) & (ys[first:stop] <= high[1])]
        near = near[~found[near]]
        found[near] = _to_segment(positions[near], start, end) <= brush.radius
    return found


def _to_segment(points: NDArray, start: NDArray, end: NDArray) -> NDArray:
    """The distance of each of points [M,2] from a straight line between two."""
    way = end - start
    share = np.clip((points - start) @ way / max(float(way @ way), 1e-12), 0, 1)
    return np.linalg.norm(points - start - share[:, None] * way, axis=1)
