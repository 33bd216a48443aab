"""Which points of a surface a photo shows, and how well.

A photo's depth is found by casting a ray through each of its pixels (of a smaller copy, if it is large), and a point is
seen where it lies at that depth. Beside a step in depth, a border or a mask, a pixel may show something else than the
mesh says, which is never quite right: there a photo counts less, and just at the edge not at all.

Shape letters: F triangles, T points, H and W image size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from recon.datasets.cameras import Cameras
from recon.datasets.raycast import RayCaster
from recon.datasets.resample import picked
from recon.datasets.scene import View
from recon.meshing.lookup import bilinear, planar

Array = NDArray[Any]

SIDE = 1024  # px, the longer side of depth maps at most
JUMP = 8.0  # a change in depth, in widths of a pixel there, that is an edge rather than a slope
NEAR = 4.0  # so many widths of a pixel a point may lie off the depth of its pixel
EDGE = 2.0  # px beside an edge that show nothing for certain
FADE = 0.04  # of the longer side: so far from an edge a photo counts in full
FLATTEST = 0.1  # the least cosine between a triangle's normal and the line of sight
OPAQUE = 0.9  # the least alpha of a pixel that shows the subject alone


@dataclass(frozen=True)
class Outlook:
    """What a camera sees of a mesh.

    Attributes:
        camera: of the depth map, a smaller copy of the photo's.
        nearness: [1,1,H,W] float32, 1 / depth along the axis, 0 where there is nothing. On a plane it changes evenly
            with the pixels, depth does not.
        trust: [1,1,H,W] float32, 0 at edges to 1 away from them.
    """

    camera: Cameras
    nearness: torch.Tensor
    trust: torch.Tensor


@dataclass(frozen=True)
class Seen:
    """The points that a photo shows.

    Attributes:
        rows: [N] which of all points.
        xy: [N,2] float32 where they are in the photo, px.
        density: [N] float32 pixels of the photo for a unit of surface.
        quality: [N] float32 more than 0: how well they are seen, in pixels for a unit of surface.
    """

    rows: Array
    xy: Array
    density: Array
    quality: Array


def usable_pixels(view: View, photo: Array) -> Array:
    """[H,W] bool: where a photo [H,W,3|4] shows the subject, by its mask and its alpha."""
    usable = np.ones(photo.shape[:2], bool) if photo.shape[2] == 3 else photo[..., 3] >= OPAQUE
    return usable if view.mask is None else usable & (view.mask.load()[..., 0].numpy() > 0.5)


def outlook(caster: RayCaster, camera: Cameras, usable: Array) -> Outlook:
    """How a camera sees the mesh of `caster`.

    Args:
        camera: the photo's, in float64.
        usable: [H,W] bool of the photo, see `usable_pixels`.
    """
    factor = min(1.0, SIDE / max(camera.width, camera.height))
    small = camera.resized(max(1, round(camera.width * factor)), max(1, round(camera.height * factor)))
    width, height = small.width, small.height
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    origins, directions = (values[0].numpy() for values in small.rays(torch.stack([xs, ys], dim=-1).reshape(-1, 2)))
    hits = caster.closest(origins, directions)
    along = directions @ small.forward[0].numpy()
    nearness = np.where(hits.face >= 0, 1 / np.maximum(hits.distance * along, 1e-30), 0).reshape(height, width)
    bad = _edges(nearness, JUMP / float(small.Ks[0, [0, 1], [0, 1]].mean()))
    bad |= ndimage.minimum_filter(picked(usable, width, height), 3) == 0
    # A border is an edge too: beyond it, nothing is known.
    distance = ndimage.distance_transform_cdt(~np.pad(bad, 1, constant_values=True), "chessboard")[1:-1, 1:-1]
    fade = max(FADE * max(width, height), 2 * EDGE)
    trust = ((distance - EDGE) / (fade - EDGE)).clip(0, 1)
    return Outlook(small, planar(nearness[..., None]), planar(trust[..., None]))


def _edges(nearness: Array, jump: float) -> Array:
    """[H,W] where nothing is, or a neighbour lies elsewhere than where the surface would go on."""
    padded = np.pad(nearness, 1, mode="edge")
    across = padded[1:-1, 2:] - 2 * nearness + padded[1:-1, :-2]
    down = padded[2:, 1:-1] - 2 * nearness + padded[:-2, 1:-1]
    return (nearness == 0) | (np.maximum(np.abs(across), np.abs(down)) > jump * nearness)


def seen(found: Outlook, camera: Cameras, points: Array, face: Array, middles: Array, normals: Array) -> Seen:
    """Which points on triangles a photo shows.

    Args:
        camera: the photo's, in float64.
        points: [T,3] float32.
        face: [T] their triangles.
        middles, normals: [F,3] of the triangles.
    """
    eye = camera.positions[0].numpy()
    heights = (normals * (eye - middles)).sum(axis=1).astype(np.float32)  # of the eye above each triangle's plane
    rows = np.flatnonzero((heights > 0)[face])
    matrix = (camera.Ks[0] @ camera.viewmats[0, :3]).numpy().astype(np.float32)
    image = points[rows] @ matrix[:, :3].T + matrix[:, 3]
    depth = image[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        xy = image[:, :2] / depth[:, None]
        x, y = xy.T
        inside = (depth > 0) & (x > 0) & (x < camera.width) & (y > 0) & (y < camera.height)
    rows, xy, depth = rows[inside], xy[inside], depth[inside]

    small = found.camera
    places = xy * np.array([small.width / camera.width, small.height / camera.height], np.float32)
    trust = bilinear(found.trust, places)[:, 0]
    there = np.abs(bilinear(found.nearness, places)[:, 0] * depth - 1) < NEAR / float(small.Ks[0, 0, 0])
    height = heights[face[rows]]
    facing = height / np.linalg.norm(points[rows] - eye.astype(np.float32), axis=1)  # the cosine
    shown = there & (trust > 0) & (facing > FLATTEST)
    density = float(camera.Ks[0, 0, 0] * camera.Ks[0, 1, 1]) * height[shown] / depth[shown] ** 3
    # The slant counts once more: what the mesh is wrong by shifts a slanted photo most.
    return Seen(rows[shown], xy[shown], density, density * facing[shown] * trust[shown])
