"""Reading the vertices of a .ply file (Turk's "PLY polygon file format"), whatever its encoding and fields.

A header names elements ("vertex", "face", ...), how many rows each has and which properties; then come the rows, as
text or in either byte order. Nothing is believed before it has been compared with the file's size.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from recon.datasets.errors import InputError

# numpy's code of each type and its names in headers.
_TYPE_NAMES = {
    "i1": ("char", "int8"),
    "u1": ("uchar", "uint8"),
    "i2": ("short", "int16"),
    "u2": ("ushort", "uint16"),
    "i4": ("int", "int32"),
    "u4": ("uint", "uint32"),
    "f4": ("float", "float32"),
    "f8": ("double", "float64"),
}
TYPES = {name: code for code, names in _TYPE_NAMES.items() for name in names}
BYTE_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
MAX_HEADER = 1 << 20  # bytes; the longest header of a splat file is 2 KB, comments may add to that


@dataclass(frozen=True)
class _Property:
    name: str
    type: np.dtype
    count_type: np.dtype | None = None  # of the length in front of a list


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: list[_Property] = field(default_factory=list)

    @property
    def has_lists(self) -> bool:
        return any(p.count_type is not None for p in self.properties)

    @property
    def row_type(self) -> np.dtype:
        return np.dtype([(p.name, p.type) for p in self.properties])


def read_vertices(path: Path | str) -> np.ndarray:
    """The rows of the element "vertex" as a structured array [N]: one field per property, in the file's own types.

    Other elements, comments and whatever follows the vertices are passed over. Raises `InputError` where the file is
    missing, is not a .ply, is shorter than its header promises or has no plain vertices.
    """
    return read_elements(path, ["vertex"])["vertex"]


def read_elements(path: Path | str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The rows of several elements, of which "vertex" has to be one, as `read_vertices` gives them, by name.

    An element that is not in the file, or has no properties, is not in the result.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            encoding, elements = _read_header(path, file)
            _only_vertex(path, elements)
            there = {e.name for e in elements if e.properties}
            wanted = {name: _only(path, elements, name) for name in names if name in there}
            read = _read_text if encoding == "ascii" else _read_binary
            found = {}
            for element in elements:
                if wanted.get(element.name) is not element:
                    _skip(path, file, element, encoding)
                    continue
                found[element.name] = read(path, file, element)
                if len(found) == len(wanted):
                    break
            return found
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_fields(path: Path) -> list[str]:
    """The names of the vertices' properties, from the header alone; `InputError` as for `read_vertices`."""
    try:
        with path.open("rb") as file:
            _, elements = _read_header(path, file)
            return [p.name for p in _only_vertex(path, elements).properties]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_header(path: Path, file: BinaryIO) -> tuple[str, list[_Element]]:
    if file.readline(8).rstrip(b"\r\n") != b"ply":
        raise InputError(f"{path}: not a .ply file: it does not start with 'ply'")
    encoding = ""
    elements: list[_Element] = []
    for number, line in enumerate(_header_lines(path, file), start=2):
        match line.split():
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", name, _] if name in BYTE_ORDERS:
                encoding = name
            case ["element", name, count] if encoding and count.isdecimal() and len(count) < 19:
                elements.append(_Element(name, int(count)))
            case ["property", "list", count_type, type_, name] if elements and {count_type, type_} <= TYPES.keys():
                elements[-1].properties.append(_Property(name, _dtype(encoding, type_), _dtype(encoding, count_type)))
            case ["property", type_, name] if elements and type_ in TYPES:
                elements[-1].properties.append(_Property(name, _dtype(encoding, type_)))
            case _:
                raise InputError(f"{path}: line {number} of the header makes no sense: {line[:80]!r}")
    return encoding, elements


def _dtype(encoding: str, name: str) -> np.dtype:
    return np.dtype(BYTE_ORDERS[encoding] + TYPES[name])


def _header_lines(path: Path, file: BinaryIO) -> Iterator[str]:
    """The lines between "ply" and "end_header"."""
    left = MAX_HEADER
    while left > 0:
        raw = file.readline(left)
        left -= len(raw)
        if not raw.endswith(b"\n"):
            break
        line = raw.decode("utf-8", "replace").strip()
        if line == "end_header":
            return
        yield line
    raise InputError(f"{path}: the header has no end_header")


def _only_vertex(path: Path, elements: list[_Element]) -> _Element:
    return _only(path, elements, "vertex")


def _only(path: Path, elements: list[_Element], name: str) -> _Element:
    found = [element for element in elements if element.name == name]
    if len(found) != 1:
        raise InputError(f"{path}: {len(found)} elements named {name} in the header, not one")
    element = found[0]
    rows = "vertices" if name == "vertex" else f"rows of {name}"
    if element.has_lists or not element.properties:
        raise InputError(f"{path}: the {rows} have {'list' if element.has_lists else 'no'} properties")
    names = [p.name for p in element.properties]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise InputError(f"{path}: the {rows} have the property {min(repeated)} twice")
    return element


def _remaining(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size - file.tell()


def _check_size(path: Path, file: BinaryIO, element: _Element, row_size: int) -> None:
    if element.count * row_size > _remaining(file):
        raise _truncated(path, element, _remaining(file) // row_size)


def _truncated(path: Path, element: _Element, found: int) -> InputError:
    return InputError(
        f"{path}: truncated: the header promises {element.count} rows of {element.name}, {found} are there"
    )


def _read_binary(path: Path, file: BinaryIO, element: _Element) -> np.ndarray:
    _check_size(path, file, element, element.row_type.itemsize)
    return np.fromfile(file, element.row_type, element.count)


def _rows_of_text(file: BinaryIO, count: int) -> Iterator[bytes]:
    return itertools.islice((line for line in file if not line.isspace()), count)


def _read_text(path: Path, file: BinaryIO, element: _Element) -> np.ndarray:
    try:
        with warnings.catch_warnings(action="ignore"):  # loadtxt warns of files without rows
            values = np.loadtxt(_rows_of_text(file, element.count), ndmin=2, comments=None)
        if values.size == 0:
            values = values.reshape(0, len(element.properties))
        if values.shape[1] != len(element.properties):
            raise ValueError(f"{values.shape[1]} columns for {len(element.properties)} properties")
        if len(values) < element.count:
            raise _truncated(path, element, len(values))
        wide = np.dtype([(p.name, np.float64) for p in element.properties])
        with np.errstate(invalid="raise", over="ignore"):
            return values.view(wide)[:, 0].astype(element.row_type)
    except (ValueError, ArithmeticError) as error:
        raise InputError(f"{path}: the rows of {element.name} cannot be read: {error}") from error


def _skip(path: Path, file: BinaryIO, element: _Element, encoding: str) -> None:
    """Move past an element in front of the vertices."""
    if not element.properties:
        return
    if encoding == "ascii":
        found = sum(1 for _ in _rows_of_text(file, element.count))
        if found < element.count:
            raise _truncated(path, element, found)
    elif element.has_lists:
        for row in range(element.count):
            if not all(_skip_property(file, p) for p in element.properties):
                raise _truncated(path, element, row)
    else:
        row_size = sum(p.type.itemsize for p in element.properties)
        _check_size(path, file, element, row_size)
        file.seek(element.count * row_size, os.SEEK_CUR)


def _skip_property(file: BinaryIO, prop: _Property) -> bool:
    """Move past one value or list; False if it does not fit into the file."""
    length = 1
    if prop.count_type is not None:
        raw = file.read(prop.count_type.itemsize)
        if len(raw) < prop.count_type.itemsize:
            return False
        length = int(np.frombuffer(raw, prop.count_type)[0])
    size = length * prop.type.itemsize
    if not 0 <= size <= _remaining(file):
        return False
    file.seek(size, os.SEEK_CUR)
    return True
