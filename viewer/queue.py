"""One thread touches the scene: `RenderQueue` brings it everything that others want done there.

That thread is the one that trains, between two steps, or one of its own where nothing is trained. So drawing never
sees half a step, and neither it nor the training needs a lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

log = logging.getLogger("recon")
T = TypeVar("T")

NEVER = float("inf")


class Painter(Protocol):
    """Someone who wants pictures, again and again: a browser."""

    def due(self, now: float) -> float:
        """When the next picture should be made, in seconds of `time.monotonic`; `NEVER` until `RenderQueue.wake`."""
        ...

    def paint(self, now: float) -> float:
        """Make it. Returns seconds of other threads' work that follow from it, such as compressing."""
        ...

    def failed(self, error: Exception) -> None:
        """`paint` raised this; the painter is asked again as usual."""
        ...


class RenderQueue:
    """Jobs, done once each in their order, and painters, served in turn: who waited longest comes first.

    A painter that fails, and a job that raises, harm nobody else: a job's exception is in its future.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._served: dict[Painter, float] = {}  # when each painter had its last turn
        self._closed = False

    # From any thread

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Have `job` done on the thread that renders. After `close` its future is cancelled."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                future.cancel()
            else:
                self._jobs.append((job, future))
                self._changed.notify_all()
        return future

    def add(self, painter: Painter) -> None:
        with self._changed:
            self._served[painter] = 0.0
            self._changed.notify_all()

    def remove(self, painter: Painter) -> None:
        with self._changed:
            self._served.pop(painter, None)

    def wake(self) -> None:
        """Tell that a painter may be due earlier than it said."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Let go of all jobs; `run` and `serve` return."""
        with self._changed:
            self._closed = True
            for _, future in self._jobs:
                future.cancel()
            self._jobs.clear()
            self._changed.notify_all()

    # From the thread that renders

    def serve(self, seconds: float) -> float:
        """Do what is due until so many seconds are used up, at least one thing if there is any.

        Returns the seconds used, which are more than those given by up to the length of the last thing done.
        """
        began, others = time.monotonic(), 0.0
        while True:
            item = self._next(time.monotonic())
            if item is None:
                break
            others += self._do(item)
            if time.monotonic() - began + others >= seconds:
                break
        return time.monotonic() - began + others

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Serve without a limit until `close`, or until `until` says so, which is asked several times a second."""
        while not self._closed and not until():
            item = self._next(time.monotonic())
            if item is not None:
                self._do(item)
                continue
            with self._changed:
                now = time.monotonic()
                if not self._jobs and not self._closed:
                    wait = min((painter.due(now) for painter in self._served), default=NEVER) - now
                    if wait > 0:
                        self._changed.wait(min(wait, 0.2))

    def _next(self, now: float) -> tuple[Callable[[], Any], Future[Any]] | Painter | None:
        with self._changed:
            if self._jobs:
                return self._jobs.popleft()
            due = [painter for painter in self._served if painter.due(now) <= now]
            if not due:
                return None
            chosen = min(due, key=self._served.__getitem__)
            self._served[chosen] = now
            return chosen

    @staticmethod
    def _do(item: tuple[Callable[[], Any], Future[Any]] | Painter) -> float:
        if not isinstance(item, tuple):
            try:
                return item.paint(time.monotonic())
            except Exception as error:
                log.debug("a picture for the viewer failed", exc_info=True)
                item.failed(error)
                return 0.0
        job, future = item
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(job())
            except Exception as error:
                future.set_exception(error)
        return 0.0


class Share:
    """How much of the time a training gives away: over some seconds, no more than the share.

    Time is saved up while nothing is asked for, so that the first picture after a rest is made at once, and what takes
    longer than was saved is paid back before anything else is done.
    """

    SAVED = 0.25  # s, at most

    def __init__(self, share: float = 0.2) -> None:
        self.share = share
        self._credit = self.SAVED
        self._since: float | None = None

    def serve(self, queue: RenderQueue) -> None:
        """To be called after each step of a training."""
        now = time.monotonic()
        if self._since is not None and self.share < 1:
            self._credit = min(self.SAVED, self._credit + (now - self._since) * self.share / (1 - self.share))
        if self._credit > 0 and self.share > 0:
            self._credit -= queue.serve(self._credit)
        self._since = time.monotonic()
