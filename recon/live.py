"""A training that is looked at: pictures are made between its steps, in a share of its time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from recon import evaluate, opening
from recon.datasets.scene import Scene
from recon.options import Address
from recon.runs import Run
from recon.subject import SplatSubject
from recon.terminal import say
from recon.train import StepMetrics, TrainState
from recon.viewer.queue import Share
from recon.viewer.train_panel import TrainPanel
from recon.viewing import Shown, make_viewer, name_of

SCORE_EVERY = 3.0  # s between scores of held-out photos, while somebody looks


class LiveView:
    """A callback of the training that serves the viewer. It changes nothing of what is trained.

    Rendering reads the parameters between two steps, on the thread that trains; the result of the training is, bit for
    bit, that of one that nobody looks at.
    """

    def __init__(
        self, run: Run, state: TrainState, scene: Scene, stopping: Callable[[], bool], address: Address
    ) -> None:
        """
        Args:
            stopping: whether the training was asked to end, which ends a pause.
        """
        self._run, self._state, self._scene, self._stopping = run, state, scene, stopping
        self._subject = SplatSubject(
            state.model, background=opening.background_of(state), source_from_world=state.source_from_world
        )
        shown = Shown(self._subject, name_of(run), run.path, scene)
        self.viewer = make_viewer(shown, address, edits=False)
        self._panel = TrainPanel(self.viewer)
        self._share = Share(self._panel.share)
        self._scored, self._scored_at, self._next = 0.0, -1, 0
        say(f"Viewer: {self.viewer.address}")

    def __call__(self, state: TrainState, metrics: StepMetrics) -> None:
        self._subject.follow(state.model)
        self.viewer.changed()
        self._share.share = self._panel.share
        self._share.serve(self.viewer.queue)
        if self._panel.due():
            self._panel.report(metrics.step, state.progress, float(metrics.loss), metrics.count)
            self._ask_for_score(metrics.step)
        if self._panel.paused:
            self._wait(state, metrics)

    def _wait(self, state: TrainState, metrics: StepMetrics) -> None:
        """Until the user goes on; the time does not count as training."""
        began = time.perf_counter()
        self._panel.report(metrics.step, state.progress, float(metrics.loss), metrics.count)
        self.viewer.queue.run(lambda: self._stopping() or not self._panel.paused)
        state.paused += time.perf_counter() - began

    def _ask_for_score(self, step: int) -> None:
        now = time.monotonic()
        if not self._scene.test or not self.viewer.browsers() or now - self._scored < SCORE_EVERY:
            return
        self._scored = now
        index = self._scene.test[self._next % len(self._scene.test)]
        self._next += 1

        def score() -> None:
            shots = self._state.exposure and self._state.exposure.predicted(self._scene.views, [index])
            view = opening.corrected(self._scene, self._state).views[index]
            result = evaluate.evaluate(
                self._state.model, [view], background=self._subject.background, lpips=False, shots=shots or None
            )
            if result.psnr is not None and math.isfinite(result.psnr):
                self._panel.scored(step, result.psnr)

        self.viewer.run(score)

    def evaluating(self) -> None:
        """To be called now and then after the training, while other work is done."""
        self.viewer.queue.serve(0.1)

    def finish(self) -> None:
        """The training is over: go on showing the scene if anybody looks, until Ctrl-C."""
        self._subject.follow(self._state.model)
        self._panel.done("Trained.")
        self.viewer.trained()
        try:
            if self.viewer.browsers():
                say(f"The viewer stays open: {self.viewer.address}   (Ctrl-C ends it)")
                self.viewer.queue.run()
            else:
                say(f"Look at it: recon view {self._run.path}")
        except KeyboardInterrupt:
            say("Viewer closed.")

    def close(self) -> None:
        self.viewer.close()
