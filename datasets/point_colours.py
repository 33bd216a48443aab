"""Colours for points of captures that have none, or others than the photos: those of the photos that see them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recon.datasets import cache, photos
from recon.datasets.photos import Shot
from recon.datasets.scene import Points, Scene, View

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


def as_seen(points: Points, scene: Scene) -> Points:
    """The points of a scene in the colours of its training photos; without tracks, of the nearest that shows a place.

    Photos of linear light are seen through a curve that whoever found the points did not know. Points in other colours
    than the photos would be hidden behind fog, which a training takes long to clear away.
    """
    seen = _nearest(points, scene) if points.tracks is None else points.tracks
    place = torch.full((len(scene.views),), -1)
    place[list(scene.train)] = torch.arange(len(scene.train))
    tracks = torch.stack([seen[:, 0], place[seen[:, 1]]], dim=-1)
    coloured = from_photos(replace(points, tracks=tracks[tracks[:, 1] >= 0]), scene.train_views)
    return replace(points, rgb=coloured.rgb)


def _nearest(points: Points, scene: Scene) -> Tensor:
    """Tracks [O,2]: each point in the nearest training photo in whose picture it lies."""
    nearest, best = torch.full((len(points),), -1), torch.full((len(points),), torch.inf, dtype=torch.float64)
    for i in scene.train:
        _, inside = scene.views[i].camera.pixels_of(points.xyz)
        distance = (points.xyz.double() - scene.views[i].camera.positions[0].double()).norm(dim=-1)
        closer = inside & (distance < best)
        nearest[closer], best[closer] = i, distance[closer]
    shown = (nearest >= 0).nonzero()[:, 0]
    return torch.stack([shown, nearest[shown]], dim=-1)


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
        pixels, inside = camera.pixels_of(points.xyz[rows])
        x, y = pixels[inside].unbind(dim=-1)
        rgb[rows[inside]] = image[y, x, :3]
    known = ~rgb[:, 0].isnan()
    rgb[~known] = rgb[known].mean(dim=0) if known.any() else UNKNOWN
    return replace(points, rgb=rgb)
