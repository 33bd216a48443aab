"""The page that needs no server, opened from the disk in a browser that is offline."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import tiny
from recon.gaussians import Gaussians
from recon.viewer import tour
from recon.viewer.share import share_page
from serving import wait_until
from shared_pages import splats_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

SIZE = (320, 240)
GROUND = (0.2, 0.3, 0.4)
READY = "#recon.ready"


@contextmanager
def opened(chromium: Browser, file: Path) -> Iterator[Page]:
    """The page, offline; fails at the end if it logged an error, threw, or asked for anything but itself."""
    import _chromium as browser

    asked: list[str] = []
    with browser.watched(chromium, viewport={"width": SIZE[0], "height": SIZE[1]}, offline=True) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_selector(READY, state="attached")
        yield page
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [file.as_uri()]


def picture(page: Page, *, bare: bool = True) -> NDArray[np.float32]:
    """What is on the page, [H,W,3]; `bare`: without what lies over the scene."""
    from PIL import Image

    hidden = "#recon, [class*=Notifications-root] { visibility: hidden }" if bare else ""
    return np.asarray(Image.open(io.BytesIO(page.screenshot(style=hidden))).convert("RGB"), np.float32)


def settled(page: Page) -> NDArray[np.float32]:
    """The picture when it has stopped to change: splats fade in, and are sorted."""
    pictures = [picture(page)]

    def rests() -> bool:
        pictures.append(picture(page))
        return bool(np.abs(pictures[-1] - pictures[-2]).max() < 2 and np.ptp(pictures[-1]) > 40)

    wait_until(rests, "a picture that rests", lambda: page.wait_for_timeout(300))
    return pictures[-1]


def wait_for_change(page: Page, before: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first picture that is clearly another."""
    pictures = [before]

    def changed() -> bool:
        pictures.append(picture(page))
        return bool(np.abs(pictures[-1] - before).mean() > 3)

    wait_until(changed, "another picture", lambda: page.wait_for_timeout(100))
    return pictures[-1]


def cloud() -> Gaussians:
    return tiny.gaussians(400, degree=0)


def drawn(model: Gaussians, camera: int) -> NDArray[np.float32]:
    with torch.no_grad():
        out = model.render(tiny.ring(8, *SIZE)[camera], background=torch.tensor(GROUND))
    return out.rgb[0].clamp(0, 1).mul(255).numpy()


def test_the_page_shows_what_the_rasteriser_draws(chromium: Browser, tmp_path: Path) -> None:
    model = cloud()
    text = share_page(
        splats_of(model),
        tiny.ring(8, *SIZE)[1],
        title="A <b>cloud</b>",
        description="<i>Many</i> splats",
        background=GROUND,
    )
    file = tmp_path / "page.html"
    file.write_text(text, encoding="utf-8")
    with opened(chromium, file) as page:
        shown = settled(page)
        right, other = (np.abs(shown - drawn(model, camera)).mean() for camera in (1, 2))
        assert right < 5  # of 255; splats in the wrong order differ by 20
        assert other > 3 * right
        assert page.locator("#recon summary").inner_text() == "A <b>cloud</b>"
        assert page.locator("#recon details p").first.text_content() == "<i>Many</i> splats"
        assert page.locator("#recon button").is_hidden()
        page.locator("#recon summary").click()
        assert page.locator("#recon details").get_attribute("open") is not None


def test_the_path_plays_until_the_visitor_takes_over(chromium: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    cameras = tiny.ring(8, *SIZE)
    path = tour.through(cameras, 6.0, closed=True)
    file.write_text(share_page(splats_of(cloud()), cameras[1], title="A cloud", tour=path), encoding="utf-8")
    playing = "#recon.playing"
    with opened(chromium, file) as page:
        page.wait_for_selector(playing, state="attached")
        shown = picture(page)
        for _ in range(3):
            shown = wait_for_change(page, shown)
        page.keyboard.press("Space")
        page.wait_for_selector(playing, state="detached")
        resting = settled(page)
        page.locator("#recon button").click()
        page.wait_for_selector(playing, state="attached")
        wait_for_change(page, resting)
        page.mouse.move(12, 120)  # beside what viser says of WebGL in software
        page.mouse.down()
        page.wait_for_selector(playing, state="detached")
        page.mouse.up()
