"""What is wrong with poses that do not fit as a whole: each usual mistake is undone, to see whether they fit then."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recon.datasets import epipolar
from recon.datasets.epipolar import ACCEPTED, TIMES, Judged, Matched

FITS = 1.0  # px, usual error, up to which poses fit as a whole
FAR_OFF = 3.0  # px, usual error: above, they do not, whatever the mistake may be
FEWEST_PAIRS = 8  # that can be judged: with few, one mistake or another would seem to explain them
BETTER = 2.5  # times smaller errors when a mistake is undone, or else it was not made
ENOUGH_MATCHES = 20_000  # to tell
LONGEST_SHIFT = 3  # photos by which the order may be off
BEHIND = 0.5  # least share of matches in front of their cameras
_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])

Kind = Literal["focal", "distortion", "axes", "mirrored", "inverse", "shifted", "reversed", "backwards", "unknown"]


@dataclass(frozen=True)
class Trouble:
    """A mistake that all poses share.

    Attributes:
        kind: focal: all focal lengths are off. distortion: the lens bends, and the cameras do not know it. axes: the
            cameras' axes are others than OpenCV's. mirrored: the photos, or one axis. inverse: camera to world taken
            for world to camera. shifted, reversed: photos have the poses of others. backwards: the cameras look away.
        value: of focal, the factor that mends it; of shifted, by how many photos.
        before, after: usual error, px of a photo 1000 px long, as it is and without the mistake.
    """

    kind: Kind
    value: float
    before: float
    after: float


def find(matched: Matched, judged: Judged) -> Trouble | None:
    """The mistake that all poses share; None where the usual pose fits.

    Args:
        matched: photos in the order of their names, as shifts of the order are by name.
    """
    few = _some(matched)
    before = _usual(few)
    if int(np.isfinite(epipolar.errors(few)).sum()) < FEWEST_PAIRS:
        return None
    if before <= FITS and len(judged.misfits) <= len(matched.viewmats) / 3:
        ahead = epipolar.in_front(few)
        return Trouble("backwards", ahead, before, before) if ahead < BEHIND else None
    tried = [*_lenses(few), *_others(few)]
    kind, value, mended = min(tried, key=lambda attempt: _usual(attempt[2]))
    after = _usual(mended)
    if after > before / BETTER:
        return Trouble("unknown", 0.0, before, before) if before > FAR_OFF else None
    if kind == "axes" and epipolar.in_front(mended) < BEHIND:
        kind = "mirrored"  # which no line tells from turned axes
    return Trouble(kind, value, before, after)


def exchanged(matched: Matched, judged: Judged) -> list[tuple[int, int]]:
    """Pairs of photos that fit once each has the other's pose."""
    limit = max(ACCEPTED, TIMES * judged.usual)
    found: list[tuple[int, int]] = []
    for one, other in itertools.combinations(sorted(judged.misfits[:12]), 2):
        if any({one, other} & set(pair) for pair in found):
            continue
        order = np.arange(len(matched.viewmats))
        order[[one, other]] = other, one
        involved = np.isin(matched.pairs, (one, other))
        involved = involved[:, 0] | involved[:, 1]
        ends = matched.pairs[involved]
        errors = epipolar.errors(_chosen(matched, involved).with_poses(matched.viewmats[order]))
        settled = ~np.isin(ends, [k for k in judged.misfits if k not in (one, other)]).any(axis=1)
        weights = matched.weights[involved]
        chosen = [settled & (ends == k).any(axis=1) for k in (one, other)]
        if all(epipolar.middle(errors[some], weights[some]) <= limit for some in chosen):
            found.append((one, other))
    return found


def _lenses(matched: Matched) -> Iterator[tuple[Kind, float, Matched]]:
    """With other focal lengths, and with bent rays."""
    for factor in np.geomspace(0.4, 2.5, 61):
        if abs(factor - 1) > 0.02:
            scaled = replace(matched, a=matched.a / factor, b=matched.b / factor, focal=matched.focal * factor)
            yield "focal", float(factor), scaled
    radii = [(points**2).sum(axis=1, keepdims=True) for points in (matched.a, matched.b)]
    corner = float(np.quantile(np.concatenate(radii), 0.95)) if len(matched.a) else 0.0
    for bend in np.linspace(-0.5, 0.5, 41):  # of positions near the corner
        if abs(bend) > 0.01 and corner > 0:
            a, b = (
                points / (1 + bend * radius / corner).clip(min=0.2)
                for points, radius in zip((matched.a, matched.b), radii, strict=True)
            )
            yield "distortion", float(bend), replace(matched, a=a, b=b)


def _others(matched: Matched) -> Iterator[tuple[Kind, float, Matched]]:
    """With other axes, other directions of the matrices, and the poses of other photos."""
    poses = matched.viewmats
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            turn = np.eye(4)
            turn[:3, :3] = np.diag(signs)[:, list(order)]
            if np.linalg.det(turn) > 0 and not np.array_equal(turn, np.eye(4)):  # no line tells it from its negative
                yield "axes", 0.0, matched.with_poses(turn @ poses)
    inverse: Any = np.linalg.inv(poses)
    for turned in (inverse, _OPENGL @ inverse, inverse @ _OPENGL, _OPENGL @ inverse @ _OPENGL):
        yield "inverse", 0.0, matched.with_poses(turned)
    for shift in range(-LONGEST_SHIFT, LONGEST_SHIFT + 1):
        if shift and len(poses) > 2 * LONGEST_SHIFT:
            yield "shifted", float(shift), matched.with_poses(np.roll(poses, -shift, axis=0))
    yield "reversed", 0.0, matched.with_poses(poses[::-1])


def _some(matched: Matched) -> Matched:
    """Pairs with no more matches than are needed, spread evenly over all pairs."""
    step = max(1, -(-len(matched.a) // ENOUGH_MATCHES))
    keep = np.zeros(len(matched.pairs), bool)
    keep[::step] = True
    return _chosen(matched, keep)


def _chosen(matched: Matched, keep: NDArray[np.bool_]) -> Matched:
    rows = keep[matched.pair_of]
    starts = np.concatenate([[0], np.cumsum(matched.counts[keep])])
    return replace(
        matched,
        pairs=matched.pairs[keep],
        starts=starts,
        weights=matched.weights[keep],
        a=matched.a[rows],
        b=matched.b[rows],
    )


def _usual(matched: Matched) -> float:
    """The usual error; infinite where nothing can be judged."""
    found = epipolar.middle(epipolar.errors(matched), matched.weights)
    return found if np.isfinite(found) else float("inf")
