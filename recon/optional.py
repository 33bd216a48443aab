"""Packages that are used where they are installed."""

from __future__ import annotations

import importlib


def loads(name: str) -> bool:
    """Whether a package is installed and fits this machine; it says so by one or the other error when it is loaded."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError):
        return False
    return True
