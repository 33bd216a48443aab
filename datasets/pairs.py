"""Which pairs of photos are worth matching: all of few, and of many those that are likely to show the same."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

ALL_UP_TO = 60  # photos of which every pair is matched
ALL_IN_ORDER_UP_TO = 25  # likewise, of the frames of a video
NEIGHBOURS = 10  # in the order of names, on each side
LOOPS = 5  # of the frames of a video, those farther away in time that are most similar to each
LOOK_ALIKES = 15  # photos most similar to each
NEARBY = 15  # photos taken closest to each
DESCRIBED = 1000  # features of a photo that it is described by
WORDS = 64  # that pictures are described with

Pair = tuple[int, int]


def choose(
    places: Sequence[tuple[float, float] | None],
    descriptions: Callable[[], NDArray[np.float32]],
    *,
    breadth: float = 1,
    in_order: bool = False,
) -> set[Pair]:
    """Pairs (i, j), i < j, of photos that are in the order of their names.

    Of many photos: those that follow each other, as in a video or a walk (with ever larger steps, so that the ends of
    a gap are joined); those that look alike, where a walk comes back; and those taken nearby, where GPS says so.

    Args:
        places: latitude and longitude of each photo, degrees.
        descriptions: [N,D] of unit length, whose products say how alike photos are; asked for only if needed.
        breadth: how many times more pairs than usual.
        in_order: whether it is known that they were taken one after the other. Then fewer pairs do: neighbours are
            known, and look-alikes are looked for only where the camera comes back.
    """
    count = len(places)
    if count <= (ALL_IN_ORDER_UP_TO if in_order else ALL_UP_TO) * breadth:
        return set(itertools.combinations(range(count), 2))
    neighbours = round(NEIGHBOURS * breadth)
    chosen = in_sequence(count, neighbours)
    described = descriptions()
    likeness = described @ described.T
    if in_order:
        return chosen | loops(likeness, neighbours, round(LOOPS * breadth))
    chosen |= nearest(likeness, round(LOOK_ALIKES * breadth))
    known = [i for i, place in enumerate(places) if place is not None]
    if len(known) > 1:
        spots = on_ground([place for place in places if place is not None])
        closeness = -np.linalg.norm(spots[:, None] - spots[None], axis=-1)
        chosen |= {(known[i], known[j]) for i, j in nearest(closeness, round(NEARBY * breadth))}
    return chosen


def in_sequence(count: int, neighbours: int) -> set[Pair]:
    """Each with its neighbours, and with those 1, 2, 4, 8, ... ahead."""
    steps = {*range(1, neighbours + 1), *(2**k for k in range(count.bit_length()))}
    return {(i, i + step) for step in steps for i in range(count - step)}


def loops(likeness: NDArray, neighbours: int, count: int) -> set[Pair]:
    """Each with the `count` others of largest likeness [N,N] that are farther than its `neighbours` in order."""
    apart = np.abs(np.subtract.outer(np.arange(len(likeness)), np.arange(len(likeness))))
    return {(i, j) for i, j in nearest(np.where(apart > neighbours, likeness, -math.inf), count) if j - i > neighbours}


def nearest(likeness: NDArray, count: int) -> set[Pair]:
    """Each with the `count` others of largest likeness [N,N]."""
    likeness = likeness.astype(np.float64)
    np.fill_diagonal(likeness, -math.inf)
    best = np.argsort(-likeness, axis=1, kind="stable")[:, : min(count, len(likeness) - 1)]
    return {(min(i, j), max(i, j)) for i, row in enumerate(best.tolist()) for j in row}


def on_ground(places: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """[N,2] metres east and north of their middle, of latitudes and longitudes that are not far apart."""
    degrees = np.asarray(places, np.float64)
    middle = degrees.mean(axis=0)
    metres = (degrees - middle) * 111_320.0
    metres[:, 1] *= math.cos(math.radians(middle[0]))
    return metres[:, ::-1]


def describe(features: Sequence[NDArray[np.uint8]], seed: int = 0) -> NDArray[np.float32]:
    """[N,D] one unit vector for each photo from its SIFT descriptors [M,128]: VLAD (Jegou et al. 2010).

    The words are the means of clusters of the photos' own features, so nothing has to be fetched.
    """
    from scipy.cluster.vq import kmeans2, vq

    rng = np.random.default_rng(seed)
    floats = [f[:DESCRIBED].astype(np.float32) for f in features]  # the largest come first
    sample = np.concatenate([f[rng.permutation(len(f))[: max(10, 20_000 // len(floats))]] for f in floats])
    if not len(sample):
        return np.zeros((len(features), 1), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a cluster may end up empty
        words, _ = kmeans2(sample, min(WORDS, len(sample)), iter=10, minit="points", rng=rng)
    vectors = np.zeros((len(floats), *words.shape), np.float32)
    for vector, descriptors in zip(vectors, floats, strict=True):
        if len(descriptors):
            nearest_word = vq(descriptors, words)[0]
            np.add.at(vector, nearest_word, descriptors - words[nearest_word])
    vectors = np.sign(vectors) * np.sqrt(np.abs(vectors))
    flat = vectors.reshape(len(floats), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
