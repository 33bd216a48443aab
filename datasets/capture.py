"""From photos or a video to a posed scene: COLMAP's pipeline, what is tried when it finds too little, and the report.

SCENE/images/          the photos, as links or copies; WebP and HEIC as PNG; of a video the frames that were chosen
SCENE/masks/           white where pixels count, if that was said; of 360-degree photos, black where the tripod is
SCENE/sparse/0/        cameras, poses, points
SCENE/capture.json     what was done and what came of it; written last, so a scene that has one is complete
SCENE/.capture.lock    the process that writes it, while it does
SCENE/work-KEY/        features, matches and models, for these photos and settings; may be deleted
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from recon.datasets import colmap_calls, ladder, mapping, matching, photo_folder, sources
from recon.datasets.errors import InputError, NoSceneError
from recon.datasets.files import TEMPORARY, atomic_write, only_one
from recon.datasets.ladder import Found, Rung
from recon.datasets.matching import Progress
from recon.datasets.photo_folder import Photo
from recon.datasets.sources import Shots, Source, Wishes

REPORT = "capture.json"
LOCK = ".capture.lock"
VERSION = 2  # of what is made of the same photos; another one makes all of it again
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
        times: of the frames of a video, in seconds from its first, by name.
    """

    key: str
    photos: int
    registered: int
    missing: tuple[str, ...]
    points: int
    error: float
    done: tuple[str, ...]
    times: dict[str, float] = field(default_factory=dict)

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


def is_ours(scene: Path) -> bool:
    """Whether a folder holds a scene that was made here, whole or not."""
    return (scene / REPORT).is_file() or any(scene.glob("work-*"))


def matches_file(work: Path, rung: Rung) -> Path:
    """The database with the matches of a rung."""
    return work / f"matches-{_name((rung.features, rung.matches))}.db"


def capture(
    source: Path,
    scene: Path,
    *,
    threads: int,
    say: Callable[[str], None],
    progress: Progress,
    wishes: Wishes = sources.USUAL,
) -> Report:
    """Find the poses of the photos or the video `source`, and write both as the COLMAP capture `scene`.

    What an earlier call with the same photos finished, whole or in part, is not done again.

    Args:
        threads: at most.
        say: told what was done, a line at a time.
        progress: told what is being done, how much of it is, and of how much.
        wishes: what of the source is asked for.
    Raises:
        InputError: no photos, too few, one that cannot be read, none that can be put together, or a scene that another
            process writes.
    """
    found = sources.find(source, wishes)
    _check_target(found, scene)
    with only_one(scene / LOCK, f"{scene}: another capture is being written there"):
        return _capture(found, scene, threads, say, progress)


def _capture(source: Source, scene: Path, threads: int, say: Callable[[str], None], progress: Progress) -> Report:
    key = source.key((VERSION, ladder.RUNGS))
    done = finished(scene)
    if done is not None and done.key == key:
        say(f"{scene}: already there for {source.described}")
        return done
    work = scene / f"work-{key}"
    work.mkdir(parents=True, exist_ok=True)
    shots = sources.prepare(source, work, threads, say, progress)
    if not shots.panorama:
        say(_cameras(shots.photos))
    count = len(photo_folder.stations(shots.photos))
    climbed = ladder.climb(count, _Pipeline(shots, work, threads, progress), say, ladder.RUNGS)
    best = climbed.best
    if best is None:
        raise NoSceneError(source.path, _why_nothing(climbed.matched))
    report = _publish(scene, work, shots, key, best, climbed.done, threads, progress)
    for line in report.lines():
        say(line)
    return report


def _cameras(photos: Sequence[Photo]) -> str:
    """What is known of the cameras of photos, in words."""
    cameras = len(photo_folder.groups(photos))
    focal = sum(photo.focal is not None for photo in photos)
    return (
        f"{len(photos)} photos of {cameras} {'camera' if cameras == 1 else 'cameras'}, focal length from EXIF for"
        f" {focal or 'none'}{'' if focal else ', so it is estimated'}"
    )


class _Pipeline:
    """What each rung of the ladder does, on disk."""

    def __init__(self, shots: Shots, work: Path, threads: int, progress: Progress) -> None:
        self._shots, self._work, self._threads, self._progress = shots, work, threads, progress

    def match(self, rung: Rung) -> int:
        """Pairs of photos that match, as a rung looks for them."""
        looked = self._work / f"features-{_name(rung.features)}.db"
        images = self._work / "images"
        matching.extract(looked, images, self._shots.photos, rung.features, self._threads, self._progress)
        database = matches_file(self._work, rung)
        if database.exists() and not colmap_calls.is_sound(database):
            colmap_calls.remove(database)
        if not database.exists():
            matching.copy_features(looked, database)
        matching.match(
            database, self._shots.photos, rung.matches, self._threads, self._progress, in_order=self._shots.in_order
        )
        return matching.matched_pairs(database)

    def map(self, rung: Rung) -> Found:
        target = self._work / f"model-{_name(rung)}"
        mapped = mapping.run(
            matches_file(self._work, rung),
            self._work / "images",
            target,
            mapper=rung.mapper,
            relaxed=rung.relaxed,
            threads=self._threads,
            photos=len(self._shots.photos),
            progress=self._progress,
            known_lenses=self._shots.panorama,
        )
        return Found(len(self._shots.origins(mapped.registered)), mapped.points, mapped.models, target, mapped.joined)


def _name(settings: object) -> str:
    return photo_folder.fingerprint((), settings)


def _check_target(source: Source, scene: Path) -> None:
    if scene.resolve() in (source.path.resolve(), source.folder.resolve()):
        raise InputError(f"{scene}: the scene needs a folder of its own, apart from {source.path}")
    if scene.exists() and not scene.is_dir():
        raise InputError(f"{scene}: is a file, not a folder")
    taken = next((name for name in ("sparse", "images", "transforms.json") if (scene / name).exists()), None)
    if taken and not is_ours(scene):
        raise InputError(f"{scene}: holds another capture ({taken}), which is not overwritten; choose another folder")


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
    shots: Shots,
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
    registered = shots.origins(image.name for image in model.images.values() if image.has_pose)
    wanted = {photo.origin: None for photo in shots.photos}  # in order
    missing = tuple(name for name in wanted if name not in registered)
    counts = (len(wanted), len(registered))
    report = Report(key, *counts, missing, model.num_points3D(), error, tuple(done), shots.times)
    with atomic_write(scene / REPORT) as target:
        target.write(json.dumps(asdict(report), indent=2).encode())
    for other in scene.glob("work-*"):
        if other != work:
            shutil.rmtree(other, ignore_errors=True)
    return report
