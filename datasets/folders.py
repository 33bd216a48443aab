"""Where a capture keeps its photos, and what they are called."""

from __future__ import annotations

import glob
import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

LINEAR = (".exr", ".hdr")  # pictures of scene-linear light
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", *LINEAR)

log = logging.getLogger("recon")


def find_image(path: Path) -> Path | None:
    """`path`, or where it has no (image) extension the image file of that name; None when there is none."""
    if path.is_file():
        return path
    for extension in EXTENSIONS:
        for candidate in (extension, extension.upper()):
            with_extension = path.with_name(path.name + candidate)
            if with_extension.is_file():
                return with_extension
    return None


def list_images(folder: Path) -> list[Path]:
    """The image files directly in a folder, by name; empty when there is no such folder.

    Pictures of linear light count where there are no others, beside which they may be anything, such as depth.
    """
    if not folder.is_dir():
        return []
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS and path.is_file())
    return [path for path in found if path.suffix.lower() not in LINEAR] or found


def choose_image_folder(base: Path, downscale: float) -> Path | None:
    """The folder to read for a downscale, among `base` (such as `capture/images`) and `base_N`, N times smaller copies.

    The smallest images that need no enlarging, by preference ones of which the result is a whole fraction; when all are
    too small the largest, with a warning. None when there is no such folder.
    """
    folders = {1: base} if base.is_dir() else {}
    for folder in base.parent.glob(f"{glob.escape(base.name)}_*"):
        suffix = folder.name.removeprefix(f"{base.name}_")
        if suffix.isdecimal() and int(suffix) > 1 and folder.is_dir():
            folders[int(suffix)] = folder
    if not folders:
        return None
    fine = [n for n in folders if n <= downscale]
    if not fine:
        log.warning(
            "%s: the largest images are %d times smaller than the originals, instead of %g",
            folders[min(folders)],
            min(folders),
            downscale,
        )
        return folders[min(folders)]
    whole = [n for n in fine if downscale % n == 0]
    return folders[max(whole or fine)]


def view_names(paths: Sequence[str]) -> list[str]:
    """Short unique names for views from their image paths (with "/"): without common folders and without suffixes.

    Suffixes stay where two images differ by nothing else.
    """
    parts = [PurePosixPath(path).parts for path in paths]
    common = 0
    while parts and all(len(p) > common + 1 for p in parts) and len({p[: common + 1] for p in parts}) == 1:
        common += 1
    full = ["/".join(p[common:]) for p in parts]
    short = [
        str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).suffix.lower() in EXTENSIONS else name
        for name in full
    ]
    return short if len(set(short)) == len(short) else full
