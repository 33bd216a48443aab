"""OpenEXR pictures by the few lines that its format needs without compression, for tests."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KINDS = {np.dtype(np.float16): 1, np.dtype(np.float32): 2}


def write_exr(
    path: Path,
    channels: dict[str, NDArray],
    *,
    compression: int = 0,
    data: tuple[int, int] = (0, 0),
    display: tuple[int, int, int, int] | None = None,
) -> None:
    """Rows of `channels` [H,W], float16 or float32; `data` is the (left, top) of their window, `display` the window
    shown (left, top, right, bottom, the last two included)."""
    names = sorted(channels)
    height, width = channels[names[0]].shape
    box = (*data, data[0] + width - 1, data[1] + height - 1)

    def attribute(name: str, kind: str, value: bytes) -> bytes:
        return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<I", len(value)) + value

    listed = b"".join(n.encode() + b"\0" + struct.pack("<I4xII", KINDS[channels[n].dtype], 1, 1) for n in names)
    header = b"v/1\x01" + struct.pack("<I", 2)
    header += attribute("channels", "chlist", listed + b"\0")
    header += attribute("compression", "compression", bytes([compression]))
    header += attribute("dataWindow", "box2i", struct.pack("<4i", *box))
    header += attribute("displayWindow", "box2i", struct.pack("<4i", *(display or box)))
    header += attribute("lineOrder", "lineOrder", b"\0")
    header += attribute("pixelAspectRatio", "float", struct.pack("<f", 1))
    header += attribute("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0))
    header += attribute("screenWindowWidth", "float", struct.pack("<f", 1)) + b"\0"
    rows = [b"".join(channels[name][y].tobytes() for name in names) for y in range(height)]
    blocks = [struct.pack("<iI", data[1] + y, len(row)) + row for y, row in enumerate(rows)]
    starts = np.cumsum([len(header) + 8 * height, *[len(block) for block in blocks[:-1]]])
    path.write_bytes(header + struct.pack(f"<{height}Q", *starts) + b"".join(blocks))


def write_rgb(path: Path, pixels: NDArray) -> None:
    """[H,W,3|4] with R, G, B (and A)."""
    write_exr(path, {name: np.ascontiguousarray(pixels[..., i]) for i, name in enumerate("RGBA"[: pixels.shape[2]])})
