"""How a scene is to be shown, and which parts of it are meant: plain data that travels between page and scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recon.datasets.cameras import Cameras

Mode = Literal["rgb", "depth", "normals", "alpha", "ellipsoids", "points"]
ColourMap = Literal["viridis", "inferno", "turbo", "grey"]
Colour = tuple[float, float, float]
Vector = tuple[float, float, float]
How = Literal["replace", "add", "subtract"]


@dataclass(frozen=True)
class Box:
    """An oriented box of the world.

    Attributes:
        centre: world units.
        size: full lengths of the sides, world units.
        wxyz: unit quaternion, world from box.
    """

    centre: Vector
    size: Vector
    wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Sphere:
    """A ball of the world, world units."""

    centre: Vector
    radius: float


@dataclass(frozen=True, eq=False)
class Brush:
    """What a stroke over the screen passes over, however far behind.

    Attributes:
        camera: a batch of one, through which the screen is seen.
        points: [S,2] the stroke's corners, px of that camera.
        radius: of the brush, px.
    """

    camera: Cameras
    points: NDArray[np.float32]
    radius: float


@dataclass(frozen=True)
class Fainter:
    """Splats of less opacity than this, 0..1."""

    opacity: float


@dataclass(frozen=True)
class Larger:
    """Splats whose longest axis (standard deviation, world units) is more than this."""

    scale: float


@dataclass(frozen=True)
class Farther:
    """Splats farther from a point than this, world units."""

    centre: Vector
    distance: float


@dataclass(frozen=True)
class Floaters:
    """Splats that hang alone in the air, by the statistics of their neighbours; strength 0 (few) .. 1 (many)."""

    strength: float = 0.5


Shape = Box | Sphere | Brush | Fainter | Larger | Farther | Floaters


@dataclass(frozen=True)
class Look:
    """How a scene is drawn.

    Attributes:
        background: None: what the scene was trained over.
        sh_degree: bands of harmonics in use; None: all there are.
        near, far: what is nearer or farther than this along the axis is not drawn, world units.
        size: factor on the sizes of splats; of "points", their size in px.
        depth_range: what "depth" tells apart, world units; None: what the picture needs.
        crop: only splats whose centres are in it are drawn; None: all.
    """

    mode: Mode = "rgb"
    background: Colour | None = None
    sh_degree: int | None = None
    near: float = 0.01
    far: float = 1e10
    size: float = 1.0
    colour_map: ColourMap = "viridis"
    depth_range: tuple[float, float] | None = None
    crop: Box | None = None
