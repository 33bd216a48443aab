"""Points from depth maps: a first point cloud for captures whose camera measures depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from recon.datasets import cache, photos
from recon.datasets.photos import Shot
from recon.datasets.scene import Points, View

COUNT = 100_000
MOST_VIEWS = 60  # of a longer capture every so many shots are used


def of_shots(shots: Sequence[Shot], *, stored_pixels: bool = False) -> Points | None:
    """Points in what shots show; kept for the next time that they are asked for, as reading all files takes seconds."""

    def make() -> NDArray[np.float64]:
        points = from_depth(photos.small_views(shots, stored_pixels=stored_pixels))
        return np.zeros((0, 6)) if points is None else torch.cat([points.xyz, points.rgb.double()], dim=-1).numpy()

    shots = [shot for shot in shots if shot.depth is not None]
    shots = shots[:: max(1, -(-len(shots) // MOST_VIEWS))]
    rows = torch.from_numpy(cache.points.get(("depth", photos.key(shots)), make).copy())
    return Points(rows[:, :3], rows[:, 3:].float()) if len(rows) else None


def from_depth(views: Sequence[View], count: int = COUNT) -> Points | None:
    """About `count` points where the depth maps of views say, with the colours of their photos; None without any.

    Every view gives the same number, from pixels spread evenly over those whose depth is known.
    """
    views = [view for view in views if view.depth is not None]
    xyz, rgb = [], []
    for view in views:
        assert view.depth is not None
        depth = view.depth.load()[..., 0]
        usable = depth > 0
        if view.mask is not None:
            usable &= view.mask.load()[..., 0] > 0.5
        known = usable.flatten().nonzero()[:, 0]
        share = min(len(known), max(1, count // len(views)))
        if not share:
            continue
        picked = known[torch.linspace(0, len(known) - 1, share, dtype=torch.float64).round().long()]
        y, x = picked // view.camera.width, picked % view.camera.width
        origins, directions = view.camera.rays(torch.stack([x, y], dim=-1) + 0.5)
        along = directions[0] @ view.camera.forward[0]
        xyz.append(origins[0] + directions[0] * (depth[y, x].double() / along)[:, None])
        rgb.append(view.load()[y, x, :3])
    return Points(torch.cat(xyz), torch.cat(rgb)) if xyz else None
