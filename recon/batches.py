"""Training photos, one view at a time, in the order and at the resolution that the step calls for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import ahead as ahead_of_steps
from recon import pace, rng
from recon.ahead import Ahead, as_colour
from recon.config import TrainConfig
from recon.datasets import cache
from recon.datasets.cameras import Cameras
from recon.datasets.scene import ImageSource, StoredImage, View
from recon.kernels.buffers import take
from recon.kernels.unpack import unpack

MIN_SIDE = 32  # no level is smaller than this, px

COLOURS = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}


def random_background(config: TrainConfig, step: int) -> Tensor:
    """[3] what stands behind photos in a step, where that is another colour each time."""
    return torch.rand(3, generator=rng.generator(config.seed, "background", step))


@dataclass(frozen=True)
class Batch:
    """One view to learn from.

    Attributes:
        photo: its number among the views.
        cameras: a batch of one.
        image: [1,H,W,3] over `background`; its memory is as that of rendered pictures: planar ([1,3,H,W] contiguous) on
            a CPU, contiguous on a GPU.
        mask: [1,H,W,1], not 0 where the photo counts; None if all of it does.
        background: [3].
        depth: [1,H,W,1] as measured, world units, 0 where it is not known; None without, or where it has no weight.
        transparent: whether the photo has an alpha channel: it is a cut-out then, over a background of ours.
    """

    photo: int
    cameras: Cameras
    image: Tensor
    mask: Tensor | None
    background: Tensor
    transparent: bool
    depth: Tensor | None = None


@dataclass(frozen=True)
class _Photo:
    """A photo as floats, ready for use."""

    planes: Tensor  # [1,3,H,W], premultiplied
    uncovered: Tensor | None  # [1,1,H,W] 1 - alpha
    mask: Tensor | None  # [1,H,W,1] bool

    @property
    def bytes(self) -> int:
        parts = (self.planes, self.uncovered, self.mask)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def over(self, background: Tensor) -> Tensor:
        """[1,3,H,W] over a colour [3]."""
        if self.uncovered is None:
            return self.planes
        return self.planes + self.uncovered * background[None, :, None, None]


class Batches:
    """`at(step, progress)` is a pure function of the step and of the share of the training, 0..1, that is done.

    Photos are held in memory once: in full size as the whole numbers that the cache of decoded images keeps, which
    become floats at each step, and reduced as floats, those of the step's level alone. Where that cannot be (floats to
    begin with, or a GPU to learn on), they are kept as floats in full size too. What does not fit on a GPU is copied
    there in each step, from `Ahead`.
    """

    def __init__(
        self,
        views: Sequence[View],
        config: TrainConfig,
        background: tuple[float, float, float],
        device: torch.device,
        max_bytes: int | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        """
        Args:
            background: what stands behind photos with alpha where the config says "auto".
            max_bytes: of photos kept as floats; None for the bound of the cache of decoded images, or `ahead.room`.
            ahead: where photos come from; None: as the device needs it.
        """
        if ahead is None and device.type == "cuda":
            ahead = Ahead(views, device)
        self._ahead = ahead
        self._views = views
        self._config = config
        # On the device: a copy in each step would make it wait.
        self._background = torch.tensor(COLOURS.get(config.background, background), device=device)
        self._device = device
        # Asked once: to compare an object with a protocol takes as long as a small kernel.
        self._stored = [view.image if isinstance(view.image, StoredImage) else None for view in views]
        if max_bytes is None:
            room = None if ahead is None else ahead_of_steps.room
            max_bytes = cache.images.limit if room is None else room
        self._max_bytes = max_bytes
        self._cameras: dict[tuple[int, int], Cameras] = {}
        self._ready: dict[int, _Photo] = {}
        self._depths: dict[int, Tensor | None] = {}
        self._ready_level = 0
        self._ready_bytes = 0
        self._epoch = -1  # whose order is known
        self._order: list[int] = []

    def at(self, step: int, progress: float) -> Batch:
        index, wanted = self._view_index(step), pace.level(progress, self._config.coarse)
        view = self._views[index]
        level, width, height = _reduced(view, wanted)
        background = self._background
        if self._config.background == "random":
            background = random_background(self._config, step).to(self._device, non_blocking=True)
        if (index, level) not in self._cameras:
            device = "cpu" if self._config.refine_poses else self._device  # where they are refined
            self._cameras[index, level] = view.camera.resized(width, height).to(device, torch.float32)
        self._forget_other_levels(wanted)
        stored = self._stored[index]
        if level == 1 and stored is not None and self._ahead is None:
            pixels = stored.pixels()
            planes, mask, transparent = _unpacked(pixels, background), _mask(view.mask), pixels.shape[2] == 4
        else:
            photo = self._photo(index, level)
            planes, mask, transparent = photo.over(background), photo.mask, photo.uncovered is not None
        cameras = self._cameras[index, level]
        depth = self._depth(index, level) if self._config.depth_weight > 0 else None
        if depth is not None and mask is not None:
            depth = depth * mask
        return Batch(index, cameras, planes.permute(0, 2, 3, 1), mask, background, transparent, depth)

    def expect(self, step: int, progress: float) -> None:
        """Have the photo of a step copied while another step is taken, if it is not there."""
        if self._ahead is None:
            return
        index = self._view_index(step)
        if index not in self._ready or pace.level(progress, self._config.coarse) != self._ready_level:
            self._ahead.begin(index)

    def _view_index(self, step: int) -> int:
        """Every view once per epoch, in a new order each time."""
        epoch, position = divmod(step, len(self._views))
        if epoch != self._epoch:
            generator = rng.generator(self._config.seed, "view order", epoch)
            self._order = torch.randperm(len(self._views), generator=generator).tolist()
            self._epoch = epoch
        return self._order[position]

    def _forget_other_levels(self, level: int) -> None:
        if level != self._ready_level:  # a training only ever goes on to finer ones
            self._ready.clear()
            self._depths.clear()
            self._ready_bytes = 0
            self._ready_level = level

    def _depth(self, index: int, level: int) -> Tensor | None:
        if index in self._depths:
            return self._depths[index]
        depth = _depth(self._views[index], level, self._device)
        size = 0 if depth is None else depth.numel() * depth.element_size()
        if self._ready_bytes + size <= self._max_bytes:
            self._depths[index] = depth
            self._ready_bytes += size
        return depth

    def _photo(self, index: int, level: int) -> _Photo:
        if index in self._ready:
            return self._ready[index]
        view = self._views[index]
        if self._ahead is None:
            photo = _prepare(view, level, view.load(), None if view.mask is None else view.mask.load(), self._device)
        else:
            colour, mask = self._ahead.take(index)
            photo = _prepare(view, level, as_colour(colour), mask, self._device)
        if self._ready_bytes + photo.bytes <= self._max_bytes:  # all come equally often, so none is worth another
            self._ready[index] = photo
            self._ready_bytes += photo.bytes
        elif self._ahead is not None:
            self._ahead.hold(index)
        return photo


def _reduced(view: View, level: int) -> tuple[int, int, int]:
    """The level that a photo can take, and its width and height then."""
    camera = view.camera
    while level > 1 and min(camera.width, camera.height) // level < MIN_SIDE:
        level //= 2
    return level, camera.width // level, camera.height // level


def _unpacked(pixels: NDArray[Any], background: Tensor) -> Tensor:
    height, width = pixels.shape[:2]
    planes = take((3, height, width), np.float32)
    unpack(pixels, background.numpy(), planes)
    return torch.from_numpy(planes)[None]


def _mask(source: ImageSource | None) -> Tensor | None:
    """[1,H,W,1] bool of a mask in full size."""
    if source is None:
        return None
    values = source.pixels() if isinstance(source, StoredImage) else source.load().numpy()
    return torch.from_numpy(values > 0.999)[None]


def _prepare(view: View, level: int, colour: Tensor, counted: Tensor | None, device: torch.device) -> _Photo:
    """A photo [H,W,3|4] with its mask [H,W,1], both on the device, at a level."""
    level, width, height = _reduced(view, level)
    image = colour.permute(2, 0, 1)[None]
    mask = None if counted is None else counted.permute(2, 0, 1)[None]
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    planes, alpha = image[:, :3], image[:, 3:4] if image.shape[1] == 4 else None
    if alpha is not None:
        planes = planes * alpha  # averaging straight alpha would bleed the colour of what is transparent

    def ready(plane: Tensor) -> Tensor:
        if level > 1:
            plane = torch.nn.functional.interpolate(plane, size=(height, width), mode="area")
        return plane.contiguous(memory_format=layout)

    return _Photo(
        ready(planes),
        None if alpha is None else 1 - ready(alpha),
        # A coarse pixel counts only if all it stands for does.
        None if mask is None else ready(mask).permute(0, 2, 3, 1) > 0.999,
    )


def _depth(view: View, level: int, device: torch.device) -> Tensor | None:
    """[1,H,W,1] depths at a level: those of pixels in the middle of what a coarse one stands for, which is a surface
    that is there; means would be between surfaces."""
    if view.depth is None:
        return None
    level, width, height = _reduced(view, level)
    depth = view.depth.load().permute(2, 0, 1)[None]
    if level > 1:
        depth = torch.nn.functional.interpolate(depth, size=(height, width), mode="nearest-exact")
    return depth.permute(0, 2, 3, 1).contiguous().to(device)


def depth_bytes(views: Sequence[View], config: TrainConfig) -> int:
    """What measured depths take in full size, where they have a weight."""
    if config.depth_weight == 0:
        return 0
    return sum(4 * view.camera.width * view.camera.height for view in views if view.depth is not None)


def reduced_bytes(views: Sequence[View], config: TrainConfig) -> int:
    """What the photos take that are kept as floats, at the level where that is most, on a CPU."""
    factors = [4, 2] if config.coarse > 0 else []
    return max(sum(_float_bytes(view, factor) for view in views) for factor in (*factors, 1))


def _float_bytes(view: View, factor: int) -> int:
    level, width, height = _reduced(view, factor)
    if level == 1 and isinstance(view.image, StoredImage):
        return 0
    return width * height * (12 if view.mask is None else 13)
