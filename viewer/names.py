"""Names of files that come from the page: none of them leads out of the folder it is meant for."""

from __future__ import annotations

import re
from pathlib import Path

from recon.datasets.errors import InputError

NAME = re.compile(r"\w[\w .+-]{0,62}[\w+-]|\w")
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}


def file_in(folder: Path, name: str, suffix: str) -> Path:
    """The file of this name in a folder; `InputError` for a name that is not letters, digits, spaces and `.-_+`."""
    name = name.strip()
    if not NAME.fullmatch(name) or name.split(".")[0].lower() in RESERVED:
        raise InputError(f"{name!r} is no name for a file here; use letters, digits, spaces, and . - _ +")
    return folder / f"{name}{suffix}"


def names_in(folder: Path, suffix: str) -> list[str]:
    """The names that `file_in` makes such files of, sorted."""
    return sorted(path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}") if path.is_file())
