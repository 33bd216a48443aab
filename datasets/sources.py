"""What poses are asked of, a folder of photos or a video, and the photos that COLMAP gets of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.datasets import photo_folder, video_file, video_frames
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.datasets.matching import Progress
from recon.datasets.photo_folder import CONVERTED, FEWEST, Photo
from recon.datasets.video_file import Video

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wishes:
    """What of a source is asked for.

    Attributes:
        frames: of a video, how many at most; None: as many as its motion asks for.
    """

    frames: int | None = None


USUAL = Wishes()


@dataclass(frozen=True)
class Source:
    """Photos of a folder, or a video (then there are no photos yet), as their headers describe them."""

    path: Path
    photos: tuple[Photo, ...]
    video: Video | None
    wishes: Wishes

    def key(self, settings: object) -> str:
        """A name for what is made of it with these settings."""
        if self.video is None:
            return photo_folder.fingerprint(self.photos, settings)
        return photo_folder.fingerprint((), (self.path.name, self.video.stamp, self.wishes, settings))

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.path.parent if self.video is not None else photo_folder.folder_of(self.path)

    @property
    def described(self) -> str:
        if self.video is not None:
            return "this video"
        return f"these {len(self.photos)} photos"


@dataclass(frozen=True)
class Shots:
    """The photos that COLMAP gets, in the order of their names.

    Attributes:
        in_order: whether they were taken one after the other, as the frames of a video.
        times: of frames, in seconds from the first of the video, by name.
    """

    photos: tuple[Photo, ...]
    in_order: bool = False
    times: dict[str, float] = field(default_factory=dict)


def is_source(path: Path) -> bool:
    """Whether there are photos or a video to find poses for."""
    return video_file.is_video(path) or photo_folder.has_photos(path) or len(_videos(path)) == 1


def find(path: Path, wishes: Wishes) -> Source:
    """The photos or the video at `path`: a folder of photos, a video, or a folder with one video.

    Raises:
        InputError: none, too few, or one that cannot be read.
    """
    if wishes.frames is not None and not FEWEST <= wishes.frames <= video_frames.MOST:
        raise InputError(f"--frames {wishes.frames}: not between {FEWEST} and {video_frames.MOST}")
    if path.is_dir() and not photo_folder.has_photos(path):
        videos = _videos(path)
        if len(videos) > 1:
            raise InputError(f"{path}: {len(videos)} videos; give one of them, such as {videos[0]}")
        path = videos[0] if videos else path
    if path.is_file():
        if not video_file.is_video(path):
            raise InputError(f"{path}: is neither a folder nor a video; known are {', '.join(video_file.SUFFIXES)}")
        return Source(path, (), video_file.read_header(path), wishes)
    if wishes.frames is not None:
        raise InputError(f"--frames {wishes.frames}: is for videos, and {path} is a folder of photos")
    return Source(path, tuple(photo_folder.find(path)), None, wishes)


def prepare(source: Source, work: Path, threads: int, say: Say, progress: Progress) -> Shots:
    """All that COLMAP is to see, in the folder `work/images`; what an earlier call did is not done again."""
    if source.video is None:
        shots = Shots(source.photos)
    else:
        times = video_frames.take(source.video, work / "frames", source.wishes.frames, say, progress)
        say(f"A video of {source.video.seconds:.1f} s: {len(times)} frames, chosen by motion and sharpness")
        frames = [photo_folder.describe(work / "frames" / name, name) for name in sorted(times)]
        shots = Shots(tuple(frames), in_order=True, times=times)
    _collect(shots.photos, work / "images", threads, progress)
    return shots


def _videos(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if video_file.is_video(file) and not file.name.startswith("."))


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
