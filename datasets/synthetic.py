"""The procedural scene of the demo, the tests and the benchmarks: exact cameras, pictures, depth, normals and mesh.

A still life in a painted courtyard (`diorama.py`), with solid textures (`textures.py`) and soft light (`shading.py`).
Every ray meets a surface, so depth is known everywhere. Units are metres, +z is up.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets import diorama, shading
from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.errors import InputError
from recon.datasets.images import split_every
from recon.datasets.raycast import RayCaster
from recon.datasets.scene import Points, Scene, View
from recon.datasets.shading import Stage

if TYPE_CHECKING:
    import trimesh

Array = NDArray[Any]

FORMATS = ("colmap", "nerfstudio", "blender", "llff", "bundler")
RAYS_AT_ONCE = 500_000


@dataclass(frozen=True)
class SyntheticScene:
    """The scene as a capture, and what no capture knows.

    Attributes:
        scene: views with exact depth, points on surfaces that some training view sees; every 8th view is held out.
        stage: the lit geometry that the views show.
    """

    scene: Scene
    stage: Stage

    @functools.cached_property
    def mesh(self) -> trimesh.Trimesh:
        """The geometry, with diffuse colours at the vertices as the pictures show them."""
        import trimesh

        return trimesh.Trimesh(
            vertices=self.stage.exact_vertices,
            faces=self.stage.faces,
            vertex_normals=self.stage.normals,
            vertex_colors=np.rint(255 * shading.vertex_colours(self.stage)).astype(np.uint8),
            process=False,
        )

    def normals(self, index: int) -> Tensor:
        """[H,W,3] float32 unit normals in the world, facing the camera, of the triangles seen at the pixels' centres
        of view `index`."""
        camera = self.scene.views[index].camera
        return torch.from_numpy(_pixel_hits(self.stage, camera)[1].astype(np.float32))


@dataclass(frozen=True, eq=False)
class _Photo:
    """A picture kept as 8 bits, as a file would: uint8 [H,W,3]."""

    pixels: Array

    def load(self) -> Tensor:
        return torch.from_numpy(self.pixels.astype(np.float32) / np.float32(255))


@dataclass(frozen=True, eq=False)
class _ExactDepth:
    """The depth of a view, traced when asked for."""

    stage: Stage
    camera: Cameras

    def load(self) -> Tensor:
        return torch.from_numpy(_pixel_hits(self.stage, self.camera)[0].astype(np.float32))


def make(
    views: int = 40,
    width: int = 400,
    height: int = 300,
    seed: int = 0,
    supersample: int = 2,
    points: int = 10_000,
    progress: Callable[[int], None] | None = None,
) -> SyntheticScene:
    """Photograph the scene from all around; the same arguments give the same result.

    Args:
        views: how many; they go round once, at heights that vary.
        width, height: of the pictures, in pixels.
        seed: of the cameras' irregularities and of the choice of points; what they see is always the same.
        supersample: rays across each pixel, so `supersample`^2 for each.
        points: how many surface points, drawn from the pixels of training views (there cannot be more than pixels).
        progress: called with the number of views done.
    Raises:
        InputError: counts out of range, or embreex is not there.
    """
    counts = {"views": views, "width": width, "height": height, "supersample": supersample, "points": points}
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"synthetic scene: {name} {value} is not at least 1")
    stage = _stage()
    cameras = _cameras(views, width, height, np.random.default_rng([seed, 0]))
    names = [f"view_{i:0{max(3, len(str(views - 1)))}d}" for i in range(views)]
    shots = []
    for i, name in enumerate(names):
        photo = _Photo(_picture(stage, cameras[i], supersample))
        shots.append(View(name, cameras[i], photo, depth=_ExactDepth(stage, cameras[i])))
        if progress:
            progress(i + 1)
    train, test = split_every(names)
    scene = Scene(
        name="synthetic",
        views=tuple(shots),
        train=train,
        test=test,
        points=_surface_points(stage, shots, train, points, np.random.default_rng([seed, 1])),
        up=torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64),
        exact_poses=True,
    )
    return SyntheticScene(scene, stage)


def write(synthetic: SyntheticScene, path: Path | str, format: str) -> None:
    """Write it as a capture in one of `FORMATS` into the folder `path`. What a format has no place for is left out."""
    if format not in FORMATS:
        raise InputError(f"{path}: format {format!r} is none of {', '.join(FORMATS)}")
    importlib.import_module(f"recon.datasets.{format}").save(synthetic.scene, Path(path))


@functools.cache
def _stage() -> Stage:
    geometry = diorama.build()
    return shading.light_up(geometry, RayCaster(geometry.vertices, geometry.faces))


def _cameras(count: int, width: int, height: int, rng: np.random.Generator) -> Cameras:
    """Once round, as a person with a camera goes: height, distance, aim and roll all vary a little."""
    index = np.arange(count)
    azimuth = (index + 0.5 * rng.uniform(-1, 1, count)) * 2 * np.pi / count - 1.2
    spread = (index * (math.sqrt(5) - 1) / 2 + 0.35) % 1  # evenly over 0..1, neighbours far apart
    elevation = np.radians(15 + 38 * spread)
    distance = rng.uniform(3.5, 4.2, count)
    flat = distance * np.cos(elevation)
    eyes = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), 0.3 + distance * np.sin(elevation)], axis=-1)
    targets = np.array([0.0, 0.0, 0.38]) + rng.uniform(-0.12, 0.12, (count, 3))
    c2w = np.empty((count, 4, 4))
    for i in range(count):
        up = torch.from_numpy(np.array([0.0, 0.0, 1.0]) + rng.normal(0, 0.03, 3))
        c2w[i] = look_at(torch.from_numpy(eyes[i : i + 1]), torch.from_numpy(targets[i : i + 1]), up)[0].numpy()
    focal = 1.53 * min(width, height)
    Ks = intrinsics(focal, focal, width / 2, height / 2).expand(count, 3, 3)
    return Cameras.from_c2w(torch.from_numpy(c2w), Ks, width, height)


def _rays(camera: Cameras, x: Array, y: Array) -> tuple[Array, Array]:
    """The camera's centre [3] and directions [...,3] through image positions x and y (which are broadcast), one unit
    deep along its axis; float64."""
    c2w = camera.c2w[0].double().numpy()
    per_x, per_y, rest = (c2w[:3, :3] @ np.linalg.inv(camera.Ks[0].double().numpy())).T
    return c2w[:3, 3], x[..., None] * per_x + (y[..., None] * per_y + rest)


def _picture(stage: Stage, camera: Cameras, supersample: int) -> Array:
    """uint8 [H,W,3], the mean of supersample^2 tone-mapped rays in each pixel."""
    width, height = camera.width, camera.height
    columns = (np.arange(width * supersample) + 0.5) / supersample
    picture = np.empty((height, width, 3), np.uint8)
    band = max(1, RAYS_AT_ONCE // (width * supersample**2))
    for top in range(0, height, band):
        bottom = min(top + band, height)
        rows = (np.arange(top * supersample, bottom * supersample) + 0.5) / supersample
        centre, directions = _rays(camera, columns, rows[:, None])
        directions = directions.reshape(-1, 3).astype(np.float32)
        directions /= np.sqrt(np.einsum("nc,nc->n", directions, directions))[:, None]
        origins = np.tile(centre.astype(np.float32), (len(directions), 1))
        colour = shading.tone_map(shading.look(stage, origins, directions))
        means = colour.reshape(bottom - top, supersample, width, supersample, 3).mean(axis=(1, 3))
        picture[top:bottom] = np.rint(255 * means)
    return picture


def _pixel_hits(stage: Stage, camera: Cameras) -> tuple[Array, Array]:
    """Depth [H,W,1] (0 where nothing is) and normals [H,W,3], float64, at the pixels' centres."""
    width, height = camera.width, camera.height
    centre, directions = _rays(camera, np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5)
    depth, normals = _pierce(stage, centre, directions.reshape(-1, 3))
    return depth.reshape(height, width, 1), normals.reshape(height, width, 3)


def _pierce(stage: Stage, centre: Array, directions: Array) -> tuple[Array, Array]:
    """How far along each direction [N,3] from `centre` [3] a surface is ([N], 0: none) and its normal [N,3], float64.

    Embree finds the triangle; where the ray pierces its plane is computed again in float64.
    """
    hits = stage.caster.closest(np.broadcast_to(centre, directions.shape), directions)
    corners = stage.exact_vertices[stage.faces[hits.face]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    slope = (normals * directions).sum(axis=1)
    distance = (normals * (corners[:, 0] - centre)).sum(axis=1) / slope
    met = hits.face >= 0
    return np.where(met, distance, 0), np.where(met[:, None], -np.sign(slope)[:, None] * normals, 0)


def _surface_points(
    stage: Stage, views: Sequence[View], seers: Sequence[int], count: int, rng: np.random.Generator
) -> Points:
    """Points where rays through random pixels of the views `seers` end, in the colours of those pixels; their tracks
    are all the views in `seers` that see them."""
    xyz, rgb = [np.empty((0, 3))], [np.empty((0, 3), np.float32)]
    for share, seer in zip(np.array_split(np.arange(count), len(seers)), seers, strict=True):
        camera = views[seer].camera
        total = camera.width * camera.height
        picked = rng.choice(total, min(len(share), total), replace=False)
        x, y = picked % camera.width, picked // camera.width
        centre, directions = _rays(camera, x + 0.5, y + 0.5)
        depth, _ = _pierce(stage, centre, directions)
        seen = depth > 0
        xyz.append((centre + depth[:, None] * directions)[seen])
        rgb.append(views[seer].load().numpy()[y, x][seen])
    points = np.concatenate(xyz)
    tracks = [_seen(stage, views[seer].camera, points, seer) for seer in seers]
    return Points(
        torch.from_numpy(points),
        torch.from_numpy(np.concatenate(rgb)),
        tracks=torch.from_numpy(np.concatenate(tracks)),
    )


def _seen(stage: Stage, camera: Cameras, points: Array, index: int) -> Array:
    """Rows (point, `index`) int64 [O,2] for the points [P,3] that lie in the image with nothing before them."""
    pixels, depth = (values[0].numpy() for values in camera.project(torch.from_numpy(points)))
    inside = (depth > 0) & ((pixels >= 0) & (pixels < (camera.width, camera.height))).all(axis=1)
    found = np.flatnonzero(inside)
    centre = camera.positions[0].numpy()
    reached, _ = _pierce(stage, centre, points[found] - centre)
    found = found[np.abs(reached - 1) < 1e-4]
    return np.stack([found, np.full_like(found, index)], axis=-1)
