"""Ways to damage files whose parts are known: what fuzz_formats.py does to the samples of _fuzz_cases.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

Parts = dict[str, bytes]
Rng = np.random.Generator

BOMB = 1 << 27  # bytes that a bomb unpacks to
DEEP = 100_000  # levels of nested JSON


@dataclass(frozen=True)
class Sample:
    """A file, or a folder of them.

    Attributes:
        name: of what is read; a folder where it ends with "/".
        parts: what is damaged, by name.
        pack: the files of parts, by their paths below a folder of their own.
        squeezes: whether files may be far smaller than their parts.
    """

    name: str
    parts: Parts
    pack: Callable[[Parts], Parts]
    squeezes: bool = False


NUMBERS = (0, 1, 2, 255, 256, 1 << 15, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, -1)
FLOATS = (0.0, -1.0, 1e-45, 3e38, 1e300, float("inf"), float("-inf"), float("nan"))
WORDS = [str(number).encode() for number in NUMBERS]
WORDS += rb'-1 0.5 1e400 -0 nan NaN Infinity 1e30 null true [] {} [[]] [0] {"a":1} "" "x" "../x" "/etc/passwd"'.split()
WORDS += b"\xff\xfe \x00 \xc3\xa9 \xf0\x9f ply end_header element property list float double int vertex".split()
TOKEN = re.compile(rb'"[^"]*"|[-+.\w]+')


def _at(data: bytes, rng: Rng) -> int:
    """A place, as often near the beginning, where counts and sizes are, as anywhere."""
    reach = len(data) if rng.random() < 0.5 else min(len(data), 128)
    return int(rng.integers(0, reach + 1))


def _bits(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = min(_at(data, rng), len(data) - 1)
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _number(data: bytes, rng: Rng) -> bytes:
    size = int(rng.choice([1, 2, 4, 8]))
    number = int(rng.choice(len(NUMBERS)))
    written = (NUMBERS[number] & ((1 << 8 * size) - 1)).to_bytes(size, rng.choice(["little", "big"]))
    at = _at(data, rng)
    return data[:at] + written + data[at + size :]


def _float(data: bytes, rng: Rng) -> bytes:
    kind = str(rng.choice(["<f", "<d", "<e", ">f"]))
    with np.errstate(over="ignore"):
        written = np.array(FLOATS[int(rng.integers(len(FLOATS)))]).astype(np.dtype(kind)).tobytes()
    at = _at(data, rng)
    return data[:at] + written + data[at + len(written) :]


def _cut(data: bytes, rng: Rng) -> bytes:
    return data[: _at(data, rng)]


def _removed(data: bytes, rng: Rng) -> bytes:
    at = _at(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 40)) :]


def _repeated(data: bytes, rng: Rng) -> bytes:
    at = _at(data, rng)
    piece = data[at : at + int(rng.integers(1, 200))]
    return data[:at] + piece * int(rng.choice([2, 3, 100])) + data[at:]


def _word(data: bytes, rng: Rng) -> bytes:
    """Another word, in text and JSON."""
    found = list(TOKEN.finditer(data[:20_000]))
    if not found:
        return _bits(data, rng)
    match = found[int(rng.integers(len(found)))]
    other = found[int(rng.integers(len(found)))].group() if rng.random() < 0.3 else WORDS[int(rng.integers(len(WORDS)))]
    return data[: match.start()] + other + data[match.end() :]


def _long(data: bytes, rng: Rng) -> bytes:
    """A huge string, or brackets in brackets."""
    huge = (b"[" * DEEP, b"A" * 300_000, b"9" * 5_000, b'{"a":' * DEEP, b" \n" * 50_000, b"(" * DEEP)
    at = _at(data, rng)
    return data[:at] + huge[int(rng.integers(len(huge)))] + data[at:]


DAMAGE = (_bits, _bits, _number, _number, _float, _cut, _removed, _repeated, _word, _word, _word)


def damaged(sample: Sample, other: Sample, rng: Rng) -> Sample:
    """A sample with some of its parts damaged, one exchanged for a part of another, or one left out."""
    parts = dict(sample.parts)
    for _ in range(int(rng.choice([1, 1, 2, 3, 5]))):
        name = str(rng.choice(sorted(parts)))
        chance = rng.random()
        if chance < 0.03:
            parts[name] = other.parts[str(rng.choice(sorted(other.parts)))]
        elif chance < 0.035:
            parts[name] = _long(parts[name], rng)
        elif parts[name]:
            parts[name] = DAMAGE[int(rng.integers(len(DAMAGE)))](parts[name], rng)
    return replace(sample, parts=parts)


def attacks(samples: Sequence[Sample]) -> Iterator[Sample]:
    """What random damage would hardly find: bombs, nesting, and parts that are not there."""
    for sample in samples:
        bomb = bytes(BOMB if sample.squeezes else 1 << 20)
        for name, data in sample.parts.items():
            for other in (b"", bomb, data[:64] + bomb, b"[" * DEEP, b"\0" * 64 + data):
                yield replace(sample, parts=sample.parts | {name: other})


def packed(sample: Sample, rng: Rng) -> Parts:
    """The files of a sample; once in a while the outside is damaged, too."""
    files = sample.pack(sample.parts)
    if rng.random() < 0.15:
        name = str(rng.choice(sorted(files)))
        if files[name]:
            files[name] = DAMAGE[int(rng.integers(len(DAMAGE)))](files[name], rng)
    return files
