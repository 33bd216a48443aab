"""Short videos on disk, for tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

QUALITY = {"libx264": {"crf": "8"}, "libx265": {"crf": "8", "x265-params": "bframes=0:log-level=none"}}

Frames = Iterable[NDArray[Any]]


def texture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """[H,W,3] of noise on several scales, so that shifts of any size can be told; of faint colours, since video stores
    fewer of them than pixels."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for blocks in (4, 16, 64):
        small = rng.integers(0, 256, (-(-height // blocks), -(-width // blocks), 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), np.float64)
    grey = total.mean(axis=-1, keepdims=True)
    return np.clip((grey + 0.2 * (total - grey)) - 256, 0, 255).astype(np.uint8)


def crop(picture: NDArray[np.uint8], x: float, y: float, width: int, height: int, blur: float = 0) -> NDArray[np.uint8]:
    """[height,width,3] of a picture from (x, y) on, which need not be whole; `blur` px of horizontal motion blur."""
    steps = np.linspace(-blur / 2, blur / 2, max(1, round(2 * blur)))
    image = Image.fromarray(picture)
    parts = [
        np.asarray(
            image.transform((width, height), Image.Transform.AFFINE, (1, 0, x + d, 0, 1, y), Image.Resampling.BILINEAR)
        )
        for d in steps
    ]
    return np.rint(np.mean(parts, axis=0)).astype(np.uint8)


def write(
    path: Path,
    frames: Frames,
    *,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    source: str = "rgb24",
    matrix: int = 1,
    transfer: int = 1,
    primaries: int = 1,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode frames [H,W,3] at `times` (seconds; None: 30 a second), nearly without loss.

    Args:
        source: the pixel format that the frames are in.
        matrix, transfer, primaries: the colours that they are said to be in, by their numbers in ITU-T H.273.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=QUALITY.get(codec, {}) | (options or {}))
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries, context.color_range = (
            matrix,
            transfer,
            primaries,
            1,
        )
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=source)
            if i == 0:
                stream.width, stream.height = picture.width, picture.height
            picture = picture.reformat(format=pixels, dst_colorspace=matrix, dst_color_range=1)
            picture.pts = round(1000 * (times[i] if times is not None else i / 30))
            picture.time_base = Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def turn(path: Path, quarter: str) -> None:
    """Make an MP4 one that is to be turned when shown, as phones write it: by the matrix in its track header
    (ISO/IEC 14496-12, 8.3.2; QuickTime File Format, "Matrices")."""
    one = 1 << 16
    rows = {"right": (0, one, 0, -one, 0, 0), "left": (0, -one, 0, one, 0, 0), "half": (-one, 0, 0, 0, -one, 0)}
    matrix = b"".join(value.to_bytes(4, "big", signed=True) for value in (*rows[quarter], 0, 0, 1 << 30))
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # version 0: behind times, track, duration, layer, volume
    data[place : place + 36] = matrix
    path.write_bytes(data)
