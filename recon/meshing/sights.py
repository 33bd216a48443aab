"""Where a scene is looked at from, for a surface of it: the cameras of its photos, or some around what has none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.scene import View
from recon.meshing.depth import Sight

MOST_SIGHTS = 240  # cameras that are rendered; of more photos, some
MOST_PIXELS = 60_000_000  # of all pictures together, which takes 0.4 GB; larger pictures are reduced
AROUND = 72  # cameras around a scene without photos
PICTURE = 640  # px each way, of these
AWAY = 3.0  # how far they stand, in radii of the scene
GOLDEN = math.pi * (3 - math.sqrt(5))  # turn about the axis from one camera to the next, so that they are spread evenly


def of_views(views: Sequence[View]) -> list[Sight]:
    """The cameras of photos, with the photos' masks; spread evenly over them where there are many."""
    step = max(1, math.ceil(len(views) / MOST_SIGHTS))
    chosen = views[::step]
    pixels = sum(view.camera.width * view.camera.height for view in chosen)
    share = min(1.0, math.sqrt(MOST_PIXELS / pixels))
    return [Sight(reduced(view.camera.to("cpu", torch.float64), share), view.mask) for view in chosen]


def reduced(camera: Cameras, share: float) -> Cameras:
    """The same cameras with pictures whose sides are this share as long."""
    if share == 1:
        return camera
    return camera.resized(*(max(1, round(share * side)) for side in (camera.width, camera.height)))


def around(middle: Tensor, radius: float) -> list[Sight]:
    """Cameras that look at a ball from all directions, so far away that it fills their pictures."""
    height = 1 - 2 * (np.arange(AROUND) + 0.5) / AROUND
    flat, angle = np.sqrt(1 - height**2), GOLDEN * np.arange(AROUND)
    offsets = torch.from_numpy(np.stack([flat * np.cos(angle), flat * np.sin(angle), height], axis=-1))
    targets = middle.double().expand(AROUND, 3)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)  # no camera stands exactly above or below
    c2w = look_at(targets + AWAY * radius * offsets, targets, up)
    focal = PICTURE / 2 * math.sqrt(AWAY**2 - 1)
    K = intrinsics(focal, focal, PICTURE / 2, PICTURE / 2)
    cameras = Cameras.from_c2w(c2w, K.repeat(AROUND, 1, 1), PICTURE, PICTURE)
    return [Sight(cameras[i]) for i in range(AROUND)]
