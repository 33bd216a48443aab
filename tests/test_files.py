"""Files appear whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write, new_folder, only_one


def test_new_content_replaces_old(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "a.bin"
    for content in (b"first", b"second, longer", b""):
        with atomic_write(file) as target:
            target.write(content)
        assert file.read_bytes() == content
    assert os.listdir(file.parent) == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_old_content_survives_a_failure(tmp_path: Path, error: type[BaseException]) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_write(file) as target:
            target.write(b"half of the n")
            target.flush()
            raise error

    with pytest.raises(error):
        interrupted()
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_nothing_is_visible_before_the_end(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    with atomic_write(file) as target:
        target.write(b"new")
        target.flush()
        assert not file.exists()
    assert file.read_bytes() == b"new"


def test_a_failure_leaves_no_new_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a.bin") as target:
        target.write(bytes([1 // 0]))
    assert os.listdir(tmp_path) == []


def test_a_full_disk_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), atomic_write(file) as target:
        target.write(b"new")
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a.bin") as target:
            target.write(b"x")
        assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o640
    finally:
        os.umask(old)


HOLDER = """
import sys, time
from pathlib import Path
from recon.datasets.files import only_one
with only_one(Path(sys.argv[1]), "taken"):
    print("in", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_and_one_that_is_killed_leaves_no_trace(tmp_path: Path) -> None:
    lock = tmp_path / "new" / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    said = f"^{lock}: taken by process {holder.pid}; wait until it has ended$"
    with pytest.raises(InputError, match=said), only_one(lock, f"{lock}: taken"):
        pytest.fail("two are in")
    holder.kill()
    holder.wait()
    for _ in range(2):
        with only_one(lock, "taken"):
            pass


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a" / "new"
    with new_folder(target) as folder:
        (folder / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    with pytest.raises(InputError, match="is there already"), new_folder(target):
        pass
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "b") as folder:
        (folder / "none" / "file").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in target.parent.iterdir()] == ["new"]


def test_an_empty_folder_may_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with new_folder("empty") as folder:
        (folder / "file").write_text("x")
    assert (tmp_path / "empty" / "file").exists()
