"""Writing the pictures of a scene: what the formats share that scenes are written in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from recon.datasets.decode import save_image
from recon.datasets.files import atomic_write
from recon.datasets.images import file_of
from recon.datasets.scene import View


@dataclass(frozen=True)
class Writing:
    """How photos are written. A photo whose file is what the view shows stays as it is, byte for byte.

    Attributes:
        link: give such a file a second name instead of copying it, where the disk allows.
        jpeg: write others as JPEG of high quality, which is small, instead of PNG, which loses nothing of 8 bits.
        threads: photos that are decoded and written at the same time.
        progress: told how many photos are written, and how many there will be.
    """

    link: bool = False
    jpeg: bool = False
    threads: int = 1
    progress: Callable[[int, int], None] | None = None


PLAIN = Writing()


def write_photos(
    views: Sequence[View], targets: Sequence[Path], how: Writing = PLAIN, *, kept: Collection[str] | None = None
) -> list[Path]:
    """Write each view's photo to its target plus a suffix, and return these paths.

    Args:
        kept: suffixes of the files that may stay as they are; None for any.
    """
    written: list[Path] = []
    pool = ThreadPoolExecutor(how.threads, thread_name_prefix="recon-writing")
    try:
        for path in pool.map(lambda view, target: write_photo(view, target, how, kept=kept), views, targets):
            written.append(path)
            if how.progress is not None:
                how.progress(len(written), len(views))
    finally:
        pool.shutdown(cancel_futures=True)
    return written


def write_photo(view: View, target: Path, how: Writing = PLAIN, *, kept: Collection[str] | None = None) -> Path:
    """Write one; see `write_photos`."""
    source = file_of(view)
    if source is not None and (kept is None or source.suffix.lower() in kept):
        path = target.with_name(target.name + source.suffix.lower())
        _copy(source, path, link=how.link)
        return path
    image = view.load()
    jpeg = how.jpeg and image.shape[2] == 3 and (kept is None or ".jpg" in kept)
    path = target.with_name(target.name + (".jpg" if jpeg else ".png"))
    save_image(path, image)
    return path


def _copy(source: Path, path: Path, *, link: bool) -> None:
    if link:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), path)
            return
        except OSError:  # another disk, or one without links
            pass
    with source.open("rb") as original, atomic_write(path) as copy:
        shutil.copyfileobj(original, copy)
