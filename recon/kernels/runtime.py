"""Compiling kernels, and running them on all cores.

A kernel is a function of numpy arrays and numbers that ends with two parameters more: `counter`, an int64 array of
zeros that the threads share, and `thread`, the number of the calling thread. It takes pieces of work by
`atomic_add(counter, 0, 1)` until none is left, so no thread waits for a slow one. Nothing may depend on which thread
does a piece: then results are the same, bit for bit, for any number of threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

from recon.kernels import store
from recon.kernels.lanes import atomic_get, pause
from recon.kernels.simd import OPTIONS

AWAKE = 15_000  # rounds of `pause`, some tens of nanoseconds each, that a thread looks for work before it sleeps

_compiling = threading.RLock()  # one for all kernels, as Numba has one compiler

KERNELS: list[Kernel] = []  # all that were made, in that order


class Kernel:
    """A compiled function, made by `kernel`. It is compiled for its signature at its first call, and only then."""

    def __init__(self, function: Callable[..., Any], signature: str) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._signature = signature
        self._compiled: Any = None

    @property
    def name(self) -> str:
        """Module and name, by which another process finds it: "recon.kernels.blend:blend"."""
        return f"{self._function.__module__}:{self._function.__qualname__}"

    @property
    def source(self) -> Path:
        """The file it is written in."""
        return Path(self._function.__code__.co_filename)

    def __call__(self, *args: Any) -> Any:
        return (self._compiled or self.compile())(*args)

    def load(self) -> bool:
        """Load what some process has compiled before; False where there is nothing."""
        with _compiling:
            if self._compiled is None:
                dispatcher = self._dispatcher()
                if store.load(dispatcher, self._function, self._signature):
                    self._finish(dispatcher)
            return self._compiled is not None

    def compile(self) -> Any:
        """Load, or else compile now."""
        with _compiling:
            if not self.load():
                dispatcher = self._dispatcher()
                dispatcher.compile(self._signature)
                store.save(dispatcher, self._function, self._signature)
                self._finish(dispatcher)
            return self._compiled

    def _dispatcher(self) -> Any:
        return numba.njit(self._function, nogil=True, **OPTIONS)

    def _finish(self, dispatcher: Any) -> None:
        dispatcher.disable_compile()
        self._compiled = dispatcher


def kernel(signature: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Decorator of kernels.

    Args:
        signature: argument types without the last two, in Numba's notation: "f4[::1], i8, f4" for a flat float32 array,
            an int64 and a float32. Calls with other types raise TypeError; they never compile a second version.
    """

    def decorated(function: Callable[..., Any]) -> Kernel:
        made = Kernel(function, f"void({signature}, i8[::1], i8)")
        KERNELS.append(made)
        return made

    return decorated


def compiled_before() -> bool:
    """Whether some process left compiled kernels of this version; if not, the first use takes some seconds."""
    return not store.is_empty()


# ------------------------------------------------------------------------------------------ threads


def available_cores() -> int:
    """Cores this process may use: its affinity, and the CPU quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, -(-int(quota) // int(period)))  # "max" is no number: no quota
    return max(1, count)


@kernel("i8[::1], i8, i8, i8")
def _watch(values: Any, index: int, old: int, rounds: int, counter: Any, thread: int) -> None:
    """Wait until values[index] is no longer `old`, for so many rounds at most."""
    while rounds > 0 and atomic_get(values, index) == old:
        pause()
        rounds -= 1


_core: Callable[[], int]  # the number of the core that the calling thread runs on
try:
    _core = ctypes.PyDLL(None).sched_getcpu
except (AttributeError, OSError, TypeError):  # not Linux
    _core = int  # always 0


def _step_aside(core: int) -> None:
    """Leave a core for another one that the calling thread may use.

    A system that does not know which cores share a cache, as in many virtual machines, wakes a thread where it ran
    before, even if that core is busy and another one is not; kernels are too short for it to notice.
    """
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            allowed = os.sched_getaffinity(0)
            if len(allowed) > 1:
                os.sched_setaffinity(0, allowed - {core})
                os.sched_setaffinity(0, allowed)


class _Workers:
    """Threads that are handed calls. They are daemons: they never keep a process alive.

    To wake a sleeping thread takes as long as a small kernel, in a virtual machine as long as a large one. So they stay
    awake for a while after each call: in a training the next one comes soon.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._handed_out = np.zeros(1, np.int64)
        self._caller_core = -1
        self._count = 0
        self._lock = threading.Lock()

    def submit(self, task: Callable[[], None], needed: int) -> None:
        if self._count < needed:
            with self._lock:
                while self._count < needed:
                    threading.Thread(target=self._serve, name=f"recon-kernel-{self._count + 1}", daemon=True).start()
                    self._count += 1
        self._caller_core = _core()
        self._tasks.put(task)
        self._handed_out[0] += 1  # that two callers at once may count as one does no harm

    def _serve(self) -> None:
        watch = _watch.compile()
        while True:
            seen = int(self._handed_out[0])
            if self._tasks.empty():
                if (core := _core()) == self._caller_core:
                    _step_aside(core)
                watch(self._handed_out, 0, seen, AWAKE, self._handed_out, 0)
            self._tasks.get()()


class _Job:
    """A call of a kernel that several threads take part in."""

    def __init__(self, run: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._run = run
        self._args = args
        self._counter = np.zeros(8, np.int64)
        self._busy = np.zeros(1, np.int64)  # threads that take part just now
        self._closed = False
        self._lock = threading.Lock()
        self._ended = threading.Lock()  # released once, at the end; a semaphore takes many times as long to make
        self._ended.acquire()
        self.errors: list[BaseException] = []

    def take_part(self, thread: int) -> None:
        """Do what is left to do, unless all is done: a thread that comes too late is not waited for."""
        with self._lock:
            if self._closed:
                return
            self._busy[0] += 1
            args = self._args
        try:
            self._run(*args, self._counter, thread)
        except BaseException as error:
            self.errors.append(error)
        with self._lock:
            self._busy[0] -= 1
            if self._closed and self._busy[0] == 0:
                self._ended.release()

    def close(self) -> None:
        """Wait for the threads that take part, and let no other begin."""
        with self._lock:
            self._closed = True
            self._args = ()  # those that come too late shall not hold on to the arrays
            busy = int(self._busy[0])
        while busy > 0:
            _watch(self._busy, 0, busy, AWAKE, self._counter, 0)
            with self._lock:
                now = int(self._busy[0])
            if now == busy:  # they take long
                self._ended.acquire()
                return
            busy = now


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
    """Run a kernel on up to `threads` threads (`get_threads()` if None), and wait for the end.

    The calling thread is number 0. Others that are still on their way when it is done are left out.

    Safe to call from several threads at once, but not from inside a kernel's worker.
    """
    run = function._compiled or function.compile()
    count = get_threads() if threads is None else min(threads, get_threads())
    if count == 1:
        run(*args, np.zeros(8, np.int64), 0)
    else:
        _take_part(run, args, count)


def spread(call: Callable[[int], None], count: int) -> None:
    """Call `call(0)` to `call(count - 1)`, once each and in any order, on `get_threads()` threads, and wait.

    For functions that are outside of Python most of the time. They must not call `launch`. What torch keeps for each
    thread, such as `no_grad` and autocast, they have to set themselves.
    """
    numbers = iter(range(count))

    def some(counter: Any, thread: int) -> None:
        for number in numbers:
            call(number)

    threads = min(count, get_threads())
    if threads > 1:
        _take_part(some, (), threads)
    else:
        some(None, 0)


def _take_part(run: Callable[..., Any], args: tuple[Any, ...], count: int) -> None:
    job = _Job(run, args)
    for thread in range(1, count):
        _workers.submit(functools.partial(job.take_part, thread), count - 1)
    job.take_part(0)
    job.close()
    for error in job.errors:
        raise error
