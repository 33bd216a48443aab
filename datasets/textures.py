"""Solid textures of the procedural scene: the diffuse colour of each material as a function of position.

Colours are linear reflectances. Positions are float32 [N,3] in the world of `diorama.py`, and results float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.datasets.diorama import CHECKER_CENTRE, CHECKER_TURN, CONE_CENTRE, PLINTH_TOP, WALL_RADIUS, Material

Array = NDArray[Any]
Colour = tuple[float, float, float]

TILED_RADIUS = 2.5  # m; the floor's slabs reach this far, sand begins there
RING_WIDTH = 0.31  # m; of one ring of slabs


def albedo(positions: Array, material: Array) -> Array:
    """Diffuse reflectance [N,3] at positions [N,3] of materials [N] (values of `Material`)."""
    colour = np.empty((len(positions), 3), np.float32)
    for kind, texture in _TEXTURES.items():
        where = np.flatnonzero(material == kind)
        if len(where):
            colour[where] = texture(positions[where])
    return colour


@functools.cache
def _lattice() -> Array:
    return np.random.default_rng(20).random((32, 32, 32), dtype=np.float32).ravel()


def _noise(positions: Array) -> Array:
    """Smooth value noise [N] in 0..1 with features of size 1; it repeats every 32."""
    floor = np.floor(positions)
    t = positions - floor
    tx, ty, tz = (t * t * (3 - 2 * t)).T
    low = floor.astype(np.int32) & 31
    high = (low + 1) & 31
    x0, x1 = low[:, 0] << 10, high[:, 0] << 10
    y0, y1 = low[:, 1] << 5, high[:, 1] << 5
    z0, z1 = low[:, 2], high[:, 2]
    values = _lattice()

    def along_x(yz: Array) -> Array:
        start = values[x0 + yz]
        return start + tx * (values[x1 + yz] - start)

    near, far = along_x(y0 + z0), along_x(y0 + z1)
    near += ty * (along_x(y1 + z0) - near)
    far += ty * (along_x(y1 + z1) - far)
    return near + tz * (far - near)


def _fractal(positions: Array, octaves: int) -> Array:
    """Noise with detail at several scales [N], in 0..1."""
    total = np.zeros(len(positions), np.float32)
    for octave in range(octaves):
        total += _noise(positions * 2**octave + 7.3 * octave) / 2**octave
    return total / (2 - 2.0 ** (1 - octaves))


def _mix(a: Colour | Array, b: Colour | Array, t: Array) -> Array:
    """Colours [N,3]: a where t = 0, b where t = 1, for t [N]."""
    start, end = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return start + (end - start) * t[:, None]


def _step(edge: float | Array, width: float, x: Array) -> Array:
    """0 below `edge`, 1 above it, over a smooth band of `width`."""
    t = np.clip((x - edge) / width + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _scaled(p: Array, x: float, y: float, z: float) -> Array:
    return p * np.array([x, y, z], np.float32)


def _court(p: Array) -> Array:
    colour = np.empty_like(p)
    radius = np.hypot(p[:, 0], p[:, 1])
    tiled = radius < TILED_RADIUS
    colour[tiled] = _tiles(p[tiled], radius[tiled])
    colour[~tiled] = _mural(p[~tiled], radius[~tiled])
    return colour


def _tiles(p: Array, radius: Array) -> Array:
    """Stone slabs in rings, each in a tone of its own, some of a redder stone."""
    ring = np.floor(radius / RING_WIDTH)
    count = np.round(ring * (2 * np.pi * RING_WIDTH / 0.42)) + 1
    around = np.arctan2(p[:, 1], p[:, 0]) / (2 * np.pi) * count + 0.37 * ring
    slab = np.floor(around)
    length = 2 * np.pi * radius / count
    from_side = (0.5 - np.abs(radius / RING_WIDTH - ring - 0.5)) * RING_WIDTH
    from_end = (0.5 - np.abs(around - slab - 0.5)) * length
    joint = 1 - _step(0.009, 0.008, np.minimum(from_side, from_end))

    tone = np.sin(ring * 12.9898 + (slab % count) * 78.233) * 43.758
    tone -= np.floor(tone)
    stone = _mix((0.44, 0.38, 0.31), (0.66, 0.58, 0.48), tone)
    stone[tone > 0.86] *= np.array([0.72, 0.5, 0.42], np.float32)
    stone *= (0.7 + 0.6 * _fractal(p * 9, 2))[:, None]
    return _mix(stone, (0.2, 0.18, 0.16), joint)


# Ranges of hills: the height of the crest and its swing (m), waves round the wall, phase, colour.
_HILLS: list[tuple[float, float, int, float, Colour]] = [
    (1.75, 0.16, 5, 0.4, (0.44, 0.54, 0.7)),
    (1.4, 0.14, 7, 2.0, (0.3, 0.46, 0.54)),
    (1.05, 0.13, 6, 4.1, (0.27, 0.45, 0.32)),
    (0.65, 0.1, 9, 5.3, (0.42, 0.46, 0.18)),
]


def _mural(p: Array, radius: Array) -> Array:
    """Raked sand that rises into a wall, painted with ranges of hills under an evening sky."""
    z, angle = p[:, 2], np.arctan2(p[:, 1], p[:, 0])
    grain = _fractal(p * 4.3, 2)
    colour = _mix((0.95, 0.72, 0.5), (0.36, 0.56, 0.82), np.clip((z - 1.1) / 1.5, 0, 1))
    from_sun = np.hypot((angle + 2.2) * WALL_RADIUS, z - 1.9)
    colour = _mix((1.0, 0.88, 0.6), colour, _step(0.33, 0.02, from_sun))
    for height, swing, waves, phase, tone in _HILLS:
        crest = height + swing * (np.sin(waves * angle + phase) + 0.45 * np.sin((2 * waves + 1) * angle + 2.1 * phase))
        colour = _mix(tone, colour, _step(crest + 0.12 * (grain - 0.5), 0.02, z))
    rake = np.sin(radius * (2 * np.pi / 0.2) + 5 * _noise(p * 0.9)) * (1 - _step(4.3, 0.4, radius))
    sand = _mix((0.5, 0.4, 0.28), (0.66, 0.55, 0.4), 0.5 + 0.5 * rake)
    colour = _mix(sand, colour, _step(0.24 + 0.2 * grain, 0.04, z))
    return colour * (0.65 + 0.7 * grain)[:, None]


def _wood(p: Array, light: Colour, dark: Colour, rings: float) -> Array:
    """Year rings, `rings` for each unit, about an axis along x that lies outside the piece; fibres along it."""
    wobble = _fractal(_scaled(p, 2.2, 2.2, 0.8), 2)
    year = np.hypot(p[:, 1] + 0.6, p[:, 2] + 0.9) * rings + 1.8 * wobble
    year -= np.floor(year)
    late_wood = _step(0.62, 0.75, year) * (1 - _step(0.97, 0.06, year))
    return _mix(light, dark, late_wood) * (0.82 + 0.36 * _noise(_scaled(p, 9, 110, 110)))[:, None]


def _plinth(p: Array) -> Array:
    """Planks with dark seams, each cut from another part of the tree."""
    across = p[:, 1] / 0.21
    plank = np.floor(across)
    seam = _step(0.48, 0.015, np.abs(across - plank - 0.5))
    cut = p + plank[:, None] * np.array([3.7, 0.31, 1.3], np.float32)
    tone = 1 + 0.15 * np.sin(plank * 91.7)
    colour = _wood(cut, (0.62, 0.38, 0.19), (0.36, 0.19, 0.085), 9.0)
    return colour * (tone * (1 - 0.75 * seam))[:, None]


def _glaze(p: Array) -> Array:
    """A dipped vase: bare clay below, blue glaze that ran a little, two cream bands."""
    z = p[:, 2] - PLINTH_TOP
    run = 0.07 * _noise(_scaled(p, 14, 14, 1.5)) + 0.02 * _noise(p * 40)
    colour = _mix((0.55, 0.36, 0.24), (0.02, 0.2, 0.27), _step(0.16 + run, 0.012, z))
    for height, half in ((0.34, 0.012), (0.375, 0.006)):
        colour = _mix((0.86, 0.8, 0.66), colour, _step(half, 0.005, np.abs(z - height)))
    return colour


def _checker(p: Array) -> Array:
    c, s = np.cos(CHECKER_TURN), np.sin(CHECKER_TURN)
    to_box = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)
    local = (p - np.array(CHECKER_CENTRE, np.float32)) @ to_box
    odd = np.floor(local / 0.0925 + 100.5).sum(axis=1) % 2
    return _mix((0.9, 0.87, 0.78), (0.62, 0.06, 0.05), odd) * (0.85 + 0.3 * _fractal(p * 11, 2))[:, None]


def _marble(p: Array) -> Array:
    turbulence = _fractal(p * 7, 4)
    vein = np.abs(np.sin(9 * p[:, 0] + 6 * p[:, 1] + 5 * p[:, 2] + 9 * turbulence))
    return _mix((0.14, 0.18, 0.22), (0.88, 0.87, 0.85), np.minimum(vein * 1.7, 1) ** 0.7)


def _copper(p: Array) -> Array:
    return _mix((0.95, 0.58, 0.4), (0.85, 0.5, 0.36), _noise(p * 10))


def _stripes(p: Array) -> Array:
    """A cone with a band that winds round it."""
    turn = np.arctan2(p[:, 1] - CONE_CENTRE[1], p[:, 0] - CONE_CENTRE[0]) / (2 * np.pi)
    band = np.abs((p[:, 2] * 7 + turn) % 1 - 0.5) * 2
    colour = _mix((0.93, 0.88, 0.75), (0.9, 0.5, 0.06), _step(0.5, 0.06, band))
    return colour * (0.9 + 0.2 * _noise(p * 25))[:, None]


def _ring(p: Array) -> Array:
    return _wood(p * 2.1, (0.72, 0.5, 0.27), (0.42, 0.23, 0.1), 11.0)


def _steel(p: Array) -> Array:
    return _mix((0.16, 0.17, 0.19), (0.24, 0.25, 0.27), _noise(p * 30))


def _leaf(p: Array) -> Array:
    return _mix((0.06, 0.2, 0.035), (0.3, 0.5, 0.09), _noise(_scaled(p, 30, 30, 5)))


_TEXTURES: dict[Material, Callable[[Array], Array]] = {
    Material.COURT: _court,
    Material.PLINTH: _plinth,
    Material.GLAZE: _glaze,
    Material.CHECKER: _checker,
    Material.MARBLE: _marble,
    Material.COPPER: _copper,
    Material.STRIPES: _stripes,
    Material.RING: _ring,
    Material.STEEL: _steel,
    Material.LEAF: _leaf,
}
