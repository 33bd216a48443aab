"""One camera for all views: centred, with square pixels, for layouts that know no other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.errors import InputError
from recon.datasets.resample import area_crop
from recon.datasets.scene import ImageSource, Scene, View

Box = tuple[float, float, float, float]

LEAST_LEFT = 0.5  # of the area of a picture, or else too much of it is lost


def centred(scene: Scene, where: str) -> Scene:
    """The scene as one centred camera with square pixels sees it: every picture cropped and resampled.

    The focal length is the smallest of all, so nothing is enlarged, and the size what all pictures cover.

    Raises:
        InputError: views that differ so much that of one not even half would be left; starts with `where`.
    """
    lenses = [tuple(view.camera.Ks[0].double()[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()) for view in scene.views]
    focal = min(min(fx, fy) for fx, fy, _, _ in lenses)
    sides = []
    for view, (fx, fy, cx, cy) in zip(scene.views, lenses, strict=True):
        across, down = min(cx, view.camera.width - cx) / fx, min(cy, view.camera.height - cy) / fy
        sides.append((2 * focal * across, 2 * focal * down))
    width, height = (math.floor(min(side) + 1e-6) for side in zip(*sides, strict=True))
    views = []
    for view, (fx, fy, cx, cy) in zip(scene.views, lenses, strict=True):
        half_width, half_height = width / 2 * fx / focal, height / 2 * fy / focal
        left = 4 * max(0.0, half_width) * max(0.0, half_height) / (view.camera.width * view.camera.height)
        if left < LEAST_LEFT:
            raise InputError(
                f"{where}: view {view.name} would keep {100 * left:.0f}% of its picture: the views differ too much for"
                " one centred camera"
            )
        box = (cx - half_width, cy - half_height, cx + half_width, cy + half_height)
        views.append(
            _cropped(
                view,
                box,
                Cameras(view.camera.viewmats.double(), intrinsics(focal, focal, width / 2, height / 2), width, height),
            )
        )
    return replace(scene, views=tuple(views))


def _cropped(view: View, box: Box, camera: Cameras) -> View:
    size = camera.width, camera.height
    return View(
        view.name,
        camera,
        _Colour(view.image, box, size),
        None if view.mask is None else _Mask(view.mask, box, size),
        None if view.depth is None else _Depth(view.depth, box, size),
    )


@dataclass(frozen=True, eq=False)
class _Crop:
    source: ImageSource
    box: Box
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class _Colour(_Crop):
    def load(self) -> Tensor:
        image = self.source.load().numpy()
        if image.shape[2] == 3:
            return torch.from_numpy(area_crop(image, self.box, *self.size))
        alpha = image[..., 3:]  # transparent pixels do not lend their colour to others
        moved = area_crop(np.concatenate([image[..., :3] * alpha, alpha], axis=-1), self.box, *self.size)
        moved[..., :3] /= np.maximum(moved[..., 3:], 1e-8)
        return torch.from_numpy(moved)


@dataclass(frozen=True, eq=False)
class _Mask(_Crop):
    def load(self) -> Tensor:
        """A pixel counts only if all of it does."""
        return torch.from_numpy(area_crop(self.source.load().numpy(), self.box, *self.size) > 0.999).float()


@dataclass(frozen=True, eq=False)
class _Depth(_Crop):
    def load(self) -> Tensor:
        """Picked, never mixed."""
        (left, top, right, bottom), (width, height) = self.box, self.size
        rows = (top + (np.arange(height) + 0.5) * (bottom - top) / height).astype(np.int64)
        columns = (left + (np.arange(width) + 0.5) * (right - left) / width).astype(np.int64)
        return self.source.load()[torch.from_numpy(rows)[:, None], torch.from_numpy(columns)]
