"""What of this machine a command uses, and how it starts: imports, device, threads. Loads torch only when it must."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from recon.datasets.errors import InputError

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around imports of large libraries, for a command that ends with its process.

    What they make stays, so looking for garbage among it, while it grows, in every later collection and at the end
    of the process, takes time for nothing.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def seconds_since_start() -> float:
    """How long this process has been there."""
    import time

    import psutil

    return time.time() - psutil.Process().create_time()


def let_threads_sleep() -> None:
    """Threads of torch that wait do not spin, unless the user has it otherwise. To be called before torch is loaded."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def use_threads(count: int | None, beside: int = 1) -> None:
    """Give our kernels so many CPU threads (None: all), and torch one: its waiting threads would take them away.

    Args:
        beside: processes of the same work on this machine, which share its cores where no count is given.
    """
    import torch

    from recon.kernels.runtime import get_threads, set_threads

    torch.set_num_threads(1)
    if count is None:
        try:
            all_threads = get_threads()
        except ValueError as error:
            raise InputError(str(error)) from error
        if beside > 1:
            set_threads(max(1, all_threads // beside))
        return
    most = 4 * (os.cpu_count() or 1)
    if not 1 <= count <= most:
        raise InputError(f"--threads {count}: not between 1 and {most}")
    set_threads(count)


def pick_device(wanted: Literal["auto", "cpu", "cuda"], local: int = 0) -> torch.device:
    """The device to train on; InputError where CUDA is asked for and cannot be used.

    Args:
        local: the number of this process among those of the same work on this machine, which take its GPUs in turn.
    """
    import torch

    from recon.raster import gsplat_cuda

    if wanted == "cpu":
        return torch.device("cpu")
    problem = gsplat_cuda.problem()
    if wanted == "cuda" and problem:
        raise InputError(f"--device cuda: {problem}")
    if problem:
        return torch.device("cpu")
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(local % torch.cuda.device_count())
    return torch.device("cuda")
