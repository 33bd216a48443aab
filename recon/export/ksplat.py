"""The .ksplat of mkkellogg's GaussianSplats3D, in its three levels of compression.

Level 0 holds floats; level 1 and 2 hold positions in 16 bits within cubes ("buckets") and halves for scales and
rotations; SH coefficients are floats, halves or (level 2) bytes. Colours and opacities are bytes in all of them.
Level 1 is written. Loss, apart from that rounding: SH of degree 3, which the format has no room for, and colours
outside what a screen shows. The order of the splats changes. Coordinates are those of a .ply.

Layout: https://github.com/mkkellogg/GaussianSplats3D. Shape letters: N splats, B buckets.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon import sh
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.export.rows import (
    Floats,
    Rows,
    exponentials,
    from_rgba,
    joined,
    logarithms,
    read_bytes,
    sigmoid,
    to_rgba,
    unit,
)
from recon.gaussians import Gaussians

LOSS = "SH of degree 3 are left out, colours and opacities in bytes, rotations and scales in halves"
LEVEL = 1  # that is written
# Versions; sections there is room for and there are; splats likewise; level; scene centre; range of SH bytes.
HEADER = struct.Struct("<BBxxIIIIHxx3fff")
HEADER_SIZE = 4096
# Splats there are and there is room for; of a full bucket; buckets; edge of their cubes; bytes of a bucket; steps of
# half an edge; bytes of the section; buckets that are full, and that are not; SH degree.
SECTION = struct.Struct("<IIIIfHxxIIIIH")
SECTION_SIZE = 1024
BUCKET = 256  # splats
BUCKET_BYTES = 12
STEPS = 32767
SH_RANGE = (-1.5, 1.5)  # where the header has none
CUBES = 32  # that are written along the longest side of the scene: a position is then within 5e-7 of that
MAX_DEGREE = 2
SMALLEST_HALF, LARGEST_HALF = 6e-8, 65504.0


def row_type(level: int, degree: int) -> np.dtype:
    """A splat of a section."""
    number = "<f4" if level == 0 else "<f2"
    fields = [
        ("mean", "<f4" if level == 0 else "<u2", 3),
        ("scale", number, 3),
        ("quat", number, 4),
        ("rgba", "u1", 4),
        ("sh", ("<f4", "<f2", "u1")[level], 3 * (sh.num_coefficients(degree) - 1)),
    ]
    return np.dtype(fields)


def save(gaussians: Gaussians, path: Path | str) -> None:
    """Write all Gaussians, bucket by bucket, in one section of level 1."""
    path = Path(path)
    rows = Rows.of(gaussians, path).cut(min(gaussians.sh_degree, MAX_DEGREE))
    degree = sh.degree_of(1 + rows.shN.shape[1])
    edge, order, counts, centres = _buckets(rows.means.astype(np.float64))
    rows = rows.taken(order)
    full = int((counts == BUCKET).sum())
    table = np.zeros(len(rows), dtype=row_type(LEVEL, degree))
    offsets = (rows.means - np.repeat(centres, counts, axis=0)) * (2 * STEPS / edge)
    table["mean"] = np.clip(np.rint(offsets) + STEPS, 0, 2 * STEPS + 1)
    table["scale"] = np.clip(exponentials(rows.log_scales, str(path)), SMALLEST_HALF, LARGEST_HALF)
    table["quat"] = unit(rows.quats)
    table["rgba"] = to_rgba(rows.sh0, sigmoid(rows.logit_opacities))
    table["sh"] = np.clip(_in_bands(rows.shN), -LARGEST_HALF, LARGEST_HALF)
    partial = counts[full:].astype("<u4").tobytes()
    body = partial + centres.astype("<f4").tobytes() + table.tobytes()
    centre = np.mean(centres, axis=0) if len(centres) else np.zeros(3)
    header = HEADER.pack(0, 1, 1, 1, len(rows), len(rows), LEVEL, *centre, *SH_RANGE)
    buckets = (BUCKET, len(counts), edge, BUCKET_BYTES, STEPS, len(body), full, len(counts) - full)
    section = SECTION.pack(len(rows), len(rows), *buckets, degree)
    with atomic_write(path) as file:
        file.write(header.ljust(HEADER_SIZE, b"\0") + section.ljust(SECTION_SIZE, b"\0"))
        file.write(body)


def load(path: Path | str) -> Gaussians:
    """Read all sections of a file of any level; `InputError` says what is wrong with it."""
    path = Path(path)
    data = read_bytes(path)
    if len(data) < HEADER_SIZE:
        raise InputError(f"{path}: not a .ksplat file: {len(data):,} bytes are less than its header")
    major, minor, room, _, _, count, level, _, _, _, lowest, highest = HEADER.unpack_from(data)
    if (major, minor) < (0, 1) or major > 0:
        raise InputError(f"{path}: version {major}.{minor} of .ksplat is not known; 0.1 is")
    if level > 2:
        raise InputError(f"{path}: compression level {level} is not known; 0, 1 and 2 are")
    at = HEADER_SIZE + room * SECTION_SIZE
    if at > len(data):
        raise InputError(f"{path}: truncated: announces {room:,} sections")
    parts = []
    for index in range(room):
        section = _Section(*SECTION.unpack_from(data, HEADER_SIZE + index * SECTION_SIZE))
        where = f"{path}: section {index}"
        if section.degree > MAX_DEGREE:
            raise InputError(f"{where}: SH degree {section.degree}; 0 to 2 are known")
        start = at + section.bucket_bytes
        at = start + section.room * row_type(level, section.degree).itemsize
        if at > len(data):
            raise InputError(f"{where}: truncated: it ends at byte {at:,} of {len(data):,}")
        if section.count > section.room:
            raise InputError(f"{where}: {section.count:,} splats where there is room for {section.room:,}")
        table = np.frombuffer(data, row_type(level, section.degree), section.count, start)
        means = table["mean"] if level == 0 else section.means(data, start, table["mean"], where)
        parts.append(_rows(table, means, level, (lowest or SH_RANGE[0], highest or SH_RANGE[1])))
    if sum(map(len, parts)) != count:
        raise InputError(f"{path}: announces {count:,} splats; its sections hold {sum(map(len, parts)):,}")
    return joined(parts or [Rows.none()]).gaussians(str(path))


@dataclass(frozen=True)
class _Section:
    """The header of a section, in the order of the file."""

    count: int
    room: int
    bucket_size: int
    buckets: int
    edge: float
    bytes_per_bucket: int
    steps: int
    size: int
    full: int
    partial: int
    degree: int

    @property
    def bucket_bytes(self) -> int:
        """What lies before the splats, in some files of level 0 too."""
        return 4 * self.partial + self.bytes_per_bucket * self.buckets

    def means(self, data: bytes, start: int, steps: NDArray[np.uint16], where: str) -> Floats:
        """[count,3] from steps within buckets, which lie before `start`: first the lengths of those not full."""
        if self.bytes_per_bucket != BUCKET_BYTES or self.full + self.partial != self.buckets:
            raise InputError(
                f"{where}: {self.full:,} full and {self.partial:,} other buckets of {self.bytes_per_bucket} bytes"
                f" are not {self.buckets:,} of {BUCKET_BYTES}"
            )
        begin = start - self.bucket_bytes
        lengths = np.frombuffer(data, "<u4", self.partial, begin).astype(np.int64)
        centres = np.frombuffer(data, "<f4", 3 * self.buckets, begin + 4 * self.partial).reshape(-1, 3)
        ends = np.concatenate([np.arange(1, self.full + 1) * self.bucket_size, lengths]).astype(np.int64)
        ends[self.full :] = ends[self.full :].cumsum() + self.full * self.bucket_size
        if self.count and (not self.buckets or ends[-1] < self.count):
            raise InputError(f"{where}: its buckets hold fewer splats than the {self.count:,} that it announces")
        bucket = np.searchsorted(ends, np.arange(self.count), side="right")
        half = self.steps or STEPS
        with np.errstate(
            invalid="ignore", over="ignore"
        ):  # the edge may be anything; `gaussians` says what comes of it
            return (steps.astype(np.float64) - half) * (self.edge / 2 / half) + centres[bucket]


def _rows(table: np.ndarray, means: Floats, level: int, sh_range: tuple[float, float]) -> Rows:
    harmonics: Floats = table["sh"].astype(np.float32)
    if level == 2:
        lowest, highest = sh_range
        with np.errstate(invalid="ignore", over="ignore"):
            harmonics = harmonics / 255 * np.float32(highest - lowest) + np.float32(lowest)
    sh0, logit_opacities = from_rgba(table["rgba"])
    return Rows(
        means,
        table["quat"].astype(np.float32),
        logarithms(table["scale"]),
        logit_opacities,
        sh0,
        _from_bands(harmonics),
    )


def _bands(coefficients_: int) -> list[slice]:
    """Where the degrees above 0 are among K-1 coefficients."""
    degree = sh.degree_of(1 + coefficients_)
    return [slice(band**2 - 1, (band + 1) ** 2 - 1) for band in range(1, degree + 1)]


def _in_bands(shN: Floats) -> Floats:
    """[N,3(K-1)] as in the file: degree by degree, of each first all of red, then of green, then of blue."""
    parts = [
        shN[:, band].transpose(0, 2, 1).reshape(len(shN), 3 * (band.stop - band.start)) for band in _bands(shN.shape[1])
    ]
    return np.concatenate([np.zeros((len(shN), 0)), *parts], axis=1)


def _from_bands(values: Floats) -> Floats:
    """The inverse."""
    shN = np.empty((len(values), values.shape[1] // 3, 3), dtype=np.float32)
    for band in _bands(shN.shape[1]):
        width = band.stop - band.start
        shN[:, band] = values[:, 3 * band.start : 3 * band.stop].reshape(len(values), 3, width).transpose(0, 2, 1)
    return shN


def _buckets(means: Floats) -> tuple[float, NDArray[np.int64], NDArray[np.int64], Floats]:
    """Cubes of one size: their edge, the order of the splats, how many each has, and their centres [B,3].

    The full ones come first, as the format has it.
    """
    if not len(means):
        return 1.0, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3))
    low = means.min(axis=0)
    extent = float((means.max(axis=0) - low).max())
    edge = float(np.float32(extent / CUBES if extent > 0 else 1.0))
    cells = np.minimum((means - low) // edge, CUBES - 1).astype(np.int64)
    codes = (cells[:, 0] * CUBES + cells[:, 1]) * CUBES + cells[:, 2]
    by_cell = np.argsort(codes, kind="stable")
    _, starts, sizes = np.unique(codes[by_cell], return_index=True, return_counts=True)
    chunks = [
        by_cell[begin : min(begin + BUCKET, start + size)]
        for start, size in zip(starts, sizes, strict=True)
        for begin in range(start, start + size, BUCKET)
    ]
    chunks.sort(key=lambda chunk: len(chunk) < BUCKET)
    counts = np.array([len(chunk) for chunk in chunks])
    centres = np.array([low + (cells[chunk[0]] + 0.5) * edge for chunk in chunks]).astype(np.float32)
    return edge, np.array(list(itertools.chain(*chunks))), counts, centres.astype(np.float64)
