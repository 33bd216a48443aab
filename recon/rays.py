"""Training on rays: random pixels of all photos, and whole pictures made of rays.

Shape letters: V photos, C photos of a step, M pixels of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import rng
from recon.batches import COLOURS, random_background
from recon.config import TrainConfig
from recon.datasets import cache
from recon.datasets.cameras import Cameras
from recon.datasets.scene import ImageSource, StoredImage, View
from recon.model import Field, RayBatch, RenderOutput
from recon.optim import SelectiveAdam
from recon.ranks import ALONE, Ranks
from recon.together import add_up

AT_ONCE = 64  # photos of a step: what a step takes grows with its rays, not with the number of photos
HELD = 200  # steps that go on with the same photos where not all can be kept in memory
CHUNK = 1 << 15  # rays of a picture that are rendered at a time


class RayBatches:
    """`at(step)` is a pure function of the step.

    Photos are kept as the whole numbers that the cache of decoded images holds, and only the pixels of a step become
    floats. Of a mask it is known which pixels count, four bytes for each; no other is ever drawn.
    """

    def __init__(
        self,
        views: Sequence[View],
        config: TrainConfig,
        background: tuple[float, float, float],
        device: torch.device,
        max_bytes: int | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """
        Args:
            background: what stands behind photos with alpha where the config says "auto".
            max_bytes: of photos kept in memory; None for the bound of the cache of decoded images.
            ranks: the processes that train together: this one gets its share of the rays of each photo.
        """
        assert config.radiance is not None
        self._views, self._config, self._device = views, config, device
        self._counted = [None if view.mask is None else _counted(view.mask) for view in views]
        usable = [i for i, counted in enumerate(self._counted) if counted is None or len(counted)]
        self._usable = np.array(usable)
        limit = cache.images.limit if max_bytes is None else max_bytes
        sizes = [_stored_bytes(view.image) for view in views]
        self._all_kept = sum(sizes) <= limit
        fitting = len(usable) if self._all_kept else max(1, limit // max(sizes))
        self._count = min(len(usable), AT_ONCE, fitting, config.radiance.rays)
        self._each = config.radiance.rays // self._count  # times the parts of a step
        share = ranks.share(config.batch)
        self._parts = len(share)
        self._share = slice(share.start * self._each, share.stop * self._each)
        self._background = torch.tensor(COLOURS.get(config.background, background))
        self._pixels: dict[int, NDArray[Any]] = {}
        self._viewmats = torch.cat([view.camera.viewmats for view in views]).float()
        self._Ks = torch.cat([view.camera.Ks for view in views]).float()
        self._sizes = np.array([(view.camera.width, view.camera.height) for view in views])

    def at(self, step: int, rays: int | None = None) -> RayBatch:
        """
        Args:
            rays: how many of the batch's are wanted, for each part of it; None: all.
        """
        seed = self._config.seed
        draw = rng.generator(seed, "photos of rays", step if self._all_kept else step // HELD)
        photos = self._usable[torch.randperm(len(self._usable), generator=draw)[: self._count].numpy()]
        of_all = (self._count, self._config.batch * self._each)
        drawn = torch.rand(*of_all, dtype=torch.float64, generator=rng.generator(seed, "rays", step))[:, self._share]
        background = self._background
        if self._config.background == "random":
            background = random_background(self._config, step)
        if rays is not None:
            drawn = drawn[:, : max(1, rays * self._parts // self._count)]
        widths, heights = self._sizes[photos].T
        counted = [self._counted[photo] for photo in photos]
        most = [w * h if own is None else len(own) for w, h, own in zip(widths, heights, counted, strict=True)]
        numbers = (drawn.numpy() * np.array(most)[:, None]).astype(np.int64)
        for row, own in enumerate(counted):
            if own is not None:
                numbers[row] = own[numbers[row]]
        ys, xs = np.divmod(numbers, widths[:, None])
        shown = [self._photo(photo)[y, x] for photo, y, x in zip(photos.tolist(), ys, xs, strict=True)]
        if len({(pixels.dtype, pixels.shape) for pixels in shown}) == 1:  # at once takes a fraction of the time
            colours = _over(np.concatenate(shown), background.numpy())
        else:
            colours = np.concatenate([_over(pixels, background.numpy()) for pixels in shown])
        self._keep(photos)
        cameras = Cameras(self._viewmats[photos], self._Ks[photos], *self._sizes[photos[0]].tolist())
        return RayBatch(
            cameras.to(self._device),
            torch.from_numpy(np.stack([xs, ys], axis=-1) + 0.5).float().to(self._device),
            torch.from_numpy(colours.reshape(*xs.shape, 3)).to(self._device),
            background.to(self._device),
            torch.from_numpy(photos),
            seed,
            step,
        )

    def _photo(self, index: int) -> NDArray[Any]:
        if index not in self._pixels:
            self._pixels[index] = _whole(self._views[index].image)
        return self._pixels[index]

    def _keep(self, photos: NDArray[np.int64]) -> None:
        """Forget all photos but these, where not all can be kept."""
        if not self._all_kept:
            self._pixels = {photo: self._pixels[photo] for photo in photos.tolist()}


def _whole(source: ImageSource) -> NDArray[Any]:
    return source.pixels() if isinstance(source, StoredImage) else source.load().numpy()


def _stored_bytes(source: ImageSource) -> int:
    """What is decoded; what is in memory anyway takes nothing more."""
    return source.pixel_bytes if isinstance(source, StoredImage) else 0


def _counted(mask: ImageSource) -> NDArray[np.int32]:
    """The numbers of the pixels that count."""
    return np.flatnonzero(_whole(mask).reshape(-1) > 0.999).astype(np.int32)


def _over(pixels: NDArray[Any], background: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels [M,3|4], whole numbers or floats, over a colour [3], as floats [M,3]."""
    colours = pixels.astype(np.float32)
    if pixels.dtype != np.float32:
        colours /= np.float32(np.iinfo(pixels.dtype).max)
    if colours.shape[1] == 3:
        return colours
    alpha = colours[:, 3:]
    return colours[:, :3] * alpha + background * (1 - alpha)


class RayLearner:
    """Takes the steps of a training on rays: see `recon.train.Learner`."""

    def __init__(self, model: Field, optimizer: SelectiveAdam, batches: RayBatches, ranks: Ranks) -> None:
        self._model, self._optimizer, self._batches, self._ranks = model, optimizer, batches, ranks

    def learn(self, step: int, progress: float) -> Tensor:
        loss, visible = self._model.learn(self._batches.at(step, self._model.ray_count), progress)
        if self._ranks.count > 1:
            loss, visible = add_up(self._optimizer, self._ranks, self._ranks.count, loss, [visible])
        self._optimizer.step(visible=visible)
        self._optimizer.zero_grad(set_to_none=True)
        return loss

    def after_step(self, step: int, progress: float) -> None:
        self._model.after_step(self._optimizer, progress)


# Origins [R,3] and unit directions [R,3] of rays, and the radii [R] of their cones where those are wanted, to what each
# shows: [R,...].
RenderRays = Callable[..., tuple[Tensor, ...]]

FOOTPRINT = 1 / math.sqrt(3)  # radius of the disc whose variance is that of a square pixel of width 1 (Mip-NeRF)


def all_pixels(cameras: Cameras) -> Tensor:
    """[H*W,2] the middles of the pixels, row by row."""
    Ks = cameras.Ks
    ys = torch.arange(cameras.height, dtype=Ks.dtype, device=Ks.device) + 0.5
    xs = torch.arange(cameras.width, dtype=Ks.dtype, device=Ks.device) + 0.5
    return torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1).reshape(-1, 2)


def cone_radii(cameras: Cameras, directions: Tensor) -> Tensor:
    """[C,M] how wide, at distance 1 along their rays [C,M,3], the cones are that pixels see; world units."""
    focals = cameras.Ks[:, [0, 1], [0, 1]]
    return _along_axis(cameras, directions) * (FOOTPRINT * focals.reciprocal().mean(dim=-1))[:, None]


def _along_axis(cameras: Cameras, directions: Tensor) -> Tensor:
    """[C,M] how far along the axis of its camera a step of length 1 along each ray [C,M,3] leads."""
    return (directions * cameras.forward[:, None]).sum(dim=-1)


def render(
    render_rays: RenderRays,
    cameras: Cameras,
    pixels: Tensor | None,
    background: Tensor | None,
    chunk: int = CHUNK,
    *,
    cones: bool = False,
) -> RenderOutput:
    """What `Model.render` returns, from a function that renders rays, a chunk of them at a time.

    Args:
        render_rays: gives rgb [R,3] without background, the opacity [R], and the distance along the ray that is
            expected of what is seen, [R], as if it were all there is; 0 where nothing is.
        cones: whether it is given the radii of the rays' cones as well.
    """
    whole = pixels is None
    origins, directions = cameras.rays(all_pixels(cameras) if pixels is None else pixels)
    given = [origins.reshape(-1, 3), directions.reshape(-1, 3)]
    if cones:
        given.append(cone_radii(cameras, directions).reshape(-1))
    parts = zip(*(values.split(chunk) for values in given), strict=True)
    rgb, alpha, distance = (torch.cat(values) for values in zip(*(render_rays(*part) for part in parts), strict=True))
    shape = (len(cameras), cameras.height, cameras.width) if whole else origins.shape[:-1]
    rgb, alpha = rgb.reshape(*shape, 3), alpha.reshape(*shape, 1)
    if background is not None:
        colour = background.to(rgb).reshape(-1, *(1,) * (rgb.ndim - 2), 3)
        rgb = rgb + (1 - alpha) * colour
    depth = distance * _along_axis(cameras, directions).reshape(-1)
    return RenderOutput(rgb, alpha, depth.reshape(*shape, 1))
