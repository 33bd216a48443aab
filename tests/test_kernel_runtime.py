"""How kernels are compiled, kept and run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recon.kernels import runtime
from recon.kernels.lanes import atomic_add, atomic_get, pause
from recon.kernels.runtime import get_threads, kernel, launch, set_threads, spread
from recon.kernels.simd import get, put

SCRIPT = """
import sys, numpy as np
from recon.kernels.runtime import kernel, launch
from recon.kernels.simd import LANES, load, store

@kernel("f4[::1], i8")
def double(x, start, counter, thread):
    store(x, start, load(x, start) * 2)

x = np.arange(LANES, dtype=np.float32)
loaded = double.load()
launch(double, x, int(sys.argv[1]), threads=1)
assert (x == 2 * np.arange(LANES)).all()
print(LANES, loaded)
"""


@pytest.fixture(autouse=True)
def same_threads_after() -> Iterator[None]:
    before = get_threads()
    yield
    set_threads(before)


def run(folder: Path, *, start: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run SCRIPT with its cache in a folder, and other environment variables."""
    script = folder / "script.py"
    if not script.exists():
        script.write_text(SCRIPT)
    variables = {"XDG_CACHE_HOME": str(folder / "cache"), "LOCALAPPDATA": str(folder / "cache")} | environment
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RECON_", "NUMBA_"))}
    command = [sys.executable, str(script), str(start)]
    return subprocess.run(command, env=kept | variables, capture_output=True, text=True)


@kernel("i8[::1], i8[::1], i8")
def count_up(done: Any, by: Any, pieces: int, counter: Any, thread: int) -> None:
    while True:
        piece = atomic_add(counter, 0, 1)
        if piece >= pieces:
            break
        put(done, piece, get(done, piece) + piece)
    atomic_add(by, thread, 1)


@kernel("i8[::1], i8, i8")
def meet(by: Any, count: int, refusing: int, counter: Any, thread: int) -> None:
    """All wait for `count` threads, one of which raises then."""
    atomic_add(by, thread, 1)
    atomic_add(counter, 1, 1)
    while atomic_get(counter, 1) < count:
        pause()
    if thread == refusing:
        raise ValueError("no")


LONG = 100 * runtime.AWAKE


@kernel("i8[::1]")
def dawdle(ended: Any, counter: Any, thread: int) -> None:
    """Other threads take longer than anyone is awake; the calling one waits for one of them to begin."""
    if thread == 0:
        while atomic_get(counter, 1) == 0:
            pause()
    else:
        atomic_add(counter, 1, 1)
        for _ in range(LONG):
            pause()
    atomic_add(ended, 0, 1)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_every_piece_is_done_once_and_no_thread_comes_twice(threads: int) -> None:
    set_threads(threads)
    for _ in range(20):
        done, by = np.zeros(1000, np.int64), np.zeros(16, np.int64)
        launch(count_up, done, by, done.size)
        np.testing.assert_array_equal(done, np.arange(1000))
        assert by[0] == 1
        assert by[:threads].max() == 1
        assert by[threads:].max() == 0


@pytest.mark.parametrize("threads", [2, 7])
def test_all_threads_come_while_there_is_work(threads: int) -> None:
    set_threads(threads)
    for _ in range(20):
        by = np.zeros(16, np.int64)
        launch(meet, by, threads, -1)
        assert by.tolist() == [1] * threads + [0] * (16 - threads)


def test_threads_that_take_part_are_waited_for() -> None:
    set_threads(2)
    ended = np.zeros(1, np.int64)
    launch(dawdle, ended)
    assert ended[0] == 2


def test_threads_that_slept_wake_up() -> None:
    set_threads(2)
    for wait in (0.0, 0.05, 0.0, 0.05):
        time.sleep(wait)
        launch(meet, np.zeros(16, np.int64), 2, -1)


def test_fewer_threads_on_request() -> None:
    set_threads(4)
    by = np.zeros(16, np.int64)
    launch(meet, by, 2, -1, threads=2)
    launch(meet, by, 4, -1, threads=99)
    assert by.tolist()[:5] == [2, 2, 1, 1, 0]


@pytest.mark.parametrize("where", [0, 1])
def test_an_exception_in_any_thread_arrives(where: int) -> None:
    set_threads(2)
    with pytest.raises(ValueError, match="no"):
        launch(meet, np.zeros(16, np.int64), 2, where)
    launch(meet, np.zeros(16, np.int64), 2, -1)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_calls_of_python_are_spread_and_each_is_made_once(threads: int) -> None:
    set_threads(threads)
    for count in (0, 1, 5, 400):
        made: list[int] = []
        spread(made.append, count)
        assert sorted(made) == list(range(count))
    meeting = threading.Barrier(threads)  # nobody goes on before all are there

    def meet_others(number: int) -> None:
        meeting.wait(60)

    spread(meet_others, threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_exception_in_a_call_of_python_arrives(threads: int) -> None:
    set_threads(threads)

    def refuse(number: int) -> None:
        if number == 3:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        spread(refuse, 6)
    spread(refuse, 3)


def test_several_callers_at_once() -> None:
    set_threads(3)
    results = [np.zeros(500, np.int64) for _ in range(8)]

    def call(done: np.ndarray) -> None:
        for _ in range(10):
            launch(count_up, done, np.zeros(16, np.int64), done.size)

    callers = [threading.Thread(target=call, args=(done,)) for done in results]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for done in results:
        np.testing.assert_array_equal(done, 10 * np.arange(500))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    set_threads(2)
    launch(meet, np.zeros(16, np.int64), 2, -1)
    child = os.fork()
    if child == 0:
        by = np.zeros(16, np.int64)
        launch(meet, by, 2, -1)
        os._exit(0 if by[:2].tolist() == [1, 1] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_other_types_are_refused_not_compiled() -> None:
    done, by = np.zeros(10, np.int64), np.zeros(16, np.int64)
    launch(count_up, done, by, 10)
    frozen = done.copy()
    frozen.setflags(write=False)
    for wrong in (done.astype(np.float32), done[::2], frozen):
        with pytest.raises(TypeError, match="No matching definition"):
            launch(count_up, wrong, by, 1, threads=1)
    assert len(count_up._compiled.signatures) == 1


def test_a_number_of_threads_is_positive() -> None:
    for count in (0, -1):
        with pytest.raises(ValueError, match="threads"):
            set_threads(count)
    assert 1 <= runtime.available_cores() <= (os.cpu_count() or 1)


def test_environment_variables(tmp_path: Path) -> None:
    for lanes in ("4", "8", "16"):
        done = run(tmp_path, RECON_SIMD_LANES=lanes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{lanes} ")
    assert "RECON_SIMD_LANES=5: not 4, 8 or 16" in run(tmp_path, RECON_SIMD_LANES="5").stderr
    assert "RECON_NUM_THREADS=none: not a positive number" in run(tmp_path, RECON_NUM_THREADS="none").stderr
    assert run(tmp_path, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="").stdout.startswith("4 ")


def test_checked_accesses_raise(tmp_path: Path) -> None:
    assert "IndexError" in run(tmp_path, RECON_SIMD_CHECK="1", start=1).stderr
    assert "IndexError" in run(tmp_path, RECON_SIMD_CHECK="1", start=-1).stderr
    assert run(tmp_path, RECON_SIMD_CHECK="1").returncode == 0
