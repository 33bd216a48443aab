"""A folder of plain photos: which files they are, and what their EXIF data says of camera, lens and place."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.datasets.decode import read_header
from recon.datasets.errors import InputError, NoSceneError
from recon.datasets.folders import EXTENSIONS, LINEAR

HEIC = (".heic", ".heif")
PHOTOS = tuple(ending for ending in EXTENSIONS if ending not in LINEAR)  # what COLMAP can look at, or a copy of it
CONVERTED = {".webp": ".png", ".heic": ".png", ".heif": ".png"}  # what COLMAP does not read, and what is made of it
FEWEST = 3  # photos that a scene can be made of
DIAGONAL_35MM = math.hypot(36, 24)  # mm, to which "35 mm equivalent" focal lengths refer (CIPA DCG-001)
THUMBNAIL = 32  # px
SAME_PICTURE = 2.0  # of 255: mean difference of thumbnails up to which two photos are one picture

_MAKE, _MODEL, _EXIF, _GPS = 0x010F, 0x0110, 0x8769, 0x8825
_FOCAL, _FOCAL_35MM = 0x920A, 0xA405
_PLANE_X_RESOLUTION, _PLANE_UNIT, _EXIF_WIDTH, _EXIF_HEIGHT = 0xA20E, 0xA210, 0xA002, 0xA003
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}


@dataclass(frozen=True)
class Photo:
    """A photo as its file describes it.

    Attributes:
        path: the file.
        name: of its copy in a scene; without spaces, and in a format that everything reads.
        size: (width, height) px as stored, before EXIF's orientation.
        stamp: time of change and size in bytes of the file.
        camera: photos with the same value were taken with the same camera, focal length and size.
        focal: px, from EXIF; None where it does not say.
        place: latitude and longitude, degrees; None where EXIF does not say.
        panorama: what it is a face of, if it is one; the faces of one panorama share their centre.
        face: which one, see `panorama.face_from_panorama`.
        fisheye: whether its lens is one.
    """

    path: Path
    name: str
    size: tuple[int, int]
    stamp: tuple[int, int]
    camera: tuple[Any, ...]
    focal: float | None = None
    place: tuple[float, float] | None = None
    panorama: str | None = None
    face: int = 0
    fisheye: bool = False

    @property
    def origin(self) -> str:
        """What the user knows it by: the name of its file, or of the panorama that it was cut from."""
        return self.panorama or self.path.name


def folder_of(source: Path) -> Path:
    """Where the photos of `source` are: the folder itself, or `images` in it."""
    if not source.is_dir():
        raise InputError(f"{source}: there is no such folder of photos")
    inner = source / "images"
    return inner if not _files(source) and inner.is_dir() else source


def has_photos(source: Path) -> bool:
    """Whether there are photos in a folder, or in `images` in it."""
    return source.is_dir() and bool(_files(folder_of(source)))


def find(source: Path) -> list[Photo]:
    """The photos of a folder, by name, from their headers.

    Raises:
        InputError: fewer than three photos, one that cannot be read, or HEIC without the library that reads it.
    """
    files = _files(folder_of(source))
    if not files:
        raise InputError(f"{source}: no photos here; looked for {', '.join(PHOTOS)} and {', '.join(HEIC)}")
    heic = [file for file in files if file.suffix.lower() in HEIC]
    if heic and not open_heic():
        raise InputError(
            f"{heic[0]}: reading HEIC needs the package pillow-heif, which is not installed; install it, or convert"
            f" the {len(heic)} HEIC photos to JPEG"
        )
    if len(files) < FEWEST:
        raise InputError(f"{source}: {len(files)} photos are too few, at least {FEWEST} are needed")
    return [describe(file, name) for file, name in zip(files, _names(files), strict=True)]


def open_heic() -> bool:
    """Let Pillow open HEIC, where pillow-heif is installed; whether it is."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    importlib.import_module("pillow_heif").register_heif_opener()
    return True


def describe(file: Path, name: str) -> Photo:
    """A photo from its header; `InputError` if it cannot be read."""
    from PIL import Image

    header = read_header(file)
    try:
        with Image.open(file) as image:
            tags = image.getexif()
            exif, gps = dict(tags.get_ifd(_EXIF)), dict(tags.get_ifd(_GPS))
            make, model = str(tags.get(_MAKE, "")).strip(), str(tags.get(_MODEL, "")).strip()
    except Exception:  # damaged EXIF data: the photo is as good without
        exif, gps, make, model = {}, {}, "", ""
    size = (header.width, header.height)
    lens = (_number(exif.get(_FOCAL)), _number(exif.get(_FOCAL_35MM)))
    return Photo(file, name, size, header.stamp, (make, model, *lens, *size), focal_length(exif, size), _place(gps))


def focal_length(exif: dict[int, Any], size: tuple[int, int]) -> float | None:
    """px, of a photo of (width, height) `size`, from its EXIF data; None where that does not say.

    The 35 mm equivalent refers to the diagonal. The resolution of the sensor refers to the picture as it was taken,
    of which the file may be a rescaled copy.
    """
    equivalent = _number(exif.get(_FOCAL_35MM))
    if equivalent:
        return equivalent / DIAGONAL_35MM * math.hypot(*size)
    focal, density = _number(exif.get(_FOCAL)), _number(exif.get(_PLANE_X_RESOLUTION))
    unit = _MM_PER_UNIT.get(exif.get(_PLANE_UNIT, 2))
    if not (focal and density and unit):
        return None
    taken = max(_number(exif.get(_EXIF_WIDTH)) or 0, _number(exif.get(_EXIF_HEIGHT)) or 0) or max(size)
    pixels = focal * density / unit * max(size) / taken
    return pixels if 0.2 < pixels / max(size) < 20 else None


def groups(photos: Sequence[Photo]) -> list[list[Photo]]:
    """The photos by the camera that they share, in the order of the first of each."""
    shared: dict[tuple[Any, ...], list[Photo]] = {}
    for photo in photos:
        shared.setdefault(photo.camera, []).append(photo)
    return list(shared.values())


def stations(photos: Sequence[Photo]) -> list[list[int]]:
    """Places where the camera stood: the numbers of the photos taken there, all faces of a panorama or a single one."""
    places: dict[str, list[int]] = {}
    for number, photo in enumerate(photos):
        places.setdefault(photo.panorama or photo.name, []).append(number)
    return list(places.values())


def fingerprint(photos: Sequence[Photo], settings: object) -> str:
    """A name for what is made of these photos with these settings: other photos or settings have another one."""
    described = [(photo.path.name, *photo.stamp) for photo in photos]
    return hashlib.sha256(repr((described, settings)).encode()).hexdigest()[:16]


def thumbnail(file: Path) -> NDArray[np.float32]:
    """[32,32] grey 0..255. All of the photo is decoded; `InputError` names one that is damaged or cut short."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()
            if image.mode.startswith(("I", "F")):  # more than 8 bits of grey, which Pillow would cut off
                return _sampled(np.asarray(image, np.float32))
            small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, reducing_gap=1).convert("L")
    except Exception as error:  # the many readers behind PIL raise almost anything for a damaged file
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{file}: cannot be read as a photo ({said})") from error
    return np.asarray(small, np.float32)


def _sampled(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """[32,32] pixels of an image [H,W] of 16 bits, as 0..255."""
    rows, columns = (np.linspace(0, side - 1, THUMBNAIL).astype(int) for side in grey.shape)
    return (grey[np.ix_(rows, columns)] / 65535 * 255).astype(np.float32)


def check(photos: Sequence[Photo], thumbnails: Sequence[NDArray[np.float32]]) -> None:
    """Refuse photos that are all the same picture."""
    if all(float(np.abs(other - thumbnails[0]).mean()) < SAME_PICTURE for other in thumbnails):
        raise NoSceneError(
            photos[0].path.parent, f"all {len(photos)} photos are the same picture; move the camera between photos"
        )


def _files(folder: Path) -> list[Path]:
    endings = (*PHOTOS, *HEIC)
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in endings and file.is_file() and not file.name.startswith(".")
    )


def _names(files: Sequence[Path]) -> list[str]:
    """Of the copies: lists of pairs are divided at spaces, and COLMAP reads neither WebP nor HEIC."""
    names: list[str] = []
    for file in files:
        name = re.sub(r"\s", "_", file.name) + CONVERTED.get(file.suffix.lower(), "")
        while name in names:
            name = f"_{name}"
        names.append(name)
    return names


def _number(value: Any) -> float | None:
    """EXIF's numbers are fractions, of which some are 0/0."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _place(gps: dict[int, Any]) -> tuple[float, float] | None:
    try:
        latitude, longitude = (
            (-1 if str(gps[which]).upper() in ("S", "W") else 1)
            * sum(float(part) / 60**i for i, part in enumerate(gps[which + 1]))
            for which in (1, 3)
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    known = abs(latitude) <= 90 and abs(longitude) <= 180 and (latitude, longitude) != (0, 0)
    return (latitude, longitude) if known else None
