"""Whether poses fit the photos: how far matched points lie from each other's epipolar lines.

Nothing is fitted. The given poses say where in one photo the point of another must lie (a line), whatever is in the
scene; matches say where it does. Distances are Sampson's, first-order distances to the epipolar geometry in both
photos (Hartley and Zisserman, section 11.4.3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ACCEPTED = 2.0  # px of a photo 1000 px long, as `look.SIDE`: up to there a pose is good, or at least common
TIMES = 4.0  # the usual error; a pose that is worse does not fit
FEWEST = 12  # matches by which a pair of photos can be judged


@dataclass(frozen=True)
class Matched:
    """Matches of photos that have poses.

    Attributes:
        pairs: [M,2] rows of `viewmats`.
        starts: [M+1] where the matches of each pair begin.
        weights: [M] how many matches each pair has in all, of which some are here. Things that repeat, such as tiles,
            match where nothing is shared; but by fewer features than what is shared.
        a, b: [T,2] where they are in the first and in the second photo, on the plane one before the camera.
        focal: [P] px, of each photo as if it were 1000 px long.
        viewmats: [P,4,4] world to camera.
    """

    pairs: NDArray[np.int64]
    starts: NDArray[np.int64]
    weights: NDArray[np.int64]
    a: Array
    b: Array
    focal: Array
    viewmats: Array

    def with_poses(self, viewmats: Array) -> Matched:
        return replace(self, viewmats=viewmats)

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    @property
    def pair_of(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.pairs)), self.counts)


@dataclass(frozen=True)
class Judged:
    """How well poses fit.

    Attributes:
        pairs: [M] median Sampson distance of each pair, px of a photo 1000 px long; nan where it cannot be judged.
        photos: [P] of each photo, the median of its pairs with photos whose poses fit, each as often as it has matches;
            nan where it has none.
        usual: the same median of all pairs of photos that fit; nan without any.
        misfits: photos whose poses disagree with their neighbours', the worst first.
    """

    pairs: Array
    photos: Array
    usual: float
    misfits: tuple[int, ...]


def essential(viewmats: Array, pairs: NDArray[np.int64]) -> Array:
    """[M,3,3] E with b^T E a = 0 for points a, b on the planes of the two photos of each pair."""
    relative = viewmats[pairs[:, 1]] @ np.linalg.inv(viewmats[pairs[:, 0]])
    t = relative[:, :3, 3]
    t = t / np.maximum(np.linalg.norm(t, axis=1, keepdims=True), 1e-300)
    cross = np.zeros((len(pairs), 3, 3))
    cross[:, [2, 0, 1], [1, 2, 0]] = t
    cross[:, [1, 2, 0], [2, 0, 1]] = -t
    return cross @ relative[:, :3, :3]


def sampson(E: Array, a: Array, b: Array) -> Array:
    """[T] distances of matches a, b [T,2] from the geometries E [T,3,3], in the units of a and b."""
    ones = np.ones((len(a), 1))
    a, b = np.concatenate([a, ones], axis=1), np.concatenate([b, ones], axis=1)
    Ea = np.einsum("tij,tj->ti", E, a)
    Eb = np.einsum("tji,tj->ti", E, b)
    off = np.abs((b * Ea).sum(axis=1))
    slope = np.sqrt((Ea[:, :2] ** 2).sum(axis=1) + (Eb[:, :2] ** 2).sum(axis=1))
    return off / np.maximum(slope, 1e-300)


def errors(matched: Matched) -> Array:
    """[M] the median Sampson distance of each pair, px of a photo 1000 px long; nan where it has too few matches or
    both photos were taken from one place, of which no line follows."""
    centres = np.linalg.inv(matched.viewmats)[:, :3, 3]
    apart = np.linalg.norm(np.diff(centres[matched.pairs], axis=1)[:, 0], axis=1)
    size = np.linalg.norm(centres - np.median(centres, axis=0), axis=1).max(initial=0)
    focal = matched.focal[matched.pairs].mean(axis=1)
    of = matched.pair_of
    distances = sampson(essential(matched.viewmats, matched.pairs)[of], matched.a, matched.b) * focal[of]
    result = medians(distances, matched.starts)
    result[(matched.counts < FEWEST) | (apart <= 1e-6 * size)] = np.nan
    return result


def judge(matched: Matched) -> Judged:
    """Errors of pairs and photos, and the photos whose poses do not fit.

    A wrong pose spoils the pairs of its neighbours too. So the worst photo, by the median of its pairs, is set aside
    and the others are judged without it, until none is worse than `ACCEPTED` px and `TIMES` the usual.
    """
    pairs = errors(matched)
    count = len(matched.viewmats)
    fits = np.ones(count, bool)
    misfits: list[int] = []
    while True:
        photos = _of_photos(pairs, matched, fits)
        usual = middle(np.where(fits[matched.pairs].all(axis=1), pairs, np.nan), matched.weights)
        candidates = np.where(fits & np.isfinite(photos), photos, -1)
        worst = int(candidates.argmax()) if count else 0
        if not count or not candidates[worst] > max(ACCEPTED, TIMES * usual):
            return Judged(pairs, photos, usual, tuple(misfits))
        fits[worst] = False
        misfits.append(worst)


def by_chance(matched: Matched, judged: Judged) -> NDArray[np.bool_]:
    """[M] pairs of photos with good poses whose matches disagree with them: they only look alike."""
    misfit = np.isin(matched.pairs, judged.misfits)
    return (judged.pairs > max(ACCEPTED, TIMES * judged.usual)) & ~misfit[:, 0] & ~misfit[:, 1]


def in_front(matched: Matched) -> float:
    """The share of the matches that lie before both of their cameras, where the two rays come closest; nan without
    matches that tell."""
    of = matched.pair_of
    first, second = (matched.viewmats[matched.pairs[of, side]] for side in range(2))
    ones = np.ones((len(of), 1))
    u = np.einsum("tji,tj->ti", first[:, :3, :3], np.concatenate([matched.a, ones], axis=1))
    v = np.einsum("tji,tj->ti", second[:, :3, :3], np.concatenate([matched.b, ones], axis=1))
    centres = np.linalg.inv(matched.viewmats)[:, :3, 3]
    w = centres[matched.pairs[of, 0]] - centres[matched.pairs[of, 1]]
    uu, uv, vv, uw, vw = ((p * q).sum(axis=1) for p, q in ((u, u), (u, v), (v, v), (u, w), (v, w)))
    bent = uu * vv - uv**2
    tells = bent > 1e-6 * uu * vv
    s, t = (uv * vw - vv * uw)[tells], (uu * vw - uv * uw)[tells]  # times `bent`, which is positive
    return float(((s > 0) & (t > 0)).mean()) if len(s) else float("nan")


def angles(matched: Matched) -> Array:
    """[T] degrees between the rays of each match: the parallax under which its point was seen."""
    of = matched.pair_of
    rays = []
    for side, points in enumerate((matched.a, matched.b)):
        ray = np.concatenate([points, np.ones((len(of), 1))], axis=1)
        ray = np.einsum("tji,tj->ti", matched.viewmats[matched.pairs[of, side], :3, :3], ray)
        rays.append(ray / np.linalg.norm(ray, axis=1, keepdims=True))
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(*rays), axis=1), (rays[0] * rays[1]).sum(axis=1)))


def middle(values: Array, weights: NDArray[np.int64]) -> float:
    """The median of the values that are finite, each counted as often as its weight says; nan without any."""
    known = np.isfinite(values)
    values, weights = values[known], weights[known]
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)]) if len(values) else float("nan")


def _of_photos(pairs: Array, matched: Matched, fits: NDArray[np.bool_]) -> Array:
    """[P] the median of each photo's pairs with others that fit; nan of one that has none such."""
    photo, pair = np.concatenate([matched.pairs[:, 0], matched.pairs[:, 1]]), np.tile(np.arange(len(pairs)), 2)
    other = np.concatenate([matched.pairs[:, 1], matched.pairs[:, 0]])
    photo, pair = photo[fits[other]], pair[fits[other]]
    order = np.argsort(photo, kind="stable")
    parts = np.split(pair[order], np.cumsum(np.bincount(photo, minlength=len(fits)))[:-1])
    return np.array([middle(pairs[part], matched.weights[part]) for part in parts])


def medians(values: Array, starts: NDArray[np.int64]) -> Array:
    """[M] the (upper) median of each run of values; nan of an empty one."""
    count = np.diff(starts)
    order = np.lexsort((values, np.repeat(np.arange(len(count)), count)))
    result = np.full(len(count), np.nan)
    result[count > 0] = values[order][(starts[:-1] + count // 2)[count > 0]]
    return result
