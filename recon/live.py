"""A training that is looked at: pictures are made between its steps, in a share of its time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from recon import held_out
from recon.datasets.scene import Scene
from recon.field_subject import FieldSubject
from recon.options import Address
from recon.runs import Run
from recon.subject import SplatSubject
from recon.terminal import say
from recon.train import StepMetrics, TrainState
from recon.viewer.queue import Share
from recon.viewer.train_panel import TrainPanel
from recon.viewer.viewer import Viewer
from recon.viewing import make_viewer, shown_of

SCORE_EVERY = 3.0  # s between scores of held-out photos, while somebody looks


def live_view(run: Run, state: TrainState, scene: Scene, stopping: Callable[[], bool], address: Address) -> LiveView:
    """A viewer for a run that is about to be trained, which is told to the user.

    Args:
        stopping: whether the training was asked to end.
    """
    shown = shown_of(run, state, state.model, scene)
    viewer = make_viewer(shown, address, edits=False)
    say(f"Viewer: {viewer.address}")
    return LiveView(viewer, shown.subject, state, scene, stopping, f"recon view {run.path}")


class LiveView:
    """A callback of the training that serves the viewer. It changes nothing of what is trained.

    Rendering reads the parameters between two steps, on the thread that trains; the result of the training is, bit for
    bit, that of one that nobody looks at.
    """

    def __init__(
        self,
        viewer: Viewer,
        subject: SplatSubject | FieldSubject,
        state: TrainState,
        scene: Scene | None = None,
        stopping: Callable[[], bool] = lambda: False,
        afterwards: str = "",
    ) -> None:
        """
        Args:
            scene: the capture, whose held-out photos are scored while somebody looks.
            stopping: ends a pause.
            afterwards: the command that shows the result.
        """
        self.viewer = viewer
        self._subject, self._state, self._scene = subject, state, scene
        self._stopping, self._afterwards = stopping, afterwards
        self.panel = TrainPanel(viewer, "splats" if isinstance(subject, SplatSubject) else state.unit)
        self._share = Share(self.panel.share)
        self._scored_at, self._next = 0.0, 0

    def __call__(self, state: TrainState, metrics: StepMetrics) -> None:
        self._follow()
        self.viewer.changed()
        self._share.share = self.panel.share
        self._share.serve(self.viewer.queue)
        if self.panel.due():
            self.panel.report(metrics.step, state.progress, float(metrics.loss), metrics.count)
            self._ask_for_score(metrics.step)
        if self.panel.paused:
            self._wait(state, metrics)

    def _follow(self) -> None:
        """Show the scene as it is now; a radiance field is its own subject."""
        if isinstance(self._subject, SplatSubject):
            self._subject.follow(self._state.gaussians)

    def _wait(self, state: TrainState, metrics: StepMetrics) -> None:
        """Until the user goes on; the time does not count as training."""
        began = time.perf_counter()
        self.panel.report(metrics.step, state.progress, float(metrics.loss), metrics.count)
        self.viewer.queue.run(lambda: self._stopping() or not self.panel.paused)
        state.paused += time.perf_counter() - began

    def _ask_for_score(self, step: int) -> None:
        scene, now = self._scene, time.monotonic()
        if scene is None or not scene.test or not self.viewer.browsers() or now - self._scored_at < SCORE_EVERY:
            return
        self._scored_at = now
        index = scene.test[self._next % len(scene.test)]
        self._next += 1

        def score() -> None:
            psnr = held_out.psnr(self._state, scene, [index])
            if psnr is not None and math.isfinite(psnr):
                self.panel.scored(step, psnr)

        self.viewer.run(score)

    def evaluating(self) -> None:
        """To be called now and then after the training, while other work is done."""
        self.viewer.queue.serve(0.1)

    def finish(self) -> None:
        """The training is over: go on showing the scene if anybody looks, until Ctrl-C."""
        self._follow()
        self.panel.done("Trained.")
        self.viewer.trained()
        try:
            if self.viewer.browsers():
                say(f"The viewer stays open: {self.viewer.address}   (Ctrl-C ends it)")
                self.viewer.queue.run()
            else:
                say(f"Look at it: {self._afterwards}")
        except KeyboardInterrupt:
            say("Viewer closed.")

    def close(self) -> None:
        self.viewer.close()
