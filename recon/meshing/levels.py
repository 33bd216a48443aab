"""How much brighter each photo is than the others, in each colour, from what they show of the same surface.

The logarithm of a sample is that of the surface's colour plus its photo's gain: linear equations, of which the
surface's colours are eliminated. They are solved by robust least squares, since photos also differ by highlights, by
what moved, and by what the mesh has wrong. The gains are those of values as shown, as in `exposure.py`: sRGB's curve is
close to a power, so a factor of light is a factor there too.

Shape letters: N texels, K samples of each, V photos.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.meshing.samples import Samples

Array = NDArray[Any]

TEXELS = 100_000  # that are looked at
DARKEST, BRIGHTEST = 0.04, 0.97  # of samples that tell of a gain: others are noise, or cut off
ROUNDS = 12
SPREAD = 0.06  # of logarithms: beyond it, samples that disagree count less and less
RIDGE = 1e-4  # of the mean weight of a photo: holds those that share nothing with others where they are


def gains(samples: Samples, views: int) -> Array:
    """[V,3] logarithms, whose mean is 0: a sample divided by exp(gain) is as all photos would have it on the mean."""
    several = np.flatnonzero((samples.quality > 0).sum(axis=1) > 1)
    if not len(several):
        return np.zeros((views, 3))
    chosen = several[:: max(1, len(several) // TEXELS)]
    colours = samples.colours[chosen] / np.float32(65535)
    counts = (samples.quality[chosen] > 0) & ((colours > DARKEST) & (colours < BRIGHTEST)).all(axis=2)
    logs = np.log(np.maximum(colours, DARKEST)).astype(np.float64)
    owner = samples.views[chosen].astype(np.int64)
    found = np.zeros((views, 3))
    weights = counts.astype(np.float64)
    for _ in range(ROUNDS):
        found = _solved(logs, owner, weights, views)
        apart = logs - found[owner]
        apart -= _means(apart, weights)[:, None]
        weights = counts / (1 + (np.abs(apart).max(axis=2) / SPREAD) ** 2)
    return found


def _means(values: Array, weights: Array) -> Array:
    """[N,3] of values [N,K,3] with weights [N,K]."""
    return np.einsum("nk,nkc->nc", weights, values) / np.maximum(weights.sum(axis=1), 1e-12)[:, None]


def _solved(logs: Array, owner: Array, weights: Array, views: int) -> Array:
    """The gains [V,3] that leave the least of squares, where the photos `owner` [N,K] count by `weights` [N,K]."""
    total = np.maximum(weights.sum(axis=1), 1e-12)
    pairs = (owner[:, :, None] * views + owner[:, None, :]).ravel()
    shared = weights[:, :, None] * weights[:, None, :] / total[:, None, None]
    matrix = -np.bincount(pairs, shared.ravel(), views * views).reshape(views, views)
    matrix[np.diag_indices(views)] += np.bincount(owner.ravel(), weights.ravel(), views)
    matrix += np.eye(views) * (RIDGE * matrix.trace() / views + 1e-12)
    apart = (logs - _means(logs, weights)[:, None]) * weights[..., None]
    right = np.stack([np.bincount(owner.ravel(), apart[..., c].ravel(), views) for c in range(3)], axis=1)
    found = np.linalg.solve(matrix, right)
    return found - found.mean(axis=0)
