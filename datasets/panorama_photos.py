"""360-degree photos as the photos that COLMAP gets: the faces of each, and masks of what is straight below."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.datasets import panorama, photo_folder
from recon.datasets.decode import save_pixels
from recon.datasets.matching import MASKS, Progress
from recon.datasets.photo_folder import Photo


def cut(photos: Sequence[Photo], work: Path, nadir: float, threads: int, progress: Progress) -> list[Photo]:
    """The faces of all panoramas, in `work/images`, by name; what an earlier call wrote stays.

    Args:
        nadir: degrees around straight down that the masks in `work/masks` leave out; 0: no masks.
    """
    (work / "images").mkdir(exist_ok=True)
    stems = [Path(photo.name).stem for photo in photos]
    if len(set(stems)) < len(stems):
        stems = [photo.name for photo in photos]
    faces: list[Photo] = []
    thumbnails: list[NDArray[np.float32]] = []
    pool = ThreadPoolExecutor(threads)
    try:
        for thumbnail, parts in pool.map(lambda photo, stem: _faces(photo, stem, work, nadir), photos, stems):
            thumbnails.append(thumbnail)
            faces += parts
            progress("Cutting panoramas", len(thumbnails), len(photos))
    finally:
        pool.shutdown(cancel_futures=True)
    photo_folder.check(photos, thumbnails)
    return faces


def _faces(photo: Photo, stem: str, work: Path, nadir: float) -> tuple[NDArray[np.float32], list[Photo]]:
    thumbnail = photo_folder.thumbnail(photo.path)
    targets = [work / "images" / f"{stem}_{face}.jpg" for face in range(panorama.COUNT)]
    panorama.split(photo.path, targets)
    side, focal = panorama.face_size(photo.size[0])
    faces = []
    for face, target in enumerate(targets):
        kept = panorama.mask(face, side, nadir)
        if kept is not None:
            save_pixels(work / MASKS / f"{target.name}.png", np.where(kept, 255, 0).astype(np.uint8)[..., None])
        described = photo_folder.describe(target, target.name)
        faces.append(
            replace(
                described,
                camera=("panorama", side, face),
                focal=focal,
                place=photo.place,
                panorama=photo.path.name,
                face=face,
            )
        )
    return thumbnail, faces
