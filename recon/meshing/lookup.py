"""Reading pictures between their pixels.

Shape letters: N positions, K channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]


def planar(image: Array) -> torch.Tensor:
    """An image [H,W,K] as `bilinear` takes it: float32 [1,K,H,W]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0), np.float32))[None]


def bilinear(image: torch.Tensor, xy: Array) -> Array:
    """float32 [N,K] of a `planar` image at positions [N,2] in pixels; the centre of the first one is at (0.5, 0.5).

    Beyond the centres of the outermost pixels it stays as it is there.
    """
    height, width = image.shape[-2:]
    grid = torch.from_numpy(np.asarray(xy * (2 / np.array([width, height])) - 1, np.float32))
    found = torch.nn.functional.grid_sample(
        image, grid[None, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[0, :, 0].T.numpy()


def texture_colours(texture: torch.Tensor, uv: Array) -> Array:
    """float32 [N,K] of a `planar` texture at texture coordinates [N,2], (0, 0) at its lower left corner."""
    height, width = texture.shape[-2:]
    return bilinear(texture, np.stack([uv[:, 0] * width, (1 - uv[:, 1]) * height], axis=1))
