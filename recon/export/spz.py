"""Niantic's .spz: splats in 8 to 24 bits a number, compressed by gzip (versions 2 and 3) or Zstandard (version 4).

Each attribute lies together: positions in fixed point, opacities, colours, logarithms of the scales, rotations, SH
coefficients. Loss, apart from the rounding of each: SH coefficients of more than 1 are cut, and colours beyond what
+-3.3 of `sh0` show. Axes are right, up, back, as OpenGL has them, where .ply files have right, down, front: y and z
are negated on the way, as all programs do that read both. Records of vendors ("extensions") are passed over.

Layout: https://github.com/nianticlabs/spz. Shape letters as in `rows`.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import zstandard

from recon import sh
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.export.rows import (
    Bytes,
    Floats,
    Rows,
    check_count,
    from_bytes,
    from_smallest_three,
    logit,
    read_bytes,
    sigmoid,
    smallest_three,
    to_bytes,
    unit,
    with_large_w,
    wxyz,
    xyzw,
)
from recon.gaussians import Gaussians

LOSS = (
    "scales are within 3 %, rotations within 0.3 degrees, SH coefficients at most 1 and within 1/64, all else in bytes"
)
VERSION = 3  # that is written: more programs read it than version 4, and the files are equally large
MAGIC = b"NGSP"
HEADER = struct.Struct("<4sIIBBBB")  # magic, version, splats, SH degree, fraction bits, flags, streams (v4)
ANTIALIASED = 1  # of the flags
HEADER_4 = 32  # bytes; after the fields of HEADER, where the table of contents is (uint32), and zeros
ENTRY = struct.Struct("<QQ")  # of that table, for each stream: its compressed size, and its own
GZIP, GZIP_MAGIC = 31, b"\x1f\x8b"  # zlib's number for the format
CHUNK = 1 << 20  # bytes that are decompressed at once
WINDOW = 1 << 27  # bytes of history that a stream may ask for

AXES = (1, -1, -1)  # to and from those of .ply
SH_DEGREES = (0, 1, 2, 3, 4)
# Of 256, that coefficients of degree 1, and of higher ones, are rounded to, as noise does not pack. Niantic's own
# writer takes 8 and 16: files a third smaller, of which pictures are off by four times as much.
SH_STEPS = (2, 4)
COLOUR = 0.15  # of 0..1 for each unit of sh0: wider than what is shown (0.28), as higher degrees may add to it
LARGEST = (1 << 23) - 1  # that a position has room for
FINEST = 24  # bits of fraction
ROTATION_STEPS = {2: 127.5, 3: 511 * math.sqrt(2), 4: 511 * math.sqrt(2)}


def save(gaussians: Gaussians, path: Path | str, *, version: int = VERSION) -> None:
    """Write all Gaussians, in their order; `version` is 2, 3 or 4."""
    path = Path(path)
    data = encode(Rows.of(gaussians, path), str(path), version, antialiased=gaussians.antialiased)
    with atomic_write(path) as file:
        file.write(data)


def load(path: Path | str) -> Gaussians:
    """Read a file of version 2, 3 or 4; `InputError` says what is wrong with it. SH of degree 4 are cut to 3."""
    path = Path(path)
    rows, antialiased = decode(read_bytes(path), str(path))
    return rows.gaussians(str(path), antialiased=antialiased)


def encode(rows: Rows, where: str, version: int = VERSION, *, antialiased: bool = False) -> bytes:
    """The bytes of a file."""
    degree = sh.degree_of(1 + rows.shN.shape[1])
    rows = rows.turned(AXES)
    bits = _fraction_bits(rows, where)
    header = HEADER.pack(MAGIC, version, len(rows), degree, bits, ANTIALIASED * antialiased, 0)
    streams = [
        _packed_positions(rows.means, bits),
        to_bytes(sigmoid(rows.logit_opacities)),
        to_bytes(rows.sh0 * COLOUR + 0.5),
        np.rint(np.clip((rows.log_scales + 10) * 16, 0, 255)).astype(np.uint8),
        _packed_rotations(unit(rows.quats), version),
        _packed_harmonics(rows.shN),
    ]
    parts = [stream.tobytes() for stream in streams[: 6 if degree else 5]]
    if version < 4:
        packer = zlib.compressobj(wbits=GZIP)
        return packer.compress(header + b"".join(parts)) + packer.flush()
    packed = [zstandard.ZstdCompressor(level=12).compress(part) for part in parts]
    header = header[:-1] + struct.pack("<BI12x", len(parts), HEADER_4)
    table = [ENTRY.pack(len(small), len(part)) for small, part in zip(packed, parts, strict=True)]
    return b"".join([header, *table, *packed])


def decode(data: bytes, where: str) -> tuple[Rows, bool]:
    """The rows in the bytes of a file, and whether they are to be drawn antialiased; errors start with `where`."""
    if data[:2] == GZIP_MAGIC:
        unpacker = zlib.decompressobj(wbits=GZIP)
        header = _inflated(unpacker, data, HEADER.size, where)
    else:
        header = data[: HEADER.size]
    if len(header) < HEADER.size or header[:4] != MAGIC:
        raise InputError(f"{where}: not an .spz file: it does not start with 'NGSP'")
    _, version, count, degree, bits, flags, streams = HEADER.unpack(header)
    if version not in ROTATION_STEPS:
        raise InputError(f"{where}: version {version} of .spz is not known; 2, 3 and 4 are")
    if degree not in SH_DEGREES:
        raise InputError(f"{where}: SH degree {degree}; 0 to 4 are known")
    if bits > FINEST:
        raise InputError(f"{where}: {bits} bits of fraction, of positions that have 24")
    check_count(count, len(data), where)
    higher = (degree + 1) ** 2 - 1
    sizes = [size * count for size in (9, 1, 3, 3, 3 if version == 2 else 4, 3 * higher)]
    if version == 4:
        parts = _streams(data, sizes[: 6 if degree else 5], streams, where)
    else:
        total = sum(sizes)
        packed = data[:2] == GZIP_MAGIC
        body = _inflated(unpacker, unpacker.unconsumed_tail, total, where) if packed else data[HEADER.size :]
        if len(body) < total:
            raise InputError(f"{where}: truncated: {count:,} splats take {total:,} bytes, {len(body):,} are there")
        parts = [body[end - size : end] for end, size in zip(itertools.accumulate(sizes), sizes, strict=True)]
    arrays = [np.frombuffer(part, np.uint8) for part in [*parts, b""][:6]]
    return _unpacked(arrays, count, version, bits, higher), bool(flags & ANTIALIASED)


def _unpacked(arrays: list[Bytes], count: int, version: int, bits: int, higher: int) -> Rows:
    positions, opacities, colours, scales, rotations, harmonics = arrays
    kept = min(higher, sh.num_coefficients(sh.MAX_DEGREE) - 1)
    return Rows(
        _positions(positions.reshape(count, 9), bits),
        wxyz(_rotations(rotations.reshape(count, 3 if version == 2 else 4), version)),
        scales.reshape(count, 3) / np.float32(16) - 10,
        logit(from_bytes(opacities)),
        (from_bytes(colours.reshape(count, 3)) - 0.5) / COLOUR,
        (harmonics.reshape(count, higher, 3)[:, :kept].astype(np.float32) - 128) / 128,
    ).turned(AXES)


def _inflated(unpacker: zlib._Decompress, data: bytes, size: int, where: str) -> bytes:
    """At most `size` bytes more; memory grows only with what is there."""
    try:
        return unpacker.decompress(data, size) if size else b""  # 0 would mean all
    except zlib.error as error:
        raise InputError(f"{where}: damaged: {error}") from error


def _streams(data: bytes, sizes: list[int], announced: int, where: str) -> list[bytes]:
    """The decompressed streams of version 4, which have to have these sizes."""
    if announced != len(sizes):
        raise InputError(f"{where}: {announced} streams; such splats have {len(sizes)}")
    start = int.from_bytes(data[HEADER.size : HEADER.size + 4], "little")
    at = start + ENTRY.size * len(sizes)
    if start < HEADER_4 or at > len(data):
        raise InputError(f"{where}: truncated: its table of contents is at {start:,} of {len(data):,} bytes")
    parts = []
    for index, size in enumerate(sizes):
        packed, own = ENTRY.unpack_from(data, start + ENTRY.size * index)
        if own != size:
            raise InputError(f"{where}: stream {index} has {own:,} bytes; such splats have {size:,}")
        if packed > len(data) - at:
            raise InputError(f"{where}: truncated: stream {index} has {packed:,} bytes, {len(data) - at:,} are there")
        parts.append(_unzipped(data[at : at + packed], size, f"{where}: stream {index}"))
        at += packed
    return parts


def _unzipped(data: bytes, size: int, where: str) -> bytes:
    reader = zstandard.ZstdDecompressor(max_window_size=WINDOW).stream_reader(data)
    chunks, left = [], size
    try:
        while left and (chunk := reader.read(min(CHUNK, left))):
            chunks.append(chunk)
            left -= len(chunk)
    except (zstandard.ZstdError, MemoryError) as error:
        raise InputError(f"{where}: damaged: {error}") from error
    if left:
        raise InputError(f"{where}: truncated: {size:,} bytes are announced, {size - left:,} are there")
    return b"".join(chunks)


def _fraction_bits(rows: Rows, where: str) -> int:
    """How finely positions are rounded: to an eighth of what most splats are thick, but not coarser than Niantic's own
    writer (12 bits) where that fits. Finer would be noise that does not compress."""
    if not len(rows):
        return 12
    farthest = float(np.abs(rows.means).max())
    room = 23 - math.ceil(math.log2(farthest + 1e-30)) if farthest > 0 else FINEST
    if room < 0:
        raise InputError(f"{where}: a splat is {farthest:g} from the origin; .spz has room for {LARGEST:,}")
    thickness = float(np.median(rows.log_scales.min(axis=1))) / math.log(2)
    return max(0, min(max(12, math.ceil(3 - thickness)), room, FINEST))


def _packed_positions(means: Floats, bits: int) -> Bytes:
    steps = np.rint(means.astype(np.float64) * (1 << bits))
    fixed = np.clip(steps, -LARGEST - 1, LARGEST).astype("<i4")
    return np.ascontiguousarray(fixed).view(np.uint8).reshape(-1, 3, 4)[:, :, :3]


def _positions(packed: Bytes, bits: int) -> Floats:
    """[N,3] from 24-bit fixed point [N,9]: shifted down from the upper bytes of 32, which keeps the sign."""
    wide = np.zeros((len(packed), 3, 4), dtype=np.uint8)
    wide[:, :, 1:] = packed.reshape(-1, 3, 3)
    return ((wide.view("<i4")[:, :, 0] >> 8) / float(1 << bits)).astype(np.float32)


def _packed_rotations(quats: Floats, version: int) -> Bytes:
    """Version 2: x, y, z, of which w > 0 follows. Later: the smallest three, a sign and 9 bits each."""
    if version == 2:
        xyz = with_large_w(quats)[:, 1:]  # a small w would follow badly from large others
        return np.rint(np.clip(xyz * 127.5 + 127.5, 0, 255)).astype(np.uint8)
    largest, others = smallest_three(xyzw(quats))
    steps = np.minimum(np.rint(np.abs(others) * ROTATION_STEPS[version]), 511).astype(np.uint32)
    fields = steps | (others < 0).astype(np.uint32) << 9
    packed = largest.astype(np.uint32) << 30 | fields[:, 0] << 20 | fields[:, 1] << 10 | fields[:, 2]
    return packed.astype("<u4").view(np.uint8)


def _rotations(packed: Bytes, version: int) -> Floats:
    """Quaternions [N,4] xyzw."""
    if version == 2:
        xyz = packed / ROTATION_STEPS[2] - 1
        w = np.sqrt(np.maximum(0, 1 - (xyz**2).sum(axis=1, keepdims=True)))
        return np.concatenate([xyz, w], axis=1)
    words = np.ascontiguousarray(packed).view("<u4")[:, 0]
    fields = np.stack([words >> 20, words >> 10, words], axis=1)
    steps = (fields & 511).astype(np.float64) * np.where(fields & 512, -1, 1)
    return from_smallest_three(words >> 30, steps / ROTATION_STEPS[version])


def _packed_harmonics(shN: Floats) -> Bytes:
    """In steps of `SH_STEPS`, of which 0 is one."""
    steps = np.where(np.arange(shN.shape[1]) < 3, *SH_STEPS)[:, None]
    return np.clip(np.rint(shN * 128 / steps) * steps + 128, 0, 255).astype(np.uint8)
