"""From a folder of photos to a posed scene: COLMAP's pipeline, what is tried when it finds too little, and the report.

SCENE/images/          the photos, as links or copies; WebP and HEIC as PNG
SCENE/masks/           white where pixels count, if that was said
SCENE/sparse/0/        cameras, poses, points
SCENE/capture.json     what was done and what came of it; written last, so a scene that has one is complete
SCENE/work-KEY/        features, matches and models, for these photos and settings; may be deleted
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.datasets import colmap_calls, ladder, mapping, masked_photos, matching, photo_folder
from recon.datasets.errors import InputError
from recon.datasets.files import TEMPORARY, atomic_write
from recon.datasets.ladder import Found, Rung
from recon.datasets.matching import Progress
from recon.datasets.photo_folder import CONVERTED, Photo

REPORT = "capture.json"
VERSION = 1  # of what is made of the same photos; another one makes all of it again
LISTED = 12  # names of photos that a line holds


@dataclass(frozen=True)
class Report:
    """What came of a capture.

    Attributes:
        key: of the photos and settings.
        photos: how many there are.
        registered: how many have a pose.
        missing: files of those that have none.
        points, error: of the model; the error is the mean one of reprojection, px.
        done: what was tried, in words, and what came of each.
    """

    key: str
    photos: int
    registered: int
    missing: tuple[str, ...]
    points: int
    error: float
    done: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report in words."""
        poses = f"{self.registered} of {self.photos} photos have poses"
        told = [f"{poses}, {self.points:,} points, mean reprojection error {self.error:.2f} px"]
        if self.missing:
            more = f" and {len(self.missing) - LISTED} more" if len(self.missing) > LISTED else ""
            told.append(f"Without a pose, and left out: {', '.join(self.missing[:LISTED])}{more}")
        return told


def finished(scene: Path) -> Report | None:
    """The report of a scene that is complete; None when it is not, or is none of ours."""
    try:
        values = json.loads((scene / REPORT).read_text("utf-8"))
        report = Report(**values | {"missing": tuple(values["missing"]), "done": tuple(values["done"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    whole = all((scene / "sparse" / "0" / f"{name}.bin").is_file() for name in ("cameras", "images", "points3D"))
    return report if whole and (scene / "images").is_dir() else None


def capture(
    source: Path,
    scene: Path,
    *,
    threads: int,
    say: Callable[[str], None],
    progress: Progress,
    masks: Sequence[str] = (),
) -> Report:
    """Find the poses of the photos in `source`, and write both as the COLMAP capture `scene`.

    What an earlier call with the same photos finished, whole or in part, is not done again.

    Args:
        threads: at most.
        say: told what was done, a line at a time.
        progress: told what is being done, how much of it is, and of how much.
        masks: which pixels count, see `masks.py`; no features are looked for in others.
    Raises:
        InputError: no photos, too few, one that cannot be read, or none that can be put together.
    """
    found = photo_folder.find(source)
    _check_target(source, scene)
    settings = (VERSION, ladder.RUNGS, *([masked_photos.key(masks, found)] if masks else []))
    key = photo_folder.fingerprint(found, settings)
    done = finished(scene)
    if done is not None and done.key == key:
        say(f"{scene}: already there for these {len(found)} photos")
        return done
    work = scene / f"work-{key}"
    work.mkdir(parents=True, exist_ok=True)
    cameras = len(photo_folder.groups(found))
    focal = sum(photo.focal is not None for photo in found)
    say(
        f"{len(found)} photos of {cameras} {'camera' if cameras == 1 else 'cameras'}, focal length from EXIF for"
        f" {focal or 'none'}{'' if focal else ', so it is estimated'}"
    )
    _collect(found, work / "images", threads, progress)
    if masks:
        masked_photos.write(masks, found, work / "images", threads, progress)
    climbed = ladder.climb(len(found), _Pipeline(found, work, threads, progress), say, ladder.RUNGS)
    best = climbed.best
    if best is None:
        raise InputError(f"{source}: {_why_nothing(climbed.matched)}")
    report = _publish(scene, work, found, key, best, climbed.done, threads, progress)
    for line in report.lines():
        say(line)
    return report


class _Pipeline:
    """What each rung of the ladder does, on disk."""

    def __init__(self, found: Sequence[Photo], work: Path, threads: int, progress: Progress) -> None:
        self._photos, self._work, self._threads, self._progress = found, work, threads, progress

    def match(self, rung: Rung) -> int:
        """Pairs of photos that match, as a rung looks for them."""
        looked = self._work / f"features-{_name(rung.features)}.db"
        images = self._work / "images"
        matching.extract(looked, images, self._photos, rung.features, self._threads, self._progress)
        database = self._database(rung)
        if database.exists() and not colmap_calls.is_sound(database):
            colmap_calls.remove(database)
        if not database.exists():
            matching.copy_features(looked, database)
        matching.match(database, self._photos, rung.matches, self._threads, self._progress)
        return matching.matched_pairs(database)

    def map(self, rung: Rung) -> Found:
        target = self._work / f"model-{_name(rung)}"
        mapped = mapping.run(
            self._database(rung),
            self._work / "images",
            target,
            mapper=rung.mapper,
            relaxed=rung.relaxed,
            threads=self._threads,
            photos=len(self._photos),
            progress=self._progress,
        )
        return Found(len(mapped.registered), mapped.points, mapped.models, target)

    def _database(self, rung: Rung) -> Path:
        return self._work / f"matches-{_name((rung.features, rung.matches))}.db"


def _name(settings: object) -> str:
    return photo_folder.fingerprint((), settings)


def _check_target(source: Path, scene: Path) -> None:
    place = scene.resolve()
    if place in (source.resolve(), photo_folder.folder_of(source).resolve()):
        raise InputError(f"{scene}: the scene needs a folder of its own, apart from the photos")
    if scene.exists() and not scene.is_dir():
        raise InputError(f"{scene}: is a file, not a folder")
    ours = (scene / REPORT).is_file() or any(scene.glob("work-*"))
    taken = next((name for name in ("sparse", "images", "transforms.json") if (scene / name).exists()), None)
    if taken and not ours:
        raise InputError(f"{scene}: holds another capture ({taken}), which is not overwritten; choose another folder")


def _collect(found: Sequence[Photo], folder: Path, threads: int, progress: Progress) -> None:
    """All photos in one folder, each decoded once to see that it is whole."""
    folder.mkdir(exist_ok=True)
    thumbnails: list[NDArray[np.float32]] = []
    pool = ThreadPoolExecutor(threads)
    try:
        for thumbnail in pool.map(lambda photo: _add(photo, folder), found):
            thumbnails.append(thumbnail)
            progress("Reading photos", len(thumbnails), len(found))
    finally:
        pool.shutdown(cancel_futures=True)
    photo_folder.check(found, thumbnails)


def _add(photo: Photo, folder: Path) -> NDArray[np.float32]:
    thumbnail = photo_folder.thumbnail(photo.path)
    target = folder / photo.name
    if target.exists():
        return thumbnail
    if photo.path.suffix.lower() in CONVERTED:
        _convert(photo.path, target)
        return thumbnail
    try:
        os.link(photo.path.resolve(), target)
    except OSError:  # another disk, or one without links
        with photo.path.open("rb") as original, atomic_write(target) as copy:
            shutil.copyfileobj(original, copy)
    return thumbnail


def _convert(path: Path, target: Path) -> None:
    """The pixels as they are stored, as a PNG that has EXIF's orientation too."""
    from PIL import Image

    with Image.open(path) as image:
        exif = image.getexif()
        orientation = exif.get(0x0112, 1)
    kept = Image.Exif()
    kept[0x0112] = orientation
    with Image.open(path) as image, atomic_write(target) as file:
        image.save(file, "PNG", exif=kept, compress_level=3)


def _why_nothing(matched: int) -> str:
    """Why photos, of which so many pairs match, cannot be put together, in words."""
    if matched < 2:
        return (
            "no two of these photos overlap enough: each should share more than half of its picture with the next,"
            " and show something with texture"
        )
    return (
        f"{matched} pairs of these photos match, but no poses come of it: photos that differ only by turning or zooming"
        " the camera on the spot have no depth; take them from different places, a step apart"
    )


def _publish(
    scene: Path,
    work: Path,
    found: Sequence[Photo],
    key: str,
    best: Found,
    done: Sequence[str],
    threads: int,
    progress: Progress,
) -> Report:
    """The scene, part by part, each whole or not there; the report at the end says that all are."""
    progress("Adjusting", 0, 1)
    model, error = mapping.refined(best.model, threads)
    progress("Adjusting", 1, 1)
    whole = work / f"sparse{TEMPORARY}"
    shutil.rmtree(whole, ignore_errors=True)
    (whole / "0").mkdir(parents=True)
    model.write_binary(str(whole / "0"))
    for file in (whole / "0").iterdir():
        with file.open("rb+") as written:
            os.fsync(written.fileno())
    (scene / REPORT).unlink(missing_ok=True)
    for name in ("sparse", "images", matching.MASKS):
        shutil.rmtree(scene / name, ignore_errors=True)
    for name in ("images", matching.MASKS):
        if (work / name).is_dir():
            (work / name).rename(scene / name)
    whole.rename(scene / "sparse")
    registered = {image.name for image in model.images.values() if image.has_pose}
    missing = tuple(photo.path.name for photo in found if photo.name not in registered)
    report = Report(key, len(found), len(registered), missing, model.num_points3D(), error, tuple(done))
    with atomic_write(scene / REPORT) as target:
        target.write(json.dumps(asdict(report), indent=2).encode())
    for other in scene.glob("work-*"):
        if other != work:
            shutil.rmtree(other, ignore_errors=True)
    return report
