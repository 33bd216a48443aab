"""360-degree photos (equirectangular) as pinhole photos that share their centre: which photos are some, and the faces.

Axes of a panorama are a camera's that looks at its middle: +x right, +y down, +z forward. Column x of a panorama W wide
is the longitude 2 pi (x / W - 1/2), to the right; row y of H the latitude pi (1/2 - y / H), up. Pixel centres are at
+0.5.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recon.datasets import cache
from recon.datasets.decode import decode, eight_bits, save_pixels
from recon.datasets.errors import InputError

AROUND = 6  # faces that look at the horizon, 60 degrees apart; one looks up and one down
UP, DOWN = AROUND, AROUND + 1
COUNT = AROUND + 2
HALF = math.radians(48)  # half the field of view of a face, with which all directions lie in some face
LARGEST = 1600  # px, side of a face: photos are looked at no finer, see matching.Features
LOWEST = 45  # degrees around straight down that may be left out

SEEN = (256, 128)  # px, at which it is looked whether a photo is a panorama
SEAM = 3.0  # times the usual difference of neighbouring columns, that of the first and the last at most
EVEN = 0.35  # times that usual difference, that in a row which is one point of the sphere, so pulled apart, at most
UNEVEN = 10.0  # of 255, deviation in a column from pole to pole at least: a plain background proves nothing


def face_from_panorama(face: int) -> NDArray[np.float64]:
    """[3,3] rotation of directions."""
    if face < AROUND:
        angle = 2 * math.pi * face / AROUND
        c, s = math.cos(angle), math.sin(angle)
        return np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    down = 1.0 if face == DOWN else -1.0
    return np.array([[1.0, 0, 0], [0, 0, -down], [0, down, 0]])


def face_size(width: int) -> tuple[int, float]:
    """Side and focal length, px, of the faces of a panorama of this width: in their middle as fine as that is at the
    horizon, unless that is finer than is of use."""
    side = min(2 * round(width / (2 * math.pi) * math.tan(HALF)), LARGEST)
    return side, side / (2 * math.tan(HALF))


def can_match(one: int, other: int) -> bool:
    """Whether faces of two panoramas may show the same, where the camera was held upright."""
    return one == other or max(one, other) < AROUND


def pixels_of(directions: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """[...,2] where directions [...,3] lie in a panorama."""
    x, y, z = np.moveaxis(directions, -1, 0)
    longitude, latitude = np.arctan2(x, z), np.arctan2(-y, np.hypot(x, z))
    return np.stack([(longitude / (2 * math.pi) + 0.5) * width, (0.5 - latitude / math.pi) * height], axis=-1)


def directions_of(face: int, side: int) -> NDArray[np.float64]:
    """[side,side,3] directions in the panorama through the centres of a face's pixels; not of unit length."""
    across = (2 * (np.arange(side) + 0.5) / side - 1) * math.tan(HALF)
    rays = np.stack([*np.meshgrid(across, across), np.ones((side, side))], axis=-1)
    return rays @ face_from_panorama(face)


def cut(pixels: NDArray[np.uint8], face: int, side: int) -> NDArray[np.uint8]:
    """[side,side,3] one face of a panorama [H,W,3]."""
    height, width = pixels.shape[:2]
    over = [np.roll(row, width // 2, axis=1) for row in (pixels[:1], pixels[-1:])]  # what is across the poles
    padded = np.concatenate([over[0], pixels, over[1]])
    padded = np.concatenate([padded[:, -1:], padded, padded[:, :1]], axis=1)  # and round the back
    source = torch.from_numpy(padded).permute(2, 0, 1)[None].float()
    key = ("face", face, side, width, height)
    grid = torch.from_numpy(cache.images.get(key, lambda: _grid(face, side, width, height)).copy())
    sampled = torch.nn.functional.grid_sample(source, grid[None], mode="bilinear", align_corners=False)
    return sampled[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


def mask(face: int, side: int, nadir: float) -> NDArray[np.bool_] | None:
    """[side,side] where pixels are farther than `nadir` degrees from straight down; None where all are."""
    if nadir == 0:
        return None
    directions = directions_of(face, side)
    below = directions[..., 1] / np.linalg.norm(directions, axis=-1)
    kept = below <= math.cos(math.radians(nadir))
    return None if kept.all() else kept


def split(path: Path, targets: list[Path]) -> None:
    """Write the faces of a panorama, JPEGs, each whole or not at all; those that are there stay."""
    if all(target.is_file() for target in targets):
        return
    pixels = eight_bits(decode(path))
    side, focal = face_size(pixels.shape[1])
    width = round(2 * math.pi * focal)
    if width < 0.98 * pixels.shape[1]:
        pixels = _reduced(pixels, width, width // 2)
    for face, target in enumerate(targets):
        save_pixels(target, cut(pixels, face, side))


def is_panorama(path: Path) -> bool:
    """Whether a photo twice as wide as high goes all round: it says so (Google's Photo Sphere XMP), or looks so."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            said = str(image.info.get("xmp", "")) + str(image.info.get("XML:com.adobe.xmp", ""))
            if "ProjectionType" in said:
                return "equirectangular" in said
            seen = small(np.asarray(image.convert("RGB")))
    except Exception as error:  # the many readers behind PIL raise almost anything for a damaged file
        raise InputError(f"{path}: cannot be read as a photo ({' '.join(str(error).split())})") from error
    return looks_like_one(seen)


def looks_like_one(seen: NDArray[np.float32]) -> bool:
    """Whether a `small` picture goes all round: its left and right ends continue each other, along its first and last
    rows it hardly changes, and from pole to pole it does."""
    steps = np.abs(np.diff(seen, axis=1, append=seen[:, :1])).mean(axis=-1)
    usual = steps.mean()
    return bool(
        steps[:, -1].mean() < SEAM * usual
        and max(steps[0].mean(), steps[-1].mean()) < EVEN * usual
        and seen[:, 0].std(axis=0).max() > UNEVEN
    )


def small(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[128,256,3] 0..255 of a picture [H,W,3]."""
    return _reduced(pixels, *SEEN).astype(np.float32)


def _grid(face: int, side: int, width: int, height: int) -> NDArray[np.float32]:
    """[side,side,2] for `grid_sample` of a panorama with a margin of one pixel."""
    places = pixels_of(directions_of(face, side), width, height)
    return (2 * (places + 1) / (width + 2, height + 2) - 1).astype(np.float32)


def _reduced(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))
