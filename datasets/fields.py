"""Fields of files, most of them in JSON, checked: what the loaders of such captures share.

Errors are `InputError`s that start with `where`: the file, and the entry if it is about one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recon.datasets.errors import InputError


def read_text(file: Path) -> str:
    """The text of a file in UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{file}: is not text: {error}") from error


def read_json(file: Path) -> Any:
    """What a file in JSON holds."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not JSON, or not text
        raise InputError(f"{file}: is not JSON: {error}") from error


def entry(fields: Any, key: str, kind: type, where: str) -> Any:
    """A field that has to be there, as an object (`dict`), a list or a text (`str`)."""
    value = fields.get(key) if isinstance(fields, Mapping) else None
    if not isinstance(value, kind):
        wanted = "list" if kind is list else "text" if kind is str else "object"
        raise InputError(f"{where}: has no {key}" if value is None else f"{where}: {key} is not a {wanted}")
    return value


def needed(fields: Mapping[str, Any], key: str, where: str) -> float:
    """A finite number that has to be there."""
    value = number(fields, key, where)
    if value is None:
        raise InputError(f"{where}: has no {key}")
    return value


def whole(fields: Mapping[str, Any], key: str, where: str) -> int:
    """A whole number that has to be there."""
    value = needed(fields, key, where)
    if value != round(value):
        raise InputError(f"{where}: {key} {value:g} is not a whole number")
    return round(value)


def numbers(fields: Mapping[str, Any], key: str, count: int, where: str) -> list[float]:
    """A list of so many finite numbers, which has to be there."""
    return listed(entry(fields, key, list, where), count, f"{where}: {key}")


def listed(value: Any, count: int, where: str) -> list[float]:
    """So many finite numbers, as a list."""
    if not isinstance(value, list) or len(value) != count:
        raise InputError(f"{where} is not {count} numbers: {shown(value)}")
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e300 for v in value):
        raise InputError(f"{where} is not {count} finite numbers: {shown(value)}")
    return [float(v) for v in value]


def spelled(text: str | None, count: int, where: str) -> list[float]:
    """So many finite numbers, from a text with one behind the other."""
    words = (text or "").split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) != count or not all(abs(value) < 1e300 for value in values):
        what = f"{count} finite numbers" if count > 1 else "a finite number"
        raise InputError(f"{where} {shown(' '.join(words))} is not {what}")
    return values


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    said = repr(value)
    return said if len(said) <= 80 else f"{said[:77]}..."


def rows(matrix: Any) -> str:
    """A matrix, an array or a tensor, for a message."""
    return "[" + "; ".join(" ".join(f"{value:g}" for value in row) for row in matrix.tolist()) + "]"


def number(fields: Mapping[str, Any], key: str, where: str) -> float | None:
    """A finite number; None where the key is not there."""
    value = fields.get(key)
    if value is None:
        return None
    try:
        result = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:  # whole numbers have no limit in JSON
        result = math.inf
    if not math.isfinite(result):
        raise InputError(f"{where}: {key} {shown(value)} is not a finite number")
    return result


def text(fields: Mapping[str, Any], key: str, where: str) -> str | None:
    """A string; None where the key is not there or the string is empty."""
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: {key} {shown(value)} is not text")
    return value or None
