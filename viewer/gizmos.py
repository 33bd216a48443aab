"""Shapes in the scene that the user moves: a box and a ball, each as lines with arrows and rings to drag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from recon.viewer.look import Box, Vector

Colour = tuple[int, int, int]
ARROWS = 0.3  # length of the arrows, world units

_CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)], np.float32)
# The 12 edges of a box of size 1: pairs of corners that differ along one axis.
EDGES = np.array([(a, b) for i, a in enumerate(_CORNERS) for b in _CORNERS[i + 1 :] if np.abs(a - b).sum() == 1])


class _Gizmo:
    """Arrows and rings at a place; hidden at first."""

    def __init__(self, scene: Any, name: str, *, turns: bool) -> None:
        self._controls = scene.add_transform_controls(
            name, scale=ARROWS, disable_rotations=not turns, depth_test=False, visible=False
        )

    def on_move(self, then: Callable[[Any], None]) -> None:
        """Call `then` whenever the user has moved it."""
        self._controls.on_update(then)

    @property
    def centre(self) -> Vector:
        x, y, z = self._controls.position
        return float(x), float(y), float(z)

    @centre.setter
    def centre(self, centre: Vector) -> None:
        self._controls.position = centre

    @property
    def visible(self) -> bool:
        return bool(self._controls.visible)

    @visible.setter
    def visible(self, visible: bool) -> None:
        if self._controls.visible != visible:
            self._controls.visible = visible


class BoxGizmo(_Gizmo):
    """A box that can be turned."""

    def __init__(self, scene: Any, name: str, colour: Colour) -> None:
        super().__init__(scene, name, turns=True)
        self._size: Vector = (1.0, 1.0, 1.0)
        self._lines = scene.add_line_segments(
            f"{name}/edges", EDGES, colors=colour, thickness=2.0, thickness_units="screen"
        )

    @property
    def size(self) -> Vector:
        return self._size

    @size.setter
    def size(self, size: Vector) -> None:
        if size != self._size:
            self._size = size
            self._lines.scale = size

    @property
    def box(self) -> Box:
        w, x, y, z = (float(value) for value in self._controls.wxyz)
        return Box(self.centre, self._size, (w, x, y, z))

    def place(self, box: Box) -> None:
        self.centre, self.size = box.centre, box.size
        self._controls.wxyz = box.wxyz


class SphereGizmo(_Gizmo):
    """A ball."""

    def __init__(self, scene: Any, name: str, colour: Colour) -> None:
        super().__init__(scene, name, turns=False)
        self._ball = scene.add_icosphere(
            f"{name}/ball", 1.0, colour, subdivisions=2, wireframe=True, cast_shadow=False, receive_shadow=False
        )

    @property
    def radius(self) -> float:
        return float(self._ball.radius)

    @radius.setter
    def radius(self, radius: float) -> None:
        if self._ball.radius != radius:
            self._ball.radius = radius
