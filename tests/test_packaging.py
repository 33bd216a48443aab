"""What a wheel of the project holds, and what it must not: `datasets` at top level belongs to another distribution."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from typing import Any

import pytest

from sources import PACKAGE, ROOT, imports, needs_sources

pytestmark = needs_sources


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the sources, where no older build can leak in."""
    pytest.importorskip("build", reason="the package `build` is not installed")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in ("recon", "datasets", "viewer"):
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def read(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_only_recon_is_at_top_level(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    (info,) = (name for name in top if name.endswith(".dist-info"))
    assert top == {"recon", info}
    assert read(wheel, "top_level.txt").split() == ["recon"]


def test_every_module_is_inside_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    expected = {"recon/py.typed", "recon/report.html", "recon/viewer/share.html"}
    expected |= {f"recon/viewer/js/{path.name}" for path in (ROOT / "viewer" / "js").iterdir()}
    for folder, target in (("recon", "recon"), ("datasets", "recon/datasets"), ("viewer", "recon/viewer")):
        for path in (ROOT / folder).rglob("*.py"):
            inner = path.relative_to(ROOT / folder)
            if folder != "recon" or inner.parts[0] not in ("datasets", "viewer"):
                expected.add(f"{target}/{inner.as_posix()}")
    assert {"recon/datasets/cameras.py", "recon/raster/reference.py", "recon/viewer/__init__.py"} <= expected
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected


def test_the_command_the_licence_and_the_extras_are_declared(wheel: zipfile.ZipFile) -> None:
    assert "recon = recon.__main__:main" in read(wheel, "entry_points.txt")
    assert "Apache License" in read(wheel, "licenses/LICENSE")
    metadata = read(wheel, "METADATA")
    assert "License-Expression: Apache-2.0" in metadata
    for extra in ("cuda", "dev", "lpips", "track"):
        assert f"Provides-Extra: {extra}" in metadata


def test_the_packages_of_the_source_tree_are_all_listed() -> None:
    """setuptools would leave a folder out in silence."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"recon", "recon.datasets", "recon.viewer"}
    for path in (ROOT / "recon").glob("*/__init__.py"):
        found.add(f"recon.{path.parent.name}")
    assert listed == found


# nerfstudio comes without its requirements, which contradict ours (docs/nerfstudio.md); tiny-cuda-nn is on no index.
UNDECLARED = ("nerfstudio", "tinycudann")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def distribution(requirement: str) -> str:
    """The normalised name in a requirement such as "imageio[pyav]>=2.36; marker"."""
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-").replace(".", "-")


def test_every_import_is_declared() -> None:
    """Installed by the base or an extra, not by luck as a dependency of something else."""
    extras = project()["optional-dependencies"]
    used = [*project()["dependencies"], *(each for name in set(extras) - {"dev"} for each in extras[name])]
    declared = {distribution(requirement) for requirement in used}
    owners = importlib.metadata.packages_distributions()
    missing = {}
    for module, path in PACKAGE.items():
        for name in imports(path.read_text("utf-8"), module, path.name == "__init__.py"):
            root = name.partition(".")[0]
            if root not in sys.stdlib_module_names and root not in ("recon", *UNDECLARED):
                candidates = {distribution(owner) for owner in owners.get(root, [root])}
                if not candidates & declared:
                    missing[root] = str(path.relative_to(ROOT))
    assert missing == {}


def test_the_tested_set_is_pinned_exactly_and_covers_what_is_declared() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = {}
    for line in lines:
        name, separator, version = line.partition("==")
        assert separator, f"not a pin: {line}"
        assert "+" not in version, f"a build of one index alone: {line}"
        pins[distribution(name)] = version
    assert len(pins) == len(lines)
    for requirement in [*project()["dependencies"], *project()["optional-dependencies"]["dev"]]:
        own = distribution(requirement) == project()["name"]  # with extras, which are for machines of all kinds
        assert own or distribution(requirement) in pins, requirement
