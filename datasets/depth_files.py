"""Depth maps of photos, from files; they go the photo's own way to the view, but depths are never mixed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets import cache
from recon.datasets.decode import as_float, decode
from recon.datasets.resample import Warp, picked, warp_samples

TRUSTED = 0.25  # of the largest number of an image of confidence: above it a depth is known


@dataclass(frozen=True)
class DepthFile:
    """Depths along the viewing axis, `scale` world units for each unit of the file; 0 where it is not known.

    Attributes:
        files: the depth map's and, if there is one, that of an image that is dark where depths are not to be trusted;
            each with its stamp, see `ImageHeader`.
    """

    files: tuple[tuple[Path, tuple[int, int]], ...]
    upright: bool
    warp: Warp
    scale: float

    def load(self) -> Tensor:
        return torch.from_numpy(cache.images.get(self, self._make).copy())

    def _make(self) -> NDArray:
        pixels, *confidence = (decode(path, upright=self.upright) for path, _ in self.files)
        depth = pixels[..., :1].astype(np.float32) * np.float32(self.scale)
        if pixels.dtype == np.uint16:
            depth[pixels[..., :1] == 65535] = 0  # as far as 16 bits can say, or farther; 7-Scenes' mark for unknown
        depth[~np.isfinite(depth) | (depth < 0)] = 0
        for values in confidence:
            depth[picked(as_float(values[..., :1]), depth.shape[1], depth.shape[0]) <= TRUSTED] = 0
        return warp_samples(depth, self.warp, nearest=True)
