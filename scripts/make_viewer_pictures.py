#!/usr/bin/env python
"""Make the pictures of docs/viewer.md: the viewer in a browser, as it looks in every mode and with every tab.

    recon demo && python scripts/make_viewer_pictures.py demo

Needs Chromium (on the path, or as CHROMIUM says). Writes docs/viewer*.jpg.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import Browser, Page

import _chromium
from _viewer_client import drawn
from recon import machine, opening, runs, viewing
from recon.datasets.files import atomic_write
from recon.live import LiveView
from recon.loading import newest_state
from recon.opening import initial_model
from recon.options import Address
from recon.sharing import write_page
from recon.subject import SplatSubject
from recon.train import start, train
from recon.viewer.look import Mode
from recon.viewer.viewer import Viewer
from recon.viewing import Shown, open_source

DOCS = Path(__file__).resolve().parent.parent / "docs"
WINDOW = {"width": 1000, "height": 640}
TILE = (480, 307)
MODES: dict[Mode, float] = {"rgb": 1, "depth": 1, "normals": 1, "alpha": 1, "ellipsoids": 1, "points": 3}  # and sizes
CPU = torch.device("cpu")


class Shot:
    """A page that shows a viewer, and what is done in it."""

    def __init__(self, viewer: Viewer, page: Page) -> None:
        self.viewer, self.page = viewer, page
        page.goto(viewer.address)
        page.wait_for_function("document.querySelector('[role=tab]') !== null", timeout=60_000)
        self.rest(3000)

    def rest(self, ms: int = 1500) -> None:
        self.page.wait_for_timeout(ms)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()
        self.rest(300)

    def choose(self, label: str, value: str) -> None:
        self.page.get_by_label(label, exact=True).first.click()
        self.page.get_by_role("option", name=value, exact=True).click()
        self.rest()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).first.click()
        self.rest()

    def click_at(self, x: float, y: float) -> None:
        self.page.mouse.click(x * WINDOW["width"], y * WINDOW["height"])
        self.rest()

    def stroke(self, *points: tuple[float, float]) -> None:
        (x, y), *others = points
        self.page.mouse.move(x * WINDOW["width"], y * WINDOW["height"])
        self.page.mouse.down()
        for x, y in others:
            self.page.mouse.move(x * WINDOW["width"], y * WINDOW["height"], steps=8)
        self.page.mouse.up()
        self.rest()

    def picture(self) -> Image.Image:
        return Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")


def write(name: str, picture: Image.Image) -> None:
    with atomic_write(DOCS / name) as file:
        picture.save(file, format="JPEG", quality=82, optimize=True)
    print(f"Wrote docs/{name}")


@contextmanager
def served(shown: Shown, browser: Browser) -> Iterator[Shot]:
    with (
        drawn(viewing.make_viewer(shown, Address(port=0), edits=True)) as viewer,
        _chromium.watched(browser, viewport=WINDOW) as page,
    ):
        yield Shot(viewer, page)


def modes(shot: Shot) -> None:
    """All there is to see, without the panel, in two rows."""
    client, tiles = shot.viewer.browsers()[0].client, []
    camera = shot.viewer.camera(client, *(2 * side for side in TILE))
    for mode, size in MODES.items():
        look = dataclasses.replace(shot.viewer.look(client), mode=mode, size=size)
        drawn = shot.viewer.run(functools.partial(shot.viewer.subject.draw, camera, look)).result(30)
        tiles.append(np.asarray(Image.fromarray(drawn).resize(TILE, Image.Resampling.LANCZOS)))
    rows = [np.concatenate(tiles[i : i + 3], axis=1) for i in (0, 3)]
    write("viewer_modes.jpg", Image.fromarray(np.concatenate(rows)))


def photos(shot: Shot) -> None:
    shot.tab("Photos")
    shot.choose("Pyramids", "All")
    shot.rest(6000)
    shot.page.mouse.move(400, 400)
    shot.page.mouse.wheel(0, 900)
    shot.rest(4000)
    write("viewer_photos.jpg", shot.picture())
    shot.choose("Pyramids", "None")
    shot.tab("View")
    shot.press("Start")


def comparison(shot: Shot) -> None:
    shot.page.get_by_text("Beside a photo", exact=True).click()
    shot.choose("Compare", "Wipe")
    write("viewer_wipe.jpg", shot.picture())
    shot.choose("Compare", "Error")
    write("viewer_error.jpg", shot.picture())
    shot.choose("Compare", "Off")
    shot.page.get_by_text("Beside a photo", exact=True).click()


def edit(shot: Shot) -> None:
    shot.tab("Edit")
    shot.choose("Select by", "Brush")
    shot.press("Paint")
    shot.stroke((0.32, 0.50), (0.36, 0.58), (0.40, 0.52))
    write("viewer_brush.jpg", shot.picture())
    shot.page.keyboard.press("Escape")
    shot.press("Delete")
    write("viewer_deleted.jpg", shot.picture())
    shot.press("Undo")
    shot.press("Clear")
    shot.choose("Select by", "Off")
    shot.page.get_by_text("Crop", exact=True).click()
    shot.rest()
    shot.page.get_by_label("Only what is in a box").click()
    shot.rest(2500)
    write("viewer_crop.jpg", shot.picture())
    shot.page.get_by_label("Only what is in a box").click()
    shot.rest()


def measure(shot: Shot) -> None:
    shot.tab("Measure")
    shot.press("Measure")
    shot.click_at(0.3, 0.45)
    shot.click_at(0.48, 0.72)
    write("viewer_measure.jpg", shot.picture())
    shot.press("All")


def path(shot: Shot) -> None:
    shot.tab("Path")
    shot.press("Orbit")
    shot.page.mouse.move(400, 400)
    shot.page.mouse.wheel(0, 900)
    shot.rest(2500)
    write("viewer_path.jpg", shot.picture())
    shot.press("Clear")
    shot.tab("View")
    shot.press("Start")


def files(shot: Shot) -> None:
    shot.tab("File")
    write("viewer_file.jpg", shot.picture())


def help_page(shot: Shot) -> None:
    shot.page.keyboard.press("?")
    shot.rest(500)
    write("viewer_help.jpg", shot.picture())
    shot.page.keyboard.press("Escape")


def shared(shown: Shown, browser: Browser) -> None:
    with tempfile.TemporaryDirectory() as folder:
        page_file = Path(folder) / "page.html"
        description = "Made by recon from 60 photos, on a CPU."
        write_page(page_file, shown.subject, "A garden table", shown.scene, description=description)
        small = {side: length * 3 // 5 for side, length in WINDOW.items()}  # for a browser that draws on the CPU
        context = browser.new_context(viewport=small)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(page_file.as_uri())
        page.wait_for_timeout(90_000)  # splats fade in, over many frames
        notices = "[class*=Notifications-root] { visibility: hidden }"
        picture = Image.open(io.BytesIO(page.screenshot(style=notices, timeout=120_000))).convert("RGB")
        context.close()
    write("viewer_share.jpg", picture)


def training(demo: Path, browser: Browser) -> None:
    """The viewer in the middle of a training."""
    run = runs.find(demo / "runs")
    state = newest_state(run)
    scene = opening.scene_of(run, CPU)
    state = start(initial_model(scene, state.config, CPU), state.config, scene)
    subject = SplatSubject(state.model)
    shown = Shown(subject, scene.name, Path(tempfile.gettempdir()), scene)
    viewer = viewing.make_viewer(shown, Address(port=0), edits=False)
    live = LiveView(viewer, subject, state, scene, stopping=lambda: done.is_set())
    done = threading.Event()

    def until_done(*_: Any) -> None:
        if done.is_set():
            raise InterruptedError

    def run_it() -> None:
        try:
            train(state, scene.train_views, callbacks=[live, until_done])
        except InterruptedError:
            return

    thread = threading.Thread(target=run_it)
    thread.start()
    with _chromium.watched(browser, viewport=WINDOW) as page:
        shot = Shot(viewer, page)
        shot.tab("Training")
        shot.rest(25_000)
        write("viewer_training.jpg", shot.picture())
        page.goto("about:blank")
    done.set()
    thread.join()
    live.close()


PARTS: dict[str, Callable[[Shot], None]] = {
    "modes": modes,
    "photos": photos,
    "comparison": comparison,
    "edit": edit,
    "measure": measure,
    "path": path,
    "file": files,
    "help": help_page,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--only", nargs="*", choices=[*PARTS, "share", "training"], help="make these alone")
    arguments = parser.parse_args()
    machine.use_threads(None)
    chromium = _chromium.find_chromium()
    if chromium is None:
        parser.error("no Chromium: none on the path, and CHROMIUM names none")
    wanted = arguments.only or [*PARTS, "share", "training"]
    shown = open_source(arguments.demo / "runs", CPU)
    with _chromium.chromium(chromium) as browser:
        if set(wanted) & set(PARTS):
            with served(shown, browser) as shot:
                for name, part in PARTS.items():
                    if name in wanted:
                        part(shot)
        if "share" in wanted:
            shared(shown, browser)
        if "training" in wanted:
            training(arguments.demo, browser)


if __name__ == "__main__":
    main()
