"""A radiance field as a capture of its own: pictures that it shows, from which splats are trained.

Splats that learn from photos are made to agree where the photos were taken; between these they may do as they like. A
field can be asked from anywhere, so half of its pictures are from places between and around those of the photos.

What a field holds right in front of a camera, no ray of that camera looks at, so there may be fog. Splats are seen from
the lens on: no splat may be there.

Shape letters: V views, P points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from recon import config, memory, render, rng
from recon.config import TrainConfig
from recon.datasets.cameras import Cameras
from recon.datasets.images import BytesImage
from recon.datasets.points import unprojected
from recon.datasets.scene import Points, Scene, View
from recon.model import Model
from recon.reach import reach_of
from recon.render import Colour
from recon.train import StepMetrics, TrainState

STEPS = 2000
MOST_VIEWS = 400  # pictures of a field
SHARE = 0.3  # of the memory that is free, for them
PIXEL_BYTES = 3 + 3  # of one: as it is kept, and its reduced copies
NEIGHBOURS = 4  # of a camera, towards one of which, or away from it, another is put
ALONG = (-0.4, 0.6)  # how far, in distances to that neighbour
ASIDE = 0.3  # the standard deviation of what it is moved by beside, in the same
TURNED = 4.0  # degrees, the standard deviation of what it is turned by beside
FAINT = -10.0  # logit of an opacity
AT_ONCE = 1 << 15
BEGIN_WITH = 0.6  # of the most Gaussians: points that the field's depth gives


class Clear:
    """A callback of a training that keeps splats away from where photos were taken."""

    def __init__(self, capture: Scene, every: int = 20) -> None:
        """
        Args:
            capture: what the field was trained on.
            every: how many steps may go by.
        """
        reach = reach_of(capture)
        # In normalised device coordinates nothing is nearer than the one plane that all rays begin at.
        self._near = reach.near if reach.frame is None else 0.0
        self._eyes = torch.cat([view.camera.positions for view in capture.train_views]).float()
        self._every = every

    def __call__(self, state: TrainState, metrics: StepMetrics) -> None:
        if metrics.step % self._every == 0:
            with torch.no_grad():  # the strategy takes away what is as faint as that
                state.gaussians.logit_opacities[self.hidden(state.gaussians.means.detach())] = FAINT

    def hidden(self, places: Tensor) -> Tensor:
        """[P] bool: which of places [P,3] are nearer to a photo's camera than its field's rays begin."""
        eyes = self._eyes.to(places)
        parts = [(torch.cdist(part, eyes) < self._near).any(dim=1) for part in places.split(AT_ONCE)]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool)

    def finish(self, state: TrainState) -> None:
        """Take them away for good."""
        model = state.gaussians
        hidden = self.hidden(model.means.detach())
        if not bool(hidden.all()):
            model.edit_rows(state.optimizer, ~hidden)


def settings_for(steps: int, seed: int) -> TrainConfig:
    """What splats are trained with on pictures of a field, which all have one exposure and are where they are."""
    return dataclasses.replace(config.for_steps(steps), exposure=False, seed=seed)


def cameras_of(views: Sequence[View], seed: int, most_bytes: int | None = None) -> list[Cameras]:
    """Where a field is looked at from: the photos' cameras, and as many more between and around them.

    Args:
        views: photos that the field was trained on.
        most_bytes: that the pictures may take; of many views some are left out. None: a share of what is free.
    """
    pixels = sum(view.camera.width * view.camera.height for view in views) / len(views)
    limit = SHARE * memory.free_bytes() if most_bytes is None else most_bytes
    most = max(2, min(MOST_VIEWS, int(limit / (PIXEL_BYTES * pixels))))
    chosen = [view.camera.to("cpu", torch.float64) for view in views[:: -(-2 * len(views) // most)]]
    return chosen + between(chosen, rng.generator(seed, "cameras between"))


def between(cameras: Sequence[Cameras], draw: torch.Generator) -> list[Cameras]:
    """For each camera another one, near the straight line to one of its neighbours, turned part of the way to that.

    It is moved and turned by a little more at random, and has the lens of the first.
    """
    from scipy.spatial.transform import Rotation

    if len(cameras) < 2:
        return []
    positions = torch.cat([camera.positions for camera in cameras])
    forward = torch.cat([camera.forward for camera in cameras])
    apart = torch.cdist(positions, positions)
    strange = apart / apart.mean().clamp_min(1e-12) + 1 - forward @ forward.T
    nearest = strange.fill_diagonal_(torch.inf).argsort(dim=1)[:, : min(NEIGHBOURS, len(cameras) - 1)]
    towards = nearest.gather(1, torch.randint(nearest.shape[1], (len(cameras), 1), generator=draw))[:, 0]
    share = ALONG[0] + (ALONG[1] - ALONG[0]) * torch.rand(len(cameras), 1, dtype=torch.float64, generator=draw)
    aside, turned = torch.randn(2, len(cameras), 3, dtype=torch.float64, generator=draw)
    way = positions[towards] - positions
    eyes = positions + share * way + ASIDE * way.norm(dim=-1, keepdim=True) * aside
    c2w = torch.cat([camera.c2w for camera in cameras])
    turns = Rotation.from_matrix(c2w[:, :3, :3].numpy())
    to_neighbour = (turns[towards.numpy()] * turns.inv()).as_rotvec()
    more = Rotation.from_rotvec(np.radians(TURNED) * turned.numpy())
    made = c2w.clone()
    made[:, :3, :3] = torch.from_numpy((more * Rotation.from_rotvec(share.numpy() * to_neighbour) * turns).as_matrix())
    made[:, :3, 3] = eyes
    return [
        Cameras.from_c2w(made[i : i + 1], camera.Ks, camera.width, camera.height) for i, camera in enumerate(cameras)
    ]


@torch.no_grad()
def scene_of(
    model: Model,
    capture: Scene,
    cameras: Sequence[Cameras],
    background: Colour,
    settings: TrainConfig,
    clear: Clear,
    progress: Callable[[int, int], None],
) -> Scene:
    """Pictures of a field as a capture, with points where its depth is.

    Args:
        capture: what the field was trained on. Where its photos are cut-outs, so are the pictures.
        background: what the field was trained over.
        clear: where no points may be.
        progress: told after each picture how many are done, and how many there are.
    """
    cut_out = capture.train_views[0].load().shape[2] == 4
    each = -(-round(BEGIN_WITH * settings.max_gaussians) // len(cameras))
    views, parts = [], []
    for number, camera in enumerate(cameras):
        out = render.render_one(model, camera, background=background, depth=True)
        rgb, alpha, depth = out.rgb[0].float().cpu(), out.alpha[0].float().cpu(), render.depth_of(out).float().cpu()
        seen = rgb
        if cut_out:
            straight = (rgb - (1 - alpha) * torch.tensor(background)) / alpha.clamp_min(1 / 255)
            rgb = torch.cat([straight, alpha], dim=-1)
        views.append(View(f"{number:04d}", camera, BytesImage(render.to_uint8(rgb))))
        draw = rng.generator(settings.seed, "points of a picture", number)
        parts.append(_points(camera, seen, depth * (alpha[..., 0] > render.SOLID), each, draw))
        progress(number + 1, len(cameras))
    points = Points(torch.cat([part.xyz for part in parts]), torch.cat([part.rgb for part in parts]))
    points = points.select(~clear.hidden(points.xyz))
    return dataclasses.replace(
        capture,
        views=tuple(views),
        train=tuple(range(len(views))),
        test=(),
        points=points if len(points) else None,
        exact_poses=True,
        tone=None,
    )


def _points(camera: Cameras, rgb: Tensor, depth: Tensor, count: int, draw: torch.Generator) -> Points:
    """At most so many points of what a camera sees at depth [H,W], where that is not 0, in the colours [H,W,3]."""
    found = depth.reshape(-1).nonzero()[:, 0]
    found = found[torch.randperm(len(found), generator=draw)[:count]]
    pixels = torch.stack([found % camera.width, found // camera.width], dim=-1) + 0.5
    xyz = unprojected(camera, pixels.to(camera.Ks), depth.reshape(-1)[found, None])[:, 0]
    return Points(xyz, rgb.reshape(-1, 3)[found].clamp(0, 1))
