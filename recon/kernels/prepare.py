"""Kernels made ready before they are needed, while other things are done: loaded, or at a first start compiled.

Numba compiles one function at a time in a process, so compiling is left to processes of their own, one for each core,
which keep what they compile where this process finds it. One that fails or is killed costs time only: a kernel that is
not ready is compiled when it is called.
"""

from __future__ import annotations

import gc
import importlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from recon.kernels import store
from recon.kernels.runtime import KERNELS, Kernel, get_threads

MOST_WORKERS = 8  # each takes a few hundred megabytes

# A training needs none of these, so they are compiled when they are called.
RARE = {"blend_with_depth", "blend_with_depths", "blend_backward_full"}

_WORKER = "import sys; sys.path.insert(0, sys.argv[1]); from recon.kernels.prepare import serve; serve(sys.argv[2])"


class Preparation:
    """Makes kernels ready, from now on, in the background."""

    def __init__(self, kernels: Iterable[Kernel]) -> None:
        self._kernels = list(kernels)
        self._left: list[Kernel] = []
        self._begun: set[str] = set()
        self._lock = threading.Lock()
        self._finished: queue.SimpleQueue[None] = queue.SimpleQueue()  # one item for each kernel to compile, in the end
        self._known = threading.Event()
        self.to_compile = 0
        self.workers = 0
        threading.Thread(target=self._run, name="recon-prepare", daemon=True).start()

    def wait(self, starting: Callable[[int, int], None], progress: Callable[[int, int], None]) -> None:
        """Until all is ready, as far as it can be.

        Args:
            starting: told how many kernels are compiled and by how many processes, if there are any.
            progress: told each time one is done: how many are, and how many there are.
        """
        self._known.wait()
        if self.to_compile:
            starting(self.to_compile, self.workers)
        for done in range(self.to_compile):
            self._finished.get()
            progress(done + 1, self.to_compile)

    def _run(self) -> None:
        try:
            self._left = _longest_first([kernel for kernel in self._kernels if not kernel.load()])
            self.to_compile = len(self._left)
            self.workers = min(self.to_compile, get_threads(), MOST_WORKERS)
        finally:
            self._known.set()
        drivers = [threading.Thread(target=self._drive, daemon=True) for _ in range(self.workers)]
        for driver in drivers:
            driver.start()
        for driver in drivers:
            driver.join()
        for _ in self._left:  # every worker has died
            self._finished.put(None)

    def _next(self, last: Kernel | None) -> Kernel | None:
        """What a worker does after `last`: kernels of one family share functions, which it compiles once."""
        with self._lock:
            if not self._left:
                return None
            same = [kernel for kernel in self._left if last is not None and _family(kernel) == _family(last)]
            free = [kernel for kernel in self._left if _family(kernel) not in self._begun]
            chosen = (same or free or self._left)[0]
            self._begun.add(_family(chosen))
            self._left.remove(chosen)
            return chosen

    def _drive(self) -> None:
        """Hand kernels to a worker, one after the other."""
        root = Path(__file__).parents[2]
        try:
            worker = subprocess.Popen(
                [sys.executable, "-P", "-c", _WORKER, str(root), str(store.folder())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError:
            return
        assert worker.stdin is not None
        assert worker.stdout is not None
        with worker:
            kernel = None
            while kernel := self._next(kernel):
                try:
                    worker.stdin.write(f"{kernel.name}\n")
                    worker.stdin.flush()
                    answered = worker.stdout.readline() != ""
                    kernel.load()
                except OSError:
                    answered = False
                self._finished.put(None)
                if not answered:
                    break


def _family(kernel: Kernel) -> str:
    """Kernels of `project`, `project_backward` and so on are one."""
    return kernel.name.partition(":")[0].rpartition(".")[2].partition("_")[0]


def _longest_first(kernels: list[Kernel]) -> list[Kernel]:
    """Kernels of large families first, or else the last would keep one core busy and the others waiting."""
    sizes = {kernel: kernel.source.stat().st_size for kernel in kernels}
    families: dict[str, int] = {}
    for kernel, size in sizes.items():
        families[_family(kernel)] = families.get(_family(kernel), 0) + size
    return sorted(kernels, key=lambda kernel: (-families[_family(kernel)], -sizes[kernel]))


def for_training(modules: Collection[str] | None = None) -> Preparation:
    """Make ready what a training on this machine's CPU calls, of all kernels that are imported so far.

    Args:
        modules: of this package, whose kernels it calls; None: of all that a training of splats imports.
    """
    importlib.import_module("recon.kernels.pull")  # what imports it comes only with the first step
    names = None if modules is None else {f"{__package__}.{module}" for module in modules}
    return Preparation(
        kernel
        for kernel in KERNELS
        if kernel.name.startswith(f"{__package__}.")
        and kernel.name.rpartition(":")[2] not in RARE
        and (names is None or kernel.name.partition(":")[0] in names)
    )


def serve(folder: str) -> None:
    """What a worker does: compile the kernels whose names come in, a line each, and say when one is done."""
    gc.disable()  # a worker ends soon
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training; without it, no more names come in
    store.use_folder(Path(folder))
    for line in sys.stdin:
        module, _, name = line.strip().partition(":")
        getattr(importlib.import_module(module), name).compile()
        print(name, flush=True)
