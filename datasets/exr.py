"""Pictures of scene-linear light, in which 1 is no limit: OpenEXR (.exr) and Radiance (.hdr), through FFmpeg.

EXR is described at https://openexr.com/en/latest/OpenEXRFileLayout.html, Radiance at
https://radsite.lbl.gov/radiance/refer/filefmts.pdf. FFmpeg reads all of EXR's compressions but DWAA and DWAB, of which
it makes black pictures without a word, and no single channels but Y: those are read where the package OpenEXR is.
"""

from __future__ import annotations

import importlib.util
import io
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.datasets.errors import InputError

_MAGIC = b"v/1\x01"
_COMPRESSIONS = ("none", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB")
_ROWS = {"ZIP": 16, "PIZ": 32, "PXR24": 16, "B44": 32, "B44A": 32}  # in a block; one for the others
_TILED, _PARTS_OR_DEEP = 0x200, 0x1800  # bits of the version
_MOST_HEADER = 1 << 20  # bytes; some have a small picture in them
_COLOUR = ("R", "G", "B")


@dataclass(frozen=True)
class LinearHeader:
    """What a file says of its picture.

    Attributes:
        width, height: of the window that is to be shown, px.
        channels: their names, such as ("B", "G", "R").
        compression: EXR's name of it.
        data: left, top, right, bottom (included) of the pixels that are stored, relative to the window shown.
    """

    width: int
    height: int
    channels: tuple[str, ...]
    compression: str
    data: tuple[int, int, int, int]


def read_header(path: Path) -> LinearHeader:
    """The header of a .exr or .hdr; `ValueError` for a damaged one."""
    with path.open("rb") as file:
        start = file.read(_MOST_HEADER)
    if path.suffix.lower() == ".hdr":
        size = re.search(rb"\n\n-Y (\d+) \+X (\d+)\n", start)
        if not start.startswith(b"#?") or size is None:
            raise ValueError("no Radiance picture of rows from top to bottom")
        height, width = int(size[1]), int(size[2])
        return LinearHeader(width, height, _COLOUR, "RGBE", (0, 0, width - 1, height - 1))
    attributes, _ = _attributes(start)
    left, top, right, bottom = struct.unpack("<4i", attributes["displayWindow"])
    stored = struct.unpack("<4i", attributes["dataWindow"])
    number = attributes["compression"][0]
    return LinearHeader(
        right - left + 1,
        bottom - top + 1,
        _channel_names(attributes["channels"]),
        _COMPRESSIONS[number] if number < len(_COMPRESSIONS) else f"number {number}",
        (stored[0] - left, stored[1] - top, stored[2] - left, stored[3] - top),
    )


def read(path: Path) -> NDArray[np.float32]:
    """[H,W,K] linear light, K = 1, 3 or 4 with straight alpha (EXR stores it premultiplied)."""
    header = read_header(path)
    pixels = (_through_openexr if _needs_openexr(header) else _decoded)(path, header)
    if pixels.shape[2] == 4:
        pixels[..., :3] /= np.where(pixels[..., 3:] > 0, pixels[..., 3:], 1)
    return pixels


def can_read(path: Path) -> bool:
    """Whether a whole picture could be read here: some need the package OpenEXR."""
    try:
        return not _needs_openexr(read_header(path)) or importlib.util.find_spec("OpenEXR") is not None
    except (OSError, ValueError, KeyError, struct.error):
        return False


def _needs_openexr(header: LinearHeader) -> bool:
    known = set(_COLOUR) <= set(header.channels) or "Y" in header.channels
    return header.compression.startswith("DWA") or not known


def _attributes(start: bytes) -> tuple[dict[str, bytes], int]:
    """The attributes of (the first part of) an EXR by name, and where they end."""
    if not start.startswith(_MAGIC):
        raise ValueError("no OpenEXR picture")
    found: dict[str, bytes] = {}
    name, position = _text(start, 8)
    while name:
        _, position = _text(start, position)  # the type of its value
        (size,) = struct.unpack_from("<I", start, position)
        found[name] = start[position + 4 : position + 4 + size]
        name, position = _text(start, position + 4 + size)
    missing = {"displayWindow", "dataWindow", "compression", "channels"} - found.keys()
    if missing:
        raise ValueError(f"its header has no {min(missing)}")
    return found, position


def _check_whole(data: bytes, header: LinearHeader) -> None:
    """`ValueError` for an EXR that lacks some of its blocks, which FFmpeg would show in black without a word."""
    attributes, position = _attributes(data)
    (version,) = struct.unpack_from("<I", data, 4)
    left, top, right, bottom = header.data
    width, height = right - left + 1, bottom - top + 1
    if version & _PARTS_OR_DEEP:
        return
    if version & _TILED:
        across, down, levels = struct.unpack("<IIB", attributes["tiles"])
        count, before = (-(-width // across) * -(-height // down), 20) if levels & 15 == 0 else (0, 0)
    else:
        count, before = -(-height // _ROWS.get(header.compression, 1)), 8
    starts = np.frombuffer(data, "<u8", count, position).astype(object)
    for start in starts:
        size = struct.unpack_from("<I", data, start + before - 4)[0] if start + before <= len(data) else 0
        if start < position or start + before + size > len(data):
            raise ValueError("cut short or damaged: not all of its blocks are there")


def _channel_names(value: bytes) -> tuple[str, ...]:
    names = []
    name, position = _text(value, 0)
    while name:
        names.append(name)
        name, position = _text(value, position + 16)  # behind its type and sampling
    return tuple(names)


def _text(data: bytes, position: int) -> tuple[str, int]:
    """What stands before the next zero byte, and where it goes on behind that."""
    end = data.index(b"\0", position)
    return data[position:end].decode(), end + 1


def _decoded(path: Path, header: LinearHeader) -> NDArray[np.float32]:
    """By FFmpeg: [H,W,K] as stored."""
    import av

    data = path.read_bytes()
    if header.compression != "RGBE":
        _check_whole(data, header)
    with av.open(io.BytesIO(data), mode="r") as container:  # of a path it would take % as a pattern
        frame = next(container.decode(video=0))
    assert isinstance(frame, av.VideoFrame)
    # FFmpeg's own conversion of half floats would cut them at 1.
    kind = {"f16le": "<f2", "f32le": "<f4"}[frame.format.name[-5:]]
    planes = [np.frombuffer(bytes(plane), kind).reshape(frame.height, -1)[:, : frame.width] for plane in frame.planes]
    order = {1: [0], 3: [2, 0, 1], 4: [2, 0, 1, 3]}[len(planes)]  # they are green, blue, red
    return np.stack([planes[i] for i in order], axis=-1).astype(np.float32)


def _through_openexr(path: Path, header: LinearHeader) -> NDArray[np.float32]:
    """By the package OpenEXR, which is not needed for anything else."""
    try:
        library = importlib.import_module("OpenEXR")
    except ImportError:
        what = f"compressed with {header.compression}" if header.compression.startswith("DWA") else "without R, G, B"
        raise InputError(
            f"{path}: an EXR {what} needs the package OpenEXR, which is not installed; install it, or save the picture"
            " as RGB with the compression ZIP"
        ) from None
    stored = library.File(str(path), separate_channels=True).channels()
    names = (
        [name for name in (*_COLOUR, "A") if name in stored] if set(_COLOUR) <= stored.keys() else sorted(stored)[:1]
    )
    left, top, right, bottom = header.data
    whole = np.zeros((header.height, header.width, len(names)), np.float32)
    rows, columns = slice(max(0, top), max(0, bottom + 1)), slice(max(0, left), max(0, right + 1))
    shown = whole[rows, columns]
    for i, name in enumerate(names):
        pixels = np.asarray(stored[name].pixels)[max(0, -top) :, max(0, -left) :]
        shown[..., i] = pixels[: shown.shape[0], : shown.shape[1]]
    return whole
