"""Photos with EXIF data on disk, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MAKE, MODEL, ORIENTATION, EXIF, GPS = 0x010F, 0x0110, 0x0112, 0x8769, 0x8825
FOCAL, FOCAL_35MM = 0x920A, 0xA405
PLANE_X, PLANE_UNIT, EXIF_WIDTH = 0xA20E, 0xA210, 0xA002


def write(
    path: Path,
    size: tuple[int, int] = (60, 40),
    *,
    seed: int = 0,
    tags: dict[int, Any] | None = None,
    exif: dict[int, Any] | None = None,
    gps: dict[int, Any] | None = None,
) -> Path:
    """A photo of blocks of noise, which are still there after its compression and reduction."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    data = Image.Exif()
    for tag, value in (tags or {}).items():
        data[tag] = value
    data.get_ifd(EXIF).update(exif or {})
    data.get_ifd(GPS).update(gps or {})
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(path, exif=data)
    return path
