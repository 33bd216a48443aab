"""Looking into a capture of any kind: photos alone, photos with poses in any format, and scenes that `capture` made.

What the database of such a scene holds is used. Other photos are matched here, reduced, in a folder that is removed
afterwards: nothing is written into the capture.
"""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recon.datasets import (
    capture,
    colmap_files,
    coverage,
    folders,
    has_poses,
    ladder,
    load_scene,
    look,
    matching,
    overlap,
    pairs,
    photo_folder,
    survey,
)
from recon.datasets.colmap import viewmat
from recon.datasets.decode import eight_bits
from recon.datasets.errors import InputError
from recon.datasets.lens import SourceCamera
from recon.datasets.look import Look
from recon.datasets.matching import Features, Matches, Progress
from recon.datasets.overlap import Overlap
from recon.datasets.pairs import Pair
from recon.datasets.photo_folder import Photo
from recon.datasets.scene import Scene, StoredImage, View
from recon.datasets.survey import Posed, Survey

FEATURES = Features(size=look.SIDE, count=2500)
NEIGHBOURS = 3  # in the order of names, with which a photo is matched where there are poses
NEARBY = 5  # and those that stand nearest and look the same way

log = logging.getLogger("recon")


@dataclass(frozen=True)
class _Source:
    """A photo to be looked at: its name, how to get its pixels [H,W,3], and its view where it has a pose."""

    name: str
    pixels: Callable[[], NDArray[np.uint8]]
    view: View | None = None


def examine(path: Path, *, threads: int, progress: Progress) -> Survey:
    """Look into a capture.

    Args:
        threads: at most.
        progress: told what is being done, how much of it is, and of how much.
    Raises:
        InputError: nothing that can be looked into, or a photo or a file that cannot be read.
    """
    if is_ours(path):
        return captured(path, threads=threads, progress=progress)
    if path.is_dir() and not has_poses(path) and photo_folder.has_photos(path):
        sources = [_of_file(photo.path) for photo in photo_folder.find(path)]
        looks, shared, _ = _matched(sources, threads, progress)
        return survey.survey(path.resolve().name, [source.name for source in sources], looks, shared=shared)
    scene = _reduced_scene(path)
    sources = [_of_view(view) for view in scene.views]
    looks, shared, posed = _matched(sources, threads, progress)
    return survey.survey(
        scene.name,
        [source.name for source in sources],
        looks,
        shared=shared,
        posed=posed,
        seen=coverage.seen(scene),
        top=coverage.top(scene),
        wanted=True,
    )


def is_ours(path: Path) -> bool:
    """Whether `capture` made what is in a folder, or began to."""
    return capture.finished(path) is not None or any(path.glob("work-*/images"))


def captured(scene: Path, *, threads: int, progress: Progress, failure: str = "") -> Survey:
    """Look into a scene that `capture` made, or began.

    Args:
        failure: why it found no poses.
    """
    report = None if failure else capture.finished(scene)
    work = max(scene.glob("work-*"), key=lambda folder: folder.stat().st_mtime, default=scene)
    files = folders.list_images((scene if report else work) / "images")
    if not files:
        raise InputError(f"{scene}: this capture was stopped before it had its photos; capture them again")
    known = None if report is None else _reduced_scene(scene)
    registered = [] if known is None else _registered(scene)
    views = {} if known is None else dict(zip(registered, known.views, strict=True))
    names = [file.name for file in files]
    shared = _kept(work, files, registered)
    posed: Posed | None
    if shared is not None or failure:
        looks = _looks([functools.partial(look.read, file) for file in files], threads, progress)
        posed = _of_model(scene, names) if views else None
    else:
        sources = [_of_view(views[file.name], file.name) if file.name in views else _of_file(file) for file in files]
        looks, shared, posed = _matched(sources, threads, progress)
    return survey.survey(
        scene.resolve().name,
        names,
        looks,
        shared=shared,
        posed=posed,
        seen=None if known is None else coverage.seen(known),
        top=None if known is None else coverage.top(known),
        wanted=True,
        failure=failure,
        done=() if report is None else report.done,
    )


def _reduced_scene(path: Path) -> Scene:
    """A capture with poses, with photos of about `look.SIDE` pixels."""
    log.disabled = True  # what there is to warn of is said the second time
    try:
        sizes = [max(view.camera.width, view.camera.height) for view in load_scene(path, test_every=0).views]
    finally:
        log.disabled = False
    return load_scene(path, test_every=0, downscale=max(1.0, max(sizes) / look.SIDE))


def _of_file(file: Path) -> _Source:
    return _Source(file.name, functools.partial(look.read, file))


def _of_view(view: View, name: str = "") -> _Source:
    def pixels() -> NDArray[np.uint8]:
        stored = view.image.pixels() if isinstance(view.image, StoredImage) else view.load().numpy()
        return eight_bits(stored)

    return _Source(name or view.name, pixels, view)


def _looks(photos: Sequence[Callable[[], NDArray[np.uint8]]], threads: int, progress: Progress) -> list[Look]:
    """Each photo looked at, on so many threads."""
    found: list[Look] = []
    pool = ThreadPoolExecutor(threads)
    try:
        for one in pool.map(lambda pixels: look.look(pixels()), photos):
            found.append(one)
            progress("Looking at photos", len(found), len(photos))
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _matched(
    sources: Sequence[_Source], threads: int, progress: Progress
) -> tuple[list[Look], Overlap | None, Posed | None]:
    """Photos looked at and matched; the poses of those that have one."""
    from PIL import Image

    with tempfile.TemporaryDirectory(prefix="recon-doctor-") as name:
        folder = Path(name)

        def reduced(number: int, source: _Source) -> NDArray[np.uint8]:
            pixels = source.pixels()
            image = Image.fromarray(pixels)
            image.thumbnail((look.SIDE, look.SIDE), Image.Resampling.BOX)
            image.save(folder / f"{number}.jpg", quality=95, subsampling=0)
            return pixels

        looks = _looks([functools.partial(reduced, *numbered) for numbered in enumerate(sources)], threads, progress)
        photos = [photo_folder.describe(folder / f"{k}.jpg", f"{k}.jpg") for k in range(len(sources))]
        views = {k: source.view for k, source in enumerate(sources) if source.view is not None}
        posed = _of_views(views, photos) if views else None
        database = folder / "matches.db"
        matching.extract(database, folder, photos, FEATURES, threads, progress)
        wanted = None if posed is None else _worth(posed, len(photos))
        matching.match(database, photos, Matches(), threads, progress, only=wanted)
        shared = overlap.read(database, [photo.name for photo in photos], [photo.size for photo in photos])
    return looks, shared, posed


def _of_views(views: dict[int, View], photos: Sequence[Photo]) -> Posed:
    """The cameras of the views, for photos of other sizes."""
    lenses = []
    for number, view in views.items():
        K = view.camera.resized(*photos[number].size).Ks[0].double()
        params = (float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))
        lenses.append(SourceCamera("PINHOLE", params, *photos[number].size))
    poses = torch.cat([view.camera.viewmats.double() for view in views.values()]).numpy()
    return Posed(np.array(list(views)), poses, tuple(lenses))


def _worth(posed: Posed, count: int) -> set[Pair]:
    """Pairs that are worth matching: photos that follow each other, and that see the same if the poses are right."""
    centres, forward = np.linalg.inv(posed.viewmats)[:, :3, 3], posed.viewmats[:, 2, :3]
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    likeness = forward @ forward.T - apart / max(float(apart.max()), 1e-300)
    near = pairs.nearest(likeness, NEARBY) if len(centres) > 1 else set()
    return pairs.in_sequence(count, NEIGHBOURS) | {(int(posed.photo[i]), int(posed.photo[j])) for i, j in near}


def _registered(scene: Path) -> list[str]:
    """The photos of a scene of ours that have a pose, in the order of its views."""
    return sorted(image.name for image in colmap_files.read_images(scene / "sparse" / "0" / "images.bin"))


def _of_model(scene: Path, names: Sequence[str]) -> Posed:
    """The poses and lenses of a scene of ours, as its photos were matched."""
    model = scene / "sparse" / "0"
    cameras = colmap_files.read_cameras(model / "cameras.bin")
    found = sorted(colmap_files.read_images(model / "images.bin"), key=lambda image: image.name)
    poses = np.stack([viewmat(image, f"{model}: {image.name}").numpy() for image in found])
    photo = np.array([names.index(image.name) for image in found])
    return Posed(photo, poses, tuple(cameras[image.camera_id] for image in found))


def _kept(work: Path, files: Sequence[Path], registered: Sequence[str]) -> Overlap | None:
    """The matches that a capture left behind: as usually looked for, or as it took to join all that have a pose."""
    names = [file.name for file in files]
    sizes = [photo_folder.describe(file, file.name).size for file in files]
    found: Overlap | None = None
    for rung in ladder.RUNGS:
        found = overlap.read(capture.matches_file(work, rung), names, sizes) or found
        if found is not None and all(found.neighbours()[names.index(name)] for name in registered):
            return found
    return found
