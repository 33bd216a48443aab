"""What the pixels of one photo say of how it was taken: sharp or blurred, too dark or too bright, and a thumbnail.

Sharpness is the width of edges, not the amount of texture: the squared differences of pixels `FAR` apart over those of
neighbours. Of a sharp step there are FAR of the former and one of the latter, all the same; a slope that is w px wide
has w of the latter, each w^2 times smaller, so the quotient is FAR w, up to FAR^2. So a bare wall in focus is as sharp
as a meadow, and a blurred meadow is not. Directions are measured by themselves, since a moving camera blurs in one of
them; and parts of the photo too, since a lens focuses on some of them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.datasets import photo_folder
from recon.datasets.decode import decode, eight_bits
from recon.datasets.errors import InputError

SIDE = 1000  # px, of the longer side of a photo as it is looked at: about the size at which features are found
FAR = 6  # px
PARTS = 5  # of the photo along each side
CONTRAST = 0.06  # of 1: least difference of pixels FAR apart that counts as an edge and not as noise
FEWEST_EDGES = 60  # pixels, in a part that can be judged
DARK, BRIGHT = 4 / 255, 251 / 255  # pixels beyond have lost what they showed
WIDE, TIMES = 1.8, 1.75  # px, and the usual: edges that are wider are blurred
HOPELESS = 3.5  # px: edges that are wider are blurred, whatever is usual
SMALL = 160  # px, the longer side of the thumbnail that the report shows


@dataclass(frozen=True)
class Look:
    """A photo as it looks.

    Attributes:
        size: (width, height) px, upright.
        blur: width of the sharpest edges, px of a photo `SIDE` px long, at most FAR; None where it has no edges.
        brightness: mean of the grey values, 0..1.
        lightest: the grey value that 5% of the pixels exceed, 0..1.
        dark, bright: shares of the pixels that are black or white, 0..1.
        colours: [64] share of the pixels in each of 4x4x4 colours.
        picture: [32,32] grey 0..255, to find photos that are the same.
        thumbnail: a small JPEG.
    """

    size: tuple[int, int]
    blur: float | None
    brightness: float
    lightest: float
    dark: float
    bright: float
    colours: NDArray[np.float32]
    picture: NDArray[np.float32]
    thumbnail: bytes


def look(pixels: NDArray[np.uint8]) -> Look:
    """Look at a photo [H,W,3], upright."""
    from PIL import Image

    height, width = pixels.shape[:2]
    full = Image.fromarray(pixels)
    reduced = full.resize(_fitting((width, height), SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    colour = np.asarray(reduced, np.float32) / np.float32(255)
    grey = colour @ np.array([0.299, 0.587, 0.114], np.float32)
    small = reduced.resize(_fitting((width, height), SMALL), Image.Resampling.BOX)
    written = io.BytesIO()
    small.save(written, "JPEG", quality=70)
    return Look(
        size=(width, height),
        blur=edge_width(grey),
        brightness=float(grey.mean()),
        lightest=float(np.quantile(grey, 0.95)),
        dark=float((colour <= DARK).all(axis=-1).mean()),
        bright=float((colour >= BRIGHT).all(axis=-1).mean()),
        colours=_histogram(colour),
        picture=np.asarray(reduced.resize((32, 32), Image.Resampling.BOX).convert("L"), np.float32),
        thumbnail=written.getvalue(),
    )


def read(file: Path) -> NDArray[np.uint8]:
    """[H,W,3] a photo, upright; `InputError` names one that cannot be read."""
    from PIL import Image, ImageOps

    if file.suffix.lower() not in photo_folder.HEIC:
        return eight_bits(decode(file))
    photo_folder.open_heic()
    try:
        with Image.open(file) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # the many readers behind PIL raise almost anything for a damaged file
        raise InputError(f"{file}: cannot be read as a photo ({' '.join(str(error).split())})") from error


def blurred(widths: Sequence[float | None]) -> list[bool]:
    """Which photos of a capture are blurred: whose edges are wide, and wider than those of its usual photo."""
    known = [width for width in widths if width is not None]
    usual = float(np.median(known)) if known else 0.0
    limit = min(HOPELESS, max(WIDE, TIMES * usual))
    return [width is not None and width > limit for width in widths]


def edge_width(grey: NDArray[np.float32]) -> float | None:
    """How wide the edges of an image [H,W] (0..1) are in its sharpest part, px; the worst of four directions.

    None where fewer than two directions have edges that can be judged.
    """
    widths = []
    for step in ((0, 1), (1, 0), (1, 1), (1, -1)):
        near, far = _differences(grey, step, 1), _differences(grey, step, FAR)
        height, width = (min(a, b) for a, b in zip(near.shape, far.shape, strict=True))
        width_here = _sharpest(near[:height, :width], far[:height, :width])
        if width_here is not None:
            widths.append(width_here)
    return max(widths) if len(widths) > 1 else None


def _differences(grey: NDArray[np.float32], step: tuple[int, int], length: int) -> NDArray[np.float32]:
    """Squared differences of pixels `length` steps apart, each where the middle between the two is."""
    down, right = step[0] * length, step[1] * length
    height, width = grey.shape
    back = (FAR - length) // 2  # so that both lengths have the same middle, to half a pixel
    rows, columns = height - step[0] * FAR, width - abs(step[1]) * FAR
    if rows < 1 or columns < 1:
        return np.zeros((0, 0), np.float32)
    top = step[0] * back
    left = step[1] * back if step[1] >= 0 else -step[1] * (FAR - back)
    first = grey[top : top + rows, left : left + columns]
    second = grey[top + down : top + down + rows, left + right : left + right + columns]
    return (second - first) ** 2


def _sharpest(near: NDArray[np.float32], far: NDArray[np.float32]) -> float | None:
    """Width of edges in the sharpest of the parts that have enough of them, but for one: one may be a mistake."""
    found = []
    for near_rows, far_rows in zip(np.array_split(near, PARTS), np.array_split(far, PARTS), strict=True):
        parts = zip(np.array_split(near_rows, PARTS, axis=1), np.array_split(far_rows, PARTS, axis=1), strict=True)
        for a, b in parts:
            edges = b > CONTRAST**2
            if int(edges.sum()) >= FEWEST_EDGES:
                found.append(float(b[edges].sum()) / max(float(a[edges].sum()), 1e-12) / FAR)
    found.sort()
    return found[min(1, len(found) - 1)] if found else None


def _fitting(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _histogram(colour: NDArray[np.float32]) -> NDArray[np.float32]:
    bins = (colour * 3.999).astype(int)
    index = (bins[..., 0] * 4 + bins[..., 1]) * 4 + bins[..., 2]
    return (np.bincount(index.ravel(), minlength=64) / index.size).astype(np.float32)
