"""Moving the pixels of an image: lens distortion out, size down, quarter turns. numpy in, numpy out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recon.datasets import cache, lens
from recon.datasets.lens import SourceCamera


@dataclass(frozen=True)
class Warp:
    """The way from a decoded image to the view's: lens (None: none), size after it, final size, quarter turns after."""

    camera: SourceCamera | None
    unbent: tuple[int, int]
    size: tuple[int, int]
    turns: int

    @property
    def is_identity(self) -> bool:
        return self.camera is None and self.unbent == self.size and self.turns == 0


def area_resize(image: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """An image [H,W,K] reduced to [height,width,K]: each pixel is the exact mean of the area it covers."""
    return _area_resize_rows(_area_resize_rows(image, height).swapaxes(0, 1), width).swapaxes(0, 1)


def _area_resize_rows(image: NDArray[np.float32], height: int) -> NDArray[np.float32]:
    rows = image.shape[0]
    if height == rows:
        return image
    if rows % height == 0:
        return image.reshape(height, rows // height, *image.shape[1:]).mean(axis=1, dtype=np.float32)
    # The integral of the image from its top to any height, of which each new row is a difference.
    integral = np.zeros((rows + 1, *image.shape[1:]), np.float64)
    np.cumsum(image, axis=0, dtype=np.float64, out=integral[1:])
    edges = np.arange(height + 1) * (rows / height)
    whole = np.minimum(edges.astype(np.int64), rows - 1)
    part = (edges - whole)[:, None, None]
    at_edges = integral[whole] * (1 - part) + integral[whole + 1] * part
    return (np.diff(at_edges, axis=0) * (height / rows)).astype(np.float32)


def warp_colour(image: NDArray[np.float32], warp: Warp) -> NDArray[np.float32]:
    """Resample [H,W,3|4]; transparent pixels do not lend their colour to others."""
    if image.shape[2] == 3:
        return warp_samples(image, warp, nearest=False)
    alpha = image[..., 3:]
    moved = warp_samples(np.concatenate([image[..., :3] * alpha, alpha], axis=-1), warp, nearest=False)
    moved[..., :3] /= np.maximum(moved[..., 3:], 1e-8)
    return moved


def warp_samples(image: NDArray[np.float32], warp: Warp, *, nearest: bool) -> NDArray[np.float32]:
    """Resample [H,W,K] to the view's pixels. With `nearest`, values are picked, never mixed; 0 where there are none.

    An image of another size than the photo (a depth map, a mask) is taken to cover the same area.
    """
    width, height = warp.unbent
    if warp.camera is not None:
        camera = warp.camera
        grid = cache.images.get((camera, width, height), lambda: lens.sampling_grid(camera, width, height))
        image = _sampled(image, grid, nearest) * (lens.inside(grid)[..., None] if image.shape[2] == 1 else 1)
    elif nearest or image.shape[1::-1] != warp.unbent:
        image = _picked(image, width, height)
    image = _picked(image, *warp.size) if nearest else area_resize(image, *warp.size)
    return np.ascontiguousarray(np.rot90(image, warp.turns))


def _sampled(image: NDArray[np.float32], grid: NDArray[np.float32], nearest: bool) -> NDArray[np.float32]:
    batch = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    sampled = torch.nn.functional.grid_sample(
        batch,
        torch.from_numpy(np.array(grid))[None],
        mode="nearest" if nearest else "bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return sampled[0].permute(1, 2, 0).numpy()


def _picked(image: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """The nearest sample of [H,W,K] at each pixel of [height,width,K]."""
    rows = ((np.arange(height) + 0.5) * image.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * image.shape[1] / width).astype(np.int64)
    return image[rows[:, None], columns]
