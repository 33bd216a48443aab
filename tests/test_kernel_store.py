"""Compiled kernels on disk, and their preparation by other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from recon.kernels import prepare, store, unpack
from recon.kernels.prepare import Preparation
from recon.kernels.runtime import KERNELS, Kernel, get_threads, kernel, launch, set_threads
from recon.kernels.simd import put

SMALL = (unpack._unpack_8, unpack._unpack_16)  # kernels that take little time to compile


def write(at: int, value: int, out: Any, counter: Any, thread: int) -> None:
    if at < 0:
        raise ValueError("no")
    put(out, at, value)


SIGNATURE = "i8, i8, i8[::1]"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    threads = get_threads()
    folder = tmp_path / "kernels"
    folder.mkdir()
    monkeypatch.setattr(store, "_folder", folder)
    yield folder
    set_threads(threads)


def again(*kernels: Kernel) -> list[Kernel]:
    """The same kernels, as a new process has them: neither compiled nor loaded."""
    return [Kernel(each._function, each._signature) for each in kernels]


def works(written: Kernel) -> bool:
    out = np.zeros(4, np.int64)
    launch(written, 2, 7, out, threads=1)
    with pytest.raises(ValueError, match="no"):
        launch(written, -1, 7, out, threads=1)
    return out.tolist() == [0, 0, 7, 0]


def prepared(preparation: Preparation) -> list[Any]:
    said: list[Any] = []
    preparation.wait(lambda count, workers: said.append(("start", count, workers)), lambda *at: said.append(at))
    return said


def test_what_was_compiled_is_loaded(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.is_empty()
    first = kernel(SIGNATURE)(write)
    assert not first.load()
    assert works(first)
    assert not store.is_empty()
    assert len(list(own_folder.iterdir())) == 1
    monkeypatch.setattr(numba.core.compiler.CompilerBase, "compile_extra", None)  # no more compiling
    (second,) = again(first)
    assert second.load()
    assert works(second)
    with pytest.raises(TypeError, match="No matching definition"):
        launch(second, 2.5, 7, np.zeros(4, np.float32), threads=1)
    assert not kernel("i8, i8, i8[::1], i8")(write).load()  # another signature


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_file_is_written_anew(own_folder: Path, damage: bytes | None) -> None:
    first = kernel(SIGNATURE)(write)
    first.compile()
    (file,) = own_folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-100] if damage is None else damage)
    (second,) = again(first)
    assert not second.load()
    assert works(second)
    (third,) = again(first)
    assert third.load()


def test_a_file_of_another_version_is_written_anew(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kernel(SIGNATURE)(write)
    first.compile()
    (second,) = again(first)
    with monkeypatch.context() as patched:
        patched.setattr(store, "CompileResult", None)
        assert not second.load()
    assert second.load()


def writer_of(bound: int) -> Kernel:
    @kernel("i8[::1]")
    def closing(out: Any, counter: Any, thread: int) -> None:
        put(out, 0, bound)

    return closing


def test_code_that_a_closure_changes_is_not_kept(own_folder: Path) -> None:
    out = np.zeros(1, np.int64)
    for value in (1, 2):
        launch(writer_of(value), out, threads=1)
        assert out[0] == value
    assert list(own_folder.iterdir()) == []


def test_the_key_differs_by_processor_and_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = [store._key()]
    assert store._key() == keys[0]
    with monkeypatch.context() as other:
        other.setattr(numba.config, "CPU_NAME", "another")
        keys.append(store._key())
    with monkeypatch.context() as other:
        other.setattr(numba.config, "CPU_FEATURES", "-avx512f")
        keys.append(store._key())
    sources = tmp_path / "sources"
    sources.mkdir()
    monkeypatch.setattr(store, "__file__", str(sources / "store.py"))
    for text in ("VALUE = 1", "VALUE = 2"):
        (sources / "imported.py").write_text(text)
        keys.append(store._key())
    assert len(set(keys)) == len(keys)


def test_two_processors_keep_their_kernels_apart(tmp_path: Path) -> None:
    """One home folder, two types of processor: neither sees the other's code, and both find their own again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from recon.kernels import unpack, store\n"
        "print(unpack._unpack_8.load(), store.folder().name); unpack._unpack_8.compile()"
    )
    home = {"XDG_CACHE_HOME": str(tmp_path / "home"), "LOCALAPPDATA": str(tmp_path / "home"), "HOME": str(tmp_path)}
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    said = []
    for more in ({}, plain, {}, plain):
        done = subprocess.run(
            [sys.executable, str(script)], env=os.environ | home | more, capture_output=True, text=True, check=True
        )
        said.append(done.stdout.split())
    assert [loaded for loaded, _ in said] == ["False", "False", "True", "True"]
    assert said[0][1] == said[2][1] != said[1][1] == said[3][1]


def test_folders_long_not_used_go(tmp_path: Path) -> None:
    folders = [tmp_path / "cache" / str(number) for number in range(store.KEPT + 4)]
    for number, folder in enumerate(folders):
        store._prepared(folder)
        os.utime(folder, (number, number))
    store._prepared(folders[-1])
    assert [folder.exists() for folder in folders[:3]] == [False] * 3
    assert all(folder.exists() for folder in folders[-store.KEPT :])


@pytest.mark.parametrize("refused", ["a file in its place", "no permission"])
def test_without_a_cache_that_can_be_written_a_temporary_one_serves(tmp_path: Path, refused: str) -> None:
    home = tmp_path / "home"
    if refused == "no permission":
        if not hasattr(os, "getuid") or os.getuid() == 0:
            pytest.skip("this user may write everywhere")
        home.mkdir(mode=0o500)
    else:
        home.write_text("")
    script = (
        "from recon.kernels import prepare, store, unpack\n"
        "unpack._unpack_8.compile(); p = prepare.Preparation([prepare.Kernel(unpack._unpack_8._function,"
        " unpack._unpack_8._signature)]); p.wait(print, print); print(p.to_compile, store.folder())"
    )
    variables = {"XDG_CACHE_HOME": str(home), "LOCALAPPDATA": str(home), "TMPDIR": str(tmp_path), "HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert "kernels are compiled at every start" in done.stderr
    to_compile, folder = done.stdout.split()
    assert to_compile == "0"
    assert Path(folder).parent == tmp_path
    assert not Path(folder).exists()


def test_workers_compile_what_is_missing(own_folder: Path) -> None:
    set_threads(2)
    cold = again(*SMALL)
    assert prepared(Preparation(cold)) == [("start", 2, 2), (1, 2), (2, 2)]
    assert all(each._compiled is not None for each in cold)
    assert len(list(own_folder.iterdir())) == 2
    warm = again(*SMALL)
    assert prepared(Preparation(warm)) == []
    assert all(each._compiled is not None for each in warm)


def test_several_processes_may_compile_the_same_at_once(own_folder: Path) -> None:
    set_threads(1)
    both = [again(SMALL[0]), again(SMALL[0])]
    preparations = [Preparation(kernels) for kernels in both]
    for preparation in preparations:
        prepared(preparation)
    assert all(kernels[0]._compiled is not None for kernels in both)
    assert [file.suffix for file in own_folder.iterdir()] == [store.SUFFIX]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_worker_that_is_killed_costs_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    set_threads(1)
    started: list[subprocess.Popen[str]] = []

    class Noted(subprocess.Popen[str]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    cold = again(*SMALL)
    preparation = Preparation(cold)
    while not started:
        time.sleep(0.01)
    started[0].kill()
    assert prepared(preparation)[-1] == (2, 2)
    assert [each._compiled for each in cold] == [None, None]
    cold[0].compile()
    assert again(cold[0])[0].load()


def test_without_other_processes_kernels_wait_to_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    cold = again(*SMALL)
    assert prepared(Preparation(cold))[-1] == (2, 2)
    assert [each._compiled for each in cold] == [None, None]


def test_kernels_that_are_left_out_exist() -> None:
    import recon.kernels.rasterize  # noqa: F401

    names = {each.name.rpartition(":")[2] for each in KERNELS if each.name.startswith("recon.kernels.")}
    assert names > prepare.RARE


def test_a_worker_stays_with_kernels_that_share_functions() -> None:
    import recon.kernels.adam
    import recon.kernels.rasterize  # noqa: F401

    kernels = prepare._longest_first([each for each in KERNELS if each.name.startswith("recon.kernels.")])
    preparation = Preparation([])
    preparation._left = list(kernels)
    first, second = preparation._next(None), preparation._next(None)
    assert first is not None
    assert second is not None
    assert prepare._family(first) != prepare._family(second)
    third = preparation._next(first)
    assert third is not None
    assert prepare._family(third) == prepare._family(first)
    rest = [third]
    while following := preparation._next(rest[-1]):
        rest.append(following)
    assert {first, second, *rest} == set(kernels)
