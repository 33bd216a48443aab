"""From the command to a capture in another program's format, with a progress bar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from recon.datasets import convert
from recon.datasets.writing import Writing
from recon.kernels.runtime import get_threads
from recon.terminal import console, say

MOST_THREADS = 4  # each holds a photo of full size


def convert_to(source: Path, out: Path, format: str, loading: Mapping[str, Any], *, link: bool, jpeg: bool) -> None:
    """Write the capture `source` as another format into the folder `out`, and say what came of it.

    Args:
        loading: options of `load_scene`.
    """
    with Progress(
        *Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("Writing photos", total=None)
        how = Writing(
            link=link,
            jpeg=jpeg,
            threads=min(MOST_THREADS, get_threads()),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        done = convert.convert(source, out, format, how, **loading)
    scene = done.scene
    points = "no points" if scene.points is None else f"{len(scene.points):,} points"
    changed = len(scene.views) - done.kept
    say(
        f"{out}: {len(scene.train)} photos to train on, {len(scene.test)} held out, {points}; {done.kept} photos as"
        f" they were, {changed} written anew"
    )
    for remark in done.remarks:
        say(remark)
