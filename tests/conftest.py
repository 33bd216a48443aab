"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# The same examples in every run, so that what passed here passes elsewhere; `--hypothesis-profile=default` for others.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")

if not torch.cuda.is_available():  # Triton's interpreter runs its kernels then; it asks once, when it is imported
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """A folder of the real captures under RECON_DATA; the test is skipped where it is not there."""

    def find(name: str) -> Path:
        root = os.environ.get("RECON_DATA")
        if not root:
            pytest.skip("RECON_DATA is not set")
        path = Path(root) / name
        if not path.exists():
            pytest.skip(f"RECON_DATA has no {name}")
        return path

    return find


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A running browser; tests that open one are skipped where there is none."""
    pytest.importorskip("playwright", reason="Playwright is not installed")
    import _chromium as browser

    path = browser.find_chromium()
    if path is None:
        pytest.skip("no Chromium: none on the path, and CHROMIUM names none")
    with browser.chromium(path) as running:
        yield running


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Page]:
    """A window of the browser; the test fails if its page throws, logs an error, or asks anyone else for anything."""
    import _chromium as browser

    with browser.watched(chromium) as page:
        yield page
