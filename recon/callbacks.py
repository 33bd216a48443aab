"""What watches a training: the progress bar, the logs, autosave, and stopping on request."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

from recon import checkpoint, runs
from recon.datasets.errors import InputError
from recon.ranks import ALONE, Ranks
from recon.runs import Run
from recon.train import StepMetrics, TrainState


class Interrupted(Exception):
    """A signal asked for the training to end; what was learned is saved."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step}")
        self.signum = signum


class Autosave:
    """Writes a checkpoint every so many seconds, and keeps the newest few."""

    def __init__(self, run: Run, every: float) -> None:
        self._run = run
        self._every = every
        self._last = time.monotonic()

    def begin(self, state: TrainState) -> None:
        """Have a checkpoint from the start: the run can be resumed, whatever happens."""
        if state.divided.told(lambda: not self._run.checkpoints()):
            self.save(state)

    def __call__(self, state: TrainState, metrics: StepMetrics) -> None:
        due = time.monotonic() - self._last >= self._every
        if state.divided.count > 1:  # all save at once
            due = state.divided.most(float(due and state.divided.first)) > 0
        if due:
            self.save(state)
            self._last = time.monotonic()

    def save(self, state: TrainState) -> None:
        checkpoint.save(state, self._run.checkpoint_file(state.step))
        if state.divided.first:
            self._run.drop_old_checkpoints()


class MetricsLog:
    """Appends to the run's metrics.jsonl."""

    def __init__(self, run: Run, every: int = 10) -> None:
        self._file = run.metrics_file
        self._every = every

    def __call__(self, state: TrainState, metrics: StepMetrics) -> None:
        if metrics.step % self._every == 0 or state.progress >= 1:
            line = {"step": metrics.step, "loss": float(metrics.loss), "count": metrics.count}
            runs.append_line(self._file, line | {"seconds": round(state.seconds, 3)})


class TensorBoard:
    """Scalars for TensorBoard, in the run's folder. A context manager."""

    def __init__(self, run: Run, done: int = 0, every: int = 10) -> None:
        """`done` steps were taken before; what an earlier attempt logged after them is dropped."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(  # type: ignore[no-untyped-call]
            str(run.path / "tensorboard"), purge_step=done + 1
        )
        self._every = every

    @staticmethod
    def require() -> None:
        """InputError if it cannot be used."""
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise InputError("--tensorboard: tensorboard is not installed (pip install tensorboard)") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def __call__(self, state: TrainState, metrics: StepMetrics) -> None:
        if metrics.step % self._every == 0:
            self._writer.add_scalar("train/loss", float(metrics.loss), metrics.step)
            self._writer.add_scalar("train/count", metrics.count, metrics.step)


class ProgressBar:
    """Steps, speed, time left, loss and count on one line of the terminal. A context manager."""

    def __init__(self, state: TrainState) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        planned = state.config.steps if state.config.seconds is None else None
        self._of_all = "" if planned is None else f"/{planned:,}"

        self._progress = Progress(
            TextColumn("Training"),
            BarColumn(bar_width=30),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
        )
        self._task = self._progress.add_task("training", total=1.0, note="")
        self._progress.update(self._task, completed=state.progress)
        self._loss: float | None = None
        self._window = (time.monotonic(), state.step)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, state: TrainState, metrics: StepMetrics) -> None:
        if metrics.step % 10 and state.progress < 1:
            return
        loss = float(metrics.loss)
        self._loss = loss if self._loss is None else 0.8 * self._loss + 0.2 * loss
        since, step = self._window
        now = time.monotonic()
        speed = (metrics.step - step) / max(now - since, 1e-9)
        if now - since > 2:
            self._window = (now, metrics.step)
        steps = f"step {metrics.step:,}{self._of_all}  {speed:.0f} steps/s"
        note = f"{steps}  loss {self._loss:.4f}  {metrics.count:,} {state.unit}"
        self._progress.update(self._task, completed=state.progress, note=note)


class StopOnSignal:
    """Ends the training after the running step when Ctrl-C or SIGTERM came; a second Ctrl-C ends it at once."""

    def __init__(self, ranks: Ranks = ALONE) -> None:
        """`ranks`: the processes that train together, and end together whichever is told to."""
        self._signum: int | None = None
        self._ranks = ranks

    def __call__(self, state: TrainState, metrics: StepMetrics) -> None:
        signum = self._signum
        if self._ranks.count > 1:
            signum = int(self._ranks.most(signum or 0)) or None
        if signum is not None:
            raise Interrupted(signum, state.step)

    def requested(self) -> bool:
        """Whether the training is to end."""
        return self._signum is not None

    def _received(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self._signum is not None:
            raise KeyboardInterrupt
        self._signum = signum

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """While inside, the signals are noted instead of acted on. Only the main thread can do so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self._received) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
