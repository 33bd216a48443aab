"""What tests of the viewer's server share: patience, and a thread that draws."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recon.viewer.viewer import Viewer

PATIENCE = 60.0  # s after which a test fails that waits; nothing takes so long, however busy the machine


def pause() -> None:
    time.sleep(0.01)


def wait_until(true: Callable[[], object], what: str = "what is waited for", pause: Callable[[], None] = pause) -> None:
    """Return once `true` says so; `pause` is called between two times that it is asked."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"in {PATIENCE:.0f} s not: {what}"
        pause()


@contextmanager
def drawn(viewer: Viewer) -> Iterator[Viewer]:
    """A viewer that a thread draws for, which ends with it."""
    thread = threading.Thread(target=viewer.queue.run)
    thread.start()
    try:
        yield viewer
    finally:
        viewer.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()
