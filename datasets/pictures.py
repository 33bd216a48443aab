"""What is known of one photo of a capture, and why it has no pose, or one that does not fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from recon.datasets.epipolar import Judged
from recon.datasets.look import Look
from recon.datasets.naming import listing
from recon.datasets.overlap import Overlap

FEW_FEATURES = 150  # in a photo of `look.SIDE` pixels or more: too little texture
WEAK = 50  # matches: photos that hang together by fewer hardly do
DARK = 0.2  # of 1: what 95% of the pixels of a photo that is too dark stay below
WHITE = 0.25  # share of white pixels of a photo that is too bright

State = Literal["posed", "doubtful", "unposed", "photo"]


@dataclass(frozen=True)
class Picture:
    """A photo, and what is known of it; None or nan is what is not known.

    Attributes:
        state: posed; doubtful: has a pose that does not fit; unposed: should have one; photo: no poses were looked for.
        reason: why it is doubtful or unposed, in words.
        twin: an earlier photo that is the same picture.
        group: number of the group that it overlaps with; None where it overlaps no other.
        matches: with the photo with which it has most.
        view: its place among the views that have a pose.
        points, parallax, error, baseline: see `coverage.Seen`.
        misfit: median distance from the epipolar lines of its neighbours, px of a photo 1000 px long.
    """

    name: str
    look: Look
    state: State = "photo"
    reason: str = ""
    blurred: bool = False
    twin: int | None = None
    group: int | None = None
    features: int | None = None
    neighbours: int | None = None
    matches: int | None = None
    view: int | None = None
    points: int | None = None
    parallax: float = math.nan
    error: float = math.nan
    baseline: float = math.nan
    misfit: float = math.nan


def why(index: int, pictures: Sequence[Picture], shared: Overlap | None, judged: Judged | None) -> str:
    """Why a photo has no pose, or one that is doubtful, in words; empty of one that is as it should be."""
    picture = pictures[index]
    if picture.state == "doubtful" and judged is not None:
        return f"its pose does not fit: {picture.misfit:.0f} px off, where others are {judged.usual:.1f}"
    if picture.state != "unposed":
        return ""
    if picture.twin is not None:
        return f"the same picture as {pictures[picture.twin].name}"
    if shared is None:
        return ""
    soft = "blurred: " if picture.blurred else ""
    if (picture.features or 0) < FEW_FEATURES:
        light = "too dark: " if is_dark(picture.look) else "too bright: " if is_white(picture.look) else ""
        return f"{soft or light}only {picture.features} features" + ("" if soft or light else ", so too little texture")
    if picture.group is None:
        chance = f" ({picture.matches} matches at most)" if picture.matches else ""
        return f"{soft}overlaps no other photo{chance}"
    near = shared.neighbours_of(index)
    posed = [i for i in near if pictures[i].view is not None]
    if not posed:
        return f"{soft}overlaps only photos without a pose: {listing([p.name for p in pictures], near, most=2)}"
    if (picture.matches or 0) < WEAK:
        return f"{soft}overlaps the others too little: {picture.matches} matches at most"
    said = listing([p.name for p in pictures], posed, most=2)
    return f"{soft}overlaps {said}, but no pose agrees with them"


def is_dark(look: Look) -> bool:
    return look.lightest < DARK


def is_white(look: Look) -> bool:
    return look.bright > WHITE
