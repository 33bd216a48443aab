"""How light falls in the procedural scene: gathered once at the vertices, gloss traced for each ray.

Diffuse light does not depend on where the camera is, so it is computed once for each vertex (a wide sun with soft
shadows, the sky, and one bounce off coloured surfaces) and interpolated. All views then agree exactly, without the
noise of sampling each pixel anew, which is what makes the pictures fit for measuring a reconstruction.

Colours are linear light until `tone_map`. Shape letters: V vertices, F faces, N rays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.datasets.diorama import Geometry, Material
from recon.datasets.raycast import Hits, RayCaster
from recon.datasets.textures import albedo

Array = NDArray[Any]

SUN_DIRECTION = np.array([0.52, 0.36, 0.775]) / np.linalg.norm([0.52, 0.36, 0.775])
SUN_RADIUS = float(np.tan(np.radians(4.5)))  # half the angle it covers: what makes its shadows soft
SUN_COLOUR = np.array([2.05, 1.8, 1.42], np.float32)  # irradiance of a surface that faces it, divided by pi
HORIZON_COLOUR = np.array([0.55, 0.56, 0.56], np.float32)
ZENITH_COLOUR = np.array([0.2, 0.32, 0.58], np.float32)
EXPOSURE = np.float32(0.6)
OFFSET = 1e-4  # m; how far above its surface a secondary ray starts

# For each material: what it reflects like a mirror when seen straight on, and whether it is a metal (0 or 1).
_GLOSS = np.zeros((len(Material), 2), np.float32)
_GLOSS[Material.GLAZE] = 0.06, 0
_GLOSS[Material.MARBLE] = 0.04, 0
_GLOSS[Material.COPPER] = 0.9, 1
_GLOSS[Material.STEEL] = 0.15, 0


@dataclass(frozen=True)
class Stage:
    """Geometry with its light, ready to be looked at.

    Attributes:
        exact_vertices: [V,3] float64.
        vertices, normals: [V,3] float32.
        faces: [F,3] int32.
        material: [F].
        light: [V,3] diffuse light (irradiance divided by pi) that reaches each vertex.
    """

    exact_vertices: Array
    vertices: Array
    normals: Array
    faces: Array
    material: Array
    caster: RayCaster
    light: Array


def light_up(geometry: Geometry, caster: RayCaster, sun_samples: int = 32, sky_samples: int = 48) -> Stage:
    """Gather the light at each vertex. Every vertex uses the same directions: fine steps instead of noise."""
    vertices, normals = geometry.vertices.astype(np.float32), geometry.normals.astype(np.float32)
    material = geometry.material[geometry.faces[:, 0]]
    origins = vertices + np.float32(OFFSET) * normals
    sun = _sun_light(origins, normals, caster, sun_samples)
    surface = albedo(vertices[geometry.faces].mean(axis=1), material)
    from_faces = surface * (sun[geometry.faces].mean(axis=1) + 0.15)  # 0.15: about what the sky adds
    sky = _sky_light(origins, normals, caster, from_faces, sky_samples)
    return Stage(geometry.vertices, vertices, normals, geometry.faces, material, caster, sun + sky)


def look(stage: Stage, origins: Array, directions: Array) -> Array:
    """Linear colour [N,3] seen from origins [N,3] along unit directions [N,3], both float32."""
    hits = stage.caster.closest(origins, directions)
    colour = sky_colour(directions, sun=False) if (hits.face < 0).any() else np.empty_like(directions)
    met, hits, positions = _solid(hits, origins, directions)
    material = stage.material[hits.face]
    base = albedo(positions, material)
    diffuse = base * _interpolate(stage, stage.light, hits)
    shiny = np.flatnonzero(_GLOSS[material, 0] > 0)
    if len(shiny):
        on_shiny = Hits(hits.face[shiny], hits.uv[shiny], hits.distance[shiny])
        diffuse[shiny] = _glossy(stage, on_shiny, positions[shiny], directions[met[shiny]], base[shiny], diffuse[shiny])
    colour[met] = diffuse
    return colour


def vertex_colours(stage: Stage) -> Array:
    """sRGB values 0..1 [V,3] of the diffuse light that the vertices give off."""
    material = np.zeros(len(stage.vertices), stage.material.dtype)
    material[stage.faces] = stage.material[:, None]
    return tone_map(albedo(stage.vertices, material) * stage.light)


def _glossy(stage: Stage, hits: Hits, positions: Array, view: Array, base: Array, diffuse: Array) -> Array:
    """The diffuse colour under a mirroring coat (or, for a metal, the mirror alone), one reflection deep."""
    normal = _interpolate(stage, stage.normals, hits)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    facing = np.clip(-(view * normal).sum(axis=1, keepdims=True), 0, 1)
    mirrored = view + 2 * facing * normal
    seen = _mirror_image(stage, positions + np.float32(OFFSET) * normal, mirrored)
    head_on, metal = np.split(_GLOSS[stage.material[hits.face]], 2, axis=1)
    head_on = np.where(metal > 0, base, head_on)
    reflected = head_on + (1 - head_on) * (1 - facing) ** 5  # Schlick's form of Fresnel's equations
    return diffuse * (1 - metal) * (1 - reflected) + reflected * seen


def _mirror_image(stage: Stage, origins: Array, directions: Array) -> Array:
    seen = sky_colour(directions, sun=True)
    met, hits, positions = _solid(stage.caster.closest(origins, directions), origins, directions)
    seen[met] = albedo(positions, stage.material[hits.face]) * _interpolate(stage, stage.light, hits)
    return seen


def _solid(hits: Hits, origins: Array, directions: Array) -> tuple[Array, Hits, Array]:
    """Which rays met something [N'], their hits, and where that was [N',3]."""
    met = np.flatnonzero(hits.face >= 0)
    if len(met) < len(origins):
        hits = Hits(hits.face[met], hits.uv[met], hits.distance[met])
        origins, directions = origins[met], directions[met]
    return met, hits, origins + hits.distance[:, None] * directions


def _interpolate(stage: Stage, values: Array, hits: Hits) -> Array:
    """Values at the vertices [V,3], interpolated to the hits [N,3]."""
    first, second, third = stage.faces.take(hits.face, axis=0).T
    u, v = hits.uv[:, :1], hits.uv[:, 1:]
    return values.take(first, axis=0) * (1 - u - v) + values.take(second, axis=0) * u + values.take(third, axis=0) * v


def sky_colour(directions: Array, *, sun: bool) -> Array:
    """Light [N,3] from the open sky; the sun itself is left out where it counts as a lamp."""
    height = np.clip(directions[:, 2:], 0, 1)
    sky = HORIZON_COLOUR + (ZENITH_COLOUR - HORIZON_COLOUR) * height
    if sun:
        cosine = directions @ SUN_DIRECTION.astype(np.float32)
        glow = np.clip((cosine - 0.985) / (0.997 - 0.985), 0, 1)[:, None] ** 2
        sky = sky + glow * np.array([14.0, 13.0, 11.2], np.float32)
    return sky


def tone_map(colour: Array) -> Array:
    """Linear light to sRGB values 0..1; bright light rolls off as film does (Narkowicz's fit of the ACES curve)."""
    colour = colour * EXPOSURE
    mapped = np.clip(colour * (2.51 * colour + 0.03) / (colour * (2.43 * colour + 0.59) + 0.14), 0, 1)
    return np.where(mapped <= 0.0031308, 12.92 * mapped, 1.055 * mapped ** (1 / 2.4) - 0.055)


def _sun_light(origins: Array, normals: Array, caster: RayCaster, samples: int) -> Array:
    tangent, bitangent = _frames(SUN_DIRECTION[None])
    light = np.zeros(len(origins), np.float32)
    for x, y in _disc(samples) * SUN_RADIUS:
        direction = SUN_DIRECTION + x * tangent[0] + y * bitangent[0]
        direction = (direction / np.linalg.norm(direction)).astype(np.float32)
        cosine = normals @ direction
        facing = np.flatnonzero(cosine > 0)
        beyond_all = np.broadcast_to(20 * direction, (len(facing), 3))
        lit = facing[~caster.occluded(origins[facing], beyond_all)]
        light[lit] += cosine[lit] / samples
    return light[:, None] * SUN_COLOUR


def _sky_light(origins: Array, normals: Array, caster: RayCaster, from_faces: Array, samples: int) -> Array:
    """Light from all other directions: the sky where it is open, else the face that is in the way."""
    tangent, bitangent = _frames(normals)
    disc = _disc(samples).astype(np.float32)
    height = np.sqrt(1 - (disc**2).sum(axis=1))  # Malley's method: directions as dense as the cosine
    light = np.zeros_like(origins)
    for (x, y), z in zip(disc, height, strict=True):
        directions = x * tangent + y * bitangent + z * normals
        face = caster.closest(origins, directions).face
        light += np.where(face[:, None] < 0, sky_colour(directions, sun=False), from_faces[face])
    return light / samples


def _disc(count: int) -> Array:
    """`count` points [count,2] spread evenly over the unit disc (Vogel's sunflower)."""
    index = np.arange(count)
    radius, angle = np.sqrt((index + 0.5) / count), index * (np.pi * (3 - np.sqrt(5)))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def _frames(normals: Array) -> tuple[Array, Array]:
    """Two unit vectors [N,3] each that complete a normal to a frame (Duff et al. 2017)."""
    x, y, z = normals.T
    sign = np.where(z >= 0, 1, -1).astype(normals.dtype)
    a = -1 / (sign + z)
    b = x * y * a
    return (
        np.stack([1 + sign * x * x * a, sign * b, -sign * x], axis=-1),
        np.stack([b, sign + y * y * a, -y], axis=-1),
    )
