"""What is known of some photos, carried over to the others along the way that the camera took."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recon.datasets.cameras import Cameras

Doubles = NDArray[np.float64]


def between(values: Doubles, cameras: Sequence[Cameras], known: Sequence[int], wanted: Sequence[int]) -> Doubles:
    """Values [M,K] of the photos `wanted`, from those [V,K] of the photos `known` before and after each.

    They change from one photo to the next as far as the camera has moved and turned. How much of that is to be believed
    is found out on the photos known, each guessed from its neighbours: none of it, where values have nothing to do with
    those beside them.

    Args:
        cameras: of all photos of the capture, in order.
        known, wanted: numbers of photos; `known` in order.
    """
    alike = Cameras.cat([camera.resized(1, 1) for camera in cameras])
    positions = alike.positions.double().cpu().numpy()
    size = np.linalg.norm(positions - positions.mean(axis=0), axis=1).max()
    way = np.concatenate([positions / max(size, 1e-12), alike.forward.double().cpu().numpy()], axis=1)
    places, rows = np.asarray(known), np.arange(len(known))
    guesses = _interpolated(values, way, places, places, rows - 1, rows + 1)
    believed = np.clip((guesses * values).sum() / max((guesses**2).sum(), 1e-30), 0, 1)
    after = np.searchsorted(places, wanted)
    return believed * _interpolated(values, way, places, np.asarray(wanted), after - 1, after)


def _interpolated(
    values: Doubles,
    way: Doubles,
    places: NDArray[np.int64],
    wanted: NDArray[np.int64],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
) -> Doubles:
    """Values [M,K] at the places `wanted`, from those [V,K] at `places`, by distance along the way [all places,6].

    Args:
        before, after: [M] rows of `values`; where one of them does not exist the other counts alone.
    """
    last = len(values) - 1
    before, after = np.where(before < 0, after, before), np.where(after > last, before, after)
    before, after = np.clip(before, 0, last), np.clip(after, 0, last)
    first = np.linalg.norm(way[places[before]] - way[wanted], axis=1)
    second = np.linalg.norm(way[places[after]] - way[wanted], axis=1)
    share = np.divide(first, first + second, out=np.full(len(first), 0.5), where=first + second > 0)[:, None]
    return (1 - share) * values[before] + share * values[after]
