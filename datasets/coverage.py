"""How the cameras of a posed scene stand to what they show: parallax, baselines, tracks, and the view from above."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recon.datasets.cameras import Cameras
from recon.datasets.normalize import look_at_point, normalize
from recon.datasets.scene import Points, Scene

Array = NDArray[np.float64]

SHOWN_POINTS = 2500  # in the view from above
RING = 250.0  # degrees that cameras go round at least, for a gap to be one
WIDE = 50.0  # degrees of a gap
UNUSUAL = 3.0  # times the usual step round
LONGEST_TRACK = 12  # photos, the last column of the histogram


@dataclass(frozen=True)
class Seen:
    """What points with tracks say; of P points and V views.

    Attributes:
        lengths: [LONGEST_TRACK + 1] points by the number of photos in which they were found; the last: or more.
        parallax: degrees, the median over the points of the largest angle between two rays to one.
        view_points: [V] points found in each.
        view_parallax: [V] degrees, the median of the points found in each; nan without any.
        view_errors: [V] px, mean reprojection error of the points found in each; nan where it is not known.
        view_baselines: [V] distance to the nearest other camera, in median distances to the points of the view.
    """

    lengths: NDArray[np.int64]
    parallax: float
    view_points: NDArray[np.int64]
    view_parallax: Array
    view_errors: Array
    view_baselines: Array


@dataclass(frozen=True)
class Gap:
    """Where nobody stood on a way round: `angle` degrees between the views `before` and `after`."""

    angle: float
    before: int
    after: int


@dataclass(frozen=True)
class Top:
    """The scene from above, in a world whose up is z.

    Attributes:
        positions, headings: [V,2] of the cameras; the headings are as long as they are level.
        points: [Q,2] some of the points.
        gaps: on a way round, the widest first.
    """

    positions: Array
    headings: Array
    points: Array
    gaps: tuple[Gap, ...]


def seen(scene: Scene) -> Seen | None:
    """What the points' tracks say; None without tracks."""
    points = scene.points
    if points is None or points.tracks is None or not len(points.tracks):
        return None
    centres = torch.cat([view.camera.positions for view in scene.views]).double().numpy()
    tracks = points.tracks.numpy()
    tracks = tracks[np.argsort(tracks[:, 0], kind="stable")]
    point, view = tracks.T
    rays = points.xyz.double().numpy()[point] - centres[view]
    distance = np.linalg.norm(rays, axis=1)
    angle = widest_angles(rays, point)
    length = np.bincount(point, minlength=len(points))
    many = length > 1
    count = len(scene.views)
    order = np.argsort(view, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(view, minlength=count))[:-1])
    error = None if points.error is None else points.error.double().numpy()
    return Seen(
        lengths=np.bincount(length[length > 0].clip(max=LONGEST_TRACK), minlength=LONGEST_TRACK + 1),
        parallax=float(np.median(angle[many])) if many.any() else math.nan,
        view_points=np.array([len(part) for part in parts]),
        view_parallax=np.array([_median(angle[point[part]]) for part in parts]),
        view_errors=np.array([math.nan if error is None or not len(p) else error[point[p]].mean() for p in parts]),
        view_baselines=np.array([_nearest(centres, i) / _median(distance[p]) for i, p in enumerate(parts)]),
    )


def widest_angles(rays: Array, point: NDArray[np.int64]) -> Array:
    """[P] degrees between two of the rays [O,3] to each point; `point` [O] is in order. 0 with one ray.

    From the first ray to the one farthest from it, and from that to the one farthest from that: exact where the rays
    lie in a plane, and never more than the truth.
    """
    count = int(point.max(initial=-1)) + 1
    unit = rays / np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-300)
    starts = np.searchsorted(point, np.arange(count))
    reference = unit[starts.clip(max=len(unit) - 1)]
    angle = np.zeros(count)
    for _ in range(2):
        cosine = (unit * reference[point]).sum(axis=1)
        farthest = np.lexsort((cosine, point))[starts.clip(max=len(unit) - 1)]
        angle = np.degrees(np.arccos(cosine[farthest].clip(-1, 1)))
        reference = unit[farthest]
    angle[np.bincount(point, minlength=count) < 2] = 0
    return angle


def top(scene: Scene) -> Top:
    """The view from above, and the gaps in a way round what the cameras look at."""
    level = normalize(scene)
    cameras = Cameras(torch.cat([v.camera.viewmats for v in level.views]), *_unit(len(level.views)))
    positions, headings = cameras.positions.numpy(), cameras.forward.numpy()
    return Top(positions[:, :2], headings[:, :2], _some(level.points), _gaps(cameras, positions))


def _gaps(cameras: Cameras, positions: Array) -> tuple[Gap, ...]:
    middle = look_at_point(cameras)
    if middle is None or len(positions) < 4:
        return ()
    round_it = positions[:, :2] - middle.numpy()[:2]
    far_enough = np.linalg.norm(round_it, axis=1) > 0.2 * np.median(np.linalg.norm(round_it, axis=1))
    views = np.flatnonzero(far_enough)
    azimuth = np.degrees(np.arctan2(round_it[views, 1], round_it[views, 0]))
    views, azimuth = views[np.argsort(azimuth)], np.sort(azimuth)
    steps = np.diff(azimuth, append=azimuth[0] + 360)
    if 360 - steps.max() < RING:
        return ()
    found = [
        Gap(float(step), int(views[k]), int(views[(k + 1) % len(views)]))
        for k, step in enumerate(steps)
        if step > max(WIDE, UNUSUAL * float(np.median(steps)))
    ]
    return tuple(sorted(found, key=lambda gap: -gap.angle))


def _unit(count: int) -> tuple[torch.Tensor, int, int]:
    return torch.eye(3, dtype=torch.float64).expand(count, 3, 3), 1, 1


def _some(points: Points | None) -> Array:
    if points is None:
        return np.zeros((0, 2))
    step = max(1, len(points) // SHOWN_POINTS)
    return points.xyz[::step][:SHOWN_POINTS, :2].double().numpy()


def _nearest(centres: Array, index: int) -> float:
    """The distance to the nearest other place where a photo was taken; nan where there is none."""
    distance = np.linalg.norm(centres - centres[index], axis=1)
    elsewhere = distance[distance > 1e-6 * distance.max()]
    return float(elsewhere.min()) if len(elsewhere) else math.nan


def _median(values: Array) -> float:
    return float(np.median(values)) if len(values) else math.nan
