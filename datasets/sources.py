"""What poses are asked of, photos or a video, 360-degree ones too, and the photos that COLMAP gets of it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recon.datasets import masked_photos, panorama, panorama_photos, photo_folder, video_file, video_frames
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
        panorama: whether the photos or the video are 360-degree ones; auto: where they say so, or look like it.
        nadir: of 360-degree ones, degrees around straight down in which the tripod or the operator is.
        fisheye: whether the lens is one.
        masks: which pixels count, see `masks.py`; no features are looked for in others.
    """

    frames: int | None = None
    panorama: Literal["auto", "yes", "no"] = "auto"
    nadir: float = 0.0
    fisheye: bool = False
    masks: tuple[str, ...] = ()


USUAL = Wishes()


@dataclass(frozen=True)
class Source:
    """Photos of a folder, or a video (then there are no photos yet), as their headers describe them; and whether they
    are 360-degree ones."""

    path: Path
    photos: tuple[Photo, ...]
    video: Video | None
    wishes: Wishes
    panorama: bool

    def key(self, settings: object) -> str:
        """A name for what is made of it with these settings."""
        if self.video is not None:
            settings = (self.path.name, self.video.stamp, self.wishes.frames, settings)
        if self.panorama:
            settings = ("panorama", self.wishes.nadir, settings)
        if self.wishes.fisheye:
            settings = ("fisheye", settings)
        if self.wishes.masks:
            settings = (masked_photos.key(self.wishes.masks, self.photos), settings)
        return photo_folder.fingerprint(self.photos, settings)

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
        panorama: whether they are faces of panoramas.
    """

    photos: tuple[Photo, ...]
    in_order: bool = False
    times: dict[str, float] = field(default_factory=dict)
    panorama: bool = False

    def origins(self, names: Iterable[str]) -> set[str]:
        """What the photos of these names were cut from, or their own files: what is counted."""
        by_name = {photo.name: photo.origin for photo in self.photos}
        return {by_name[name] for name in names}


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
    if not 0 <= wishes.nadir <= panorama.LOWEST:
        raise InputError(f"--nadir {wishes.nadir:g}: not between 0 and {panorama.LOWEST} degrees")
    if wishes.fisheye and wishes.panorama == "yes":
        raise InputError("--fisheye and --panorama yes: only one of them can be; leave one out")
    if wishes.nadir and wishes.masks:
        raise InputError("--nadir and --masks: only one of them can be kept; leave one out")
    if not path.exists():
        raise InputError(f"{path}: there is no such folder of photos, and no such video")
    if path.is_dir() and not photo_folder.has_photos(path):
        videos = _videos(path)
        if len(videos) > 1:
            raise InputError(f"{path}: {len(videos)} videos; give one of them, such as {videos[0]}")
        path = videos[0] if videos else path
    if path.is_file():
        if not video_file.is_video(path):
            raise InputError(f"{path}: is neither a folder nor a video; known are {', '.join(video_file.SUFFIXES)}")
        video = video_file.read_header(path)
        return Source(path, (), video, wishes, _is_round_video(video, wishes))
    if wishes.frames is not None:
        raise InputError(f"--frames {wishes.frames}: is for videos, and {path} is a folder of photos")
    photos = tuple(photo_folder.find(path))
    return Source(path, photos, None, wishes, _are_round(path, photos, wishes))


def prepare(source: Source, work: Path, threads: int, say: Say, progress: Progress) -> Shots:
    """All that COLMAP is to see, in the folder `work/images`; what an earlier call did is not done again."""
    photos: Sequence[Photo] = source.photos
    times: dict[str, float] = {}
    if source.video is not None:
        times = video_frames.take(source.video, work / "frames", source.wishes.frames, say, progress)
        say(f"{len(times)} frames of the video, chosen by motion and sharpness")
        photos = [photo_folder.describe(work / "frames" / name, name) for name in sorted(times)]
    if source.panorama:
        say(f"{len(photos)} 360-degree pictures, cut into {panorama.COUNT} photos each")
        photos = panorama_photos.cut(photos, work, source.wishes.nadir, threads, progress)
    else:
        photos = [dataclasses.replace(photo, fisheye=source.wishes.fisheye) for photo in photos]
        _collect(photos, work / "images", threads, progress)
    if source.wishes.masks:
        masked_photos.write(source.wishes.masks, photos, work / "images", threads, progress)
    return Shots(tuple(photos), source.video is not None, times, source.panorama)


def _are_round(path: Path, photos: Sequence[Photo], wishes: Wishes) -> bool:
    """Whether the photos are 360-degree ones."""
    if wishes.panorama == "yes":
        for photo in photos:
            if photo.size[0] != 2 * photo.size[1]:
                width, height = photo.size
                raise InputError(f"{photo.path}: is {width}x{height}, and a 360-degree photo is twice as wide as high")
        return True
    if wishes.panorama == "no":
        return False
    wide = [photo for photo in photos if photo.size[0] == 2 * photo.size[1]]
    are = [photo for photo in wide if panorama.is_panorama(photo.path)]
    if 2 * len(are) < len(wide):
        return False  # some photos are that wide without being panoramas
    if are and len(wide) < len(photos):
        raise InputError(
            f"{path}: {len(are)} of {len(photos)} photos are 360-degree ones, such as {are[0].path.name}; put them into"
            " a folder of their own, or say --panorama no if they are none"
        )
    return bool(wide)


def _is_round_video(video: Video, wishes: Wishes) -> bool:
    width, height = video.size
    if wishes.panorama == "yes" and width != 2 * height:
        raise InputError(f"{video.path}: is {width}x{height}, and a 360-degree video is twice as wide as high")
    if wishes.panorama != "auto" or width != 2 * height:
        return wishes.panorama == "yes"
    with contextlib.closing(video_file.frames(video, lambda _: None)) as frames:
        return panorama.looks_like_one(panorama.small(next(frames).rgb()))


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
