"""Colours for points of captures that have none: those of the photos that see them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch

from recon.datasets import cache, photos
from recon.datasets.photos import Shot
from recon.datasets.scene import Points, View

MOST_VIEWS = 24  # that are decoded
UNKNOWN = 0.5  # grey


def of_shots(points: Points, shots: Sequence[Shot], *, stored_pixels: bool = False) -> Points:
    """The points with colours from shots; tracks name these by their place. Kept for the next time, see `cache`."""
    if points.tracks is None:
        return points
    digest = hashlib.sha256(points.xyz.numpy().tobytes() + points.tracks.numpy().tobytes()).digest()
    rgb = cache.points.get(
        ("colours", digest, photos.key(shots)),
        lambda: from_photos(points, photos.small_views(shots, stored_pixels=stored_pixels)).rgb.numpy(),
    )
    return replace(points, rgb=torch.from_numpy(rgb.copy()))


def from_photos(points: Points, views: Sequence[View]) -> Points:
    """The points, each with the colour of a photo in which it was found, at the pixel where it projects.

    Photos that show most points still without a colour come first, up to `MOST_VIEWS`; what none of these shows gets
    the mean of all other points.
    """
    if points.tracks is None or not len(points.tracks):
        return points
    rgb = torch.full((len(points), 3), torch.nan)
    seen = [points.tracks[points.tracks[:, 1] == i, 0] for i in range(len(views))]
    for _ in range(min(MOST_VIEWS, len(views))):
        open_points = rgb[:, 0].isnan()
        gains = [int(open_points[rows].sum()) for rows in seen]
        best = max(range(len(views)), key=gains.__getitem__)
        if not gains[best]:
            break
        rows = seen[best][open_points[seen[best]]]
        seen[best] = seen[best][:0]
        camera, image = views[best].camera, views[best].load()
        pixels, depth = camera.project(points.xyz[rows])
        size = torch.tensor([camera.width, camera.height])
        inside = (depth[0] > 0) & ((pixels[0] >= 0) & (pixels[0] < size)).all(dim=-1)
        x, y = pixels[0][inside].long().unbind(dim=-1)
        rgb[rows[inside]] = image[y, x, :3]
    known = ~rgb[:, 0].isnan()
    rgb[~known] = rgb[known].mean(dim=0) if known.any() else UNKNOWN
    return replace(points, rgb=rgb)
