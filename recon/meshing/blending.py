"""One colour for each texel out of the samples that photos gave.

Sharp where it may be and without seams: weights rise steeply with quality, so that the best photo decides, and where
two are equally good they fade into each other. The worst of the samples kept counts nothing, so nothing jumps where it
is replaced by another (Buehler et al. 2001, Unstructured Lumigraph Rendering, section 4.2).

Colours are mixed as screens show them, as everywhere here: photos disagree by noise and by rounding, which is about
even in these values and would weigh bright ones most in linear light. Between colours that nearly agree, the two means
are the same.

Shape letters: T texels, K samples of each, V photos.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.meshing.samples import Samples

Array = NDArray[Any]

STEEPNESS = 4.0  # the power of quality that a sample counts by
EVEN = 1e-3  # the share of its quality that the worst keeps: where all are equally good, all count
STRAY = 0.1  # how far from the median a sample may be before it counts less
AT_ONCE = 1 << 18  # texels


def blended(samples: Samples, gains: Array) -> Array:
    """float32 [T,3], 0..1, of texels that photos show; 0 of others.

    Args:
        gains: [V,3] logarithms, see `levels.gains`.
    """
    factors = np.exp(-gains).astype(np.float32)
    colours = np.zeros((len(samples.quality), 3), np.float32)
    for start in range(0, len(colours), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        quality = samples.quality[rows]
        values = samples.colours[rows] / np.float32(65535) * factors[samples.views[rows]]
        weights = _weights(quality) / (1 + (_strays(values, quality > 0) / STRAY) ** 4)
        total = np.maximum(weights.sum(axis=1), 1e-12)
        colours[rows] = np.einsum("tk,tkc->tc", weights, values) / total[:, None]
    return colours.clip(0, 1)


def _weights(quality: Array) -> Array:
    """[T,K], the best is 1."""
    best, worst = quality.max(axis=1, keepdims=True), (1 - EVEN) * quality.min(axis=1, keepdims=True)
    return ((quality - worst) / np.maximum(best - worst, 1e-30)).clip(0, 1) ** STEEPNESS


def _strays(values: Array, counts: Array) -> Array:
    """[T,K] how far samples [T,K,3] are from the median of those that count, in the colour where it is most."""
    ordered = np.sort(np.where(counts[..., None], values, np.inf), axis=1)
    number = np.maximum(counts.sum(axis=1), 1)
    each = np.arange(len(values))
    median = (ordered[each, (number - 1) // 2] + ordered[each, number // 2]) / 2
    return np.abs(values - np.where(np.isfinite(median), median, 0)[:, None]).max(axis=2)
