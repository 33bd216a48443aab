"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

# The same examples in every run, so that what passed here passes elsewhere; `--hypothesis-profile=default` for others.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")


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
