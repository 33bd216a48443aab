"""Held-out photos as a training, or what was made of one, is measured by some of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch

from recon import evaluate, metrics, opening, render, rng
from recon.datasets.scene import Scene, View
from recon.gaussians import Gaussians
from recon.model import Field
from recon.rays import all_pixels
from recon.train import TrainState

PIXELS = 2_500  # of a view that a radiance field is measured by: whole pictures would take longer than the training


def some_of(numbers: Sequence[int], most: int) -> Sequence[int]:
    """At most so many of them, spread evenly."""
    return numbers[:: -(-len(numbers) // most)] if numbers else numbers


def psnr(state: TrainState, scene: Scene, numbers: Sequence[int]) -> float | None:
    """Mean PSNR (dB) of views of a scene, as they were exposed and where they were taken as far as is known by now.

    That of a radiance field is of some of their pixels, each time the same.
    """
    if not isinstance(state.model, Gaussians):
        colour = opening.background_of(state)
        found = [_of_pixels(state.model, scene.views[number], colour, number) for number in numbers]
        known = [value for value in found if not math.isnan(value)]
        return statistics.mean(known) if known else None
    shots = None if state.exposure is None else state.exposure.predicted(scene.views, numbers)
    views = opening.corrected(scene, state).views
    return evaluate.evaluate(
        state.model,
        [views[number] for number in numbers],
        background=opening.background_of(state),
        lpips=False,
        shots=shots,
    ).psnr


@torch.no_grad()
def _of_pixels(field: Field, view: View, background: tuple[float, float, float], number: int) -> float:
    """PSNR of `PIXELS` of the pixels of a view that count; NaN where none does."""
    photo = evaluate.over_background(view.load(), torch.tensor(background)).reshape(-1, 3)
    counted = torch.arange(len(photo)) if view.mask is None else torch.nonzero(view.mask.load().reshape(-1))[:, 0]
    if len(counted) == 0:
        return math.nan
    chosen = counted[torch.randperm(len(counted), generator=rng.generator(0, "scored", number))[:PIXELS]]
    pixels = all_pixels(view.camera)[chosen][None]
    colour = torch.tensor(background, device=render.device_of(field))
    shown = field.render(view.camera, pixels=pixels, background=colour, depth=False).rgb[0].float().cpu()
    return metrics.psnr(shown.clamp(0, 1)[None], photo[chosen][None])
