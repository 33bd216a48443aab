"""Who may import whom, and how long a file may be: the layers as ARCHITECTURE.md draws them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sources import DATASETS, PACKAGE, RECON, ROOT, SCRIPTS, TESTS, VIEWER, imports, needs_sources, within

MAX_LINES = 400

pytestmark = needs_sources


def offences(files: dict[str, Path], forbidden: Callable[[str], bool]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for module, path in files.items()
        for name in imports(path.read_text("utf-8"), module, path.name == "__init__.py")
        if forbidden(name)
    ]


def test_imports_are_found_wherever_and_however_they_are_written() -> None:
    source = """
import a.b as c
from . import sibling
from .other import thing
from .. import up
def f():
    if True:
        from x.y import z
"""
    assert set(imports(source, "p.q.m")) == {"a.b", "p.q.sibling", "p.q.other.thing", "p.up", "x.y.z"}
    assert set(imports("from . import m", "p.q", is_package=True)) == {"p.q.m"}
    assert set(imports("from .. import m", "p.q", is_package=True)) == {"p.m"}
    assert len(DATASETS) > 5
    assert len(RECON) > 15
    assert "recon.datasets.cameras" in DATASETS
    assert "recon.raster.reference" in RECON
    assert not set(DATASETS) & set(RECON)


def test_datasets_know_nothing_of_the_rest() -> None:
    assert offences(DATASETS, lambda name: within(name, "recon") and not within(name, "recon.datasets")) == []


def test_the_viewer_knows_the_datasets_alone() -> None:
    assert (
        offences(VIEWER, lambda name: within(name, "recon") and not within(name, "recon.datasets", "recon.viewer"))
        == []
    )


def test_kernels_are_numpy_in_and_numpy_out() -> None:
    kernels = {name: path for name, path in RECON.items() if within(name, "recon.kernels")}
    assert len(kernels) > 2
    assert (
        offences(
            kernels, lambda name: within(name, "torch") or (within(name, "recon") and not within(name, "recon.kernels"))
        )
        == []
    )


# What a command goes through to the viewer or to camera paths; `LOOKERS` know the viewer's plain data alone.
COMMANDS = (
    "recon.cli",
    "recon.cli_train",
    "recon.__main__",
    "recon.live",
    "recon.rendering",
    "recon.sharing",
    "recon.viewing",
)
LOOKERS = ("recon.subject", "recon.field_subject", "recon.selecting", "recon.comparing")


def test_only_commands_see_every_layer() -> None:
    others = {name: path for name, path in RECON.items() if name not in COMMANDS}
    plain = ("recon.viewer.look", "recon.viewer.subject")
    assert offences(others, lambda name: within(name, "recon.cli", "recon.live", "recon.viewing")) == []
    assert offences(others, lambda name: within(name, "recon.viewer") and not within(name, *plain)) == []
    unseeing = {name: path for name, path in others.items() if name not in LOOKERS}
    assert offences(unseeing, lambda name: within(name, "recon.viewer")) == []


def test_nerfstudio_is_imported_by_what_it_loads_alone() -> None:
    read = ("runs", "settings", "nerfacto", "nerfacto_weights")  # what reads its runs needs nothing of it
    loaded = {name for name in RECON if within(name, "recon.nerfstudio")} - {
        "recon.nerfstudio",
        *(f"recon.nerfstudio.{name}" for name in read),
    }
    assert len(loaded) > 3
    others = {name: path for name, path in PACKAGE.items() if name not in loaded}
    assert offences(others, lambda name: within(name, "nerfstudio", *loaded)) == []


def test_the_folders_are_imported_by_their_installed_names() -> None:
    """`datasets` is also another distribution's package."""
    assert offences(PACKAGE | SCRIPTS | TESTS, lambda name: within(name, "datasets", "viewer")) == []


def test_files_are_short_enough_to_read() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines())
        for path in [*PACKAGE.values(), *SCRIPTS.values(), *TESTS.values()]
    }
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


HEAVY = {"torch", "numba", "scipy", "pycolmap", "trimesh", "embreex", "imageio", "av", "torchmetrics", "PIL", "gsplat"}


@pytest.mark.parametrize(
    "code",
    [
        "import recon",
        "import runpy, sys; sys.argv = ['recon', '--help']; runpy.run_module('recon', run_name='__main__')",
        "import runpy, sys; sys.argv = ['recon', 'train', '--help']; runpy.run_module('recon', run_name='__main__')",
    ],
    ids=["import recon", "recon --help", "recon train --help"],
)
def test_help_and_import_load_nothing_heavy(code: str) -> None:
    report = "import atexit, sys; atexit.register(lambda: print('MODULES', *sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", f"{report}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "100"},
    )
    loaded = result.stdout.rpartition("MODULES ")[2].split()
    assert "recon" in loaded
    assert HEAVY & set(loaded) == set()
