"""Casting rays at a triangle mesh with Embree (through embreex), the way a renderer needs it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.datasets.errors import InputError

Array = NDArray[Any]


@dataclass(frozen=True)
class Hits:
    """What N rays met first.

    Attributes:
        face: [N] int32 index of the triangle, -1 where the ray met nothing.
        uv: [N,2] float32 barycentric weights of the triangle's second and third vertex.
        distance: [N] float32 along the ray in units of its direction's length; huge where it met nothing.
    """

    face: Array
    uv: Array
    distance: Array


class RayCaster:
    """A triangle mesh prepared for ray queries. Embree works in float32."""

    def __init__(self, vertices: Array, faces: Array) -> None:
        """Args: vertices [V,3], faces [F,3] (indices of vertices)."""
        try:
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore import EmbreeDevice
            from embreex.rtcore_scene import EmbreeScene
        except ImportError as error:
            place = f"{platform.system()} {platform.machine()}"
            raise InputError(
                f"casting rays needs the package embreex, which cannot be imported on this {place} machine ({error})"
            ) from None

        self._scene = EmbreeScene(EmbreeDevice())
        TriangleMesh(self._scene, np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32))

    def closest(self, origins: Array, directions: Array) -> Hits:
        """The first triangle on each ray: origins [N,3], directions [N,3] (of any length)."""
        found = self._scene.run(_rays(origins), _rays(directions), output=True)
        return Hits(found["primID"], np.stack([found["u"], found["v"]], axis=-1), found["tfar"])

    def occluded(self, origins: Array, directions: Array) -> Array:
        """[N] bool: whether anything lies on the ray between its origin and origin + direction."""
        reach = np.ones(len(origins), np.float32)
        return self._scene.run(_rays(origins), _rays(directions), reach, query="OCCLUDED") != -1


def _rays(values: Array) -> Array:
    return np.ascontiguousarray(values, np.float32)
