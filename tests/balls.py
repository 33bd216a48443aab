"""A ball of radius 1 for tests of surfaces: exact depth maps, triangles, splats, and a model that is no splats."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from torch import Tensor

from recon import sh
from recon.datasets.cameras import Cameras
from recon.gaussians import Gaussians
from recon.meshes import Mesh
from recon.meshing import sights
from recon.meshing.depth import DepthMap, Sight
from recon.model import RenderOutput

Array = NDArray[Any]


def colours(points: Array) -> Array:
    """[P,3] 0..1: a colour for each place."""
    return (0.5 + 0.4 * points).clip(0, 1)


def looks(count: int = 24, size: int = 96, middle: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> list[Sight]:
    """Cameras all around."""
    every = sights.around(torch.tensor(middle, dtype=torch.float64), 1.3)
    step = len(every) // count
    return [Sight(sight.camera.resized(size, size)) for sight in every[::step][:count]]


def seen_by(camera: Cameras, middle: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> DepthMap:
    """What a camera sees of the ball, exactly; around it is nothing."""
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    pixels = torch.from_numpy(np.stack([x, y], axis=-1).reshape(1, -1, 2))
    origins, directions = (values[0].numpy() for values in camera.rays(pixels))
    offset = origins - middle
    along = (offset * directions).sum(axis=1)
    discriminant = along**2 - (offset**2).sum(axis=1) + 1
    met = discriminant > 0
    distance = -along - np.sqrt(np.where(met, discriminant, 0))
    depth = distance * (directions @ camera.forward[0].numpy())
    rgb = colours(offset + distance[:, None] * directions) * met[:, None]
    shape = (camera.height, camera.width)
    return DepthMap(
        camera,
        np.where(met, depth, np.inf).reshape(shape).astype(np.float32),
        np.rint(255 * rgb).astype(np.uint8).reshape(*shape, 3),
    )


class Ball:
    """A model that is no splats."""

    def render(self, cameras: Cameras, *, background: Tensor | None = None, **options: Any) -> RenderOutput:
        maps = [seen_by(cameras[i].to(dtype=torch.float64)) for i in range(len(cameras))]
        alpha = torch.from_numpy(np.stack([found.known for found in maps])).float()[..., None]
        depth = torch.from_numpy(np.stack([np.where(found.known, found.depth, 0) for found in maps]))[..., None]
        rgb = torch.from_numpy(np.stack([found.rgb for found in maps]).astype(np.float32) / 255)
        return RenderOutput(rgb, alpha, depth)

    def param_groups(self, extent: float) -> list[dict[str, Any]]:
        return []

    def regularisers(self) -> dict[str, Tensor]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {}


def mesh(subdivisions: int = 4, radius: float = 1.0, middle: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Mesh:
    """Triangles, counter-clockwise as seen from outside, with colours."""
    made = trimesh.creation.icosphere(subdivisions, radius=radius)
    vertices = np.array(made.vertices)
    return Mesh(vertices + middle, np.array(made.faces, np.int64), colours(vertices).astype(np.float32))


@functools.cache
def splats(count: int = 3000) -> Gaussians:
    """Opaque disks all over the ball."""
    height = 1 - 2 * (np.arange(count) + 0.5) / count
    angle = sights.GOLDEN * np.arange(count)
    flat = np.sqrt(1 - height**2)
    means = torch.from_numpy(np.stack([flat * np.cos(angle), flat * np.sin(angle), height], axis=-1))
    # The turn from +z to the normal: half way between both is its axis, as a quaternion.
    quats = torch.stack([1 + means[:, 2], -means[:, 1], means[:, 0], torch.zeros(count)], dim=-1)
    return Gaussians(
        means.float(),
        torch.nn.functional.normalize(quats, dim=-1).float(),
        torch.tensor([0.03, 0.03, 0.002]).log().expand(count, 3),
        torch.full((count,), 5.0),
        sh.from_rgb(torch.from_numpy(colours(means.numpy())).float())[:, None],
        torch.zeros(count, 0, 3),
    )


def radii(mesh: Mesh, middle: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Array:
    """[V] how far the vertices are from the middle."""
    return np.linalg.norm(mesh.vertices - middle, axis=1)


def outwards(mesh: Mesh) -> float:
    """The share of the triangles that are counter-clockwise as seen from outside of the ball."""
    first, second, third = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    return float(((np.cross(second - first, third - first) * first).sum(axis=1) > 0).mean())
