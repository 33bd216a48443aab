"""Masks of photos that have no poses yet, in files beside them, for those who look for features."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from recon.datasets import masks
from recon.datasets.decode import read_header, save_image
from recon.datasets.errors import InputError
from recon.datasets.mask_files import MaskSource
from recon.datasets.masks import FolderRule
from recon.datasets.matching import MASKS, Progress
from recon.datasets.photo_folder import Photo


def key(rules: Sequence[str], photos: Sequence[Photo]) -> object:
    """What tells these rules from others, for these photos: with the files of folders as they are now."""
    folders = [rule.folder for rule in masks.parse(rules) if isinstance(rule, FolderRule)]
    found = [masks.mask_of(folder, photo.path) for folder in folders for photo in photos]
    return masks.spelled(rules), tuple(mask and (mask.path.name, mask.stamp) for mask in found)


def write(rules: Sequence[str], photos: Sequence[Photo], images: Path, threads: int, progress: Progress) -> None:
    """Write `MASKS`/NAME.png beside the folder `images` for each photo NAME in it: white where all rules let pixels, as
    they are stored, count.

    Raises:
        InputError: no rule, or rules that say nothing of any photo.
    """
    parsed = masks.parse(rules)
    made_from: dict[Path, list[MaskSource]] = {}
    for photo in photos:
        # Masks in folders are called as the photos are; the copies in `images` may be in another format.
        copy = images / photo.name
        sources = [rule.source(photo.path if isinstance(rule, FolderRule) else copy) for rule in parsed]
        made_from[copy] = [source for source in sources if source is not None]
    if not any(made_from.values()):
        raise InputError(
            f"masks {', '.join(rules)}: none for any of the {len(photos)} photos, such as {photos[0].path}"
        )
    folder = images.with_name(MASKS)
    pool = ThreadPoolExecutor(threads)
    try:
        writing = pool.map(lambda copy: _write(folder / f"{copy.name}.png", copy, made_from[copy]), made_from)
        for done, _ in enumerate(writing, 1):
            progress("Making masks", done, len(photos))
    finally:
        pool.shutdown(cancel_futures=True)


def _write(target: Path, photo: Path, made_from: Sequence[MaskSource]) -> None:
    """A mask of the photo's size; one that is there is left, since other rules have another folder."""
    if target.exists():
        return
    header = read_header(photo)
    counts = np.ones((header.height, header.width), bool)
    for source in made_from:
        values = source.values(upright=False)[..., 0]
        rows, columns = (
            ((np.arange(side) + 0.5) * known / side).astype(int)
            for side, known in zip(counts.shape, values.shape, strict=True)
        )
        counts &= values[rows[:, None], columns]
    save_image(target, torch.from_numpy(counts[..., None]))
