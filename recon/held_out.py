"""Held-out photos as a training, or what was made of one, is measured by some of them."""

from __future__ import annotations

from collections.abc import Sequence

from recon import evaluate, opening
from recon.datasets.scene import Scene
from recon.train import TrainState


def some_of(numbers: Sequence[int], most: int) -> Sequence[int]:
    """At most so many of them, spread evenly."""
    return numbers[:: -(-len(numbers) // most)] if numbers else numbers


def psnr(state: TrainState, scene: Scene, numbers: Sequence[int]) -> float | None:
    """Mean PSNR (dB) of views of a scene, as they were exposed and where they were taken as far as is known by now."""
    shots = None if state.exposure is None else state.exposure.predicted(scene.views, numbers)
    views = opening.corrected(scene, state).views
    return evaluate.evaluate(
        state.model,
        [views[number] for number in numbers],
        background=opening.background_of(state),
        lpips=False,
        shots=shots,
    ).psnr
