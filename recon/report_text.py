"""The report on a capture in words: what it found, as facts, and the short form for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recon.datasets.advice import Advice
from recon.datasets.survey import Survey

SHOWN = 6  # pieces of advice on the terminal; the page has all
MARKS = {"bad": "[bold red]✗[/]", "warn": "[bold yellow]![/]", "hint": "[bold blue]·[/]"}


@dataclass(frozen=True)
class Fact:
    """A figure of the capture: what it is, its value, and what it means or should be."""

    label: str
    value: str
    note: str = ""


def headline(survey: Survey) -> str:
    """How many photos there are, and how many have a pose."""
    count = len(survey.pictures)
    photos = f"{count} photo{'s' if count != 1 else ''}"
    if survey.failure:
        return f"{photos}, none with a pose"
    if not survey.posed:
        return photos
    return f"{len(survey.posed)} of {photos} have a pose" if len(survey.posed) < count else f"{photos}, all with a pose"


def facts(survey: Survey) -> list[Fact]:
    """What is known of all photos together."""
    pictures = survey.pictures
    found = []
    edges = _median([picture.look.blur for picture in pictures])
    if math.isfinite(edges):
        found.append(Fact("Edges", f"{edges:.1f} px", "wide in 1000; under 2 is sharp"))
    if survey.overlap is not None:
        others = _median([picture.neighbours for picture in pictures])
        groups = f"{len(survey.groups)} group{'s' if len(survey.groups) != 1 else ''}"
        found.append(Fact("Overlap", f"{others:.0f} photos", f"that each overlaps; {groups}"))
    if math.isfinite(survey.parallax):
        found.append(Fact("Parallax", f"{survey.parallax:.1f}°", "between rays to one point; over 2 is good"))
    baseline = _median([picture.baseline for picture in pictures])
    if math.isfinite(baseline):
        found.append(Fact("Step", f"{baseline:.2f}", "to the nearest photo, in distances to what is seen"))
    if survey.seen is not None:
        lengths = np.repeat(np.arange(len(survey.seen.lengths)), survey.seen.lengths)
        found.append(
            Fact("Points", f"{len(lengths):,}", f"half of them found in {_median(lengths):.0f} photos or more")
        )
    error = _median([picture.error for picture in pictures])
    if math.isfinite(error):
        found.append(Fact("Reprojection", f"{error:.2f} px", "of the photo; under 1 is good"))
    if survey.judged is not None and math.isfinite(survey.judged.usual):
        found.append(Fact("Poses", f"{survey.judged.usual:.1f} px", "from epipolar lines, in 1000; under 1 is good"))
    return found


def lines(survey: Survey, advice: Sequence[Advice]) -> list[str]:
    """The short form, in rich's markup: what to do, then the figures."""
    from rich.markup import escape

    said = [f"[bold]{escape(survey.name)}[/]: {headline(survey)}"]
    for one in advice[:SHOWN]:
        said.append(f"{MARKS[one.level]} [bold]{escape(one.title)}[/]")
        if one.todo:
            said.append(f"  {escape(one.todo)}")
    if len(advice) > SHOWN:
        said.append(f"  {len(advice) - SHOWN} more in the report")
    if not advice:
        said.append("[bold green]✓[/] Nothing is wrong with it.")
    said.append("  ".join(f"{fact.label} {fact.value}" for fact in facts(survey)))
    return said


def _median(values: Sequence[float | None] | np.ndarray) -> float:
    known = np.array([value for value in values if value is not None], np.float64)
    known = known[np.isfinite(known)]
    return float(np.median(known)) if len(known) else math.nan
