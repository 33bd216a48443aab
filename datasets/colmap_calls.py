"""Calling pycolmap: quietly, in a thread of its own so that Ctrl-C is heard, and with a look at how far it is."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pycolmap

T = TypeVar("T")
LOOK_EVERY = 0.25  # s


def load() -> Any:
    """pycolmap, whose own messages do not reach the terminal."""
    import PIL._imaging  # noqa: F401  (both bring zlib along, and Pillow's has to be there first)
    import pycolmap

    pycolmap.logging.logtostderr = False
    pycolmap.logging.alsologtostderr = False
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL.value)
    return pycolmap


def call(
    function: Callable[[], T], token: pycolmap.CancellationToken | None = None, look: Callable[[], None] | None = None
) -> T:
    """What `function` returns, or raises. It runs in a thread; `look` is called now and then in this one.

    An exception here, such as Ctrl-C, cancels `token` and waits for the thread, so nothing goes on behind one's back.
    """
    done = threading.Event()  # a join that is interrupted may take a thread for ended that is not
    stopped = threading.Event()  # before the thread began
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            if not stopped.is_set():
                results.append(function())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run, daemon=True)
    with _quiet():
        try:
            thread.start()
            while not done.wait(LOOK_EVERY):
                if look:
                    look()
        except BaseException:
            if token is not None:
                token.cancel()
            stopped.set()
            while thread.ident is not None and not done.is_set():
                with contextlib.suppress(KeyboardInterrupt):  # ending before the thread does would be a crash
                    done.wait()
            raise
        finally:
            if done.is_set():
                thread.join()
    if errors:
        raise errors[0]
    return results[0]


def adjust(
    model: pycolmap.Reconstruction, threads: int, *, known_lenses: bool = False, principal_point: bool = False
) -> None:
    """A bundle adjustment of all of a model: poses, points, and lenses unless they are known. How the cameras of a rig
    lie to each other is always known.

    Args:
        principal_point: whether it is free too.
    """
    pycolmap = load()
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length = options.refine_extra_params = not known_lenses
    options.refine_principal_point = principal_point
    options.refine_sensor_from_rig = False
    options.print_summary = False
    options.ceres.use_gpu = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1  # as the mappers
    options.ceres.solver_options.num_threads = threads
    token = pycolmap.CancellationToken()
    call(lambda: pycolmap.bundle_adjustment(model, options, cancellation_token=token), token)
    model.update_point_3d_errors()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What native code writes on the error stream is dropped: some of it disregards the level that is asked for."""
    with open(os.devnull, "wb") as nowhere:
        kept = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def is_sound(database: Path) -> bool:
    """Whether a database that another process left can be gone on with."""
    try:
        with contextlib.closing(_read(database)) as connection:
            return connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
    except sqlite3.Error:
        return False


def remove(database: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        database.with_name(database.name + ending).unlink(missing_ok=True)


def _read(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(database, timeout=5)
