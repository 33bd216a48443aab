"""Points of a capture of which its masks leave something: others would stay in a scene that nobody looks at."""

from __future__ import annotations

import torch
from torch import Tensor

from recon.datasets.cameras import Cameras
from recon.datasets.scene import ImageSource, Points, Scene


def usable_points(scene: Scene) -> Points | None:
    """The scene's points without those that lie on masked pixels of all training photos that see them.

    Which photos see a point its track says, or else the cameras, which do not know what stands in front of it.
    """
    points = scene.points
    if points is None or all(scene.views[i].mask is None for i in scene.train):
        return points
    seen, usable = (torch.zeros(len(points), dtype=torch.bool) for _ in range(2))
    for i in scene.train:
        view = scene.views[i]
        pixels, inside = _pixels(view.camera, points.xyz)
        if points.tracks is not None:
            tracked = torch.zeros_like(inside)
            tracked[points.tracks[points.tracks[:, 1] == i, 0]] = True
            inside &= tracked
        seen |= inside
        usable |= inside if view.mask is None else inside & _at(view.mask, pixels)
    return points.select(usable | ~seen)


def _pixels(camera: Cameras, xyz: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels [P,2] (column, row) that show points [P,3], and whether [P] they are in the image."""
    positions, depth = (values[0] for values in camera.project(xyz))
    size = torch.tensor([camera.width, camera.height])
    inside = (depth > 0) & ((positions >= 0) & (positions < size)).all(dim=-1)
    return torch.where(inside[:, None], positions, 0).long(), inside


def _at(mask: ImageSource, pixels: Tensor) -> Tensor:
    """[P] whether pixels count."""
    return mask.load()[pixels[:, 1], pixels[:, 0], 0] > 0.5
