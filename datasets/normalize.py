"""Centre, turn and scale a capture's world, whatever frame its files use: +z up, its cameras in the unit ball.

All of it is estimated from the cameras, in float64, so that captures in map coordinates (5e5 m and more) lose nothing.
The estimates follow the capture: files in another frame give the same result, up to a turn about z.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recon.datasets.cameras import Cameras
from recon.datasets.scene import ImageSource, Points, Scene, View

# How far photos are from level: people hold cameras straight to a few degrees, but point them up or down by tens.
_ROLL, _PITCH = 0.05, 0.35  # radians
_ITERATIONS = 60
_Z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class ScaledDepth:
    """A depth map in a world that is `scale` times as large."""

    source: ImageSource
    scale: float

    def load(self) -> Tensor:
        return self.source.load() * self.scale


def normalize(scene: Scene) -> Scene:
    """The same capture in a world made for training and viewing.

    - Up is +z: the scene's own `up` where it has one, else `up_direction` of its cameras. Headings are kept.
    - The origin is what the cameras look at (`look_at_point`), else the middle of where they stand.
    - The farthest camera (not counting stray ones) is at distance 1. Where cameras stand in one place, the median
      distance of the points becomes 1; without points the scale is kept.

    Cameras become float64; depth maps scale with the world; `source_from_world` leads back. Normalising twice changes
    nothing more than rounding. Raises `ValueError` for a scene without views.
    """
    if not scene.views:
        raise ValueError("a scene without views cannot be normalised")
    viewmats = torch.cat([view.camera.viewmats.double() for view in scene.views])
    cameras = Cameras(viewmats, torch.eye(3, dtype=torch.float64).expand(len(viewmats), 3, 3), 1, 1)
    up = up_direction(cameras) if scene.up is None else scene.up.double() / scene.up.double().norm()
    rotation = rotation_to_z(up)
    positions = cameras.positions
    centre = middle = _middle(positions)
    in_one_place = float((positions - middle).norm(dim=-1).max()) <= _resolution(scene, positions)
    if not in_one_place:
        looked_at = look_at_point(cameras)
        centre = middle if looked_at is None else looked_at
    radius = _points_radius(scene.points, centre) if in_one_place else _cameras_radius(positions, centre)
    scale = 1 / radius if radius > 0 else 1.0

    # An old point is R^T x / s + c for a new point x.
    old_from_new = torch.eye(4, dtype=torch.float64)
    old_from_new[:3, :3], old_from_new[:3, 3] = rotation.T / scale, centre
    points = scene.points
    if points is not None:
        moved = scale * (points.xyz.double() - centre) @ rotation.T
        points = replace(points, xyz=moved.to(points.xyz))
    return replace(
        scene,
        views=tuple(_moved(view, rotation, centre, scale) for view in scene.views),
        points=points,
        source_from_world=scene.source_from_world.double() @ old_from_new,
        up=_Z.clone(),
    )


def up_direction(cameras: Cameras) -> Tensor:
    """The world's up [3], unit length, as the photographers held it.

    Level cameras have their x axes at right angles to up, however they are pitched. So up is the direction that is most
    nearly so for all of them (robustly: some photos are in portrait format), held near the mean of the cameras' own up
    directions as far as their headings leave it open. Straight-down photos, as from a drone, count as seen from above.
    """
    right, own_up = cameras.viewmats[:, 0, :3].double(), cameras.up.double()
    mean_up = own_up.mean(dim=0)
    # Minimise the squared roll over its variance plus one squared pitch over its own.
    prior = (_ROLL / _PITCH) ** 2 * (
        mean_up @ mean_up * torch.eye(3, dtype=torch.float64) - torch.outer(mean_up, mean_up)
    )
    weights = torch.ones(len(right), dtype=torch.float64)
    up = mean_up
    for _ in range(_ITERATIONS):
        spread = (weights[:, None] * right).T @ right
        up = torch.linalg.eigh(spread + prior).eigenvectors[:, 0]
        weights = _ROLL / (right @ up).abs().clamp(min=_ROLL)
    above = (own_up @ up).sum() - 0.25 * (cameras.forward.double() @ up).sum()
    return up if above >= 0 else -up


def look_at_point(cameras: Cameras) -> Tensor | None:
    """The point [3] that the cameras look at, or None where they have none in common.

    It is nearest to the viewing axes in the sum of distances. There is none when the axes are almost parallel (a
    forward-facing capture), pass far from each other, or meet behind the cameras or where they stand (a panorama).
    """
    origins, axes = cameras.positions.double(), cameras.forward.double()
    base = origins.mean(dim=0)
    origins = origins - base
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]  # projects out the axis
    size = float(origins.norm(dim=-1).max())
    in_one_place = size <= 1e-9 * float(cameras.positions.abs().max())
    if in_one_place or float(torch.linalg.eigvalsh(across.mean(dim=0))[0]) < 0.03:
        return None
    weights = torch.ones(len(axes), dtype=torch.float64)
    for _ in range(_ITERATIONS):
        weighted = weights[:, None, None] * across
        point = torch.linalg.solve(weighted.sum(dim=0), (weighted @ origins[:, :, None]).sum(dim=0)[:, 0])
        miss = (across @ (point - origins)[:, :, None])[..., 0].norm(dim=-1)
        weights = 1 / miss.clamp(min=max(0.1 * float(miss.median()), 1e-6 * size))
    ahead = ((point - origins) * axes).sum(dim=-1)
    distance = float((point - origins).norm(dim=-1).median())
    if float((ahead > 0).double().mean()) < 0.75 or float(miss.median()) > 0.6 * distance:
        return None
    return point + base


def _middle(positions: Tensor) -> Tensor:
    """The point with the least sum of distances to `positions` [C,3] (Weiszfeld): strays do not pull it away."""
    base = positions.mean(dim=0)
    offsets = positions - base
    middle = torch.zeros(3, dtype=torch.float64)
    for _ in range(_ITERATIONS):
        distances = (offsets - middle).norm(dim=-1)
        weights = 1 / distances.clamp(min=max(0.1 * float(distances.median()), 1e-300))
        middle = (weights[:, None] * offsets).sum(dim=0) / weights.sum()
    return base + middle


def _cameras_radius(positions: Tensor, centre: Tensor) -> float:
    """The distance of the farthest camera, leaving out those 4 times farther than the median."""
    distances = (positions - centre).norm(dim=-1)
    return float(distances[distances <= 4 * distances.median()].max())


def _points_radius(points: Points | None, centre: Tensor) -> float:
    """The median distance of the points, 0 without points."""
    return float((points.xyz.double() - centre).norm(dim=-1).median()) if points is not None and len(points) else 0.0


def _resolution(scene: Scene, positions: Tensor) -> float:
    """Distances up to this are rounding, in the world's units: a billionth of all coordinates, the source's too."""
    to_source = scene.source_from_world.double()
    from_source_origin = float(torch.linalg.solve(to_source[:3, :3], to_source[:3, 3]).norm())
    return 1e-9 * max(float(positions.abs().max()), from_source_origin)


def rotation_to_z(up: Tensor) -> Tensor:
    """The smallest rotation [3,3] that takes the unit vector `up` to +z."""
    flip = torch.eye(3, dtype=torch.float64)
    if up[2] < 0:  # the formula below has its pole at -z
        flip = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
        up = flip @ up
    x, y, z = up.tolist()
    v = torch.tensor([[0.0, 0.0, -x], [0.0, 0.0, -y], [x, y, 0.0]], dtype=torch.float64)
    return (torch.eye(3, dtype=torch.float64) + v + v @ v / (1 + z)) @ flip


def _moved(view: View, rotation: Tensor, centre: Tensor, scale: float) -> View:
    old = view.camera.viewmats[0].double()
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = old[:3, :3] @ rotation.T
    viewmat[:3, 3] = scale * (old[:3, :3] @ centre + old[:3, 3])
    camera = Cameras(viewmat[None], view.camera.Ks.double(), view.camera.width, view.camera.height)
    depth = None if view.depth is None else ScaledDepth(view.depth, scale)
    return replace(view, camera=camera, depth=depth)
