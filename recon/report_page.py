"""The report on a capture as one page: a file without a network, for every browser, by day and by night.

Its size is bounded: thumbnails get smaller where there are many, and only the strongest overlaps are listed.
"""

from __future__ import annotations

import base64
import html
import importlib.resources
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon.datasets.advice import Advice
from recon.datasets.files import atomic_write
from recon.datasets.naming import short
from recon.datasets.pictures import FEW_FEATURES, Picture
from recon.datasets.survey import Survey
from recon.report_figures import from_above, is_apart, overlaps, strip
from recon.report_text import facts, headline

MANY = 200  # photos: more of them have smaller thumbnails
SMALLER = 84  # px
SHOWN = 12  # thumbnails beside advice
LISTED = 40_000  # pairs of photos whose matches are listed
STATES = {"posed": "has a pose", "doubtful": "pose does not fit", "unposed": "no pose", "photo": ""}


@dataclass(frozen=True)
class _Column:
    """A column of the table: its head, a number for each photo, how it is written, and when it stands out."""

    head: str
    value: Callable[[Picture], float | None]
    form: str
    off: Callable[[Picture], bool] = lambda _: False


COLUMNS = (
    _Column("Edges px", lambda p: p.look.blur, "{:.1f}", lambda p: p.blurred),
    _Column("Brightness", lambda p: 100 * p.look.brightness, "{:.0f}%"),
    _Column("White", lambda p: 100 * p.look.bright, "{:.0f}%"),
    _Column(
        "Features", lambda p: p.features, "{:,.0f}", lambda p: p.features is not None and p.features < FEW_FEATURES
    ),
    _Column("Overlaps", lambda p: p.neighbours, "{:.0f}", lambda p: p.neighbours == 0),
    _Column("Most matches", lambda p: p.matches, "{:,.0f}"),
    _Column("Points", lambda p: p.points, "{:,.0f}"),
    _Column("Parallax", lambda p: p.parallax, "{:.1f}°"),
    _Column("Step", lambda p: p.baseline, "{:.2f}"),
    _Column("Reproj. px", lambda p: p.error, "{:.2f}"),
    _Column("Pose px", lambda p: p.misfit, "{:.1f}", lambda p: p.state == "doubtful"),
)


def write(survey: Survey, advice: Sequence[Advice], target: Path) -> None:
    """Write the page of a capture to the file `target`."""
    with atomic_write(target) as file:
        file.write(page(survey, advice).encode())


def page(survey: Survey, advice: Sequence[Advice]) -> str:
    """The page, as a text. Names come from files and are escaped."""
    parts = {
        "title": html.escape(f"{survey.name}: report on the capture"),
        "name": html.escape(survey.name),
        "headline": html.escape(headline(survey)),
        "advice": "".join(map(_advice, advice)) or '<li class="good"><b>Nothing is wrong with this capture.</b></li>',
        "facts": "".join(
            f"<div><dt>{html.escape(fact.label)}</dt><dd>{fact.value}<small>{html.escape(fact.note)}</small></dd></div>"
            for fact in facts(survey)
        ),
        "sections": _figures(survey) + _strips(survey),
        "footer": "".join(f"Tried {html.escape(line)}.<br>" for line in survey.done),
        "data": _data(survey),
    }
    known = [column for column in COLUMNS if any(_is_known(column.value(p)) for p in survey.pictures)]
    parts["columns"] = _heads(known)
    parts["rows"] = "".join(_row(i, picture, known, survey) for i, picture in enumerate(survey.pictures))
    template = importlib.resources.files("recon").joinpath("report.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _advice(advice: Advice) -> str:
    todo = f"<p>{html.escape(advice.todo)}</p>" if advice.todo else ""
    few = " ".join(str(i) for i in advice.photos[:SHOWN])
    shown = f'<div class="few" data-photos="{few}"></div>' if few else ""
    return f'<li class="{advice.level}"><b>{html.escape(advice.title)}</b>{todo}{shown}</li>'


def _figures(survey: Survey) -> str:
    """The view from above and the overlaps, side by side where there is room."""
    figures = []
    if survey.top is not None:
        seen = [picture for picture in survey.pictures if picture.view is not None]
        kinds = {
            "posed": ("has a pose", True),
            "apart": ("overlaps none of these", any(map(is_apart, seen))),
            "doubtful": ("pose does not fit", any(picture.state == "doubtful" for picture in seen)),
        }
        keys = "".join(
            f'<span class="key"><i class="{kind}"></i>{said}</span>' for kind, (said, shown) in kinds.items() if shown
        )
        rest = len(survey.pictures) - len(seen)
        left = f" Not shown: {rest} without a pose." if rest else ""
        figures.append(
            f'<section><h2>From above</h2><div class="plate">{from_above(survey)}</div><p class="note">{keys}Dots are'
            f" what was found; lines join photos that share most.{left}</p></section>"
        )
    if survey.overlap is not None:
        figures.append(
            f'<section><h2>Overlap</h2><div class="plate"><img class="overlaps" alt="Overlap of each photo with each"'
            f' src="{overlaps(survey)}"></div><p class="note" id="overlap">Each photo with each, in the order of their'
            " names; the stronger, the more matches. Point at one to see which.</p></section>"
        )
    return f'<div class="pair">{"".join(figures)}</div>' if figures else ""


def _strips(survey: Survey) -> str:
    """Bars of the photos in the order of their names."""
    pictures = survey.pictures
    blur = strip(pictures, [p.look.blur for p in pictures], [p.blurred for p in pictures], 6.0)
    shown = [
        ("Blur", "width of edges, px in 1000; low is sharp", blur),
        ("Brightness", "mean of the photo", strip(pictures, [p.look.brightness for p in pictures], _no(survey), 1.0)),
    ]
    if survey.overlap is not None:
        most = max(1, *(picture.matches or 0 for picture in pictures))
        marked = [picture.group is None for picture in pictures]
        bars = strip(pictures, [math.sqrt((p.matches or 0) / most) for p in pictures], marked, 1.0)
        shown.append(("Matches", f"with the photo it shares most with; at most {most:,}", bars))
    seen = "".join(f"<figure><figcaption><b>{a}</b>, {b}</figcaption>{bars}</figure>" for a, b, bars in shown)
    tracks = ""
    if survey.seen is not None:
        lengths = survey.seen.lengths[2:].tolist()
        told = f"points found in 2, 3, ... {len(lengths) + 1} or more photos; more is firmer"
        tracks = f"<figure><figcaption><b>Tracks</b>, {told}</figcaption>{_histogram(lengths)}</figure>"
    return f'<h2>One by one</h2><div class="pair">{seen}{tracks}</div>'


def _histogram(counts: Sequence[int]) -> str:
    width, most = 1000 / len(counts), max(1, *counts)
    bars = "".join(
        f'<path class="bar" d="M{i * width:.0f} 120v-{height:.1f}h{width - 6:.0f}v{height:.1f}z"/>'
        for i, height in enumerate(120 * count / most for count in counts)
    )
    return f'<svg class="strip" viewBox="0 0 1000 120" preserveAspectRatio="none">{bars}</svg>'


def _heads(known: Sequence[_Column]) -> str:
    heads = ["<th></th>", '<th class="text" aria-sort="ascending"><button>Photo</button></th>']
    heads.append('<th class="text"><button>State</button></th>')
    return "".join([*heads, *(f"<th><button>{html.escape(column.head)}</button></th>" for column in known)])


def _row(index: int, picture: Picture, known: Sequence[_Column], survey: Survey) -> str:
    name = html.escape(short(picture.name))
    source = f"data:image/jpeg;base64,{base64.b64encode(_thumbnail(picture, len(survey.pictures))).decode()}"
    said = _said(picture, survey)
    state = f'<span class="state {picture.state}">{STATES[picture.state]}</span>' if STATES[picture.state] else ""
    # Photos of which there is something to say come first, or last.
    rank = 2 * list(STATES).index(picture.state) + (1 if said else 0)
    cells = [
        f'<td><img alt="" loading="lazy" src="{source}"></td>',
        f'<td class="text name" data-key="{index}">{name}</td>',
        f'<td class="text" data-key="{rank}">{state}<small>{html.escape(said)}</small></td>',
    ]
    for column in known:
        value = column.value(picture)
        off = ' class="off"' if column.off(picture) else ""
        if value is None or not _is_known(value):
            cells.append(f'<td{off} data-key=""></td>')
        else:
            cells.append(f'<td{off} data-key="{value:.6g}">{column.form.format(value)}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _said(picture: Picture, survey: Survey) -> str:
    """What there is to say of a photo."""
    said = [picture.reason]
    if picture.blurred and "blurred" not in picture.reason:
        said.append("blurred")
    if picture.twin is not None and "same picture" not in picture.reason:
        said.append(f"the same picture as {short(survey.pictures[picture.twin].name)}")
    return "; ".join(part for part in said if part)


def _thumbnail(picture: Picture, count: int) -> bytes:
    if count <= MANY:
        return picture.look.thumbnail
    from PIL import Image

    written = io.BytesIO()
    with Image.open(io.BytesIO(picture.look.thumbnail)) as image:
        image.thumbnail((SMALLER, SMALLER))
        image.save(written, "JPEG", quality=60)
    return written.getvalue()


def _data(survey: Survey) -> str:
    """Names and matches for the page's script, as JSON that no name can end."""
    pairs: list[int] = []
    if survey.overlap is not None:
        order = np.argsort(-survey.overlap.counts, kind="stable")[:LISTED]
        pairs = np.column_stack([survey.overlap.pairs, survey.overlap.counts])[order].ravel().tolist()
    names = [short(picture.name) for picture in survey.pictures]
    return json.dumps({"names": names, "pairs": pairs}, separators=(",", ":")).replace("<", "\\u003c")


def _no(survey: Survey) -> list[bool]:
    return [False] * len(survey.pictures)


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
