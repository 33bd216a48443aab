"""From the command to a file of splats for other programs: what goes into it, and what is lost in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recon import evaluate, export, opening, render, runs, sh
from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.errors import InputError
from recon.datasets.scene import Scene
from recon.export.rows import Rows, joined, sigmoid
from recon.gaussians import Gaussians
from recon.loading import load, load_state, load_with_frame
from recon.terminal import say
from recon.train import TrainState

MOST_VIEWS = 8  # held-out photos that are rendered for the loss
VIEWS = 6  # around splats without photos
PICTURE = (400, 300)  # px, of these
MOST = 0.8  # share of the splats that they show
FACING = 2.5  # the distance they are taken from, in radii of that share


@dataclass(frozen=True)
class Parts:
    """What of a scene is written. Boxes are in the coordinates of the file.

    Attributes:
        merge: scenes that are put to it first, as they are.
        crop: lowest x, y, z and highest x, y, z of the centres that are kept.
        min_opacity: 0..1; what is less opaque is left out.
        max_count: how many are kept at most: those that cover the most, by opacity and area.
        sh_degree: harmonics of higher degrees are left out.
    """

    merge: Sequence[Path] = ()
    crop: tuple[float, float, float, float, float, float] | None = None
    min_opacity: float = 0.0
    max_count: int | None = None
    sh_degree: int | None = None

    def __post_init__(self) -> None:
        if self.crop is not None and not all(a < b for a, b in zip(self.crop[:3], self.crop[3:], strict=True)):
            raise InputError(f"--crop {' '.join(f'{v:g}' for v in self.crop)}: not lowest x y z and highest x y z")
        if not 0 <= self.min_opacity <= 1:
            raise InputError(f"--min-opacity {self.min_opacity}: not between 0 and 1")
        if self.max_count is not None and self.max_count < 1:
            raise InputError(f"--max-count {self.max_count}: must be at least 1")
        if self.sh_degree is not None and not 0 <= self.sh_degree <= sh.MAX_DEGREE:
            raise InputError(f"--sh-degree {self.sh_degree}: not between 0 and {sh.MAX_DEGREE}")


@torch.no_grad()
def chosen(model: Gaussians, parts: Parts) -> Gaussians:
    """What `parts` leave of a scene; `InputError` if that is nothing."""
    rows = joined([Rows.of(scene, Path("scene")) for scene in (model, *map(load, parts.merge))])
    kept = np.ones(len(rows), dtype=bool)
    if parts.crop is not None:
        kept &= ((rows.means >= parts.crop[:3]) & (rows.means <= parts.crop[3:])).all(axis=1)
    opacities = sigmoid(rows.logit_opacities.astype(np.float64))
    kept &= opacities >= parts.min_opacity
    index = np.flatnonzero(kept)
    if parts.max_count is not None and len(index) > parts.max_count:
        areas = np.sort(rows.log_scales[index], axis=1)[:, 1:].sum(axis=1, dtype=np.float64)
        covered = np.log(np.maximum(opacities[index], 1e-30)) + areas
        index = np.sort(index[np.argsort(-covered, kind="stable")[: parts.max_count]])
    if not len(index):
        raise InputError(f"nothing of {len(rows):,} Gaussians is left to write")
    degree = sh.degree_of(1 + rows.shN.shape[1])
    rows = rows.taken(index).cut(degree if parts.sh_degree is None else min(degree, parts.sh_degree))
    return rows.gaussians("scene")


def export_to(source: Path, out: Path, frame: Literal["capture", "world"], parts: Parts | None = None) -> None:
    """Write what `source` holds (a run, a checkpoint, a splat file) in the format that the name of `out` ends with.

    Of formats that lose something, what, and how much of it shows.
    """
    kind = export.suffix_of(out, export.SAVERS)
    model, to_capture = load_with_frame(source)
    if frame == "world":
        to_capture = torch.eye(4, dtype=torch.float64)
    if not torch.equal(to_capture, torch.eye(4, dtype=torch.float64)):
        model = model.transformed(to_capture)
    if parts is not None and parts != Parts():
        model = chosen(model, parts)
    export.export(model, out)
    size = export.bytes_of(out)
    say(f"Wrote {len(model):,} Gaussians: {out} ({size / 1e6:.1f} MB, {size / max(1, len(model)):.1f} bytes each)")
    if kind in export.LOSSES and len(model):
        say(f"Lost in {kind}: {export.LOSSES[kind]}.")
        say(str(loss(source, model, export.load(out), to_capture)))


@dataclass(frozen=True)
class Loss:
    """How far pictures of what was written are from pictures of the model.

    Attributes:
        error: mean squared difference of the pictures, channels 0..1.
        views: how many held-out views they are of; None if the source has none, and they are taken around the splats.
        before, after: mean PSNR of the model and of what was written on those held-out photos, dB.
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


@torch.no_grad()
def loss(source: Path, model: Gaussians, written: Gaussians, to_capture: Tensor) -> Loss:
    """What it costs to write `model`, which comes from `source`, and to read it again as `written`.

    Both are in the coordinates of the file, which `to_capture` [4,4] leads to from those of the photos' cameras.
    """
    held_out = _held_out(source)
    if held_out is None:
        return Loss(difference(model, written, around(model)))
    state, scene = held_out
    numbers = scene.test[:: -(-len(scene.test) // MOST_VIEWS)]
    views = [scene.views[number] for number in numbers]
    errors = [difference(model, written, view.camera.transformed(to_capture)) for view in views]
    shots = None if state.exposure is None else state.exposure.predicted(scene.views, numbers)
    before, after = (
        evaluate.evaluate(
            each.transformed(to_capture.inverse()),
            views,
            background=opening.background_of(state),
            lpips=False,
            shots=shots,
        ).psnr
        for each in (model, written)
    )
    return Loss(sum(errors) / len(errors), len(views), before, after)


def _held_out(source: Path) -> tuple[TrainState, Scene] | None:
    """The state and the capture of a run that has held-out photos; None where there is nothing of the kind."""
    if export.is_splats(source):
        return None
    try:
        state = load_state(source)
        scene = opening.corrected(opening.scene_of(runs.find(source), torch.device("cpu")), state)
    except InputError:  # a checkpoint alone, or a capture that is gone: the export itself needs neither
        return None
    return (state, scene) if scene.test else None


def around(model: Gaussians, views: int = VIEWS) -> Cameras:
    """Cameras around splats that come without any, looking at most of them from a little above (-y, as in COLMAP)."""
    means = model.means.detach().double().cpu().numpy()
    middle = np.median(means, axis=0)
    radius = float(np.quantile(np.linalg.norm(means - middle, axis=1), MOST)) or float(model.scales.max()) or 1.0
    angles = torch.arange(views, dtype=torch.float64) * (2 * math.pi / views)
    offsets = torch.stack([angles.cos(), torch.full_like(angles, -0.4), angles.sin()], dim=-1)
    target = torch.from_numpy(middle).expand(views, 3)
    width, height = PICTURE
    up = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    K = intrinsics(width, width, width / 2, height / 2)
    c2w = look_at(target + FACING * radius * offsets, target, up)
    return Cameras.from_c2w(c2w, K.repeat(views, 1, 1), width, height)


def difference(a: Gaussians, b: Gaussians, cameras: Cameras) -> float:
    """Mean squared difference of the pictures of two scenes, over all cameras, channels 0..1."""
    pairs = zip(render.pictures(a, cameras), render.pictures(b, cameras), strict=True)
    return sum(float((x.clamp(0, 1) - y.clamp(0, 1)).double().square().mean()) for x, y in pairs) / len(cameras)
