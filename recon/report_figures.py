"""The figures of a report: the view from above and strips of bars as SVG, the overlaps as a small picture."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recon.datasets.naming import short
from recon.datasets.pictures import Picture
from recon.datasets.survey import Survey

SIZE = 1000  # units across the view from above
EDGES = 3  # lines to others that each camera has in the view from above
STRIP = 120  # units high
COLOURS = {"posed": (31, 138, 154), "photo": (31, 138, 154), "doubtful": (217, 140, 20), "unposed": (214, 69, 65)}
DARKEST = 400  # matches of the strongest colour


def from_above(survey: Survey) -> str:
    """An SVG of the cameras, coloured by their state, what they saw, and gaps on the way round; empty without poses."""
    top = survey.top
    if top is None:
        return ""
    low, high = _frame(top.positions, top.points)
    scale = SIZE / float((high - low).max())

    def place(points: NDArray[np.float64]) -> NDArray[np.float64]:
        middle = SIZE / 2 + (points - (low + high) / 2) * scale
        return np.stack([middle[:, 0], SIZE - middle[:, 1]], axis=-1)

    cameras, points = place(top.positions), place(top.points)
    points = points[((points > 0) & (points < SIZE)).all(axis=1)]
    dots = "".join(f"M{x:.0f} {y:.0f}h0" for x, y in points)
    photo = {picture.view: picture for picture in survey.pictures if picture.view is not None}
    half = min(16.0, 5 + 250 / len(cameras))
    drawn = [f'<path class="points" d="{dots}"/>', f'<path class="edges" d="{_edges(survey, cameras)}"/>']
    for gap in top.gaps:
        (x, y), (u, v) = cameras[gap.before], cameras[gap.after]
        drawn.append(f'<path class="gap" d="M{x:.0f} {y:.0f}L{u:.0f} {v:.0f}"/>')
        drawn.append(f'<text class="gap" x="{(x + u) / 2:.0f}" y="{(y + v) / 2:.0f}">{gap.angle:.0f}°</text>')
    for view, ((x, y), heading) in enumerate(zip(cameras, top.headings, strict=True)):
        picture = photo[view]
        name = html.escape(short(picture.name))
        kind = f"{picture.state} apart" if is_apart(picture) else picture.state
        drawn.append(f'<path class="camera {kind}" d="{_wedge(x, y, heading, half)}"><title>{name}</title></path>')
        if picture.state == "doubtful":
            drawn.append(f'<text x="{x:.0f}" y="{y - 1.6 * half:.0f}">{name}</text>')
    return (
        f'<svg class="above" viewBox="0 0 {SIZE} {SIZE}" role="img" aria-label="The cameras from above">'
        f"{''.join(drawn)}</svg>"
    )


def is_apart(picture: Picture) -> bool:
    """Whether a photo hangs together with others, but not with most."""
    return bool(picture.group)


def _wedge(x: float, y: float, heading: NDArray[np.float64], half: float) -> str:
    """A triangle that points where a camera looks; shorter, the more it looks up or down."""
    length = float(np.hypot(*heading))
    along = np.array([heading[0], -heading[1]]) / max(length, 1e-9)
    across = np.array([-along[1], along[0]])
    tip = along * half * (0.6 + 1.6 * length)
    corners = [tip, -along * half * 0.5 + across * half, -along * half * 0.5 - across * half]
    return "M" + "L".join(f"{x + c[0]:.1f} {y + c[1]:.1f}" for c in corners) + "Z"


def _edges(survey: Survey, cameras: NDArray[np.float64]) -> str:
    """Lines between cameras that overlap, to those with which each shares most."""
    shared = survey.overlap
    if shared is None:
        return ""
    strong = shared.strong()
    order = strong[np.argsort(-shared.counts[strong], kind="stable")]
    drawn = [0] * len(survey.pictures)
    lines = []
    for i, j in shared.pairs[order].tolist():
        a, b = survey.pictures[i].view, survey.pictures[j].view
        if a is None or b is None or min(drawn[i], drawn[j]) >= EDGES:
            continue
        drawn[i] += 1
        drawn[j] += 1
        (x, y), (u, v) = cameras[a], cameras[b]
        lines.append(f"M{x:.0f} {y:.0f}L{u:.0f} {v:.0f}")
    return "".join(lines)


def _frame(
    cameras: NDArray[np.float64], points: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The corners of what is shown: all cameras, and the points that are not far away, with a margin."""
    low, high = cameras.min(axis=0), cameras.max(axis=0)
    if len(points):
        reach = float((high - low).max()) or 1.0
        inner, outer = np.quantile(points, (0.05, 0.95), axis=0)
        low, high = np.minimum(low, np.maximum(inner, low - reach)), np.maximum(high, np.minimum(outer, high + reach))
    margin = 0.06 * float((high - low).max()) + 1e-6
    return low - margin, high + margin


def overlaps(survey: Survey) -> str:
    """A PNG as a data URI, a pixel for each pair of photos: the more matches, the stronger. On the diagonal are the
    photos themselves, in the colours of their states."""
    from PIL import Image

    count = len(survey.pictures)
    pixels = np.zeros((count, count, 4), np.uint8)
    pixels[..., :3] = COLOURS["posed"]
    if survey.overlap is not None:
        i, j = survey.overlap.pairs[survey.overlap.strong()].T
        matches = survey.overlap.counts[survey.overlap.strong()]
        strength = 40 + 215 * np.log2(1 + matches).clip(max=np.log2(DARKEST)) / np.log2(DARKEST)
        pixels[i, j, 3] = pixels[j, i, 3] = strength.astype(np.uint8)
    for i, picture in enumerate(survey.pictures):
        pixels[i, i] = (*COLOURS[picture.state], 255)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def strip(pictures: Sequence[Picture], values: Sequence[float | None], marked: Sequence[bool], top: float) -> str:
    """An SVG of a bar for each photo, up to `top`; marked ones stand out."""
    width = 1000 / max(len(pictures), 1)
    paths = {False: "", True: ""}
    for i, (value, mark) in enumerate(zip(values, marked, strict=True)):
        height = 0.0 if value is None or not np.isfinite(value) else min(value / top, 1.0) * STRIP
        paths[mark] += f"M{i * width:.1f} {STRIP}v-{height:.1f}h{max(width - 1, 0.8 * width):.1f}v{height:.1f}z"
    return (
        f'<svg class="strip" viewBox="0 0 1000 {STRIP}" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="bar" d="{paths[False]}"/><path class="bar marked" d="{paths[True]}"/></svg>'
    )
