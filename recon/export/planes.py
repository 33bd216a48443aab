"""Images whose pixels are data: lossless WebP, bit for bit.

They come from strangers, so their size is looked at before a decoder takes memory for it.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recon.datasets.errors import InputError
from recon.export.rows import MOST_SPLATS

FORMATS = ("WEBP", "PNG")
LARGEST_SIDE = 16383  # px, of a WebP


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """An image [H,W,4] as lossless WebP that keeps the colours of transparent pixels."""
    height, width = pixels.shape[:2]
    if max(height, width) > LARGEST_SIDE:
        raise ValueError(f"{width}x{height} pixels are more than a WebP has")
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", lossless=True, exact=True, quality=50, method=4)
    return out.getvalue()


def decode(data: bytes, where: str) -> NDArray[np.uint8]:
    """The pixels [H,W,4] of an image; `InputError`, which starts with `where`, if it is none or too large."""
    size = _webp_size(data)
    if size is not None:  # Pillow's decoder takes memory for all of it when it opens the file
        _check(size, where)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check(image.size, where)
            return np.asarray(image.convert("RGBA"))
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{where}: not an image that can be read: {said[:80]}") from error


def _check(size: tuple[int, int], where: str) -> None:
    if size[0] * size[1] > MOST_SPLATS:
        raise InputError(f"{where}: {size[0]}x{size[1]} pixels are more than the {MOST_SPLATS:,} that are taken")


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that the first chunk of a WebP announces; None for other files."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    head = data[12:30].ljust(18, b"\0")
    match head[:4]:
        case b"VP8L":
            bits = int.from_bytes(head[9:13], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            return int.from_bytes(head[12:15], "little") + 1, int.from_bytes(head[15:18], "little") + 1
        case _:
            return int.from_bytes(head[14:16], "little") & 0x3FFF, int.from_bytes(head[16:18], "little") & 0x3FFF
