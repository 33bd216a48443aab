"""What to do about poses that do not fit, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from recon.datasets.naming import listing
from recon.datasets.pose_trouble import Trouble
from recon.datasets.survey import Survey

Words = tuple[Literal["bad", "warn"], str, str, tuple[int, ...]]


def give(survey: Survey) -> Iterator[Words]:
    """(level, what is wrong, what to do, photos), the most important first."""
    if survey.trouble is not None:
        title, todo = _trouble(survey.trouble)
        yield "bad", title, todo, ()
        return
    names = [picture.name for picture in survey.pictures]
    told = {i for pair in survey.exchanged for i in pair}
    for pair in survey.exchanged:
        yield (
            "bad",
            f"{listing(names, pair)} have each other's pose",
            "Exchange the two; files may have been renamed.",
            pair,
        )
    usual = 0.0 if survey.judged is None else survey.judged.usual
    for i, picture in enumerate(survey.pictures):
        if picture.state == "doubtful" and i not in told:
            off = f"{picture.misfit:.0f} px off, where others are {usual:.1f}"
            title = f"The pose of {listing(names, [i])} does not fit: {off}"
            yield "bad", title, "Leave the photo out, or find its pose again.", (i,)


def _trouble(trouble: Trouble) -> tuple[str, str]:
    off = f"{trouble.before:.1f} px off, and {trouble.after:.1f} px"
    if trouble.kind == "focal":
        return (
            f"The focal length is wrong: points are {off} with {trouble.value:.2f} times the focal length",
            "Correct it in the capture's file; photos may have been resized without it.",
        )
    if trouble.kind == "distortion":
        return (
            f"The lens bends, and its camera does not know: points are {off} without the bend",
            "Give the distortion coefficients, or the undistorted photos.",
        )
    if trouble.kind in ("axes", "mirrored"):
        how = "one axis mirrored" if trouble.kind == "mirrored" else "the cameras' axes turned"
        return (
            f"The poses are written for other axes: points are {off} with {how}",
            "OpenGL's cameras (+y up, +z back) and OpenCV's (+y down, +z forward) are often taken for each other.",
        )
    if trouble.kind == "inverse":
        return (
            f"Camera to world and world to camera are taken for each other: points are {off} with poses inverted",
            "Invert the matrices.",
        )
    if trouble.kind == "shifted":
        step = f"{abs(trouble.value):.0f} photo{'s' if abs(trouble.value) > 1 else ''}"
        which = "after" if trouble.value > 0 else "before"
        return (
            f"Photos have the poses of others: points are {off} with the pose that stands {step} {which} each",
            "The photos were renamed, or one is missing at the beginning of the list.",
        )
    if trouble.kind == "reversed":
        return (
            f"The photos have each other's poses: points are {off} with the list of poses turned round",
            "The order of the photos is not that of the poses.",
        )
    if trouble.kind == "backwards":
        return (
            f"The cameras look backwards: {1 - trouble.value:.0%} of what they see lies behind them",
            "The viewing direction has the wrong sign: OpenGL's cameras look along -z, OpenCV's along +z.",
        )
    return (
        f"The poses do not fit the photos: points are {trouble.before:.0f} px off",
        "Check that the photos are the ones that the poses are of; or find the poses again: recon capture.",
    )
