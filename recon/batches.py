"""Training photos, one view at a time, in the order and at the resolution that the step calls for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recon import rng
from recon.config import TrainConfig
from recon.datasets.cameras import Cameras
from recon.datasets.scene import View

# Downscale factor until this share of the training: coarse steps are cheap and find the coarse shape first.
COARSE_TO_FINE = ((0.15, 4), (0.4, 2))
MIN_SIDE = 32  # no level is smaller than this, px

COLOURS = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}


@dataclass(frozen=True)
class Batch:
    """One view to learn from.

    Attributes:
        cameras: a batch of one.
        image: [1,H,W,3] over `background`; its memory is planar ([1,3,H,W] contiguous), as the loss likes it.
        mask: [1,H,W,1], 1 where the photo counts; None if all of it does.
        background: [3].
    """

    cameras: Cameras
    image: Tensor
    mask: Tensor | None
    background: Tensor


@dataclass(frozen=True)
class _Photo:
    cameras: Cameras
    planes: Tensor  # [1,3,H,W], premultiplied
    uncovered: Tensor | None  # [1,1,H,W] 1 - alpha
    mask: Tensor | None  # [1,1,H,W]

    @property
    def bytes(self) -> int:
        planes = (self.planes, self.uncovered, self.mask)
        return sum(p.numel() * p.element_size() for p in planes if p is not None)


class Batches:
    """`at(step)` is a pure function of the step; photos are kept ready up to `max_bytes`."""

    def __init__(
        self,
        views: Sequence[View],
        config: TrainConfig,
        background: tuple[float, float, float],
        device: torch.device,
        max_bytes: int = 2 << 30,
    ) -> None:
        """`background` is what stands behind photos with alpha where the config says "auto"."""
        self._views = views
        self._config = config
        self._background = COLOURS.get(config.background, background)
        self._device = device
        self._max_bytes = max_bytes
        self._photos: OrderedDict[tuple[int, int], _Photo] = OrderedDict()
        self._bytes = 0

    def at(self, step: int) -> Batch:
        photo = self._photo(self._view_index(step), self._level(step))
        background = torch.tensor(self._background)
        if self._config.background == "random":
            background = torch.rand(3, generator=rng.generator(self._config.seed, "background", step))
        background = background.to(self._device)
        planes = photo.planes
        if photo.uncovered is not None:
            planes = planes + photo.uncovered * background[None, :, None, None]
        mask = None if photo.mask is None else photo.mask.permute(0, 2, 3, 1)
        return Batch(photo.cameras, planes.permute(0, 2, 3, 1), mask, background)

    def _view_index(self, step: int) -> int:
        """Every view once per epoch, in a new order each time."""
        epoch, position = divmod(step, len(self._views))
        order = torch.randperm(len(self._views), generator=rng.generator(self._config.seed, "view order", epoch))
        return int(order[position])

    def _level(self, step: int) -> int:
        if not self._config.coarse_to_fine:
            return 1
        share = step / self._config.steps
        return next((factor for until, factor in COARSE_TO_FINE if share < until), 1)

    def _photo(self, index: int, level: int) -> _Photo:
        key = (index, level)
        if key in self._photos:
            self._photos.move_to_end(key)
            return self._photos[key]
        photo = _prepare(self._views[index], level, self._device)
        self._photos[key] = photo
        self._bytes += photo.bytes
        while self._bytes > self._max_bytes and len(self._photos) > 1:
            self._bytes -= self._photos.popitem(last=False)[1].bytes
        return photo


def _prepare(view: View, level: int, device: torch.device) -> _Photo:
    camera = view.camera
    smaller_side = min(camera.width, camera.height)
    while level > 1 and smaller_side // level < MIN_SIDE:
        level //= 2
    width, height = camera.width // level, camera.height // level
    image = view.load().permute(2, 0, 1)[None]
    mask = None if view.mask is None else view.mask.load().permute(2, 0, 1)[None]
    planes, alpha = image[:, :3], image[:, 3:4] if image.shape[1] == 4 else None
    if alpha is not None:
        planes = planes * alpha  # averaging straight alpha would bleed the colour of what is transparent

    def ready(plane: Tensor) -> Tensor:
        if level > 1:
            plane = torch.nn.functional.interpolate(plane, size=(height, width), mode="area")
        return plane.contiguous().to(device)

    return _Photo(
        camera.resized(width, height).to(device, torch.float32),
        ready(planes),
        None if alpha is None else 1 - ready(alpha),
        # A coarse pixel counts only if all it stands for does.
        None if mask is None else (ready(mask) > 0.999).float(),
    )
