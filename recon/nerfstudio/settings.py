"""What config.yml of nerfstudio's runs says, read as text: its tags would make objects of whatever they name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def text_of(file: Path) -> str:
    """The text of a config.yml; nothing where there is none."""
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def word(text: str, name: str) -> str | None:
    """A setting that is one word, wherever it stands."""
    found = re.search(rf"^ *{name}: *(\w+) *$", text, re.MULTILINE)
    return None if found is None else found[1]


def path(text: str, name: str) -> list[str] | None:
    """The parts of the first path that is called so: `name: !!... \\n- /\\n- home`."""
    found = re.search(rf"^ *{name}:[^\n]*PosixPath *\n((?: *- [^\n]*\n)+)", text, re.MULTILINE)
    return None if found is None else [line.strip().removeprefix("- ").strip("'\"") for line in found[1].splitlines()]


def below(text: str, name: str) -> dict[str, Any]:
    """The settings that are indented below the first `name:`: plain values, and lists of them or of further settings.

    Of others, such as objects, the tag is given as text.
    """
    found = re.search(rf"^( *){name}:[^\n]*\n((?:\1 +[^\n]*\n)+)", text, re.MULTILINE)
    if found is None:
        return {}
    values: dict[str, Any] = {}
    lines = found[2].splitlines()
    indent, last = len(lines[0]) - len(lines[0].lstrip()), ""
    for line in (line[indent:] for line in lines):
        if single := re.fullmatch(r"(\w+): *(.*)", line):
            last = single[1]
            values[last] = _value(single[2])
        elif last and (item := re.fullmatch(r"([- ]) (?:(\w+): *)?(\S.*)", line)):
            _add(values, last, begins=item[1] == "-", key=item[2], value=_value(item[3]))
    return values


def _add(values: dict[str, Any], name: str, *, begins: bool, key: str | None, value: Any) -> None:
    """A line of a list: an item, or one more setting of the item before."""
    if begins:
        if not isinstance(values[name], list):
            values[name] = []
        values[name].append(value if key is None else {key: value})
    elif key is not None and isinstance(values[name], list) and isinstance(values[name][-1], dict):
        values[name][-1][key] = value


def _value(text: str) -> Any:
    """A plain value, as YAML means it; anything else is text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("'\"")
