"""Which photos show the same things: the verified matches of a COLMAP database, as arrays."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.datasets import colmap_calls, matching

ENOUGH = 25  # matches by which two photos overlap; fewer may be chance
KEPT = 150  # matches of a pair whose positions are kept, spread evenly over all of them; fewer of very many pairs
MOST_KEPT = 1_000_000  # of all pairs together
STILL = 0.002  # of the longer side: matches of two photos from one place, in one direction, move by no more
_FLAT = ("PLANAR", "PANORAMIC", "PLANAR_OR_PANORAMIC")


@dataclass(frozen=True)
class Overlap:
    """Matches between N photos, in M pairs.

    Attributes:
        features: [N] how many there are in each photo.
        pairs: [M,2] photos i < j.
        counts: [M] matches that agree with one geometry.
        flat: [M] whether one plane, or a camera that only turned, explains them all.
        moved: [M] how far half of them moved at most, in longer sides of the photo.
        starts: [M+1] where the positions of each pair begin.
        positions: [T,4] x, y in photo i and in photo j, px of the photos as they were matched; some of the matches.
    """

    features: NDArray[np.int64]
    pairs: NDArray[np.int64]
    counts: NDArray[np.int64]
    flat: NDArray[np.bool_]
    moved: NDArray[np.float64]
    starts: NDArray[np.int64]
    positions: NDArray[np.float64]

    @property
    def pair_of(self) -> NDArray[np.int64]:
        """[T] the pair of each position."""
        return np.repeat(np.arange(len(self.pairs)), np.diff(self.starts))

    def strong(self, enough: int = ENOUGH) -> NDArray[np.int64]:
        """[S] the pairs with enough matches."""
        return np.flatnonzero(self.counts >= enough)

    def without(self, dropped: NDArray[np.bool_]) -> Overlap:
        """The same but for some of the pairs [M]."""
        keep = ~dropped
        starts = np.concatenate([[0], np.cumsum(np.diff(self.starts)[keep])])
        return Overlap(
            features=self.features,
            pairs=self.pairs[keep],
            counts=self.counts[keep],
            flat=self.flat[keep],
            moved=self.moved[keep],
            starts=starts,
            positions=self.positions[keep[self.pair_of]],
        )

    def best(self) -> NDArray[np.int64]:
        """[N] matches of each photo with the one that it has most with."""
        most = np.zeros(len(self.features), np.int64)
        for side in range(2):
            np.maximum.at(most, self.pairs[:, side], self.counts)
        return most

    def neighbours_of(self, photo: int) -> list[int]:
        """The others that a photo overlaps."""
        pairs = self.pairs[self.strong()]
        return sorted(int(i) for i in pairs[(pairs == photo).any(axis=1)].ravel() if i != photo)

    def neighbours(self) -> NDArray[np.int64]:
        """[N] how many others each photo overlaps."""
        return np.bincount(self.pairs[self.strong()].ravel(), minlength=len(self.features))


def read(database: Path, names: Sequence[str], sizes: Sequence[tuple[int, int]]) -> Overlap | None:
    """The matches in a database between the photos of these names; None where it cannot be read or has no photo.

    Args:
        sizes: (width, height) px of the photos as they were matched.
    """
    if not database.is_file() or not colmap_calls.is_sound(database):
        return None
    pycolmap = colmap_calls.load()
    flat = [getattr(pycolmap.TwoViewGeometryConfiguration, kind).value for kind in _FLAT]
    number = {name: i for i, name in enumerate(names)}
    with contextlib.suppress(sqlite3.Error, RuntimeError, ValueError), matching.open_database(database) as opened:
        photo = {image.image_id: number[image.name] for image in opened.read_all_images() if image.name in number}
        features = np.zeros(len(names), np.int64)
        for image, i in photo.items():
            features[i] = opened.num_keypoints_for_image(image)
        keypoints = {i: np.asarray(opened.read_keypoints(image))[:, :2] for image, i in photo.items() if features[i]}
        rows: list[tuple[int, int, int, bool, float]] = []
        positions: list[NDArray[np.float64]] = []
        pairs, geometries = opened.read_two_view_geometries()
        kept = min(KEPT, MOST_KEPT // max(len(pairs), 1))
        for pair, geometry in zip(pairs, geometries, strict=True):
            first, second = (photo.get(image, -1) for image in pycolmap.pair_id_to_image_pair(pair))
            matches = np.asarray(geometry.inlier_matches)
            if first < 0 or second < 0 or not len(matches):
                continue
            if first > second:
                first, second, matches = second, first, matches[:, ::-1]
            found = np.concatenate([keypoints[first][matches[:, 0]], keypoints[second][matches[:, 1]]], axis=1)
            longer = max(*sizes[first], *sizes[second])
            moved = float(np.median(np.linalg.norm(found[:, :2] - found[:, 2:], axis=1))) / longer
            rows.append((first, second, len(matches), geometry.config in flat, moved))
            positions.append(found[np.unique(np.linspace(0, len(found) - 1, kept).astype(int))].astype(np.float64))
        if photo:
            return _overlap(features, rows, positions)
    return None


def _overlap(
    features: NDArray[np.int64],
    rows: Sequence[tuple[int, int, int, bool, float]],
    positions: Sequence[NDArray[np.float64]],
) -> Overlap:
    columns = list(zip(*rows, strict=True)) or [()] * 5
    return Overlap(
        features=features,
        pairs=np.array(columns[:2], np.int64).reshape(2, -1).T,
        counts=np.array(columns[2], np.int64),
        flat=np.array(columns[3], bool),
        moved=np.array(columns[4], np.float64),
        starts=np.cumsum([0, *(len(found) for found in positions)]),
        positions=np.concatenate([np.zeros((0, 4)), *positions]),
    )


def groups(count: int, pairs: NDArray[np.int64]) -> list[list[int]]:
    """The photos 0..count-1 by what hangs together through `pairs` [M,2]: the largest group first."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs), np.int8)
    _, label = connected_components(coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count)), False)
    found: dict[int, list[int]] = {}
    for photo, group in enumerate(label.tolist()):
        found.setdefault(group, []).append(photo)
    return sorted(found.values(), key=lambda group: (-len(group), group[0]))
