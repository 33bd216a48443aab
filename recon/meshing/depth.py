"""Depth maps of a scene that a surface can be made of: rendered, and left out where they cannot be relied on.

Shape letters: H and W image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import render
from recon.datasets.cameras import Cameras
from recon.datasets.scene import ImageSource
from recon.model import Model
from recon.torch_threads import one_torch_thread

Array = NDArray[Any]


@dataclass(frozen=True)
class Sight:
    """A camera that the scene is looked at from.

    Attributes:
        camera: a batch of one, float64 on the CPU.
        mask: which of its pixels were trained on; None: all.
    """

    camera: Cameras
    mask: ImageSource | None = None


@dataclass(frozen=True)
class Trust:
    """What of a depth map is believed.

    Attributes:
        solid: where less light than this is stopped there is no surface whose depth would mean anything.
        empty: where less than this is stopped there is nothing at all, as far as one can see.
        steepest: a step to a neighbouring pixel, in distances between pixels on a surface seen straight on. More of it
            is the edge of something, or a surface that is hardly seen from there.
        farthest: in median depths of all maps; what is behind that is the backdrop.
        median: whether depth is where half of the light is stopped, if the model can tell that. Its mean is pulled away
            from the surface by all that is faint before and behind it.
    """

    solid: float = 0.5
    empty: float = 0.05
    steepest: float = 8.0
    farthest: float = 4.0
    median: bool = True


@dataclass(frozen=True)
class DepthMap:
    """What one camera sees.

    Attributes:
        camera: a batch of one, float64 on the CPU.
        depth: [H,W] float32 distance along the viewing axis, world units; 0: not known; infinite: nothing is there.
        rgb: [H,W,3] uint8.
    """

    camera: Cameras
    depth: Array
    rgb: Array

    @property
    def known(self) -> Array:
        """[H,W] bool: where there is a surface."""
        return (self.depth > 0) & np.isfinite(self.depth)


@torch.no_grad()
def depth_map(model: Model, sight: Sight, trust: Trust, background: render.Colour) -> DepthMap:
    """Render what a camera sees, and leave out what cannot be relied on."""
    with one_torch_thread(render.device_of(model)):
        out = render.render_one(model, sight.camera, background=background, depth=True, median_depth=trust.median)
        found = render.depth_of(out) if out.median_depth is None else out.median_depth[0, ..., 0]
        depth, alpha = found.float().cpu(), out.alpha[0, ..., 0].float().cpu()
        believed = (alpha >= trust.solid) & (depth > 0) & ~_steep(depth, sight.camera, trust.steepest)
        kept = torch.where(believed, depth, 0.0)
        kept[alpha < trust.empty] = torch.inf
        if sight.mask is not None:
            kept[sight.mask.load()[..., 0] < 0.5] = 0.0
        return DepthMap(sight.camera, kept.numpy(), render.to_uint8(out.rgb[0]))


def _steep(depth: Tensor, camera: Cameras, steepest: float) -> Tensor:
    """[H,W] bool: where depth [H,W] steps more than `steepest` pixels of distance to one of the four neighbours."""
    least = steepest * depth / camera.Ks[0, [0, 1], [0, 1]].mean().to(depth)
    steep = torch.zeros_like(depth, dtype=torch.bool)
    for dim in (0, 1):
        step = depth.diff(dim=dim).abs()
        length = step.shape[dim]
        for start in (0, 1):
            steep.narrow(dim, start, length).logical_or_(step > least.narrow(dim, start, length))
    return steep


def without_backdrop(maps: Sequence[DepthMap], farthest: float) -> list[DepthMap]:
    """Maps in which what is farther than so many median depths is not known."""
    seen = [found.depth[found.known][::16] for found in maps]
    depths = np.concatenate(seen) if seen else np.zeros(0)
    if not depths.size:
        return list(maps)
    limit = farthest * float(np.median(depths))
    return [_where(found, found.depth <= limit, also_empty=True) for found in maps]


def kept_where(maps: Sequence[DepthMap], kept: Sequence[Array]) -> list[DepthMap]:
    """Maps whose surfaces are not known but where `kept` [H,W] is true."""
    return [_where(found, keep, also_empty=True) for found, keep in zip(maps, kept, strict=True)]


def _where(found: DepthMap, keep: Array, *, also_empty: bool) -> DepthMap:
    kept = keep | np.isinf(found.depth) if also_empty else keep
    return DepthMap(found.camera, np.where(kept, found.depth, np.float32(0)), found.rgb)


def back_projected(found: DepthMap, step: int = 1) -> tuple[Array, Array]:
    """World points [P,3] of the surface that a map shows, and their colours [P,3] uint8, of every `step`-th pixel
    in both directions."""
    rows, columns = np.nonzero(found.known[::step, ::step])
    rows, columns = rows * step, columns * step
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))])
    in_camera = np.linalg.inv(found.camera.Ks[0].double().numpy()) @ pixels * found.depth[rows, columns]
    c2w = found.camera.c2w[0].double().numpy()
    return (c2w[:3, :3] @ in_camera).T + c2w[:3, 3], found.rgb[rows, columns]
