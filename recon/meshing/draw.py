"""Pictures of a mesh, by casting rays: what a graphics card would show, on any machine.

Slow beside one (a second for a million rays) and exact: for comparing with photos, for documents and for tests.

Shape letters: F triangles, H and W image size, N rays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from recon.datasets.cameras import Cameras
from recon.datasets.raycast import Hits, RayCaster
from recon.meshes import Mesh
from recon.meshing.lookup import planar, texture_colours
from recon.torch_threads import one_torch_thread

Array = NDArray[Any]
Kind = Literal["colour", "shape"]

RAYS_AT_ONCE = 500_000
PLAIN = 0.7  # the grey of a mesh without colours
BACK = np.array([0.85, 0.3, 0.25], np.float32)  # of "shape": the inside of a triangle
LAMP = np.array([-0.4, -0.6, -0.7]) / np.sqrt(1.01)  # of "shape": where light comes from, in the camera's axes
DARKEST = 0.15  # of "shape": the brightness of what the lamp does not reach


def pictures(mesh: Mesh, cameras: Cameras, *, kind: Kind = "colour", supersample: int = 2) -> Iterator[Array]:
    """One picture after the other: float32 [H,W,4], 0..1, straight alpha.

    Args:
        kind: "colour": the texture, or else the colours of the vertices, or else grey, without any light; "shape":
            grey in the light of a lamp beside the camera, each triangle flat, and red where its back is seen.
        supersample: rays across each pixel, so `supersample`^2 for each.
    """
    caster = RayCaster(mesh.vertices, mesh.faces)
    colours = _Shape(mesh) if kind == "shape" else _Colours(mesh)
    for number in range(len(cameras)):
        with one_torch_thread(torch.device("cpu")):
            picture = _picture(caster, colours, cameras[number], supersample)
        yield picture


def over(picture: Array, background: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Array:
    """A picture [H,W,4] with something behind it: float32 [H,W,3]."""
    alpha = picture[..., 3:]
    return picture[..., :3] * alpha + np.asarray(background, np.float32) * (1 - alpha)


def weights(hits: Hits) -> Array:
    """[N,3] of the corners of the triangles that were hit."""
    return np.stack([1 - hits.uv[:, 0] - hits.uv[:, 1], hits.uv[:, 0], hits.uv[:, 1]], axis=1)


class _Colours:
    """The colour of a mesh where rays meet it."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._texture = None if mesh.texture is None else planar(mesh.texture / np.float32(255))

    def __call__(self, hits: Hits, directions: Array, camera: Cameras) -> Array:
        mesh = self._mesh
        if self._texture is not None and mesh.uvs is not None:
            return texture_colours(self._texture, np.einsum("nk,nkc->nc", weights(hits), mesh.uvs[hits.face]))
        if mesh.colors is not None:
            return np.einsum("nk,nkc->nc", weights(hits), mesh.colors[mesh.faces[hits.face]])
        return np.full((len(directions), 3), PLAIN, np.float32)


class _Shape:
    """The light that a mesh of one grey gives back where rays meet it."""

    def __init__(self, mesh: Mesh) -> None:
        a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
        normals = np.cross(b - a, c - a)
        self._normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)

    def __call__(self, hits: Hits, directions: Array, camera: Cameras) -> Array:
        normals = self._normals[hits.face]
        back = (normals * directions).sum(axis=1) > 0
        normals[back] *= -1
        lamp = LAMP @ camera.viewmats[0, :3, :3].double().numpy()
        light = DARKEST + (1 - DARKEST) * np.maximum(normals @ lamp, 0)
        return light[:, None] * np.where(back[:, None], BACK, np.float32(1))


def _picture(caster: RayCaster, colours: _Colours | _Shape, camera: Cameras, supersample: int) -> Array:
    width, height = camera.width, camera.height
    columns = (torch.arange(width * supersample, dtype=torch.float64) + 0.5) / supersample
    picture = np.empty((height, width, 4), np.float32)
    band = max(1, RAYS_AT_ONCE // (width * supersample**2))
    for top in range(0, height, band):
        rows = (torch.arange(top * supersample, min(top + band, height) * supersample) + 0.5) / supersample
        pixels = torch.stack(torch.meshgrid(columns, rows.double(), indexing="xy"), dim=-1).reshape(-1, 2)
        origins, directions = (values[0].numpy() for values in camera.to(dtype=torch.float64).rays(pixels))
        hits = caster.closest(origins, directions)
        met = hits.face >= 0
        samples = np.zeros((len(pixels), 4), np.float32)
        found = Hits(hits.face[met], hits.uv[met], hits.distance[met])
        samples[met, :3] = colours(found, directions[met], camera)
        samples[met, 3] = 1
        sums = samples.reshape(-1, supersample, width, supersample, 4).sum(axis=(1, 3))
        picture[top : top + band, :, :3] = sums[..., :3] / np.maximum(sums[..., 3:], 1)
        picture[top : top + band, :, 3] = sums[..., 3] / supersample**2
    return picture
