"""Splats that hang alone in the air, told by how far their neighbours are.

On a surface the neighbours of a splat are a few of their own sizes away, on a far background as on a pebble, because
training makes splats about as large as it spaces them. What hangs in the air has neighbours that are small for how far
away they are, even where a few float together. So the measure is the distance to the 24th nearest splat in the usual
size of those, and a splat is a floater if its measure is some times that of the usual splat: statistical removal of
outliers (Rusu et al. 2008), with distances in sizes.

Shape letters: N splats, M neighbours.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 24  # more than there are in a group that is to be found
# A splat's own size counts a little: a wide one that lies on a wall among fine detail is not alone.
OWN_SIZE = 0.1
# Opaque splats are less often floaters. The measure falls with the root of this minus the opacity.
OPACITY = 1.2
FEW, MANY = 6.0, 1.6  # how many times the usual measure makes a floater, at strength 0 and 1


def loneliness(
    means: NDArray[np.float32], scales: NDArray[np.float32], opacities: NDArray[np.float32]
) -> NDArray[np.float64]:
    """[N] how alone each splat is: 1 is usual.

    Args:
        means, scales: [N,3] world units. opacities: [N] 0..1.
    """
    from scipy.spatial import cKDTree

    count = min(NEIGHBOURS, len(means) - 1)
    if count < 1:
        return np.zeros(len(means))
    distances, rows = cKDTree(means).query(means, k=[*range(2, count + 2)], workers=-1)
    sizes = np.sqrt(np.sort(scales, axis=1)[:, 1:].prod(axis=1, dtype=np.float64))  # of the face, not of the edge
    around = np.median(sizes[rows], axis=1)
    measure = distances[:, -1] / (around + OWN_SIZE * sizes) * np.sqrt(OPACITY - opacities)
    return measure / max(float(np.median(measure)), 1e-12)


def threshold(strength: float) -> float:
    """The loneliness above which a splat is a floater; even steps of strength 0..1 are even factors."""
    return FEW * math.exp(min(1.0, max(0.0, strength)) * math.log(MANY / FEW))
