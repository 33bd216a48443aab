"""What the benchmarks share: tables, JSON lines, what machine it was, and the marked sections of docs/benchmarks.md."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write, naming
from recon.kernels.runtime import available_cores
from recon.kernels.simd import LANES

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "benchmarks.md"


def run(main: Callable[[], None]) -> None:
    """Call `main`; wrong input ends with one line on the error stream and exit code 2."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)


# ------------------------------------------------------------------------------------------ tables


def table(rows: Sequence[Mapping[str, Any]], digits: str = ".2f") -> str:
    """A table in Markdown; its columns are the keys of all rows. Floats are written with `digits`, None as a dash."""
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def written(value: Any) -> str:
        if value is None:
            return "-"
        if isinstance(value, float):
            return format(value, digits)
        return f"{value:,}" if isinstance(value, int) else str(value)

    lines = [columns, *([written(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    numeric = [any(isinstance(row.get(column), int | float) for row in rows) for column in columns]
    text = [
        "| "
        + " | ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        + " |"
        for line in lines
    ]
    marks = ("-" * (width + 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True))
    text.insert(1, "|" + "|".join(marks) + "|")
    return "\n".join(text)


# ------------------------------------------------------------------------------------------ JSON lines


def append_json(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a file of JSON lines; the file is replaced as a whole."""
    before = path.read_bytes() if path.exists() else b""
    with atomic_write(path) as file:
        file.write(before + "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_json(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; InputError naming the first line that is none."""
    rows = []
    with naming(path):
        text = path.read_text("utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: line {number} is not JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number} is {type(row).__name__}, not an object")
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: holds no measurement")
    return rows


# ------------------------------------------------------------------------------------------ the machine


def machine() -> dict[str, Any]:
    """The processor, its cores and memory, and the versions that a time depends on."""
    return {
        "cpu": cpu_name(),
        "cores": available_cores(),
        "lanes": LANES,
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numba", "numpy")},
        "commit": commit(),
    }


def cpu_name() -> str:
    source = Path("/proc/cpuinfo")
    if source.exists():
        for line in source.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        if asked.returncode == 0:
            return asked.stdout.strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit that is measured, "+" after it where files differ from it; None without git."""
    try:
        asked = [
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return asked[0] + ("+" if asked[1] else "")


def describe(found: Mapping[str, Any]) -> str:
    """`machine` in a sentence."""
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['lanes']} lanes, {found['memory_bytes'] / 2**30:.0f} GiB;"
        f" {found['system']}, Python {found['python']}, PyTorch {found['torch']}, Numba {found['numba']},"
        f" NumPy {found['numpy']}; commit {found['commit'] or 'unknown'}."
    )


# ------------------------------------------------------------------------------------------ the document


def command() -> str:
    """What was typed, to measure the same again."""
    return shlex.join(["python", f"scripts/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def section(*paragraphs: str) -> str:
    """A section as the document shows it: the command, the machine, what was measured."""
    return "\n\n".join([f"    {command()}", describe(machine()), *paragraphs])


def write_section(document: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- begin: name -->` and `<!-- end: name -->`; InputError without these."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    with naming(document):
        before, found_begin, rest = document.read_text("utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise InputError(f"{document}: has no section between {begin} and {end}")
    with atomic_write(document) as file:
        file.write(f"{before}{begin}\n\n{text}\n\n{end}{after}".encode())
