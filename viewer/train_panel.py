"""The Training tab: how far it is, pause and go on, and how much of the time is for looking."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np

from recon.viewer.viewer import Viewer

EVERY = 0.5  # s between updates
POINTS = 400  # of a curve; older ones are thinned out


class Curve:
    """Values over steps, thinned out evenly when they become too many."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []

    def add(self, x: float, y: float) -> None:
        self._points.append((x, y))
        if len(self._points) >= POINTS:
            self._points = self._points[::2]

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        points = self._points or [(0.0, 0.0)]
        return np.array([x for x, _ in points]), np.array([y for _, y in points])


class TrainPanel:
    """Shows a training that calls `report` and looks at `paused` and `share`."""

    def __init__(self, viewer: Viewer, unit: str = "splats", share: float = 0.2) -> None:
        """
        Args:
            unit: what the scene is made of.
            share: of the time, for looking.
        """
        self._unit = unit
        gui = viewer.server.gui
        self._last = 0.0
        self._steps: deque[tuple[float, int]] = deque(maxlen=20)
        self._paused = False
        with viewer.tab("Training"):
            self.state = gui.add_markdown("Starting…")
            self.progress: Any = gui.add_progress_bar(0.0)
            self.button = gui.add_button("Pause")
            self.share_slider = gui.add_slider(
                "Time for looking, %", 0, 90, 5, round(100 * share), hint="The training takes the rest."
            )
            self._curves = {name: Curve() for name in ("Loss", "PSNR of held-out photos, dB", "Steps per second")}
            self._plots = {name: self._plot(gui, name) for name in self._curves}

        @self.button.on_click
        def _(event: Any) -> None:
            del event
            self.paused = not self.paused
            viewer.queue.wake()

        @self.share_slider.on_update
        def _(event: Any) -> None:
            del event
            viewer.training(self.share)

        viewer.training(self.share)

    @property
    def paused(self) -> bool:
        """Whether the training is to wait."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._paused = paused
        self.button.label = "Go on" if paused else "Pause"

    @property
    def share(self) -> float:
        """0..1 of the time that the training gives away."""
        return float(self.share_slider.value) / 100

    def due(self) -> bool:
        """Whether `report` would show anything."""
        return time.monotonic() - self._last >= EVERY

    def report(self, step: int, progress: float, loss: float, count: int) -> None:
        """Say how far the training is; progress 0..1."""
        now = time.monotonic()
        self._last = now
        self._steps.append((now, step))
        before, first = self._steps[0]
        speed = (step - first) / (now - before) if now > before else 0.0
        self._curves["Loss"].add(step, loss)
        if speed > 0:
            self._curves["Steps per second"].add(step, speed)
        self.progress.value = 100 * progress
        what = "Paused at" if self.paused else "At"
        self.state.content = f"{what} step {step:,}, {count:,} {self._unit}, {speed:.0f} steps/s"
        self._draw("Loss", "Steps per second")

    def scored(self, step: int, psnr: float) -> None:
        """Show a score of a held-out photo."""
        name = "PSNR of held-out photos, dB"
        self._curves[name].add(step, psnr)
        self._draw(name)

    def done(self, text: str) -> None:
        """The training is over."""
        self.paused = False
        self.progress.value = 100.0
        self.state.content = text
        self.button.disabled = self.share_slider.disabled = True

    def _draw(self, *names: str) -> None:
        for name in names:
            self._plots[name].data = self._curves[name].data

    def _plot(self, gui: Any, name: str) -> Any:
        series = ({"label": "step"}, {"label": name, "stroke": "#3c82dc", "width": 2})
        return gui.add_uplot(
            self._curves[name].data,
            series,
            title=name,
            height=150,
            scales={"x": {"time": False}},
            legend={"show": False},
        )
