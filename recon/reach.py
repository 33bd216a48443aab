"""How far a capture reaches along its rays: between two distances, or, where all photos face one way, to infinity.

A `Reach` gives the samples of rays a coordinate 0..1. The positions that a field is asked for go with that coordinate:
those of the world, or normalised device coordinates (NeRF, appendix C), in which distant things are as fine as near
ones are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon import volume
from recon.datasets.cameras import OPENCV_FROM_OPENGL, Cameras
from recon.datasets.normalize import look_at_point
from recon.datasets.scene import Scene

UNKNOWN = (0.2, 4.0)  # near and far where no points tell, in a world whose cameras are about a unit from its middle
CLEAR = 0.6  # of the way from the nearest camera to what all look at: so far it is clear, where no points tell
FACING = 0.5  # the near plane of a capture that faces one way, without points; its cameras are within a unit
CUT = 0.01  # share of the points that are nearer, or farther, than what counts
ROOM = 0.9  # how much nearer than the points a scene may begin
STEEPEST = 1e-3  # rays that go backwards through a frame that faces forwards are bent to this slope
FARTHEST = 1e-4  # of what is left to infinity in NDC: there a finite distance ends


@dataclass(frozen=True)
class Reach:
    """What of a ray is looked at.

    Attributes:
        near, far: distances along a ray, world units; of a capture that faces one way the near plane alone counts.
        frame: [4,4] from the world to the mean camera (+x right, +y up, -z forward); None: distances in the world.
        focals: of the mean camera, in halves of its picture.
    """

    near: float
    far: float
    frame: Tensor | None = None
    focals: tuple[float, float] = (1.0, 1.0)

    def rays(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """The beginning [R,3], and what is added to it from coordinate 0 to 1 [R,3], of rays of the world."""
        if self.frame is None:
            return origins + self.near * directions, (self.far - self.near) * directions
        return volume.ndc(*self._in_frame(origins, directions), self.focals, self.near)

    def places(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The positions [P,3] that a field is asked for at world points [P,3], and [P] how much longer a short way is
        there, in the mean of directions."""
        if self.frame is None:
            return points, torch.ones_like(points[:, 0])
        frame = self.frame.to(points)
        x, y, z = (points @ frame[:3, :3].T + frame[:3, 3]).unbind(-1)
        z = z.clamp_max(-1e-6)  # behind the camera there is nothing
        fx, fy = self.focals
        # The cube root of the determinant of the derivatives.
        longer = (2 * fx * fy * self.near / z.square().square()) ** (1 / 3)
        return torch.stack([-fx * x / z, -fy * y / z, 1 + 2 * self.near / z], dim=-1), longer

    def distances(self, origins: Tensor, directions: Tensor, s: Tensor) -> Tensor:
        """[R,K] along the ray in the world of coordinates [R,K]."""
        if self.frame is None:
            return self.near + (self.far - self.near) * s
        origins, directions = self._in_frame(origins, directions)
        slope = directions[:, 2:]
        begin = -(self.near + origins[:, 2:]) / slope
        return begin - self.near * s / ((1 - s).clamp_min(FARTHEST) * slope)

    def _in_frame(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        assert self.frame is not None
        frame = self.frame.to(origins)
        origins, directions = origins @ frame[:3, :3].T + frame[:3, 3], directions @ frame[:3, :3].T
        return origins, torch.cat([directions[:, :2], directions[:, 2:].clamp_max(-STEEPEST)], dim=-1)

    def state_dict(self) -> dict[str, Tensor]:
        tensors = {"reach": torch.tensor([self.near, self.far, *self.focals], dtype=torch.float64)}
        return tensors if self.frame is None else tensors | {"frame": self.frame}

    @classmethod
    def restore(cls, tensors: dict[str, Tensor]) -> Reach:
        near, far, fx, fy = tensors["reach"].tolist()
        return cls(near, far, tensors.get("frame"), (fx, fy))


def reach_of(scene: Scene) -> Reach:
    """What the photos of a normalised scene reach, by its points where it has some."""
    views = scene.train_views
    first = views[0].camera
    cameras = Cameras(
        torch.cat([view.camera.viewmats for view in views]).double(),
        torch.cat([view.camera.Ks for view in views]).double(),
        first.width,
        first.height,
    )
    middle = look_at_point(cameras)
    facing = len(views) > 1 and middle is None and _face_one_way(cameras)
    frame = _mean_frame(cameras) if facing else None
    near, far = (FACING, 1.0) if facing else UNKNOWN
    if middle is not None:  # right before a lens few other photos look, so there may be fog
        near = max(near, CLEAR * float((cameras.positions - middle).norm(dim=-1).min()))
    if scene.points is not None and len(scene.points):
        seen = []
        for view in views:
            points = scene.points.xyz[view.camera.pixels_of(scene.points.xyz)[1]].double()
            if frame is None:
                seen.append((points - view.camera.positions).norm(dim=-1))
            else:  # of the mean camera
                seen.append(-(points @ frame[2, :3] + frame[2, 3]))
        depths = torch.cat(seen)
        if len(depths):
            near, far = (float(torch.quantile(_some(depths), share)) for share in (CUT, 1 - CUT))
            near, far = max(ROOM * near, 1e-3), max(far / ROOM, 2e-3)
    halves = [
        view.camera.Ks[0, [0, 1], [0, 1]] * 2 / torch.tensor([view.camera.width, view.camera.height]) for view in views
    ]
    fx, fy = torch.stack(halves).mean(dim=0).tolist()
    return Reach(near, far, frame, (fx, fy))


def _some(values: Tensor, most: int = 1_000_000) -> Tensor:
    """At most so many: torch's quantile takes no more than 16 million."""
    return values[:: -(-len(values) // most)]


def _face_one_way(cameras: Cameras) -> bool:
    """Whether all photos look into the half-space that a plane in front of them bounds, with room at the sides."""
    mean = torch.nn.functional.normalize(cameras.forward.mean(dim=0), dim=0)
    return float((cameras.forward @ mean).min()) > 0.8


def _mean_frame(cameras: Cameras) -> Tensor:
    """[4,4] float64 from the world to a camera in the middle of all, as OpenGL has its axes."""
    forward = torch.nn.functional.normalize(cameras.forward.mean(dim=0), dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, cameras.up.mean(dim=0)), dim=0)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])  # +y down
    frame = torch.eye(4, dtype=torch.float64)
    frame[:3, :3] = rotation
    frame[:3, 3] = -rotation @ cameras.positions.mean(dim=0)
    return OPENCV_FROM_OPENGL @ frame
