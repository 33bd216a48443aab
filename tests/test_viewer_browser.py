"""The whole viewer in a real browser: what is seen is what the rasteriser draws, and what is done there has effects."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import tiny
from recon import config, export, viewing
from recon.live import LiveView
from recon.opening import initial_model
from recon.options import Address
from recon.subject import SplatSubject
from recon.train import start, train
from recon.viewer.look import Box
from recon.viewer.viewer import Viewer
from recon.viewing import Shown
from serving import PATIENCE, drawn, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

CLEAR = (slice(170, 400), slice(0, 300))  # rows and columns of the window that neither notices nor panels lie over


class Seen:
    """A page that shows a viewer."""

    def __init__(self, viewer: Viewer, page: Page) -> None:
        self.viewer, self.page = viewer, page
        page.goto(viewer.address)
        self.wait(viewer.browsers, "a browser")
        self.wait(lambda: viewer.browsers()[0].stated, "a picture")
        start = viewer.server.initial_camera.position
        self.wait(lambda: np.allclose(viewer.browsers()[0].client.camera.position, start, atol=1e-3), "at the start")

    def wait(self, true: Callable[[], Any], what: str) -> None:
        wait_until(true, what, lambda: self.page.wait_for_timeout(50))

    def pixels(self) -> NDArray[np.uint8]:
        """The window's clear part."""
        picture = np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))
        return picture[CLEAR]

    def drawn(self) -> NDArray[np.uint8]:
        """What the rasteriser makes of it."""
        viewer, client = self.viewer, self.viewer.browsers()[0].client
        camera, look = viewer.camera(client), viewer.look(client)
        return viewer.run(lambda: viewer.subject.draw(camera, look)).result(PATIENCE)[CLEAR]

    def agrees(self, most: float = 3.0) -> bool:
        """Whether both are the same, but for the JPEG between them: mean difference, of 255."""
        return float(np.abs(self.pixels().astype(int) - self.drawn().astype(int)).mean()) < most

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def choose(self, label: str, value: str) -> None:
        """From a dropdown."""
        self.page.get_by_label(label, exact=True).first.click()
        self.page.get_by_role("option", name=value, exact=True).click()


@contextmanager
def served(shown: Shown, page: Page) -> Iterator[Seen]:
    with drawn(viewing.make_viewer(shown, Address(port=0), edits=True)) as viewer:
        try:
            yield Seen(viewer, page)
        finally:
            page.goto("about:blank")


def cloud(folder: Path) -> Shown:
    return Shown(SplatSubject(tiny.gaussians(300)), "cloud", folder)


@pytest.fixture(scope="module")
def seen(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """One page for tests that change nothing but how the cloud is seen."""
    import _chromium as browser

    with browser.watched(chromium) as page, served(cloud(tmp_path_factory.mktemp("seen")), page) as seen:
        yield seen


def test_the_browser_shows_what_the_rasteriser_draws(seen: Seen) -> None:
    assert seen.drawn().std() > 20  # there is something to see
    seen.wait(seen.agrees, "the cloud")
    before = seen.drawn()
    mouse = seen.page.mouse
    mouse.move(150, 300)
    mouse.down()
    mouse.move(220, 320, steps=4)
    mouse.up()
    seen.wait(lambda: np.abs(seen.drawn().astype(int) - before).mean() > 5, "the camera elsewhere")
    seen.wait(seen.agrees, "the cloud from there")


@pytest.mark.parametrize("mode", ["Depth", "Normals", "Opacity", "Ellipsoids", "Points"])
def test_every_mode_is_shown(mode: str, seen: Seen) -> None:
    def show(label: str, mode: str) -> None:
        seen.choose("Show", label)
        seen.wait(lambda: seen.viewer.look(seen.viewer.browsers()[0].client).mode == mode, f"mode {label}")

    before = seen.drawn()
    show(mode, mode.lower() if mode != "Opacity" else "alpha")
    assert np.abs(seen.drawn().astype(int) - before).mean() > 5
    seen.wait(lambda: seen.agrees(4.0), f"a picture of {mode}")
    show("Colour", "rgb")


def test_a_browser_that_is_asked_to_draws_the_splats_itself(tab: Page, tmp_path: Path) -> None:
    """Without harmonics, and with another sorting: alike, not the same."""
    model = tiny.gaussians(300, degree=0)
    with torch.no_grad():
        model.means *= 0.5
        model.log_scales -= 1
    subject = SplatSubject(model)
    with served(Shown(subject, "cloud", tmp_path), tab) as seen:
        seen.choose("Drawn", "By this browser")
        seen.wait(lambda: "by this browser" in seen.viewer.browsers()[0].stated, "splats")
        seen.wait(lambda: seen.agrees(8.0), "splats that look like the picture")


def test_a_training_in_the_browser_goes_on_to_the_same_result(tab: Page, tmp_path: Path) -> None:
    scene, settings = tiny.scene(), config.for_steps(200)
    alone = start(initial_model(scene, settings, torch.device("cpu")), settings, scene)
    train(alone, scene.train_views)
    state = start(initial_model(scene, settings, torch.device("cpu")), settings, scene)
    subject = SplatSubject(state.gaussians)
    viewer = viewing.make_viewer(Shown(subject, "tiny", tmp_path, scene), Address(port=0), edits=False)
    live = LiveView(viewer, subject, state, scene)
    live.panel.paused = True  # until the page is there
    thread = threading.Thread(target=lambda: train(state, scene.train_views, callbacks=[live]))
    thread.start()
    try:
        seen = Seen(viewer, tab)
        assert state.step == 1
        seen.tab("Training")
        tab.get_by_role("button", name="Go on").click()
        seen.wait(lambda: state.step == 200, "the last step")
        thread.join(PATIENCE)
        assert "Paused" not in live.panel.state.content
    finally:
        live.panel.paused = False
        thread.join(PATIENCE)
        tab.goto("about:blank")
        live.close()
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, state.model.state_dict()[name]), name


def test_splats_are_painted_deleted_and_brought_back(tab: Page, tmp_path: Path) -> None:
    shown = cloud(tmp_path)
    subject = shown.subject
    assert isinstance(subject, SplatSubject)
    with served(shown, tab) as seen:
        before = seen.drawn().astype(int)
        seen.tab("Edit")
        seen.choose("Select by", "Brush")
        tab.get_by_role("button", name="Paint").wait_for()
        seen.wait(lambda: tab.locator("html[data-recon-brush=on]").count(), "the brush in hand")
        tab.mouse.move(180, 230)
        tab.mouse.down()
        tab.mouse.move(290, 260, steps=6)
        tab.mouse.up()
        seen.wait(lambda: subject.selected > 0, "a selection")
        selected = subject.selected
        assert selected < 300
        assert np.abs(seen.drawn() - before).mean() > 2
        seen.wait(seen.agrees, "orange")  # once no word of the brush lies over it
        tab.get_by_text(f"{selected} of 300 splats selected.").wait_for()
        tab.keyboard.press("Delete")
        seen.wait(lambda: subject.deleted == selected, "the deletion")
        seen.wait(seen.agrees, "a hole")
        tab.keyboard.press("Control+z")
        seen.wait(lambda: (subject.deleted, subject.selected) == (0, selected), "all back and selected")
        tab.keyboard.press("Control+z")
        seen.wait(lambda: subject.selected == 0, "as at first")
        assert np.array_equal(seen.drawn(), before)


def test_a_box_is_moved_by_its_arrows(tab: Page, tmp_path: Path) -> None:
    """The box's centre is where the camera looks at first, and an arrow goes upwards from it."""
    shown = cloud(tmp_path)
    tab.set_viewport_size({"width": 1000, "height": 400})  # or else the panel lies over it
    with served(shown, tab) as seen:
        seen.tab("Edit")
        seen.choose("Select by", "Box")
        preview = tab.get_by_text("makes that")
        preview.wait_for()
        before = preview.inner_text()

        def moved() -> bool:
            """Whether a drag did it: before the box is drawn, it turns the camera."""
            x, y, depth = project(seen, (0.0, 0.0, 0.2))
            assert depth > 0
            tab.mouse.move(x, y)
            tab.mouse.down()
            tab.mouse.move(x, y - 60, steps=6)
            tab.mouse.up()
            tab.wait_for_timeout(300)
            return preview.inner_text() != before

        seen.wait(moved, "another preview")
        assert isinstance(shown.subject, SplatSubject)
        assert shown.subject.selected == 0
        seen.wait(lambda: seen.agrees(6.0), "what is in the box")  # but for its lines


def project(seen: Seen, point: tuple[float, float, float]) -> tuple[float, float, float]:
    """Where in the window a point is, px, and how far away."""
    camera = seen.viewer.camera(seen.viewer.browsers()[0].client)
    positions, depths = camera.project(torch.tensor([point], dtype=torch.float64))
    return float(positions[0, 0, 0]), float(positions[0, 0, 1]), float(depths[0, 0])


def test_what_is_deleted_and_cropped_in_the_page_is_not_in_the_file_that_it_exports(tab: Page, tmp_path: Path) -> None:
    shown = cloud(tmp_path)
    before = shown.subject.count

    def exported(seen: Seen) -> int:
        """How many splats the file has that the page makes."""
        file = tmp_path / "exports" / "scene.ply"
        file.unlink(missing_ok=True)
        seen.tab("File")
        tab.get_by_role("button", name="Export", exact=True).click()
        seen.wait(file.is_file, "a file")
        return len(export.load(file))

    with served(shown, tab) as seen:
        seen.tab("Edit")
        seen.choose("Select by", "Large splats")
        tab.get_by_role("button", name="Select", exact=True).click()
        tab.get_by_role("button", name="Delete", exact=True).click()
        seen.wait(lambda: shown.subject.count < before, "a deletion")
        left = shown.subject.count
        assert exported(seen) == left
        seen.tab("Edit")
        tab.get_by_text("Crop", exact=True).click()
        tab.get_by_label("Only what is in a box").click()
        seen.wait(lambda: seen.viewer.crop is not None, "a crop box")
        seen.viewer.crop = Box((0.0, 0.0, 0.0), (0.6, 0.6, 0.6))
        cropped = exported(seen)
        assert 0 < cropped < left
