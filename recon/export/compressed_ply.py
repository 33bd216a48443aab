"""PlayCanvas's compressed .ply: 16 bytes a splat, plus a byte for each SH coefficient above the constant ones.

Splats come in chunks of 256 that are near each other. A chunk has the bounds of its positions, logarithms of scales
and colours, and between these a splat has 11, 10 and 11 bits for each position and scale, 8 for each colour, 8 for
its opacity, and 10 for each of the smallest three components of its rotation. Loss, apart from that rounding: SH
coefficients of more than +-4 are cut. The order of the splats changes. Coordinates are those of a plain .ply.

Layout: https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/ply. Shape letters: N splats, C chunks.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon import sh
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.datasets.ply import read_elements, read_fields
from recon.export.rows import (
    Bytes,
    Floats,
    Rows,
    coefficients,
    colours,
    from_smallest_three,
    logit,
    morton_order,
    sigmoid,
    smallest_three,
    unit,
)
from recon.gaussians import Gaussians

LOSS = "positions and scales are within a 1000th of the extent of 256 neighbours, SH coefficients within 1/64"
CHUNK = 256
BOUNDS = [f"{end}_{what}{axis}" for what in ("", "scale_") for end in ("min", "max") for axis in "xyz"]
COLOUR_BOUNDS = [f"{end}_{channel}" for end in ("min", "max") for channel in "rgb"]  # missing in the oldest files
PACKED = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
SH_RANGE = 8.0  # from the lowest coefficient that has a byte to the highest
SCALE_LIMIT = 20.0  # of logarithms of scales; what is beyond is nothing, or everything


def is_packed(path: Path) -> bool:
    """Whether a .ply is of this kind, by its header; `InputError` where it is none at all."""
    return "packed_position" in read_fields(path)


def save(gaussians: Gaussians, path: Path | str) -> None:
    """Write all Gaussians, those near each other together."""
    path = Path(path)
    rows = Rows.of(gaussians, path)
    rows = rows.taken(morton_order(rows.means))
    count, per_channel = len(rows), rows.shN.shape[1]
    chunks = -(-count // CHUNK)
    # The last chunk is filled up with its last splat, which its bounds hold anyway.
    filled = np.minimum(np.arange(chunks * CHUNK), count - 1)
    bounds, words = [], []
    log_scales = np.clip(rows.log_scales, -SCALE_LIMIT, SCALE_LIMIT)
    for values in (rows.means, log_scales, colours(rows.sh0)):
        low, high, shares = _between_bounds(values[filled].reshape(chunks, CHUNK, 3).astype(np.float32))
        bounds += [low, high]
        words.append(shares.reshape(-1, 3)[:count])
    positions, scales, rgb = words
    opacities = sigmoid(rows.logit_opacities)[:, None]
    packed = np.stack(
        [
            _pack(positions, (11, 10, 11)),
            _packed_rotations(unit(rows.quats)),
            _pack(scales, (11, 10, 11)),
            _pack(np.concatenate([rgb, opacities], axis=1), (8, 8, 8, 8)),
        ],
        axis=1,
    )
    header = ["ply", "format binary_little_endian 1.0", f"element chunk {chunks}"]
    header += [f"property float {name}" for name in [*BOUNDS, *COLOUR_BOUNDS]]
    header += [f"element vertex {count}", *(f"property uint {name}" for name in PACKED)]
    if per_channel:
        header += [f"element sh {count}", *(f"property uchar f_rest_{i}" for i in range(3 * per_channel))]
    with atomic_write(path) as file:
        file.write("\n".join([*header, "end_header", ""]).encode("ascii"))
        file.write(np.concatenate(bounds, axis=1).astype("<f4").tobytes())
        file.write(packed.astype("<u4").tobytes())
        file.write(_packed_harmonics(rows.shN.transpose(0, 2, 1).reshape(count, 3 * per_channel)).tobytes())


def load(path: Path | str) -> Gaussians:
    """Read a packed .ply; `InputError` says what is wrong with it."""
    path = Path(path)
    elements = read_elements(path, ["chunk", "vertex", "sh"])
    words = _columns(path, elements, "vertex", PACKED, "u4")
    count = len(words)
    bounds = _columns(path, elements, "chunk", BOUNDS, "f4")
    if len(bounds) * CHUNK < count:
        raise InputError(f"{path}: {len(bounds)} chunks for {count} splats; one is for {CHUNK}")
    chunk = np.arange(count) // CHUNK
    with np.errstate(invalid="ignore", over="ignore"):  # bounds may be anything; `gaussians` says what comes of it
        means, scales = (
            _within(bounds[chunk, low : low + 6], _unpack(words[:, column], (11, 10, 11)))
            for low, column in ((0, 0), (6, 2))
        )
        rgba = _unpack(words[:, 3], (8, 8, 8, 8))
        rgb = rgba[:, :3]
        if "min_r" in (elements["chunk"].dtype.names or ()):
            rgb = _within(_columns(path, elements, "chunk", COLOUR_BOUNDS, "f4")[chunk], rgb)
        rows = Rows(
            means, _rotations(words[:, 1]), scales, logit(rgba[:, 3]), coefficients(rgb), _harmonics(path, elements)
        )
    return rows.gaussians(str(path))


def _columns(path: Path, elements: dict[str, np.ndarray], element: str, names: list[str], kind: str) -> NDArray:
    """Fields of an element [rows,fields], of the type that they have to have."""
    rows = elements.get(element)
    present = () if rows is None else rows.dtype.names or ()
    for name in names:
        if rows is None or name not in present or rows.dtype[name].newbyteorder("=") != np.dtype(kind):
            raise InputError(f"{path}: not a compressed .ply: its element {element} has no {name} of type {kind}")
    assert rows is not None
    return np.stack([rows[name].astype(kind) for name in names], axis=1)


def _between_bounds(values: NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
    """The lowest and highest of each chunk [C,3], and where between them values [C,256,3] are, 0..1."""
    low, high = values.min(axis=1), values.max(axis=1)
    extent = np.where(high > low, high.astype(np.float64) - low, 1.0)
    return low, high, (values - low[:, None].astype(np.float64)) / extent[:, None]


def _within(bounds: Floats, shares: Floats) -> Floats:
    """The inverse for splats [N,3] whose chunks have the bounds [N,6]."""
    low, high = bounds[:, :3], bounds[:, 3:]
    return low * (1 - shares) + high * shares


def _pack(shares: Floats, bits: tuple[int, ...]) -> NDArray[np.uint32]:
    """Shares 0..1 [N,fields] in one word [N], the first field uppermost."""
    words = np.zeros(len(shares), dtype=np.uint32)
    for column, width in enumerate(bits):
        steps = (1 << width) - 1
        words = words << np.uint32(width) | np.rint(np.clip(shares[:, column], 0, 1) * steps).astype(np.uint32)
    return words


def _unpack(words: NDArray[np.uint32], bits: tuple[int, ...]) -> Floats:
    """The inverse of `_pack`."""
    shares = []
    for width in reversed(bits):
        steps = (1 << width) - 1
        shares.append((words & np.uint32(steps)) / np.float64(steps))
        words = words >> np.uint32(width)
    return np.stack(shares[::-1], axis=1)


def _packed_rotations(quats: Floats) -> NDArray[np.uint32]:
    largest, others = smallest_three(quats)
    return largest.astype(np.uint32) << np.uint32(30) | _pack(others * math.sqrt(0.5) + 0.5, (10, 10, 10))


def _rotations(words: NDArray[np.uint32]) -> Floats:
    return from_smallest_three(words >> np.uint32(30), (_unpack(words, (10, 10, 10)) - 0.5) * math.sqrt(2))


def _packed_harmonics(values: Floats) -> Bytes:
    return np.clip(np.floor((values / SH_RANGE + 0.5) * 256), 0, 255).astype(np.uint8)


def _harmonics(path: Path, elements: dict[str, np.ndarray]) -> Floats:
    """[N,K-1,3]; a byte is the middle of its step, but for the first and the last one, as PlayCanvas has it."""
    count = len(elements["vertex"])
    rows = elements.get("sh")
    if rows is None:
        return np.zeros((count, 0, 3), dtype=np.float32)
    fields = len(rows.dtype.names or ())
    if fields not in {3 * (sh.num_coefficients(degree) - 1) for degree in range(1, sh.MAX_DEGREE + 1)}:
        raise InputError(f"{path}: {fields} f_rest fields belong to no SH degree: 9, 24 or 45 do")
    if len(rows) != count:
        raise InputError(f"{path}: {len(rows)} rows of sh for {count} splats")
    steps = _columns(path, elements, "sh", [f"f_rest_{i}" for i in range(fields)], "u1")
    shares = np.where(steps == 0, 0.0, np.where(steps == 255, 1.0, (steps + 0.5) / 256)).astype(np.float32)
    return ((shares - 0.5) * SH_RANGE).reshape(count, 3, fields // 3).transpose(0, 2, 1)
