"""A texture for a mesh, from photos: they are projected onto it one after the other.

Waechter et al. 2014 (Let There Be Color!) choose one photo for each triangle and level the seams between them; here
each texel mixes the few photos that show it best, after all were brought to one exposure.

Shape letters: F triangles, T texels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from recon.datasets.errors import InputError
from recon.datasets.raycast import RayCaster
from recon.datasets.resample import area_resize
from recon.datasets.scene import View
from recon.meshes import Mesh
from recon.meshing import atlas, clean, visibility
from recon.meshing.blending import blended
from recon.meshing.filling import filled
from recon.meshing.levels import gains
from recon.meshing.lookup import bilinear, planar
from recon.meshing.samples import Samples
from recon.torch_threads import one_torch_thread

Array = NDArray[Any]
Progress = Callable[[str, int, int], None]

SMALLEST, LARGEST = 64, 8192  # texels each way
REDUCED = 4  # times a photo is halved at most, for texels that are larger than its pixels
ROUNDS = 3  # of smoothing normals
SHARPEST = 0.5  # the least cosine between neighbours that are smoothed together


def textured(mesh: Mesh, views: Sequence[View], size: int = 2048, progress: Progress | None = None) -> Mesh:
    """The mesh with texture coordinates and a texture made of the photos of `views`, in whose world it lies.

    What no photo shows continues what they show around it, or has the colours of the mesh's vertices.

    Args:
        size: of the texture, texels each way. Its memory is about 100 bytes for each texel, and one photo.
        progress: told what is being done, how much of it is, and of how much.
    Raises:
        InputError: a size out of range, a mesh without triangles, no photos, or xatlas or embreex is not there.
    """
    if not SMALLEST <= size <= LARGEST:
        raise InputError(f"texture size {size}: not between {SMALLEST} and {LARGEST}")
    if not len(mesh.faces):
        raise InputError("a mesh without triangles cannot have a texture")
    if not views:
        raise InputError("there are no photos to make a texture of")
    progress = progress or (lambda stage, done, total: None)
    with one_torch_thread(torch.device("cpu")):  # each of its operations is too short to share
        progress("Texture coordinates", 0, 1)
        uvs = atlas.unwrapped(mesh, size)
        texels = atlas.texels(uvs, size)
        samples = sampled(mesh, uvs, texels, views, size, progress)
        progress("Blending", 0, 1)
        colours = blended(samples, gains(samples, len(views)))
        colours = filled(mesh, texels, colours, samples.is_seen)
        return replace(mesh, uvs=uvs, texture=painted(texels, colours, size))


def sampled(
    mesh: Mesh, uvs: Array, texels: atlas.Texels, views: Sequence[View], size: int, progress: Progress
) -> Samples:
    """What the photos show of each texel."""
    triangles = mesh.vertices[mesh.faces]
    points = np.einsum("tk,tkc->tc", texels.weights, triangles[texels.face].astype(np.float32))
    middles, normals, areas = planes(mesh)
    width = np.sqrt(areas / np.maximum(_flat_areas(uvs) * size**2, 1e-12)).astype(np.float32)  # of a texel
    caster = RayCaster(mesh.vertices, mesh.faces)
    samples = Samples(len(texels))
    for number, view in enumerate(views):
        progress("Projecting photos", number, len(views))
        photo, camera = view.load().numpy(), view.camera.to("cpu", torch.float64)
        outlook = visibility.outlook(caster, camera, visibility.usable_pixels(view, photo))
        seen = visibility.seen(outlook, camera, points, texels.face, middles, normals)
        across = np.sqrt(seen.density) * width[texels.face[seen.rows]]
        samples.add(number, seen.rows, _colours(photo[..., :3], seen.xy, across), seen.quality)
    return samples


def _colours(photo: Array, xy: Array, across: Array) -> Array:
    """float32 [N,3] of a photo at positions [N,2], each the mean of about so many pixels `across` [N]."""
    level = np.log2(np.maximum(across, 1)).round().astype(int).clip(0, REDUCED)
    height, width = photo.shape[:2]
    colours = np.empty((len(xy), 3), np.float32)
    for step in range(level.max(initial=0) + 1):
        rows = np.flatnonzero(level == step)
        if len(rows):
            size = max(1, width >> step), max(1, height >> step)
            image = planar(area_resize(photo, *size))
            colours[rows] = bilinear(image, xy[rows] * np.array([size[0] / width, size[1] / height], np.float32))
    return colours


def painted(texels: atlas.Texels, colours: Array, size: int) -> Array:
    """A texture [size,size,3] uint8 with the colours [T,3] 0..1 of texels, and around them those of the nearest."""
    texture = np.zeros((size * size, 3), np.uint8)
    texture[texels.place] = np.rint(colours * 255)
    empty = np.ones(size * size, bool)
    empty[texels.place] = False
    nearest = ndimage.distance_transform_edt(empty.reshape(size, size), return_distances=False, return_indices=True)
    return texture.reshape(size, size, 3)[tuple(nearest)]


def planes(mesh: Mesh) -> tuple[Array, Array, Array]:
    """Middles [F,3], unit normals [F,3] and areas [F] of triangles. Normals are smoothed, but not across edges: how
    well a photo shows a triangle is not to change with the roughness of the mesh."""
    import trimesh

    normals = clean.face_crosses(mesh)
    areas = np.linalg.norm(normals, axis=1)
    normals /= np.maximum(areas, 1e-30)[:, None]
    pairs = trimesh.graph.face_adjacency(mesh.faces)
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    for _ in range(ROUNDS):
        alike = (normals[pairs[:, 0]] * normals[pairs[:, 1]]).sum(axis=1)
        weights = np.maximum(alike - SHARPEST, 0) * areas[pairs[:, 1]]
        around = [np.bincount(pairs[:, 0], weights * normals[pairs[:, 1], k], len(normals)) for k in range(3)]
        sums = normals * (areas * (1 - SHARPEST))[:, None] + np.stack(around, axis=1)
        normals = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-30)
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
    return (a + b + c) / 3, normals, areas / 2


def _flat_areas(uvs: Array) -> Array:
    """[F] of triangles [F,3,2]."""
    a, b, c = np.moveaxis(uvs.astype(np.float64), 1, 0)
    return np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
