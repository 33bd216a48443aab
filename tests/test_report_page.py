"""The page of a report: whole, alone in its file, safe from names, and bounded for many photos."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from recon import report_figures, report_page, report_text
from recon.datasets import advice, survey
from recon.datasets.coverage import Gap, Seen, Top
from recon.datasets.pictures import State
from recon.datasets.survey import Survey
from surveyed import chain, overlap, photo

NASTY = '<img src=x onerror="alert(1)">&amp;</script>[red]{{rows}}'
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Tags that are open and closed in order, what they hold, and all addresses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def made(count: int, name: str = "scene", first: str = "img") -> Survey:
    """A capture with all that a report can show."""
    looks = [photo(i) for i in range(min(count, 8))]
    names = [f"{first}_{i:04d}.jpg" for i in range(count)]
    links = chain(range(count))
    if count > 100:  # as many as a page lists
        links |= {(i, j): 50 for i in range(count) for j in range(i + 2, min(i + 45, count))}
    found = survey.survey(name, names, [looks[i % len(looks)] for i in range(count)], shared=overlap(count, links))
    states: list[State] = ["unposed" if i == 2 else "doubtful" if i == 3 else "posed" for i in range(count)]
    place = np.cumsum([state != "unposed" for state in states]) - 1
    views = int(place[-1]) + 1
    nothing = np.full(views, np.nan)
    seen = Seen(np.arange(13) * 10, 12.0, np.full(views, 5), nothing + 1, nothing, nothing)
    angle = np.linspace(0, 6, views)
    positions = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    points = np.random.default_rng(0).normal(0, 0.2, (500, 2))
    top = Top(positions, -positions, points, (Gap(70.0, 0, 1),) if views > 1 else ())
    pictures = tuple(
        replace(p, state=states[i], view=None if states[i] == "unposed" else int(place[i]), reason="no <reason>")
        for i, p in enumerate(found.pictures)
    )
    return replace(found, pictures=pictures, seen=seen, top=top, parallax=12.0, done=("photo by photo: <all>",))


def test_the_page_is_whole_and_alone() -> None:
    found = made(12)
    page = report_page.page(found, advice.give(found))
    reader = Reader(page)
    assert "{{" not in page
    assert reader.count("tr") == 12 + 1
    assert reader.count("table") == 1
    for tag, attributes in reader.tags:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:image/")
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"// [A-Z].*", "", page))
    policy = next(a["content"] for tag, a in reader.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_names_are_text_and_nothing_else() -> None:
    found = made(12, name=NASTY, first=NASTY)
    page = report_page.page(found, advice.give(found))
    reader = Reader(page)
    assert "onerror" not in {name for _, attributes in reader.tags for name in attributes}
    assert reader.count("script") == 2
    assert reader.count("img") == 12 + 1
    assert f"{NASTY}_0003" in reader.texts["td"]
    assert json.loads("".join(t for t in reader.texts["script"] if t.startswith("{")))["names"][3] == f"{NASTY}_0003"
    assert NASTY in reader.texts["h1"]


def test_a_page_of_1000_photos_is_bounded() -> None:
    found = made(1000)
    page = report_page.page(found, advice.give(found))
    assert len(page) < 4_000_000
    assert Reader(page).count("tr") == 1001


def test_rows_can_be_sorted_by_what_they_show() -> None:
    found = made(12)
    rows = re.findall(r"<tr>(.*?)</tr>", report_page.page(found, []))
    heads = len(re.findall("<th", rows[0]))
    for row in rows[1:]:
        keys = re.findall(r'<td[^>]*data-key="([^"]*)"', row)
        assert len(keys) == heads - 1  # the thumbnail has none
        assert all(key == "" or np.isfinite(float(key)) for key in keys)


def test_photos_alone_have_a_page_too() -> None:
    found = survey.survey("plain", ["a.jpg", "b.jpg"], [photo(0), photo(1)])
    reader = Reader(report_page.page(found, advice.give(found)))
    assert reader.count("tr") == 3
    assert "overlaps" not in {a.get("class") for tag, a in reader.tags if tag == "img"}


def test_the_picture_of_overlaps_has_a_pixel_for_each_pair() -> None:
    found = made(12)
    data = report_figures.overlaps(found).partition(",")[2]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert pixels.shape == (12, 12, 4)
    assert (pixels[..., 3] > 0).sum() == 12 + 2 * 11
    assert (pixels[[0, 4], [1, 5], 3] > 0).all()
    assert tuple(pixels[2, 2, :3]) == report_figures.COLOURS["unposed"]


def test_the_view_from_above_has_each_camera() -> None:
    found = made(12)
    drawing = report_figures.from_above(found)
    Reader(drawing)
    assert len(re.findall(r'class="camera posed"', drawing)) == 10
    assert len(re.findall(r'class="camera doubtful"', drawing)) == 1
    assert "70°" in drawing


def test_the_file_is_written(tmp_path: Path) -> None:
    found = made(5)
    report_page.write(found, [], tmp_path / "new" / "report.html")
    assert (tmp_path / "new" / "report.html").read_text("utf-8") == report_page.page(found, [])


@pytest.mark.parametrize("count", [1, 12])
def test_the_short_form_begins_with_advice_and_names_are_no_markup(count: int) -> None:
    found = made(count, name="[red]x[/]")
    console = Console(width=200, record=True, file=io.StringIO())
    given = advice.give(found)
    for line in report_text.lines(found, given):
        console.print(line, soft_wrap=True)
    said = console.export_text().splitlines()
    assert said[0].startswith("[red]x[/]: ")
    assert given[0].title in said[1]
    assert "Parallax 12.0°" in said[-1]
    assert len(said) <= 3 + 2 * report_text.SHOWN
