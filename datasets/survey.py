"""All that a report says of a capture: its photos one by one, what they share, and how well their poses fit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recon.datasets import epipolar, lens, look, overlap, pose_trouble
from recon.datasets.coverage import Seen, Top
from recon.datasets.epipolar import Judged, Matched
from recon.datasets.lens import SourceCamera
from recon.datasets.look import Look
from recon.datasets.overlap import ENOUGH, STILL, Overlap
from recon.datasets.photo_folder import SAME_PICTURE
from recon.datasets.pictures import Picture, why
from recon.datasets.pose_trouble import Trouble

ALIKE = 0.03  # of its own contrast: how far a picture may be from another that is the same


@dataclass(frozen=True)
class Posed:
    """Poses of some of the photos.

    Attributes:
        photo: [P] which photo each is of.
        viewmats: [P,4,4] world to camera.
        lenses: [P] of the photos as they were matched.
    """

    photo: NDArray[np.int64]
    viewmats: NDArray[np.float64]
    lenses: tuple[SourceCamera, ...]


@dataclass(frozen=True)
class Survey:
    """A capture, looked at.

    Attributes:
        name: of the capture.
        pictures: in the order of their names.
        overlap: None where nothing was matched.
        stations: photos taken from one place, such as the faces of a panorama, of which some may show only the sky.
        groups: photos that hang together, largest first; those that overlap no other are in none.
        seen, top: of the views with a pose.
        judged: of the views with a pose; None where nothing was matched.
        trouble: what is wrong with all poses.
        exchanged: pairs of photos that have each other's pose.
        parallax: degrees, median; nan where it is not known.
        failure: why no poses were found, where they were looked for.
        done: what was tried to find them.
    """

    name: str
    pictures: tuple[Picture, ...]
    stations: tuple[tuple[int, ...], ...] = ()
    overlap: Overlap | None = None
    groups: tuple[tuple[int, ...], ...] = ()
    seen: Seen | None = None
    top: Top | None = None
    judged: Judged | None = None
    trouble: Trouble | None = None
    exchanged: tuple[tuple[int, int], ...] = ()
    parallax: float = math.nan
    failure: str = ""
    done: tuple[str, ...] = ()

    @property
    def posed(self) -> list[int]:
        return [i for i, picture in enumerate(self.pictures) if picture.view is not None]


def survey(
    name: str,
    names: Sequence[str],
    looks: Sequence[Look],
    *,
    shared: Overlap | None = None,
    posed: Posed | None = None,
    seen: Seen | None = None,
    top: Top | None = None,
    wanted: bool = False,
    failure: str = "",
    done: Sequence[str] = (),
) -> Survey:
    """Put together what was found out about the photos `names`, in this order.

    Args:
        wanted: whether all photos should have a pose.
    """
    count = len(names)
    blurred = look.blurred([found.blur for found in looks])
    twins = find_twins([found.picture for found in looks], shared)
    judged = trouble = None
    exchanged: list[tuple[int, int]] = []
    angles = np.full(0 if posed is None else len(posed.photo), np.nan)
    if shared is not None and posed is not None:
        matched, known = _matched(shared, posed, count)
        judged = epipolar.judge(matched)
        trouble = pose_trouble.find(matched, judged)
        exchanged = [] if trouble else pose_trouble.exchanged(matched, judged)
        by_chance = np.zeros(len(shared.pairs), bool)
        if trouble is None:
            by_chance[known] = epipolar.by_chance(matched, judged)
        angles = _pair_angles(matched, by_chance[known], len(angles))
        shared = shared.without(by_chance)
    stations = [] if posed is None else _stations(posed)
    groups = [] if shared is None else overlap.groups(count, with_stations(shared.pairs[shared.strong()], stations))
    groups = [group for group in groups if len(group) > 1]
    place = {} if posed is None else {int(photo): view for view, photo in enumerate(posed.photo)}
    group_of = {photo: number for number, group in enumerate(groups) for photo in group}
    neighbours, best = (
        ([None] * count,) * 2 if shared is None else (shared.neighbours().tolist(), shared.best().tolist())
    )
    pictures = []
    for i in range(count):
        view = place.get(i)
        misfit = judged is not None and trouble is None and view in judged.misfits
        pictures.append(
            Picture(
                name=names[i],
                look=looks[i],
                state="doubtful" if misfit else "posed" if view is not None else "unposed" if wanted else "photo",
                blurred=blurred[i],
                twin=twins[i],
                group=group_of.get(i),
                features=None if shared is None else int(shared.features[i]),
                neighbours=neighbours[i],
                matches=best[i],
                view=view,
                points=None if seen is None or view is None else int(seen.view_points[view]),
                parallax=_at(angles if seen is None else seen.view_parallax, view),
                error=_at(None if seen is None else seen.view_errors, view),
                baseline=_at(None if seen is None else seen.view_baselines, view),
                misfit=_at(None if judged is None else judged.photos, view),
            )
        )
    photo_of = [] if posed is None else posed.photo.tolist()
    return Survey(
        name=name,
        pictures=tuple(replace(picture, reason=why(i, pictures, shared, judged)) for i, picture in enumerate(pictures)),
        stations=tuple(stations),
        overlap=shared,
        groups=tuple(tuple(group) for group in groups),
        seen=seen,
        top=top,
        judged=judged,
        trouble=trouble,
        exchanged=tuple((photo_of[a], photo_of[b]) for a, b in exchanged),
        parallax=seen.parallax if seen is not None else _middle(angles),
        failure=failure,
        done=tuple(done),
    )


def with_stations(pairs: NDArray[np.int64], stations: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """[M,2] pairs that hang together, and those of photos taken from one place, which do without sharing anything."""
    links = [(station[0], other) for station in stations for other in station[1:]]
    return np.concatenate([pairs, np.array(links, np.int64).reshape(-1, 2)])


def _stations(posed: Posed) -> list[tuple[int, ...]]:
    """The photos with poses that were taken from one place, where there are several."""
    centres = np.linalg.inv(posed.viewmats)[:, :3, 3]
    size = float(np.abs(centres - np.median(centres, axis=0)).max()) or 1.0
    found: dict[tuple[float, ...], list[int]] = {}
    for photo, place in zip(posed.photo.tolist(), np.round(centres / size, 5).tolist(), strict=True):
        found.setdefault(tuple(place), []).append(photo)
    return [tuple(photos) for photos in found.values() if len(photos) > 1]


def find_twins(pictures: Sequence[NDArray[np.float32]], shared: Overlap | None) -> list[int | None]:
    """For each photo the first earlier one that is the same picture [32,32] (0..255): taken from the same place, in the
    same direction. Where matches of the two are known, they say so too. Bare walls are alike, but not the same."""
    flat = np.array([picture.ravel() for picture in pictures])
    limit = np.minimum(SAME_PICTURE, ALIKE * flat.std(axis=1))
    moved = {} if shared is None else dict(zip(map(tuple, shared.pairs.tolist()), shared.moved, strict=True))
    twins: list[int | None] = [None] * len(flat)
    for i in range(1, len(flat)):
        for j in np.flatnonzero(np.abs(flat[:i] - flat[i]).mean(axis=1) < limit[i]):
            if moved.get((int(j), i), 0.0) <= STILL:
                twins[i] = int(j)
                break
    return twins


def _matched(shared: Overlap, posed: Posed, count: int) -> tuple[Matched, NDArray[np.bool_]]:
    """The matches between photos with poses, as rays; and which of the pairs they are of."""
    row = np.full(count, -1)
    row[posed.photo] = np.arange(len(posed.photo))
    known = (row[shared.pairs] >= 0).all(axis=1) & (shared.counts >= ENOUGH)
    positions, of = shared.positions, shared.pair_of
    keep = known[of]
    ends = row[shared.pairs[of]]
    rays = [np.full((len(positions), 2), np.nan) for _ in range(2)]
    number = {camera: k for k, camera in enumerate(dict.fromkeys(posed.lenses))}
    lens_of = np.array([number[camera] for camera in posed.lenses])
    for side, (camera, k) in itertools.product(range(2), number.items()):
        here = keep & (lens_of[ends[:, side]] == k)
        if here.any():
            rays[side][here] = lens.unprojected(camera, positions[here, 2 * side : 2 * side + 2])
    keep &= np.isfinite(np.concatenate(rays, axis=1)).all(axis=1)
    lengths = np.bincount(of[keep], minlength=len(shared.pairs))[known]
    focal = np.array([lens.mean_focal(camera) / max(camera.width, camera.height) for camera in posed.lenses])
    matched = Matched(
        pairs=row[shared.pairs[known]],
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        weights=shared.counts[known],
        a=rays[0][keep],
        b=rays[1][keep],
        focal=focal * look.SIDE,
        viewmats=posed.viewmats,
    )
    return matched, known


def _pair_angles(matched: Matched, by_chance: NDArray[np.bool_], count: int) -> NDArray[np.float64]:
    """[P] degrees: the largest parallax of each posed photo with one that it overlaps."""
    result = np.full(count, np.nan)
    angle = epipolar.medians(epipolar.angles(matched), matched.starts)
    angle[by_chance] = np.nan
    for side in range(2):
        np.fmax.at(result, matched.pairs[:, side], angle)
    return result


def _at(values: NDArray[np.float64] | None, view: int | None) -> float:
    return math.nan if values is None or view is None else float(values[view])


def _middle(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan
