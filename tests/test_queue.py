"""The one thread that draws: jobs in order, painters in turn, nobody harmed by another's error, time bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from recon.viewer.queue import NEVER, RenderQueue, Share
from serving import PATIENCE


class Asker:
    """A painter that is always due, or due at a time."""

    def __init__(self, log: list[str], name: str, *, at: float = 0.0, error: bool = False) -> None:
        self._log, self._name, self._error = log, name, error
        self.at = at
        self.errors: list[Exception] = []

    def due(self, now: float) -> float:
        return self.at

    def paint(self, now: float) -> float:
        self._log.append(self._name)
        if self._error:
            raise RuntimeError("no picture")
        return 0.0

    def failed(self, error: Exception) -> None:
        self.errors.append(error)


def rounds(count: int) -> Callable[[], bool]:
    """Says so after it was asked so many times."""
    left = iter(range(count))
    return lambda: next(left, None) is None


def test_jobs_are_done_in_order_before_pictures() -> None:
    queue, log = RenderQueue(), list[str]()
    queue.add(Asker(log, "picture"))
    futures = [queue.submit(lambda name=name: log.append(name)) for name in "abc"]  # type: ignore[misc]
    queue.run(rounds(4))
    assert log == ["a", "b", "c", "picture"]
    assert all(future.done() for future in futures)


def test_a_job_gives_what_it_returns_or_raises_and_the_next_is_done() -> None:
    queue = RenderQueue()
    good, bad, after = queue.submit(lambda: 7), queue.submit(lambda: 1 // 0), queue.submit(lambda: 8)
    queue.serve(1.0)
    assert (good.result(0), after.result(0)) == (7, 8)
    with pytest.raises(ZeroDivisionError):
        bad.result(0)


def test_painters_take_turns_however_often_they_ask() -> None:
    queue, log = RenderQueue(), list[str]()
    for name in "abc":
        queue.add(Asker(log, name))
    queue.run(rounds(9))
    assert sorted(log) == sorted("abc" * 3)
    assert all(sorted(log[i : i + 3]) == list("abc") for i in (0, 3, 6))


def test_a_painter_that_fails_is_told_and_the_others_are_served() -> None:
    queue, log = RenderQueue(), list[str]()
    bad = Asker(log, "bad", error=True)
    queue.add(bad)
    queue.add(Asker(log, "good"))
    queue.run(rounds(6))
    assert log.count("good") == 3
    assert [str(error) for error in bad.errors] == ["no picture"] * 3


def test_one_that_left_is_not_served() -> None:
    queue, log = RenderQueue(), list[str]()
    gone = Asker(log, "gone")
    queue.add(gone)
    queue.remove(gone)
    queue.remove(gone)
    assert queue.serve(PATIENCE) < PATIENCE  # it does not wait
    assert log == []


def test_waiting_ends_when_a_job_comes_or_the_queue_closes() -> None:
    queue, log = RenderQueue(), list[str]()
    queue.add(Asker(log, "never", at=NEVER))
    thread = threading.Thread(target=queue.run)
    thread.start()
    assert queue.submit(threading.get_ident).result(PATIENCE) == thread.ident
    queue.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert log == []
    assert queue.submit(lambda: 0).cancelled()


def test_closing_lets_go_of_jobs() -> None:
    queue = RenderQueue()
    future = queue.submit(lambda: 0)
    queue.close()
    assert future.cancelled()
    assert queue.serve(PATIENCE) < PATIENCE


class Clock:
    """Time that only passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("recon.viewer.queue.time.monotonic", lambda: self.now)


class Slow(Asker):
    """A painter whose pictures take time."""

    def __init__(self, log: list[str], clock: Clock, seconds: float) -> None:
        super().__init__(log, "picture")
        self._clock, self._seconds = clock, seconds

    def paint(self, now: float) -> float:
        self._clock.now += self._seconds
        return super().paint(now)


def test_serving_stops_when_the_time_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(monkeypatch), list[str]()
    queue = RenderQueue()
    assert queue.serve(0.05) == 0  # nothing to do
    queue.add(Slow(log, clock, 0.02))
    assert queue.serve(0.05) == pytest.approx(0.06)
    assert len(log) == 3
    queue.serve(0.0)
    assert len(log) == 4  # at least one thing is done


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("picture", [0.004, 0.05, 1.0])
def test_a_share_of_the_time_is_given_away_and_no_more(
    share: float, picture: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of 10 ms, and a browser that always wants a picture, short or long."""
    clock, log = Clock(monkeypatch), list[str]()
    queue, budget = RenderQueue(), Share(share)
    queue.add(Slow(log, clock, picture))
    trained = 0.0
    while clock.now < 160:
        clock.now += 0.01
        trained += 0.01
        budget.serve(queue)
    looked = len(log) * picture
    assert looked / (looked + trained) <= share + (picture + Share.SAVED) / 60
    assert looked / (looked + trained) >= share - (picture + Share.SAVED) / 60


def test_a_share_of_nothing_serves_nobody() -> None:
    queue, log = RenderQueue(), list[str]()
    queue.add(Asker(log, "a"))
    Share(0.0).serve(queue)
    assert log == []
