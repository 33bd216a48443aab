"""PlayCanvas's splat-transform, which reads and writes most splat formats and shares no code with us.

`npm install @playcanvas/splat-transform`, and then RECON_SPLAT_TRANSFORM=node_modules/.bin/splat-transform.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def convert(source: Path, target: Path, *options: str) -> Path:
    """Have it read one file and write another; the test is skipped where it is not installed."""
    tool = os.environ.get("RECON_SPLAT_TRANSFORM") or shutil.which("splat-transform")
    if tool is None:
        pytest.skip("splat-transform is not installed, or RECON_SPLAT_TRANSFORM does not say where")
    command = [tool, "-q", "-w", "-g", "cpu", str(source), *options, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return target
