"""Frames to files: an MP4, or a folder of PNGs. Nothing is ever half-written.

A frame is a uint8 array [H,W,3]; frames are taken one at a time, so a long path needs no more memory than a short one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write

Frame = NDArray[np.uint8]
Progress = Callable[[int, int | None], None]  # told, after each frame, how many are done and how many there will be

# ITU-T H.273 code points: BT.709 matrix, primaries and transfer curve, in the "limited" range of 16..235. Untagged
# video is guessed at by every player in its own way, and the guesses differ visibly.
BT709 = 1
LIMITED_RANGE = 1


def save_frames(
    frames: Iterable[Frame],
    out: Path | str,
    *,
    fps: float = 30,
    total: int | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write to `out`: a video if it ends in .mp4, PNGs if it is a folder or has no suffix. Returns the files written.

    Raises InputError for any other suffix, before the first frame is taken.
    """
    out = Path(out)
    if out.is_dir() or not out.suffix:
        return write_images(frames, out, total=total, progress=progress)
    if out.suffix.lower() == ".mp4":
        write_video(frames, out, fps=fps, total=total, progress=progress)
        return [out]
    raise InputError(f"{out}: cannot write {out.suffix} here; give a name that ends in .mp4, or a folder for PNGs")


def write_video(
    frames: Iterable[Frame],
    path: Path | str,
    *,
    fps: float = 30,
    crf: int = 18,
    total: int | None = None,
    progress: Progress | None = None,
) -> None:
    """H.264 in MP4, 8-bit 4:2:0: what every player and browser shows. Appears under its name when it is complete.

    PyAV is used directly, since imageio's plugin for it offers neither the quality setting nor the colour tags.

    Args:
        frames: all of one size. Sides that are odd, which 4:2:0 cannot store, are made even by repeating the last row
            or column.
        fps: frames per second, positive.
        crf: x264's constant rate factor, 1 (huge) to 51 (poor); 18 is close to visually lossless.
        total: the number of frames, where it is known; only `progress` uses it.
    Raises:
        ValueError: no frames, or frames of different sizes.
    """
    import av

    rate = Fraction(fps).limit_denominator(65535)
    if not rate > 0:
        raise ValueError(f"{fps} frames per second")
    with atomic_write(path) as file, av.open(file, mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        size = None
        done = 0
        for frame in frames:
            if size is None:
                size = frame.shape
                stream.height, stream.width = (side + side % 2 for side in size[:2])
            elif frame.shape != size:
                raise ValueError(f"frame {done} is {frame.shape}, those before it {size}")
            picture = av.VideoFrame.from_ndarray(_even(frame), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED_RANGE)
            picture.pts, picture.time_base = done, 1 / rate
            container.mux(stream.encode(picture))
            done += 1
            if progress is not None:
                progress(done, total)
        if done == 0:
            raise ValueError("a video of no frames")
        container.mux(stream.encode())


def write_images(
    frames: Iterable[Any],
    folder: Path | str,
    *,
    total: int | None = None,
    progress: Progress | None = None,
    suffix: str = ".png",
    write: Callable[[Any, Path], None] | None = None,
) -> list[Path]:
    """PNGs 00000.png, 00001.png, ... in `folder`, which is made if missing; other files in it stay. Returns them.

    Args:
        suffix, write: of pictures of another kind, and what writes one.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, not a folder to write pictures to")
    put = write or write_png
    paths = []
    for number, frame in enumerate(frames):
        paths.append(folder / f"{number:05d}{suffix}")
        put(frame, paths[-1])
        if progress is not None:
            progress(number + 1, total)
    return paths


def write_png(image: Frame, path: Path | str) -> None:
    """One 8-bit PNG from an array [H,W,3] or [H,W]."""
    from PIL import Image

    with atomic_write(path) as file:
        Image.fromarray(image).save(file, format="PNG", compress_level=4)


def _even(frame: Frame) -> Frame:
    """The frame with even sides: the last row or column is repeated where needed."""
    height, width = frame.shape[:2]
    return np.ascontiguousarray(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
