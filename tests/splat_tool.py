"""Programs of others that read our files, and share no code with us.

PlayCanvas's splat-transform reads and writes most splat formats, and Khronos's glTF validator knows what a .glb has to
be: `npm install @playcanvas/splat-transform gltf-validator`, and then
RECON_SPLAT_TRANSFORM=node_modules/.bin/splat-transform and RECON_GLTF_VALIDATOR=node_modules/gltf-validator.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

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


def validated(path: Path) -> list[dict[str, Any]]:
    """What the validator says of a .glb: `code`, `message`, `severity` (0 error, 1 warning, 2 and 3 less); the test is
    skipped where it is not installed."""
    validator, node = os.environ.get("RECON_GLTF_VALIDATOR"), shutil.which("node")
    if not validator or node is None:
        pytest.skip("the glTF validator is not installed, or RECON_GLTF_VALIDATOR does not say where, or node is not")
    ask = (
        "const [module, file] = process.argv.slice(1); const bytes = new Uint8Array(require('fs').readFileSync(file));"
        "require(module).validateBytes(bytes).then(report => console.log(JSON.stringify(report.issues.messages)));"
    )
    command = [node, "-e", ask, str(Path(validator).resolve()), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)
