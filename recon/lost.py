"""What is lost where a scene takes another form: how far its pictures are from those it had before."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recon import evaluate, render
from recon.datasets.cameras import Cameras
from recon.datasets.scene import View
from recon.exposure import Shot
from recon.model import Model
from recon.render import Colour

MOST_VIEWS = 8  # held-out photos that are rendered for it


@dataclass(frozen=True)
class Loss:
    """How far pictures of what was made are from pictures of the scene that it was made of.

    Attributes:
        error: mean squared difference of the pictures, channels 0..1.
        views: how many held-out views they are of; None if there are none, and they are taken around the splats.
        before, after: mean PSNR of the scene and of what was made of it on those held-out photos, dB.
    """

    error: float
    views: int | None = None
    before: float | None = None
    after: float | None = None

    @property
    def decibels(self) -> float:
        """The PSNR of one set of pictures against the other; infinite if they are equal."""
        return -10 * math.log10(self.error) if self.error else math.inf

    def __str__(self) -> str:
        where = "Pictures around it" if self.views is None else f"Held-out views ({self.views})"
        by = f"{self.decibels:.1f} dB" if self.error else "nothing that shows"
        if self.before is None or self.after is None:
            return f"{where} differ by {by}."
        return f"{where} differ by {by}; against the photos {self.before:.2f} dB became {self.after:.2f} dB."


def between(
    before: Model, after: Model, views: Sequence[View], background: Colour, shots: Sequence[Shot] | None = None
) -> Loss:
    """What `after` shows of the views, in the same world, beside `before`.

    Args:
        views: held-out ones, at least one.
        background, shots: see `evaluate.evaluate`.
    """
    pairs = zip(
        *(evaluate.compare(each, views, background=background, lpips=False, shots=shots) for each in (before, after)),
        strict=True,
    )
    errors, scores = [], []
    for a, b in pairs:
        errors.append(_squared(a.render, b.render))
        scores.append((a.scores, b.scores))
    means = [evaluate.Evaluation(each).psnr for each in zip(*scores, strict=True)]
    return Loss(statistics.fmean(errors), len(errors), *means)


@torch.no_grad()
def difference(a: Model, b: Model, cameras: Cameras) -> float:
    """Mean squared difference of the pictures of two scenes, over all cameras, channels 0..1."""
    pairs = zip(render.pictures(a, cameras), render.pictures(b, cameras), strict=True)
    return statistics.fmean(_squared(x.clamp(0, 1), y.clamp(0, 1)) for x, y in pairs)


def _squared(a: Tensor, b: Tensor) -> float:
    return float((a - b).double().square().mean())
