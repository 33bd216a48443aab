"""Few values that stand for many: palettes of vectors and code books of numbers (k-means).

Lloyd's algorithm over all pairs would compare 200,000 vectors with 65,536 palette entries: an hour on two cores.
`palette` goes in two levels instead: a few hundred coarse clusters first, then as many entries in each as its share
of the error asks for. Each vector is compared with a few hundred others, and almost always with its nearest entry.

Shape letters: N vectors of D numbers, P palette entries.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import rng
from recon.torch_threads import one_torch_thread

COARSE = 256  # clusters of the first level, of many vectors
COARSE_SAMPLE = 65_536  # vectors that place them
ROUNDS = 6  # of Lloyd's algorithm; later ones hardly change anything
CODE_ROUNDS = 30
TINY = float(np.finfo(np.float32).tiny)


def codebook(values: NDArray[np.floating], size: int = 256) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """At most `size` <= 256 numbers, ascending, that stand for values of any shape, and which stands for each of them.

    Half of them start at quantiles and half evenly spread, so that the rare large values have some too. In one
    dimension clusters are intervals of the sorted values, so a round takes two searches.
    """
    flat = np.sort(values.ravel().astype(np.float64))
    if not flat.size:
        return np.zeros(1, np.float32), np.zeros(values.shape, np.uint8)
    distinct = flat[np.concatenate([[True], np.diff(flat) > 0])]
    if len(distinct) <= size:
        codes = distinct
    else:
        quantiles = flat[((np.arange(size - size // 2) + 0.5) / (size - size // 2) * len(flat)).astype(np.int64)]
        codes = np.sort(np.concatenate([quantiles, np.linspace(flat[0], flat[-1], size // 2)]))
        sums = np.concatenate([[0.0], flat.cumsum()])
        for _ in range(CODE_ROUNDS):
            ends = np.searchsorted(flat, (codes[1:] + codes[:-1]) / 2)
            edges = np.concatenate([[0], ends, [len(flat)]])
            counts = np.diff(edges)
            codes = np.where(counts > 0, np.diff(sums[edges]) / np.maximum(counts, 1), codes)
    codes = codes.astype(np.float32)
    middles = (codes[1:].astype(np.float64) + codes[:-1]) / 2
    return codes, np.searchsorted(middles, values.astype(np.float64)).astype(np.uint8)


def palette(
    vectors: NDArray[np.float32], size: int, weights: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """At most `size` vectors [P,D] that stand for vectors [N,D], and which [N] stands for each of them.

    Entries lie nearer to vectors of a greater weight [N], which is more than 0.
    """
    if len(vectors) <= size:
        return vectors, np.arange(len(vectors))
    with one_torch_thread(torch.device("cpu")):  # the blocks are small: more threads would wait for each other
        return _palette(vectors, size, torch.from_numpy(weights.astype(np.float32)))


def _palette(vectors: NDArray[np.float32], size: int, weights: Tensor) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    points = torch.from_numpy(np.ascontiguousarray(vectors))
    generator = rng.generator(0, "palette")
    taken = _drawn(weights, COARSE_SAMPLE, generator)
    sample = points[taken]
    coarse = min(COARSE, size)
    centres = _lloyd(sample, sample[:coarse].clone(), weights[taken])
    cluster = _nearest(points, centres)
    order = torch.argsort(cluster, stable=True)
    counts = torch.bincount(cluster, minlength=coarse)
    errors = torch.zeros(coarse, dtype=torch.float64)
    errors.index_add_(0, cluster, (points - centres[cluster]).double().square().sum(dim=1) * weights)
    entries, labels, used = [], torch.empty(len(points), dtype=torch.int64), 0
    for members, share in zip(order.split(counts.tolist()), _shares(errors, counts, size), strict=True):
        if not len(members):
            continue
        own = points[members]
        chosen = _drawn(weights[members], share, generator)
        fine = own[chosen] if share == len(own) else _lloyd(own, own[chosen], weights[members])
        labels[members] = used + _nearest(own, fine)
        entries.append(fine)
        used += len(fine)
    return torch.cat(entries).numpy(), labels.numpy()


def _shares(errors: Tensor, counts: Tensor, size: int) -> list[int]:
    """How many of `size` entries each cluster gets: one if it has vectors at all, more the more error it has.

    Dividing D-dimensional space into p times as many cells lowers the error slowly, so the best shares follow the
    error to a power below 1 together with the number of vectors; half and half is close to it.
    """
    most = counts.clone()
    shares = most.clamp_max(1)
    weights = (errors * counts).sqrt()
    for _ in range(20):  # what is cut at a cluster's number of vectors goes to the others
        left = size - int(shares.sum())
        open_ = shares < most
        if left <= 0 or not open_.any():
            break
        weight = torch.where(open_, weights, 0.0)
        if float(weight.sum()) == 0:
            break
        shares = torch.minimum(shares + (weight / weight.sum() * left).floor().long(), most)
    return shares.tolist()


def _drawn(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Which [at most count] are drawn, each once, rather those of a greater weight.

    Exponential deviates divided by the weights come in that order (Efraimidis and Spirakis 2006).
    """
    deviates = torch.empty_like(weights).exponential_(generator=generator)
    return torch.argsort(deviates / weights, stable=True)[:count]


def _lloyd(points: Tensor, centres: Tensor, weights: Tensor) -> Tensor:
    """Centres moved to the weighted means of the points that are nearest to them, some times over."""
    for _ in range(ROUNDS):
        nearest = _nearest(points, centres)
        totals = torch.zeros(len(centres)).index_add_(0, nearest, weights)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points * weights[:, None])
        centres = torch.where(totals[:, None] > 0, sums / totals.clamp_min(TINY)[:, None], centres)
    return centres


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """[N] the nearest centre of each point; blocks, so that distances never fill the memory."""
    offsets = centres.square().sum(dim=1)
    block = max(1, (1 << 22) // len(centres))
    parts = [torch.addmm(offsets, part, centres.T, alpha=-2).argmin(dim=1) for part in points.split(block)]
    return torch.cat(parts)
