"""The objects that meshes are measured on: exact triangles, and captures of renderings of them with true cameras."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray

from recon.datasets import blender, diorama, load_scene, synthetic
from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.diorama import Material
from recon.datasets.images import ArrayImage, split_every
from recon.datasets.raycast import RayCaster
from recon.datasets.scene import Scene, View
from recon.datasets.textures import albedo

Array = NDArray[Any]

VIEWS = 60
SIZE = 400  # px
FOCAL = 1.2 * SIZE
DISTANCE = 3.0  # of the cameras from the middle of an object, in halves of its diagonal
ACROSS = 3  # rays across a pixel
GOLDEN = math.pi * (3 - math.sqrt(5))

# Directions and colours of lamps: soft ones, so that a plain surface has shades everywhere, and none is black.
LAMPS = (
    ((0.6, 0.3, 0.75), (0.75, 0.7, 0.6)),
    ((-0.7, 0.5, 0.2), (0.25, 0.35, 0.5)),
    ((0.1, -0.8, -0.5), (0.4, 0.3, 0.25)),
)
AMBIENT = 0.12
PLAIN = (0.8, 0.78, 0.74)  # the colour of what has no texture
GRAIN = 3.0  # of a solid texture: how many times as large as in the diorama


@dataclass(frozen=True)
class Truth:
    """Exact triangles in the frame of the capture's files, and the cameras that see them.

    Attributes:
        vertices: [V,3]. faces: [F,3].
        asked: [F] bool, the triangles that a mesh is compared with; others are there and hide things.
        cameras: of the pictures, in the same frame.
    """

    vertices: Array
    faces: Array
    asked: Array
    cameras: list[Cameras]


@dataclass(frozen=True)
class Shape:
    """A mesh with +z up. vertices, normals: [V,3]; faces: [F,3]."""

    vertices: Array
    faces: Array
    normals: Array


def read(path: Path) -> Shape:
    """An .obj whose +y is up."""
    mesh: Any = trimesh.load(path, force="mesh", process=False, maintain_order=True)
    turn = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    # Vertices are there twice where texture coordinates jump; normals are to be smooth there.
    _, first, same = np.unique(mesh.vertices.round(9), axis=0, return_index=True, return_inverse=True)
    joined = trimesh.Trimesh(mesh.vertices[first] @ turn.T, same.reshape(-1)[mesh.faces], process=False)
    return Shape(joined.vertices, joined.faces, joined.vertex_normals)


def cameras_around(vertices: Array, count: int = VIEWS, size: int = SIZE) -> Cameras:
    """Cameras that look at an object from all directions, evenly."""
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    height = 1 - 2 * (np.arange(count) + 0.5) / count
    angle = GOLDEN * np.arange(count)
    flat = np.sqrt(1 - height**2)
    offsets = np.stack([flat * np.cos(angle), flat * np.sin(angle), height], axis=-1)
    target = torch.from_numpy((low + high) / 2).expand(count, 3)
    eyes = target + torch.from_numpy(DISTANCE * np.linalg.norm(high - low) / 2 * offsets)
    K = intrinsics(FOCAL * size / SIZE, FOCAL * size / SIZE, size / 2, size / 2)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    return Cameras.from_c2w(look_at(eyes, target, up), K.repeat(count, 1, 1), size, size)


def picture(mesh: Shape, caster: RayCaster, camera: Cameras, material: Material | None) -> Array:
    """[H,W,4] 0..1: soft light on the object, with the share of each pixel that it covers as alpha."""
    width, height = camera.width, camera.height
    x = (np.arange(width * ACROSS) + 0.5) / ACROSS
    y = (np.arange(height * ACROSS) + 0.5) / ACROSS
    pixels = np.stack(np.meshgrid(x, y), axis=-1).reshape(1, -1, 2)
    origins, directions = (values[0].numpy() for values in camera.rays(torch.from_numpy(pixels)))
    hits = caster.closest(origins, directions)
    met = hits.face >= 0
    corners = mesh.faces[hits.face[met]]
    u, v = hits.uv[met, :1], hits.uv[met, 1:]
    weights = np.concatenate([1 - u - v, u, v], axis=1)
    normals = (mesh.normals[corners] * weights[..., None]).sum(axis=1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    light = np.full((len(normals), 3), AMBIENT)
    for direction, colour in LAMPS:
        # Half a turn of light, as from a lamp as large as the sky: no edge of a shadow that is not of the shape.
        towards = np.asarray(direction) / np.linalg.norm(direction)
        light += (0.5 + 0.5 * normals @ towards)[:, None] ** 2 * colour
    surface = np.broadcast_to(PLAIN, light.shape)
    if material is not None:
        positions = (mesh.vertices[corners] * weights[..., None]).sum(axis=1) / GRAIN
        surface = albedo(positions.astype(np.float32), np.full(len(positions), material))
    rgba = np.zeros((len(met), 4))
    rgba[met, :3] = np.clip(surface * light, 0, 1)
    rgba[met, 3] = 1
    means = rgba.reshape(height, ACROSS, width, ACROSS, 4).mean(axis=(1, 3))
    means[..., :3] /= np.maximum(means[..., 3:], 1e-9)  # straight alpha
    return means


def make_object(source: Path, folder: Path, material: Material | None) -> Truth:
    """Render a mesh from all around and write it as a capture in Blender's layout; one that is there is kept.

    Args:
        material: a solid texture; None: plain, which is harder.
    """
    mesh = read(source)
    cameras = cameras_around(mesh.vertices)
    every = np.ones(len(mesh.faces), dtype=bool)
    truth = Truth(mesh.vertices, mesh.faces, every, [cameras[i] for i in range(len(cameras))])
    if (folder / "transforms_train.json").is_file():
        return truth
    caster = RayCaster(mesh.vertices, mesh.faces)
    names = [f"{i:03d}" for i in range(len(cameras))]
    views = []
    for i, name in enumerate(names):
        image = torch.from_numpy(picture(mesh, caster, cameras[i], material).astype(np.float32))
        views.append(View(name, cameras[i], ArrayImage(image)))
    train, test = split_every(names)
    blender.save(Scene(source.stem, tuple(views), train, test, exact_poses=True), folder)
    return truth


def make_diorama(folder: Path) -> Truth:
    """The procedural scene, as `recon demo` makes it; a capture that is there is kept."""
    there = (folder / "transforms.json").is_file()
    made = synthetic.make(views=VIEWS) if not there else synthetic.make(views=1, width=8, height=8, points=1)
    if not there:
        synthetic.write(made, folder, "nerfstudio")
    cameras = [view.camera for view in load_scene(folder).views]
    faces = made.stage.faces
    return Truth(made.stage.exact_vertices, faces, np.ones(len(faces), dtype=bool), cameras)


def still_life(truth: Truth) -> Truth:
    """Of the diorama what stands on the plinth, and the plinth: without floor and wall, which are far larger."""
    geometry = diorama.build()
    return dataclasses.replace(truth, asked=geometry.material[geometry.faces[:, 0]] != Material.COURT)
