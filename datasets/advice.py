"""What to do about a capture, in plain words, the most important first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from recon.datasets import overlap, pose_advice
from recon.datasets.epipolar import Array
from recon.datasets.naming import listing, short
from recon.datasets.overlap import Overlap
from recon.datasets.pictures import FEW_FEATURES, WEAK, Picture, is_dark, is_white
from recon.datasets.survey import Survey, with_stations

Level = Literal["bad", "warn", "hint"]
LEVELS: tuple[Level, ...] = ("bad", "warn", "hint")

FEWEST, FEW = 5, 10  # photos
GROUP = 3  # photos, of which a group of its own is one and not a stray
MOST = 0.5  # share of the photos: more of them are "most"
FLAT = 0.85  # share of pairs that a plane or a turn explains
LITTLE_PARALLAX = 1.5  # degrees
UNLIKE = 1.6  # times as different in colour as photos of a group are among themselves: of another place
JUMP = 1.0  # stops of brightness between photos that overlap
ROUGH = 2.0  # px, of reprojection


@dataclass(frozen=True)
class Advice:
    """One thing to know: what it is, what to do about it, and the photos that it is about."""

    level: Level
    title: str
    todo: str = ""
    photos: tuple[int, ...] = ()


def give(survey: Survey) -> list[Advice]:
    """All there is to say of a capture; empty of one that is good."""
    found = [
        *([Advice("bad", "No poses were found", _sentence(survey.failure))] if survey.failure else []),
        *(Advice(level, title, todo, photos) for level, title, todo, photos in pose_advice.give(survey)),
        *_number(survey),
        *_twins(survey),
        *_texture(survey),
        *_groups(survey),
        *_blur(survey),
        *_unposed(survey),
        *_parallax(survey),
        *_gaps(survey),
        *_exposure(survey),
        *_error(survey),
    ]
    return sorted(found, key=lambda advice: LEVELS.index(advice.level))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _list(survey: Survey, photos: Iterable[int], most: int = 6) -> str:
    return listing([picture.name for picture in survey.pictures], photos, most=most)


def _number(survey: Survey) -> Iterator[Advice]:
    count = sum(picture.twin is None for picture in survey.pictures)
    if count < FEW:
        different = " different" if count < len(survey.pictures) else ""
        yield Advice(
            "bad" if count < FEWEST else "hint",
            f"Only {count}{different} photo{'s' if count != 1 else ''}",
            "Take 20 to 60, a step apart, all round what you want to see: each part of it has to be in three or more.",
        )


def _twins(survey: Survey) -> Iterator[Advice]:
    twins = _those(survey, lambda picture: picture.twin is not None)
    if twins:
        first = sorted({picture.twin for picture in survey.pictures if picture.twin is not None})
        all_same = len(twins) == len(survey.pictures) - 1
        yield Advice(
            "bad" if len(twins) > MOST * len(survey.pictures) else "warn",
            "All photos are the same picture" if all_same else f"The same picture again: {_list(survey, twins)}",
            ("" if all_same else f"They repeat {_list(survey, first)} and add nothing. ")
            + "Move the camera a step between photos.",
            tuple(twins),
        )


def _texture(survey: Survey) -> Iterator[Advice]:
    bare = _bare(survey)
    if bare:
        yield Advice(
            _weight(survey, bare),
            f"Too little texture: {_list(survey, bare)}",
            "Nothing in them can be found again in another photo. Take in more of the surroundings, or put something"
            " patterned there, such as a newspaper; plain and shiny things need it most.",
            tuple(bare),
        )


def _bare(survey: Survey) -> list[int]:
    """Photos with too few features for no other reason."""
    return _those(
        survey,
        lambda picture: (
            picture.features is not None
            and picture.features < FEW_FEATURES
            and not (picture.blurred or is_dark(picture.look) or is_white(picture.look))
        ),
    )


def _groups(survey: Survey) -> Iterator[Advice]:
    shared = survey.overlap
    if shared is None or len(survey.pictures) < GROUP:
        return
    large = [group for group in survey.groups if len(group) >= GROUP]
    if not large:
        if len(_those(survey, lambda picture: picture.group is None)) > MOST * len(survey.pictures):
            yield Advice(
                "bad",
                "The photos do not overlap",
                "Each should share more than half of its picture with the next: go round in small steps.",
            )
        return
    for group in large[1:]:
        yield _apart(survey, large[0], group)
    strong = with_stations(shared.pairs[shared.strong(WEAK)], survey.stations)
    hardly = overlap.groups(len(survey.pictures), strong)
    known = set(large[0])
    parts = [part for part in hardly if len(part) >= GROUP and known.issuperset(part)]
    for part in parts[1:]:
        yield Advice(
            "hint",
            f"Hardly any overlap between {_list(survey, part, 3)} and the others",
            f"They share fewer than {WEAK} matches. Take a few more photos {_between(survey, parts[0], part)}.",
            tuple(part),
        )


def _apart(survey: Survey, main: Sequence[int], group: Sequence[int]) -> Advice:
    todo = (
        f"Take photos {_between(survey, main, group)}, in steps that share more than half of the picture with the one"
        " before."
    )
    other = _is_unlike([survey.pictures[i] for i in main], [survey.pictures[i] for i in group])
    if other:
        todo = (
            "They differ in colour too, so they may show another place: then put them in a folder of their own. If not,"
            f" {todo[0].lower()}{todo[1:]}"
        )
    if survey.done and all(any(survey.pictures[i].view is not None for i in part) for part in (main, group)):
        todo += " Both have poses, but little holds the two together: how they lie to each other may be wrong."
    return Advice(
        "bad",
        f"No overlap between these groups: {_list(survey, main, 3)}; {_list(survey, group, 3)}",
        todo,
        tuple(group),
    )


def _between(survey: Survey, main: Sequence[int], group: Sequence[int]) -> str:
    """Where photos of two groups follow each other: between the two that are nearest by name."""
    one, other = min(((a, b) for a in main for b in group), key=lambda pair: (abs(pair[0] - pair[1]), pair))
    first, second = (short(survey.pictures[i].name) for i in sorted((one, other)))
    return f"between {first} and {second}"


def _is_unlike(main: Sequence[Picture], group: Sequence[Picture]) -> bool:
    """Whether the colours of two groups differ much more than those of photos within each do."""
    colours = [np.array([picture.look.colours for picture in pictures], np.float64) for pictures in (main, group)]
    means = [part.mean(axis=0) for part in colours]
    within = np.mean([_difference(part, mean).mean() for part, mean in zip(colours, means, strict=True)])
    return float(_difference(means[0], means[1])) > UNLIKE * max(float(within), 0.1)


def _difference(one: Array, other: Array) -> Array:
    """0..1, of shares of colours."""
    return 1 - np.minimum(one, other).sum(axis=-1)


def _blur(survey: Survey) -> Iterator[Advice]:
    soft = _those(survey, lambda picture: picture.blurred)
    if not soft:
        return
    usual = _median([p.look.blur for p in survey.pictures if p.look.blur is not None and not p.blurred])
    here = _median([survey.pictures[i].look.blur for i in soft])
    run = any(i + 1 in soft and i + 2 in soft for i in soft)
    how = (
        "Walk slower, or use more light and a shorter exposure"
        if run
        else "Hold the camera still, let it focus, or use more light and a shorter exposure"
    )
    compared = f", elsewhere {usual:.1f}" if np.isfinite(usual) else ""
    yield Advice(
        _weight(survey, soft),
        "All photos are blurred" if len(soft) == len(survey.pictures) else f"Blurred: {_list(survey, soft)}",
        f"{how}, and take them again. (Edges are {here:.1f} px wide in 1000{compared}.)",
        tuple(soft),
    )


def _unposed(survey: Survey) -> Iterator[Advice]:
    """Photos that were left out of a model for which nothing else was said."""
    if survey.failure:
        return
    explained = {i for group in [g for g in survey.groups if len(g) >= GROUP][1:] for i in group}
    explained |= set(_bare(survey))
    rest = [
        i
        for i, picture in enumerate(survey.pictures)
        if picture.state == "unposed" and i not in explained and picture.twin is None and not picture.blurred
    ]
    if rest:
        one = survey.pictures[rest[0]]
        said = _sentence(one.reason) if len(rest) == 1 else f"{short(one.name)}: {one.reason}."
        yield Advice(
            "warn",
            f"Without a pose: {_list(survey, rest)}",
            f"{said} Take photos that share more than half of the picture with these and their neighbours.",
            tuple(rest),
        )


def _parallax(survey: Survey) -> Iterator[Advice]:
    shared = survey.overlap
    if survey.parallax < LITTLE_PARALLAX:
        yield Advice(
            "warn",
            f"The camera hardly moved: its rays to a point differ by {survey.parallax:.1f} degrees",
            "Depth comes from looking at things from different places. Step aside between photos; turning on the spot"
            " gives none.",
        )
    elif shared is not None and (survey.done or not survey.posed):  # poses of other programs may be measured ones
        strong = shared.strong()
        if (
            len(strong) >= GROUP
            and shared.flat[strong].mean() > FLAT
            and not _those(survey, lambda p: p.twin is not None)
        ):
            guess = " The poses that were found are a guess." if survey.posed else ""
            yield Advice(
                "bad",
                "The camera only turned, or saw one flat thing",
                "Depth comes from looking at things from different places. Step aside between photos, and take in what"
                f" stands before other things.{guess}",
            )


def _gaps(survey: Survey) -> Iterator[Advice]:
    if survey.top is None or survey.trouble is not None:
        return
    photo = {picture.view: i for i, picture in enumerate(survey.pictures) if picture.view is not None}
    for gap in survey.top.gaps:
        before, after = photo[gap.before], photo[gap.after]
        yield Advice(
            "hint",
            f"A gap of {gap.angle:.0f} degrees on the way round, between {_list(survey, [before])} and"
            f" {_list(survey, [after])}",
            "What faces there was seen from the side at best. Take photos there too.",
            (before, after),
        )


def _exposure(survey: Survey) -> Iterator[Advice]:
    dark = _those(survey, lambda picture: is_dark(picture.look))
    white = _those(survey, lambda picture: is_white(picture.look))
    if dark:
        yield Advice("warn", f"Too dark: {_list(survey, dark)}", "Use more light or a longer exposure.", tuple(dark))
    if white:
        yield Advice(
            "warn",
            f"Large parts are plain white: {_list(survey, white)}",
            "Expose for the bright parts, or keep windows and lamps out of the picture.",
            tuple(white),
        )
    jumps = _jumps(survey.pictures, survey.overlap)
    if jumps:
        yield Advice(
            "hint",
            f"Brightness jumps at {_list(survey, jumps)}",
            "Lock exposure and white balance before the first photo.",
            tuple(jumps),
        )


def _jumps(pictures: Sequence[Picture], shared: Overlap | None) -> list[int]:
    """Photos that are brighter or darker than most of those that they overlap, by a stop or more."""
    if shared is None:
        return []
    level = np.log2([max(picture.look.brightness, 1e-3) ** 2.2 for picture in pictures])
    strong = shared.pairs[shared.counts >= WEAK]
    steps = np.abs(np.diff(level[strong], axis=1)[:, 0]) > JUMP
    pairs, jumps = (np.bincount(some.ravel(), minlength=len(pictures)) for some in (strong, strong[steps]))
    return [int(i) for i in np.flatnonzero(jumps * 2 > pairs)]


def _error(survey: Survey) -> Iterator[Advice]:
    error = _median([p.error for p in survey.pictures if np.isfinite(p.error)])
    if error > ROUGH:
        yield Advice(
            "warn",
            f"Points lie {error:.1f} px from where the poses put them",
            "Below 1 px is usual. Things that move, a zoom that was changed, or photos that were cropped do that.",
        )


def _those(survey: Survey, has: Callable[[Picture], bool]) -> list[int]:
    """The photos of which something holds; of those taken from one place, only if it holds of all."""
    found = {i for i, picture in enumerate(survey.pictures) if has(picture)}
    excused = {i for station in survey.stations if not found.issuperset(station) for i in station}
    return sorted(found - excused)


def _weight(survey: Survey, photos: Sequence[int]) -> Level:
    return "bad" if len(photos) > MOST * len(survey.pictures) else "warn"


def _median(values: Sequence[float | None]) -> float:
    return float(np.median(np.array(values, np.float64))) if values else float("nan")
