"""The Path and Measure tabs under a real mouse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import tiny
from recon.subject import SplatSubject
from recon.viewer.look import Look, Vector
from recon.viewer.measure_panel import MeasurePanel
from recon.viewer.path_panel import PathPanel
from recon.viewer.viewer import Viewer
from serving import PATIENCE, drawn, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


@pytest.fixture
def viewer(tmp_path: Path) -> Iterator[Viewer]:
    viewer = Viewer(SplatSubject(tiny.gaussians(400)), folder=tmp_path, name="cloud", scene=tiny.scene(), port=0)
    with drawn(viewer):
        yield viewer


def open_tab(page: Page, viewer: Viewer, name: str) -> None:
    page.goto(viewer.address)
    wait_until(lambda: viewer.browsers() and viewer.browsers()[0].client.camera._state.update_timestamp > 0)
    page.get_by_role("tab", name=name, exact=True).click()


def test_views_that_are_looked_at_become_a_path_that_can_be_downloaded(tab: Page, viewer: Viewer) -> None:
    panel = PathPanel(viewer)
    open_tab(tab, viewer, "Path")
    tab.get_by_role("button", name="Add this view").click()
    wait_until(lambda: len(panel.tour) == 1)
    tab.mouse.move(150, 250)
    tab.mouse.down()
    tab.mouse.move(230, 260, steps=4)
    tab.mouse.up()
    before = panel.tour.stops[0].position
    wait_until(lambda: np.linalg.norm(viewer.browsers()[0].client.camera.position - before) > 0.1)
    tab.get_by_role("button", name="Add this view").click()
    wait_until(lambda: len(panel.tour) == 2)
    tab.get_by_text("File", exact=True).click()
    with tab.expect_download() as got:
        tab.get_by_role("button", name="Download", exact=True).click()
    assert got.value.suggested_filename == "path.json"
    first, second = (
        np.array(stop["position"]) for stop in json.loads(Path(got.value.path()).read_text())["tour"]["stops"]
    )
    assert np.linalg.norm(first - second) > 0.1
    assert (viewer.folder / "paths" / "path.json").is_file()


def test_two_clicks_measure_what_lies_between(tab: Page, viewer: Viewer) -> None:
    panel = MeasurePanel(viewer)
    open_tab(tab, viewer, "Measure")
    camera = viewer.camera(viewer.browsers()[0].client)
    assert (camera.width, camera.height) == (640, 400)

    def under(x: float, y: float) -> Vector | None:
        return viewer.run(lambda: viewer.subject.pick(camera, x, y, Look())).result(PATIENCE)

    below = [(x, y) for x in range(100, 600, 20) for y in (350, 370)]  # of the panel and the notices
    solid = [place for place in below if under(*place) is not None]
    places = [solid[0], solid[-1]]
    tab.get_by_role("button", name="Measure", exact=True).click()
    for (x, y), prompt in zip(places, ("Click on the first point.", "Click on the second point."), strict=True):
        tab.get_by_text(prompt).wait_for()
        tab.mouse.click(x, y)
    wait_until(lambda: len(panel.measures) == 1)
    measured = panel.measures[0]
    assert measured.start == pytest.approx(under(*places[0]), abs=0.02)
    assert measured.end == pytest.approx(under(*places[1]), abs=0.02)
    assert measured.length > 0.1
