"""The geometry of the procedural scene: a still life on a wooden plinth, in a round courtyard with a painted wall.

World axes: +z up, the floor is z = 0, units are metres. Every part is a triangle mesh fine enough to carry light
at its vertices (see `shading.py`). Shape letters: V vertices, F faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

WALL_RADIUS = 5.5
WALL_HEIGHT = 2.7
PLINTH_TOP = 0.14
CHECKER_CENTRE = (0.5, 0.32, PLINTH_TOP + 0.23)
CHECKER_TURN = 0.45  # radians
CONE_CENTRE = (-0.58, -0.38)


class Material(IntEnum):
    """What a surface is made of; `shading.py` knows what each looks like."""

    COURT = 0
    PLINTH = 1
    GLAZE = 2
    CHECKER = 3
    MARBLE = 4
    COPPER = 5
    STRIPES = 6
    RING = 7
    STEEL = 8
    LEAF = 9


@dataclass(frozen=True)
class Geometry:
    """Triangles with a smooth normal at each vertex and one material for each face's vertices.

    Attributes:
        vertices: [V,3] float64.
        normals: [V,3] float64, unit length, outwards.
        faces: [F,3] int32, counter-clockwise seen from outside.
        material: [V] int8.
    """

    vertices: Array
    normals: Array
    faces: Array
    material: Array


def build() -> Geometry:
    """The whole scene, always the same."""
    top = PLINTH_TOP
    parts = [
        _part(_revolve(_court_profile(), 400), Material.COURT),
        _part(_revolve(_plinth_profile(), 256), Material.PLINTH),
        _part(_moved(_revolve(_vase_profile(), 96), (-0.42, 0.42, top)), Material.GLAZE),
        _part(_leaves(np.array([-0.42, 0.42, top + 0.52])), Material.LEAF),
        _part(_moved(_rounded_box(0.23, 0.045, 22), CHECKER_CENTRE, CHECKER_TURN), Material.CHECKER),
        _part(_moved(_revolve(_ball_profile(0.17, 40), 64), (0.5, 0.32, top + 0.63)), Material.MARBLE),
        _part(_moved(_revolve(_ball_profile(0.2, 44), 72), (0.12, -0.62, top + 0.2)), Material.COPPER),
        _part(_moved(_revolve(_cone_profile(), 72), (*CONE_CENTRE, top)), Material.STRIPES),
        _part(_moved(_ring(0.29, 0.075), (*CONE_CENTRE, top + 0.075)), Material.RING),
        _part(_moved(_knot(), (0.72, -0.3, top + 0.6)), Material.STEEL),
        _part(_moved(_revolve(_stand_profile(), 40), (0.72, -0.3, top)), Material.STEEL),
        *(_part(mesh, Material.STEEL) for mesh in _railing()),
    ]
    offsets = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    return Geometry(
        vertices=np.concatenate([part.vertices for part in parts]),
        normals=np.concatenate([part.normals for part in parts]),
        faces=np.concatenate([part.faces + offset for part, offset in zip(parts, offsets, strict=True)]).astype(
            np.int32
        ),
        material=np.concatenate([part.material for part in parts]),
    )


Mesh = tuple[Array, Array]  # vertices [V,3], faces [F,3]


def _part(mesh: Mesh, material: Material) -> Geometry:
    vertices, faces = mesh
    corners = vertices[faces]
    crosses = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    solid = np.linalg.norm(crosses, axis=1) > 1e-12  # a surface of revolution has empty triangles on its axis
    faces, crosses = faces[solid], crosses[solid]
    used, faces = np.unique(faces, return_inverse=True)
    faces = faces.reshape(-1, 3)
    normals = np.zeros((len(used), 3))
    for corner in range(3):
        np.add.at(normals, faces[:, corner], crosses)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Geometry(vertices[used], normals, faces, np.full(len(used), material, np.int8))


def _moved(mesh: Mesh, to: tuple[float, float, float], turn: float = 0.0) -> Mesh:
    """Turned about z (radians), then moved."""
    vertices, faces = mesh
    c, s = np.cos(turn), np.sin(turn)
    return vertices @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + to, faces


def _grid_faces(rows: int, columns: int, *, wrap_rows: bool = False, wrap_columns: bool = False) -> Array:
    """Two triangles for each cell of a grid of vertices [rows, columns]; the normal is d(column) x d(row)."""
    i, j = np.meshgrid(
        np.arange(rows if wrap_rows else rows - 1), np.arange(columns if wrap_columns else columns - 1), indexing="ij"
    )
    here, right = i * columns + j, i * columns + (j + 1) % columns
    above, across = (i + 1) % rows * columns + j, (i + 1) % rows * columns + (j + 1) % columns
    triangles = np.stack([here, right, across, here, across, above], axis=-1)
    return triangles.reshape(-1, 3)


def _revolve(profile: Array, segments: int) -> Mesh:
    """A profile [K,2] of (radius, z) turned about the z axis; outwards is to the right of its direction."""
    angles = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    radius, z = profile[:, :1], profile[:, 1:]
    vertices = np.stack(
        [radius * np.cos(angles), radius * np.sin(angles), np.broadcast_to(z, (len(z), segments))], axis=-1
    )
    return vertices.reshape(-1, 3), _grid_faces(len(profile), segments, wrap_columns=True)


def _tube(path: Array, reference: Array, radius: float, sides: int, *, closed: bool) -> Mesh:
    """A round tube along `path` [K,3]; `reference` [K,3] is any direction that is never along the path."""
    tangent = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0) if closed else np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(reference, tangent)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cross(tangent, side)
    angles = np.linspace(0, 2 * np.pi, sides, endpoint=False)[:, None]
    around = np.cos(angles) * side[:, None] + np.sin(angles) * other[:, None]
    vertices = path[:, None] + radius * around
    return vertices.reshape(-1, 3), _grid_faces(len(path), sides, wrap_rows=closed, wrap_columns=True)


def _smooth(controls: list[tuple[float, float]], steps: int) -> Array:
    """A Catmull-Rom curve [K,2] through control points, `steps` points for each span."""
    points = np.array([controls[0], *controls, controls[-1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    spans = []
    for a, b, c, d in zip(points, points[1:], points[2:], points[3:], strict=False):
        spans.append(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    return np.concatenate([*spans, points[-1:]])


def _polyline(corners: list[tuple[float, float]], step: float) -> Array:
    """Straight lines through `corners`, cut into pieces of about `step`."""
    pieces = []
    for start, end in zip(np.array(corners), np.array(corners)[1:], strict=False):
        count = max(1, round(float(np.linalg.norm(end - start)) / step))
        pieces.append(start + (end - start) * np.linspace(0, 1, count, endpoint=False)[:, None])
    return np.concatenate([*pieces, np.array(corners[-1:])])


def _court_profile() -> Array:
    """Wall, cove and floor in one sweep, finest where the shadows of the still life fall."""
    cove = 1.1
    angles = np.linspace(0, np.pi / 2, 20)[1:]
    wall = _polyline([(WALL_RADIUS, WALL_HEIGHT), (WALL_RADIUS, cove)], 0.1)
    bend = np.stack([WALL_RADIUS - cove + cove * np.cos(angles), cove - cove * np.sin(angles)], axis=-1)
    floor = _polyline([(WALL_RADIUS - cove, 0), (2.7, 0)], 0.06)[1:]
    shadowed = _polyline([(2.7, 0), (1.2, 0)], 0.02)[1:]
    return np.concatenate([wall, bend, floor, shadowed, _polyline([(1.2, 0), (0, 0)], 0.3)[1:]])


def _plinth_profile() -> Array:
    radius, bevel = 1.25, 0.03
    angles = np.linspace(0, np.pi / 2, 5)
    edge = np.stack([radius - bevel + bevel * np.cos(angles), PLINTH_TOP - bevel + bevel * np.sin(angles)], axis=-1)
    side = _polyline([(radius, 0), (radius, PLINTH_TOP - bevel)], 0.03)[:-1]
    return np.concatenate([side, edge, _polyline([(radius - bevel, PLINTH_TOP), (0, PLINTH_TOP)], 0.02)[1:]])


def _vase_profile() -> Array:
    outside = [(0.0, 0.0), (0.13, 0.0), (0.15, 0.02), (0.23, 0.16), (0.24, 0.27), (0.17, 0.42), (0.095, 0.53)]
    lip = [(0.1, 0.59), (0.135, 0.64), (0.128, 0.65), (0.09, 0.59), (0.08, 0.5), (0.0, 0.46)]
    return _smooth(outside + lip, 7)


def _ball_profile(radius: float, steps: int) -> Array:
    angles = np.linspace(-np.pi / 2, np.pi / 2, steps)
    return radius * np.stack([np.cos(angles) * (np.abs(angles) < 1.5707), np.sin(angles)], axis=-1)


def _cone_profile() -> Array:
    return _polyline([(0.19, 0.0), (0.185, 0.01), (0.03, 0.6), (0.02, 0.61), (0.0, 0.615)], 0.022)


def _stand_profile() -> Array:
    corners = [(0.15, 0.0), (0.15, 0.015), (0.14, 0.025), (0.016, 0.03), (0.016, 0.36), (0.0, 0.37)]
    return _polyline(corners, 0.025)


def _ring(radius: float, thickness: float) -> Mesh:
    angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    path = radius * np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=-1)
    return _tube(path, np.tile([0.0, 0.0, 1.0], (len(path), 1)), thickness, 28, closed=True)


def _knot() -> Mesh:
    """A (2,3) torus knot of wire, standing upright."""
    t = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    centre_line = 0.165 * np.stack([np.cos(2 * t), 0 * t, np.sin(2 * t)], axis=-1)
    offset = 0.08 * np.cos(3 * t)[:, None] * centre_line / 0.165
    offset[:, 1] = 0.08 * np.sin(3 * t)
    return _tube(centre_line + offset, offset, 0.017, 10, closed=True)


def _railing() -> list[Mesh]:
    """Two rails on thin posts along part of the plinth's edge."""
    radius, height = 1.16, 0.3
    arc = np.radians(np.linspace(75, 205, 120))
    up = np.tile([0.0, 0.0, 1.0], (len(arc), 1))
    rails = [
        _tube(
            np.stack([radius * np.cos(arc), radius * np.sin(arc), np.full_like(arc, z)], axis=-1),
            up,
            r,
            8,
            closed=False,
        )
        for z, r in ((PLINTH_TOP + height, 0.013), (PLINTH_TOP + 0.16, 0.008))
    ]
    post = _revolve(_polyline([(0.009, 0.0), (0.009, height)], 0.03), 8)
    angles = np.radians(np.linspace(75, 205, 14))
    posts = [_moved(post, (radius * np.cos(a), radius * np.sin(a), PLINTH_TOP)) for a in angles]
    return rails + posts


def _leaves(root: Array) -> Mesh:
    """Blades that rise from `root` and bend over, each with an upper and a lower side."""
    meshes = []
    for index in range(16):
        angle = index * 2.399963  # the golden angle, as plants do
        lean = 0.16 + 0.36 * ((index * 7) % 16) / 15
        length = 0.78 - 0.5 * lean
        outwards = np.array([np.cos(angle), np.sin(angle), 0.0])
        sideways = np.array([-np.sin(angle), np.cos(angle), 0.0])
        t = np.linspace(0, 1, 18)[:, None]
        spine = root + 0.03 * outwards + outwards * lean * t**1.6 + np.array([0, 0, length]) * (t - 0.75 * lean * t**3)
        half = 0.034 * np.sin(np.pi * np.clip(t, 0.02, 1) ** 0.75) + 0.002
        fold = np.array([0, 0, 0.25]) * half
        upper = np.stack([spine - half * sideways + fold, spine, spine + half * sideways + fold], axis=1).reshape(-1, 3)
        faces = _grid_faces(len(spine), 3)
        lower = upper - np.array([0, 0, 0.002])
        meshes += [(upper, faces[:, ::-1]), (lower, faces)]
    sizes = np.cumsum([0] + [len(vertices) for vertices, _ in meshes[:-1]])
    return (
        np.concatenate([vertices for vertices, _ in meshes]),
        np.concatenate([faces + size for (_, faces), size in zip(meshes, sizes, strict=True)]),
    )


def _rounded_box(half: float, radius: float, steps: int) -> Mesh:
    """A cube of side 2 * half with rounded edges: a cube of side 2 * (half - radius), swept by a ball."""
    line = np.concatenate(
        [np.linspace(-half, -half + radius, 5)[:-1], np.linspace(-half + radius, half - radius, steps)]
    )
    line = np.concatenate([line, np.linspace(half - radius, half, 5)[1:]])
    a, b = (values.ravel() for values in np.meshgrid(line, line, indexing="ij"))
    vertices: list[Array] = []
    faces: list[Array] = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            face = np.empty((len(a), 3))
            face[:, axis], face[:, (axis + 1) % 3], face[:, (axis + 2) % 3] = sign * half, a, b
            core = np.clip(face, radius - half, half - radius)
            outwards = face - core
            vertices.append(core + radius * outwards / np.linalg.norm(outwards, axis=1, keepdims=True))
            cells = _grid_faces(len(line), len(line)) + len(a) * len(faces)
            faces.append(cells[:, ::-1] if sign > 0 else cells)
    return np.concatenate(vertices), np.concatenate(faces)
