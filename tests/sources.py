"""The project's source files as tests see them: which modules there are, and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

needs_sources = pytest.mark.skipif(not (ROOT / "datasets").is_dir(), reason="the sources are not beside the tests")


def modules(folder: str, package: str) -> dict[str, Path]:
    """Module name -> file, for the files of a folder and of the folders in it. Links to other folders do not count."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        inner = path.relative_to(ROOT / folder)
        if not any((ROOT / folder / parent).is_symlink() for parent in inner.parents):
            parts = [*package.split("."), *inner.with_suffix("").parts]
            found[".".join(part for part in parts if part not in ("", "__init__"))] = path
    return found


DATASETS = modules("datasets", "recon.datasets")
VIEWER = modules("viewer", "recon.viewer")
RECON = modules("recon", "recon")
SCRIPTS = modules("scripts", "scripts")
TESTS = modules("tests", "")
PACKAGE = DATASETS | VIEWER | RECON


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Full names of everything imported anywhere in a module, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package and node.level == 1 else -node.level + is_package]
                base = ".".join([*parents, *filter(None, [base])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
