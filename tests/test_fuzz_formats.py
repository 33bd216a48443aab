"""The fuzzer of the readers: its files are what it takes them for, and it knows a fault when it sees one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sources import SCRIPTS

if not SCRIPTS:
    pytest.skip("the scripts are not beside the tests", allow_module_level=True)
pytest.importorskip("resource", reason="this system has no limits on memory")

import _fuzz_cases as cases
import _fuzz_damage as damage
import fuzz_formats
from recon.datasets.errors import InputError

USD = ("usda", "usdc", "usdz")  # each file is read by a process of its own


def put(folder: Path, sample: damage.Sample, files: dict[str, bytes] | None = None) -> Path:
    for name, data in (files or sample.pack(sample.parts)).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder / sample.name


@pytest.fixture(params=[name for name in cases.READERS if name not in USD])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_whole_files_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "source").mkdir()
    for number, sample in enumerate(cases.READERS[name].samples(tmp_path / "source")):
        cases.READERS[name].read(put(tmp_path / str(number), sample))


def test_damaged_files_are_read_or_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "source").mkdir()
    samples = cases.READERS[name].samples(tmp_path / "source")
    rng = np.random.default_rng(0)
    for number in range(30):
        sample = damage.damaged(samples[number % len(samples)], samples[0], rng)
        path = put(tmp_path / str(number), sample, damage.packed(sample, rng))
        assert fuzz_formats.wrong_with(name, path) is None


def _raises(error: Exception) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        raise error

    return read


@pytest.mark.parametrize(
    ("read", "wrong"),
    [
        (_raises(InputError("somewhere/else: wrong")), "no plain line"),
        (_raises(InputError("a file\nwrong")), "no plain line"),
        (_raises(InputError("a file: " + "x" * 1000)), "no plain line"),
        (_raises(KeyError("x")), "KeyError in test_fuzz_formats.py"),
        (_raises(MemoryError()), "MemoryError in test_fuzz_formats.py"),
        (_raises(InputError("a file: wrong")), None),
        (len, "TypeError"),
        (str, None),
    ],
)
def test_faults_are_findings(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], wrong: str | None
) -> None:
    monkeypatch.setitem(cases.READERS, "own", cases.Reader(read, lambda folder: []))
    found = fuzz_formats.wrong_with("own", Path("a file"))
    assert found is None if wrong is None else (found or "").startswith(wrong)


def test_the_lines_that_were_run_are_known() -> None:
    with fuzz_formats.Lines() as lines:
        export = cases.export.suffix_of(Path("a.ply"), cases.export.LOADERS)
    assert export == ".ply"
    assert {Path(file).name for file, _ in lines.seen} == {"__init__.py"}


def test_what_is_found_is_kept_and_counted(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "a").write_bytes(b"x")
    for _ in range(2):
        fuzz_formats.keep(tmp_path / "out", "slow", tmp_path / "case")
    (kept,) = (tmp_path / "out").iterdir()
    assert (kept / "wrong.txt").read_text() == "slow\n"
    assert (kept / "case" / "a").read_bytes() == b"x"
