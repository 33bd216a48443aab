"""PlayCanvas's SOG: splats as pixels of lossless WebP images, in a .sog (a zip) or a folder with a meta.json.

Positions have 16 bits on a logarithmic axis, rotations 8 for each of the smallest three components, opacities 8.
Scales and colours index code books of 256 numbers, and the SH coefficients of a splat are one of at most 65,536
palette entries. (Version 1, which is only read, has ranges instead of code books.) Images are as small as what is in
them is plain, so all of it is rounded once more before, to what hardly shows. Loss, apart from that rounding:
view-dependent colour is that of a similar splat. The order of the splats changes. Coordinates are those of a .ply.

Layout: https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/sog. Shape letters: N splats.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon import sh
from recon.datasets.errors import InputError
from recon.datasets.fields import entry, listed, numbers, shown, whole
from recon.datasets.files import atomic_write
from recon.export import planes
from recon.export.clustering import codebook, palette
from recon.export.rows import (
    Bytes,
    Floats,
    Rows,
    check_count,
    from_bytes,
    from_smallest_three,
    logit,
    morton_order,
    read_bytes,
    sigmoid,
    smallest_three,
    to_bytes,
    unit,
    with_large_w,
)
from recon.gaussians import Gaussians

LOSS = (
    "positions are within an eighth of a splat's thickness, rotations within 2 degrees, scales within 5 %, colours and"
    " opacities within 1 %, view-dependent colour is that of a similar splat"
)
META = "meta.json"
MOST_META = 1 << 20  # bytes; it lists four code books
MOST_PLANE = 1 << 27  # bytes of an image; the largest that is taken has half as many without any compression
FIRST_TAG = 252  # the last channel of a rotation says which component is the largest: 252 to 255 for w, x, y, z
PALETTE_ROW = 64  # palette entries in a row of its image
MOST_ENTRIES = 1 << 16
# Where there are fewer splats, half as many entries as splats, but so many anyway: a palette of all would be exact,
# and nearly double the file.
FEWEST_ENTRIES = 1 << 10
# What is written is rounded to these, although there is room for more: what is finer does not show, and does not pack.
POSITION_STEP = 0.25  # of the standard deviation of a splat along its shortest axis, or less
MOST_SPARE_BITS = 8
ROTATION_STEP = 2  # of 256
SCALE_STEP = 0.1  # of logarithms
COLOUR_STEP = 0.04  # of constant coefficients: a 90th of what is shown
OPACITY_STEP = 4 / 255
SH_STEP = 0.035  # of the coefficients of palette entries
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same scene gives the same file

# What Python's reader raises of damaged files, which is more than it says.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError)

Files = Callable[[str, int], bytes]  # the bytes of a file of the set, of which there may be only so many


def is_folder(path: Path) -> bool:
    """Whether a folder holds such images; other programs have a meta.json too."""
    if not (path / META).is_file():
        return False
    with (path / META).open("rb") as file:
        return b'"means"' in file.read(MOST_META)


def files_of(path: Path) -> list[Path]:
    """The images beside a meta.json that `save` wrote."""
    meta = json.loads(path.read_bytes())
    parts = [part for part in meta.values() if isinstance(part, dict)]
    return [path.parent / name for part in parts for name in part.get("files", ())]


def save(gaussians: Gaussians, path: Path | str) -> None:
    """Write all Gaussians as version 2: one .sog, or, where `path` is a meta.json, that and the images beside it."""
    path = Path(path)
    rows = Rows.of(gaussians, path)
    rows = rows.taken(morton_order(rows.means))
    if path.suffix.lower() == ".json":
        write_folder(rows, path, antialiased=gaussians.antialiased)
        return
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:  # images do not shrink once more
        for name, data in _encoded(rows, gaussians.antialiased).items():
            archive.writestr(zipfile.ZipInfo(name, ZIP_DATE), data)


def write_folder(rows: Rows, path: Path, *, antialiased: bool) -> None:
    """Write splats, in their order, as a meta.json and images beside it."""
    # meta.json is the last: it never speaks of images that are not there.
    for name, data in _encoded(rows, antialiased).items():
        with atomic_write(path if name == META else path.parent / name) as file:
            file.write(data)


def load(path: Path | str) -> Gaussians:
    """Read a .sog, a meta.json with its images beside it, or their folder; `InputError` says what is wrong with it."""
    path = Path(path)
    if path.is_dir() or path.suffix.lower() == ".json":
        file = path / META if path.is_dir() else path
        size = sum(each.stat().st_size for each in file.parent.iterdir())
        return _decoded(lambda name, most: _beside(file.parent / name, most), file.name, size, str(file))
    data = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _decoded(lambda name, most: _member(archive, name, most, path), META, len(data), str(path))
    except ZIP_ERRORS as error:
        raise InputError(f"{path}: not a .sog file: {error}") from error


def _beside(file: Path, most: int) -> bytes:
    if file.is_file() and file.stat().st_size > most:
        raise InputError(f"{file}: {file.stat().st_size:,} bytes are more than the {most:,} that are taken")
    return read_bytes(file)


def _member(archive: zipfile.ZipFile, name: str, most: int, path: Path) -> bytes:
    """What a file of the zip holds; its announced size is not believed."""
    try:
        with archive.open(name) as file:
            data = file.read(most + 1)
    except KeyError as error:
        raise InputError(f"{path}: holds no {name!r}") from error
    except ZIP_ERRORS as error:
        raise InputError(f"{path}: {name!r} in it is damaged: {str(error)[:80]!r}") from error
    if len(data) > most:
        raise InputError(f"{path}: {name!r} in it has more than the {most:,} bytes that are taken")
    return data


def _decoded(files: Files, meta_name: str, size: int, where: str) -> Gaussians:
    """The splats of a set of files that have so many bytes together."""
    try:
        meta = json.loads(files(meta_name, MOST_META))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: {META} is not JSON: {error}") from error
    version = meta.get("version", 1) if isinstance(meta, Mapping) else None
    if version not in (1, 2):
        raise InputError(f"{where}: version {shown(version)} of SOG is not known; 1 and 2 are")
    means = entry(meta, "means", dict, where)
    count = whole(meta, "count", where) if version == 2 else _first(means, where)
    if count < 0:
        raise InputError(f"{where}: announces {count} splats")
    check_count(count, size, where)

    def pixels(part: str, which: int = 0, least: int = count) -> Bytes:
        """[pixels,4] of an image of a part."""
        return _image(files, entry(meta, part, dict, where), part, which, least, where).reshape(-1, 4)

    def values(part: str, bytes_: Bytes, channels: int) -> Floats:
        """What the bytes [...,channels] of a part stand for."""
        fields = entry(meta, part, dict, where)
        if version == 2:
            codes = entry(fields, "codebook", list, f"{where}: {part}")
            book = np.array(listed(codes, len(codes), f"{where}: {part}: codebook"))
            if bytes_.size and int(bytes_.max()) >= len(book):
                raise InputError(f"{where}: {part}: code {bytes_.max()} of a codebook of {len(book)}")
            return book[bytes_] if len(book) else np.zeros(bytes_.shape)
        lows, highs = (_range(fields, key, channels, f"{where}: {part}") for key in ("mins", "maxs"))
        return np.array(lows) + from_bytes(bytes_) * (np.array(highs) - lows)

    low, high = (np.array(numbers(means, key, 3, f"{where}: means")) for key in ("mins", "maxs"))
    steps = pixels("means")[:count, :3] + 256.0 * pixels("means", 1)[:count, :3]
    logs = low + steps / 65535 * (high - low)
    quats = pixels("quats")[:count]
    tags = quats[:, 3].astype(np.int64) - FIRST_TAG
    others = (from_bytes(quats[:, :3]) * 2 - 1) * math.sqrt(0.5)
    rotations = from_smallest_three(np.maximum(tags, 0), others)
    rotations[tags < 0] = (1, 0, 0, 0)  # as PlayCanvas's own reader has it
    rgba = pixels("sh0")[:count]
    with np.errstate(over="ignore", invalid="ignore"):  # `gaussians` says what comes of absurd ranges
        if version == 2:
            sh0, opacities = values("sh0", rgba[:, :3], 3), logit(from_bytes(rgba[:, 3]))
        else:
            sh0, opacities = np.split(values("sh0", rgba, 4), [3], axis=1)
        rows = Rows(
            np.sign(logs) * np.expm1(np.abs(logs)),
            rotations,
            values("scales", pixels("scales")[:count, :3], 3),
            opacities.reshape(count),
            sh0,
            _harmonics(files, meta, version, count, values, where),
        )
    return rows.gaussians(where, antialiased=meta.get("antialias") is True)


def _first(means: Mapping[str, Any], where: str) -> int:
    shape = listed(entry(means, "shape", list, where), 2, f"{where}: means: shape")
    return whole({"count": shape[0]}, "count", where)


def _range(fields: Mapping[str, Any], key: str, channels: int, where: str) -> list[float]:
    """A number for each channel, or one for all of them."""
    value = fields.get(key)
    return listed(value if isinstance(value, list) else [value] * channels, channels, f"{where}: {key}")


def _image(files: Files, fields: Mapping[str, Any], part: str, which: int, least: int, where: str) -> Bytes:
    """[H,W,4] an image that a part names, which has to have at least so many pixels."""
    names = entry(fields, "files", list, f"{where}: {part}")
    name = names[which] if which < len(names) else None
    if not isinstance(name, str) or not 0 < len(name) < 256 or name != Path(name).name or set(name) & {"\\", "\0"}:
        raise InputError(f"{where}: {part}: {shown(name)} is not the name of an image")
    image = planes.decode(files(name, MOST_PLANE), f"{where}: {name}")
    if image.shape[0] * image.shape[1] < least:
        raise InputError(f"{where}: {name}: {image.shape[1]}x{image.shape[0]} pixels for {least:,} splats")
    return image


def _harmonics(
    files: Files, meta: Mapping[str, Any], version: int, count: int, values: Callable[..., Floats], where: str
) -> Floats:
    """[N,K-1,3] from the palette, where there is one."""
    if meta.get("shN") is None:
        return np.zeros((count, 0, 3))
    fields = entry(meta, "shN", dict, where)
    image = _image(files, fields, "shN", 0, 0, where)
    degrees = {PALETTE_ROW * (sh.num_coefficients(degree) - 1): degree for degree in range(1, sh.MAX_DEGREE + 1)}
    degree = degrees.get(image.shape[1])
    if degree is None or (version == 2 and whole(fields, "bands", f"{where}: shN") != degree):
        raise InputError(f"{where}: shN: a palette {image.shape[1]} pixels wide is of no SH degree that it says")
    higher = sh.num_coefficients(degree) - 1
    entries = image.shape[0] * PALETTE_ROW
    labels = _image(files, fields, "shN", 1, count, where).reshape(-1, 4)[:count].astype(np.int64)
    labels = labels[:, 0] + 256 * labels[:, 1]
    if count and int(labels.max()) >= entries:
        raise InputError(f"{where}: shN: entry {labels.max()} of a palette of {entries}")
    colours = values("shN", image[:, :, :3], 3).astype(np.float32)
    return colours.reshape(entries, higher, 3)[labels]


def _encoded(rows: Rows, antialiased: bool) -> dict[str, bytes]:
    """The files of version 2, by name, meta.json last."""
    count = len(rows)
    files: dict[str, bytes] = {}

    def write(name: str, channels: Bytes, width: int | None = None) -> str:
        """Channels [N,1 to 4] as an image; those that are missing are 0, and alpha is full."""
        width = width or 4 * math.ceil(math.sqrt(max(count, 1)) / 4)
        height = max(1, math.ceil(len(channels) / width))
        pixels = np.zeros((width * height, 4), dtype=np.uint8)
        pixels[:, 3] = 255
        pixels[: len(channels), : channels.shape[1]] = channels
        files[name] = planes.encode(pixels.reshape(height, width, 4))
        return name

    log_scales = _rounded(rows.log_scales, SCALE_STEP)
    steps, low, high = _steps(rows.means.astype(np.float64), log_scales.min(axis=1, keepdims=True))
    lower, upper = (steps & 255).astype(np.uint8), (steps >> 8).astype(np.uint8)
    means = [write("means_l.webp", lower), write("means_u.webp", upper)]
    quats = write("quats.webp", _packed_rotations(unit(rows.quats)))
    scale_book, scales = codebook(log_scales)
    colour_book, colours = codebook(_rounded(rows.sh0, COLOUR_STEP))
    opacities = to_bytes(_rounded(sigmoid(rows.logit_opacities), OPACITY_STEP))[:, None]
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": "recon"},
        "count": count,
        **({"antialias": True} if antialiased else {}),
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": means},
        "scales": {"codebook": _shortened(scale_book), "files": [write("scales.webp", scales)]},
        "quats": {"files": [quats]},
        "sh0": {
            "codebook": _shortened(colour_book),
            "files": [write("sh0.webp", np.concatenate([colours, opacities], axis=1))],
        },
    }
    higher = rows.shN.shape[1]
    if higher:
        size = min(MOST_ENTRIES, max(FEWEST_ENTRIES, count // 2))
        vectors = rows.shN.reshape(count, 3 * higher).astype(np.float32)
        entries, labels = _by_appearance(*palette(vectors, size, _weights(rows)))
        book, codes = codebook(_rounded(entries, SH_STEP))
        packed = np.stack([labels & 255, labels >> 8], axis=1).astype(np.uint8)
        meta["shN"] = {
            "count": len(entries),
            "bands": sh.degree_of(1 + higher),
            "codebook": _shortened(book),
            "files": [
                write("shN_centroids.webp", codes.reshape(-1, 3), PALETTE_ROW * higher),
                write("shN_labels.webp", packed),
            ],
        }
    return files | {META: json.dumps(meta, separators=(",", ":")).encode()}


def _rounded(values: Floats, step: float) -> Floats:
    return np.rint(values / step) * step


def _shortened(book: NDArray[np.float32]) -> list[float]:
    return [round(float(value), 6) for value in book]


def _steps(means: Floats, thickness: Floats) -> tuple[NDArray[np.int64], Floats, Floats]:
    """[N,3] positions in 16 bits of a logarithmic axis, and what the lowest and the highest [3] of them stand for.

    Bits that are finer than splats are thick (`thickness` [N,1], logarithms) would be noise that does not pack, and
    become 0.
    """
    logs = np.sign(means) * np.log1p(np.abs(means))
    if not len(logs):
        return np.zeros((0, 3), np.int64), np.zeros(3), np.zeros(3)
    low, high = logs.min(axis=0), logs.max(axis=0)
    step = np.where(high > low, high - low, 1) / 65535
    bits = (thickness - np.abs(logs) + np.log(POSITION_STEP / step)) / math.log(2)  # the axis is finer near 0
    spare = np.exp2(np.clip(np.floor(bits), 0, MOST_SPARE_BITS))
    return np.clip(np.rint((logs - low) / step / spare) * spare, 0, 65535).astype(np.int64), low, high


def _packed_rotations(quats: Floats) -> Bytes:
    """[N,4] whose last channel says that w is the largest, as it can always be."""
    largest, others = smallest_three(with_large_w(quats))
    levels = np.rint((others * math.sqrt(0.5) + 0.5) * (255 / ROTATION_STEP)) * ROTATION_STEP
    return np.concatenate([np.clip(levels, 0, 255), (FIRST_TAG + largest)[:, None]], axis=1).astype(np.uint8)


def _weights(rows: Rows) -> Floats:
    """[N] how much of the pictures a splat makes up, on the whole: it follows its area, but is hidden more often.

    A palette whose entries are nearer to splats of more weight loses a quarter less.
    """
    areas = np.sort(rows.log_scales.astype(np.float64), axis=1)[:, 1:].sum(axis=1)
    logs = np.log(np.maximum(sigmoid(rows.logit_opacities.astype(np.float64)), 1e-6)) + areas / 2
    return np.maximum(np.exp(logs - logs.max(initial=-np.inf)), 1e-6)


def _by_appearance(entries: Floats, labels: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """A palette in the order in which splats use it first, without what none uses: labels then pack better."""
    used, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(first)
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    return entries[used[order]], ranks[inverse]
