"""Naming several photos in a line: runs by their ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from recon.datasets.folders import EXTENSIONS


def listing(names: Sequence[str], chosen: Iterable[int], *, most: int = 6) -> str:
    """Photos by name, such as "a_3 to a_7 (5 photos), a_9 and a_12".

    Args:
        names: of all photos, in order.
        chosen: indices of those to name.
        most: runs to name; of the others only how many photos they are.
    """
    runs: list[list[int]] = []
    for i in sorted(set(chosen)):
        if runs and runs[-1][1] == i - 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    said = []
    for first, last in runs[:most]:
        if last - first > 1:
            said.append(f"{short(names[first])} to {short(names[last])} ({last - first + 1} photos)")
        else:
            said += [short(names[i]) for i in range(first, last + 1)]
    rest = sum(last - first + 1 for first, last in runs[most:])
    if rest:
        said.append(f"{rest} more")
    return f"{', '.join(said[:-1])} and {said[-1]}" if len(said) > 1 else "".join(said)


def short(name: str) -> str:
    """A photo's name without its suffix."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in EXTENSIONS else name
