"""Moving the pixels of an image: lens distortion out, size down, quarter turns. numpy in, numpy out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recon.datasets import cache, lens
from recon.datasets.lens import SourceCamera

AT_ONCE = 1 << 16  # samples
DECODING = 70  # bytes per pixel of a file while it is resampled: floats of it, before and after, and integrals


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

    def decoding_bytes(self, *, as_stored: bool) -> int:
        """Bytes that it is likely to take for a moment; `as_stored`: where pixels stay as they are in the file."""
        return 3 * math.prod(self.size) if as_stored else DECODING * math.prod(self.unbent)


def area_resize(image: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """An image [H,W,K] reduced to [height,width,K]: each pixel is the exact mean of the area it covers."""
    rows, columns = image.shape[:2]
    return area_crop(image, (0, 0, columns, rows), width, height)


def area_crop(
    image: NDArray[np.float32], box: tuple[float, float, float, float], width: int, height: int
) -> NDArray[np.float32]:
    """A box (left, top, right, bottom; px) inside an image [H,W,K], reduced to [height,width,K] in the same way.

    Of a box as large as the result in pixels, that is what bilinear interpolation gives.
    """
    left, top, right, bottom = box
    rows = _area_rows(image, top, bottom, height)
    return _area_rows(rows.swapaxes(0, 1), left, right, width).swapaxes(0, 1)


def _area_rows(image: NDArray[np.float32], start: float, end: float, height: int) -> NDArray[np.float32]:
    rows = image.shape[0]
    if (start, end) == (0, rows):
        if height == rows:
            return image
        if rows % height == 0:
            return image.reshape(height, rows // height, *image.shape[1:]).mean(axis=1, dtype=np.float32)
    # The integral of the image from its top to any height, of which each new row is a difference.
    integral = np.zeros((rows + 1, *image.shape[1:]), np.float64)
    np.cumsum(image, axis=0, dtype=np.float64, out=integral[1:])
    edges = (start + np.arange(height + 1) * ((end - start) / height)).clip(0, rows)
    whole = np.minimum(edges.astype(np.int64), rows - 1)
    part = (edges - whole)[:, None, None]
    at_edges = integral[whole] * (1 - part) + integral[whole + 1] * part
    return (np.diff(at_edges, axis=0) * (height / (end - start))).astype(np.float32)


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
    if warp.camera is not None:
        image = _without_lens(image, warp, nearest)
    else:
        if nearest or image.shape[1::-1] != warp.unbent:
            image = picked(image, *warp.unbent)
        image = _reduced(image, *warp.size, nearest)
    return np.ascontiguousarray(np.rot90(image, warp.turns))


def _without_lens(image: NDArray[np.float32], warp: Warp, nearest: bool) -> NDArray[np.float32]:
    """What a pinhole would have seen, at the final size; made some rows at a time, which stay in the caches."""
    camera, (width, height) = warp.camera, warp.size
    assert camera is not None
    grid = cache.images.get((camera, *warp.unbent), lambda: lens.sampling_grid(camera, *warp.unbent))
    finer, rest = divmod(warp.unbent[1], height)
    rows = max(1, AT_ONCE // (finer * warp.unbent[0])) if rest == 0 else height
    reduced = np.empty((height, width, image.shape[2]), np.float32)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    for top in range(0, height, rows):
        positions = grid[top * finer : (top + rows) * finer] if rest == 0 else grid
        samples = _sampled(pixels, positions, nearest)
        if image.shape[2] == 1:
            samples = samples * lens.inside(positions)[..., None]
        reduced[top : top + rows] = _reduced(samples, width, min(rows, height - top), nearest)
    return reduced


def _reduced(image: NDArray[np.float32], width: int, height: int, nearest: bool) -> NDArray[np.float32]:
    return picked(image, width, height) if nearest else area_resize(image, width, height)


def _sampled(image: torch.Tensor, positions: NDArray[np.float32], nearest: bool) -> NDArray[np.float32]:
    """[h,w,K] of an image [1,K,H,W] at the positions [h,w,2] of a sampling grid."""
    sampled = torch.nn.functional.grid_sample(
        image,
        torch.from_numpy(positions.copy())[None],  # a copy, since torch takes no array that it must not write to
        mode="nearest" if nearest else "bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return sampled[0].permute(1, 2, 0).numpy()


def picked(image: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """The nearest sample of [H,W,K] at each pixel of [height,width,K]."""
    rows = ((np.arange(height) + 0.5) * image.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * image.shape[1] / width).astype(np.int64)
    return image[rows[:, None], columns]
