"""Compiling kernels, keeping the compiled code, and running kernels on all cores.

A kernel is a function of numpy arrays and numbers that ends with two parameters more: `counter`, an int64 array of
zeros that the threads share, and `thread`, the number of the calling thread. It takes pieces of work by
`atomic_add(counter, 0, 1)` until none is left, so no thread waits for a slow one. Nothing may depend on which thread
does a piece: then results are the same, bit for bit, for any number of threads.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import queue
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import platformdirs

from recon.kernels.simd import CHECKED, FLAGS, LANES

KEPT_CACHES = 8  # folders of older versions of the kernels that stay in the user's cache

_compiling = threading.Lock()  # one for all kernels: where Numba's cache is, is a global setting


class Kernel:
    """A compiled function, made by `kernel`. It is compiled for its signature at its first call, and only then."""

    def __init__(self, function: Callable[..., Any], signature: str) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._signature = signature
        self._compiled: Any = None

    def __call__(self, *args: Any) -> Any:
        return (self._compiled or self.compile())(*args)

    def compile(self) -> Any:
        """Compile now, or load what an earlier process compiled."""
        with _compiling:
            if self._compiled is None:
                try:
                    self._compiled = _compiled(self._function, self._signature, cache=True)
                except OSError as error:  # the cache cannot be read or written, for instance because the disk is full
                    warnings.warn(f"compiled kernels cannot be kept ({error})", RuntimeWarning, stacklevel=2)
                    self._compiled = _compiled(self._function, self._signature, cache=False)
            return self._compiled


def kernel(signature: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Decorator of kernels.

    Args:
        signature: argument types without the last two, in Numba's notation: "f4[::1], i8, f4" for a flat float32 array,
            an int64 and a float32. Calls with other types raise TypeError; they never compile a second version.
    """
    return lambda function: Kernel(function, f"void({signature}, i8[::1], i8)")


def _compiled(function: Callable[..., Any], signature: str, *, cache: bool) -> Any:
    folder = cache_folder() if cache else None
    with _numba_cache(folder):
        dispatcher = numba.njit(
            function, nogil=True, cache=folder is not None, error_model="numpy", fastmath=set(FLAGS)
        )
        dispatcher.compile(signature)
    dispatcher.disable_compile()
    return dispatcher


@contextlib.contextmanager
def _numba_cache(folder: Path | None) -> Iterator[None]:
    """Numba takes the folder of its cache from a global setting when it decorates: set that for the moment."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = "" if folder is None else str(folder)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


@functools.cache
def cache_folder() -> Path | None:
    """The user's folder for compiled kernels of exactly this source code and vector width, or None if not writable.

    Numba looks only at the file of a function to see whether its cached code is out of date, not at imported ones.
    """
    digest = hashlib.sha256(f"{LANES} {CHECKED} {numba.__version__}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + source.read_bytes())
    root = Path(platformdirs.user_cache_dir("recon")) / "kernels"
    folder = root / digest.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.touch()
        probe = folder / f".writable-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
        older = sorted((f for f in root.iterdir() if f != folder), key=lambda f: f.stat().st_mtime)
        for old in older[:-KEPT_CACHES]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        warnings.warn(f"kernels are compiled at every start, since {error}", RuntimeWarning, stacklevel=2)
        return None
    return folder


def compiled_before() -> bool:
    """Whether an earlier process left compiled kernels of this version; if not, the first use takes some seconds."""
    folder = cache_folder()
    return folder is not None and any(folder.rglob("*.nbc"))


# ------------------------------------------------------------------------------------------ threads


def available_cores() -> int:
    """Cores this process may use: its affinity, and the CPU quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, -(-int(quota) // int(period)))  # "max" is no number: no quota
    return max(1, count)


class _Workers:
    """Threads that sleep until they are handed a call. They are daemons: they never keep a process alive."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._count = 0
        self._lock = threading.Lock()

    def submit(self, task: Callable[[], None], needed: int) -> None:
        if self._count < needed:
            with self._lock:
                while self._count < needed:
                    threading.Thread(target=self._serve, name=f"recon-kernel-{self._count + 1}", daemon=True).start()
                    self._count += 1
        self._tasks.put(task)

    def _serve(self) -> None:
        while True:
            self._tasks.get()()


_workers = _Workers()


def _forget_workers() -> None:
    """Threads do not survive a fork; the child starts its own."""
    global _workers
    _workers = _Workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)


def _threads_from_environment() -> int:
    asked = os.environ.get("RECON_NUM_THREADS")
    if not asked:
        return available_cores()
    if not asked.isascii() or not asked.isdigit() or int(asked) < 1:
        raise ValueError(f"RECON_NUM_THREADS={asked}: not a positive number")
    return int(asked)


_threads: int | None = None  # not asked for yet


def get_threads() -> int:
    """How many threads `launch` uses: RECON_NUM_THREADS, else every core this process may use.

    ValueError where RECON_NUM_THREADS is no such number.
    """
    global _threads
    if _threads is None:
        _threads = _threads_from_environment()
    return _threads


def set_threads(count: int) -> None:
    """Use `count` threads from now on, in the whole process."""
    if count < 1:
        raise ValueError(f"{count} threads: not a positive number")
    global _threads
    _threads = count


def launch(function: Kernel, *args: Any, threads: int | None = None) -> None:
    """Run a kernel on `threads` threads (`get_threads()` if None), the calling one among them, and wait for the end.

    Safe to call from several threads at once, but not from inside a kernel's worker.
    """
    run = function._compiled or function.compile()
    count = get_threads() if threads is None else min(threads, get_threads())
    counter = np.zeros(8, np.int64)
    if count == 1:
        run(*args, counter, 0)
        return
    finished: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def share(thread: int) -> None:
        try:
            run(*args, counter, thread)
            finished.put(None)
        except BaseException as error:
            finished.put(error)

    for thread in range(1, count):
        _workers.submit(functools.partial(share, thread), count - 1)
    share(0)
    errors = [finished.get() for _ in range(count)]
    for error in errors:
        if error is not None:
            raise error
