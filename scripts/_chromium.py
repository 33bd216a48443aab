"""A real browser for tests and pictures: headless Chromium, whose WebGL is in software."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",  # tests may run as root, and open nothing but our own page
    "--disable-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
# What three.js says of the splats of viser, whose corners have two coordinates; nothing is wrong with the picture.
KNOWN = "computeBoundingSphere"
SIZE: ViewportSize = {"width": 640, "height": 400}  # small, for every pixel is drawn by the CPU


def find_chromium() -> str | None:
    """Where Chromium is: as CHROMIUM says, or on the path."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def is_error(said: Any) -> bool:
    """Whether a message on the console tells of something wrong."""
    return said.type == "error" and KNOWN not in said.text


def is_bad(failed: Any) -> bool:
    """Whether a request that failed tells of something wrong: not if the page gave it up itself, as it does with the
    pictures that it is still reading when it is left."""
    return "ERR_ABORTED" not in (failed.failure or "")


@contextmanager
def watched(browser: Browser, **options: Any) -> Iterator[Page]:
    """A page in a window of its own; raises AssertionError at the end if it wrote an error to the console, threw, or
    asked for anything that it did not get or that is not of its own address."""
    context = browser.new_context(**{"viewport": SIZE, "device_scale_factor": 1, **options})
    context.set_default_timeout(60_000)
    page = context.new_page()
    wrong: list[str] = []
    allowed = ("data:", "blob:")

    def request(asked: Any) -> None:
        own = page.url.split("/")[2] if "//" in page.url else None
        if not asked.url.startswith(allowed) and own is not None and asked.url.split("/")[2] != own:
            wrong.append(f"asked for {asked.url}")

    page.on("console", lambda said: wrong.append(f"console: {said.text}") if is_error(said) else None)
    page.on("pageerror", lambda error: wrong.append(f"thrown: {error}"))
    page.on(
        "requestfailed",
        lambda failed: wrong.append(f"failed: {failed.url} {failed.failure}") if is_bad(failed) else None,
    )
    page.on("request", request)
    try:
        yield page
        assert not wrong, "; ".join(wrong)
    finally:
        context.close()
