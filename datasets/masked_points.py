"""Points of a capture of which its masks leave something: others would stay in a scene that nobody looks at."""

from __future__ import annotations

import torch
from torch import Tensor

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
        pixels, inside = view.camera.pixels_of(points.xyz)
        if points.tracks is not None:
            tracked = torch.zeros_like(inside)
            tracked[points.tracks[points.tracks[:, 1] == i, 0]] = True
            inside &= tracked
        seen |= inside
        usable |= inside if view.mask is None else inside & _at(view.mask, pixels)
    return points.select(usable | ~seen)


def _at(mask: ImageSource, pixels: Tensor) -> Tensor:
    """[P] whether pixels count."""
    return mask.load()[pixels[:, 1], pixels[:, 0], 0] > 0.5
