"""Surfaces made of triangles.

Shape letters: V vertices, F triangles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mesh:
    """A surface made of triangles, each counter-clockwise as seen from outside.

    Attributes:
        vertices: [V,3] float64 positions.
        faces: [F,3] int64 rows of `vertices`.
        colors: [V,3] float32 colours, 0..1 as screens show them; None: not known.
        uvs: [F,3,2] float32 texture coordinates of each corner of each triangle, (0, 0) at the lower left corner of the
            texture; None: there is no texture.
        texture: [H,W,3] uint8, the upper row first; None where `uvs` is.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray | None = None
    uvs: np.ndarray | None = None
    texture: np.ndarray | None = None
