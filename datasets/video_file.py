"""Videos as frames, one after the other: upright, 8 bits, whatever the file stores. PyAV decodes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recon.datasets.errors import InputError
from recon.datasets.hdr import HLG, PQ, to_sdr

if TYPE_CHECKING:
    import av

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".mpg", ".mpeg", ".3gp")
BT709, UNSPECIFIED, BT601, BT2020 = 1, 2, 5, 9  # matrices, by their numbers in ITU-T H.273
HIGH_DEFINITION = 720  # rows from which a video that does not say so is BT.709's: the rule of players
SHORT_OF = 0.9  # share of the time that the file promises, below which it is told that there is less


@dataclass(frozen=True)
class Video:
    """What the header of a video says.

    Attributes:
        path: the file.
        stamp: time of change and size in bytes of the file, to notice that it is another one.
        size: (width, height) px as stored.
        seconds: how long; 0 where it does not say.
        rate: frames a second, on average; 0 where it does not say.
    """

    path: Path
    stamp: tuple[int, int]
    size: tuple[int, int]
    seconds: float
    rate: float


@dataclass(frozen=True)
class Frame:
    """A decoded frame: its number, its time in seconds, and what becomes pixels when asked for."""

    number: int
    time: float
    _stored: av.VideoFrame
    _transfer: int

    def grey(self, longest: int) -> NDArray[np.float32]:
        """[h,w] 0..255, reduced to this longest side, as stored (not turned)."""
        width, height = self._stored.width, self._stored.height
        scale = min(1.0, longest / max(width, height))
        small = self._stored.reformat(
            width=max(16, round(width * scale)),
            height=max(16, round(height * scale)),
            format="gray",
            interpolation="AREA",
        )
        return small.to_ndarray().astype(np.float32)

    def rgb(self) -> NDArray[np.uint8]:
        """[H,W,3], turned as the file says that it is to be shown."""
        stored = self._stored
        matrix = int(stored.colorspace)
        if matrix not in (BT709, BT601, BT601 + 1, BT2020):
            matrix = BT709 if stored.height >= HIGH_DEFINITION else BT601
        if self._transfer in (PQ, HLG):
            deep = np.asarray(stored.reformat(format="rgb48le", src_colorspace=BT2020).to_ndarray(), np.uint16)
            pixels = to_sdr(deep, self._transfer)
        else:
            pixels = np.asarray(stored.reformat(format="rgb24", src_colorspace=matrix).to_ndarray(), np.uint8)
        return np.ascontiguousarray(np.rot90(pixels, round(stored.rotation / 90)))


def is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def read_header(path: Path) -> Video:
    """The header of a video; `InputError` for a file that is none, or has no moving picture in it."""
    status = path.stat()
    with _opened(path) as container:
        stream = container.streams.video[0]
        seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        if not seconds and container.duration:
            seconds = container.duration / 1e6
        size = (stream.codec_context.width, stream.codec_context.height)
        rate = float(stream.average_rate or 0)
    if min(size) < 1:
        raise InputError(f"{path}: cannot be read as a video (no picture size)")
    return Video(path, (status.st_mtime_ns, status.st_size), size, seconds, rate)


def frames(video: Video, say: Callable[[str], None]) -> Generator[Frame, None, None]:
    """The frames in the order in which they are shown. Those that are damaged are left out, and `say` is told.

    Times are the file's own, so a rate that varies does no harm.

    Raises:
        InputError: none at all can be decoded.
    """
    import av

    number, damaged, last, first = 0, 0, 0.0, None
    with _opened(video.path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                decoded = [] if packet is None else packet.decode()
            except av.error.FFmpegError as error:
                damaged += 1
                if isinstance(error, av.error.InvalidDataError) and damaged < 1000:
                    continue
                break
            if packet is None:
                break
            for frame in decoded:
                if getattr(frame, "is_corrupt", False):
                    damaged += 1
                    continue
                time = float(frame.time) if frame.time is not None else number / (video.rate or 30)
                first = time if first is None else first
                last = time - first
                yield Frame(number, last, frame, int(stream.codec_context.color_trc))
                number += 1
    if number == 0:
        raise InputError(f"{video.path}: no frame of this video can be decoded; the file is damaged or empty")
    if damaged:
        say(f"{video.path}: {damaged} damaged parts are left out")
    if video.seconds and last + 2 / (video.rate or 30) < SHORT_OF * video.seconds:
        say(f"{video.path}: ends after {last:.1f} of {video.seconds:.1f} s, cut short; what is there is used")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    import av

    # With a level, messages come to Python: a thread of FFmpeg then waits for the interpreter, while who lets go of a
    # video half-way has it, and waits for that thread.
    av.logging.set_level(None)
    try:
        container = av.open(str(path))
    except av.error.FFmpegError as error:
        raise InputError(f"{path}: cannot be read as a video ({error.strerror or error})") from error
    with container:
        if not container.streams.video:
            raise InputError(f"{path}: has no moving picture in it, only {_kinds(container) or 'nothing'}")
        yield container


def _kinds(container: av.container.InputContainer) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams}))
