"""Masks of photos: from files, or found in the photos themselves; they go the photo's own way to the view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets import cache
from recon.datasets.decode import as_float, decode, read_header, turned_back
from recon.datasets.resample import Warp, warp_samples
from recon.datasets.tone import to_srgb


class Finder(Protocol):
    """Finds in a photo which of its pixels count. Two that are equal find the same."""

    @property
    def extra_bytes(self) -> int:
        """Bytes that it is likely to take for a moment, beside the photo."""
        ...

    def __call__(self, pixels: NDArray) -> NDArray[np.bool_]:
        """[h,w] for decoded pixels [H,W,K] (see `decode`), of which it may be a smaller copy."""
        ...


@dataclass(frozen=True)
class MaskSource:
    """What a mask is made from: a file that is bright (and opaque) where pixels count, or a photo and who finds them.

    Attributes:
        stamp: of the file, see `ImageHeader`.
        shown: EXIF's orientation of the photo, where the file has it as it is shown without saying so.
    """

    path: Path
    stamp: tuple[int, int]
    find: Finder | None = None
    shown: int = 1

    def values(self, *, upright: bool) -> NDArray[np.bool_]:
        """[h,w,1] where pixels count."""
        pixels = decode(self.path, upright=upright)
        if self.shown != 1 and not upright:
            pixels = turned_back(pixels, self.shown)
        if self.find is not None:
            if read_header(self.path).kind == "linear":  # as programs show it that know no curve
                pixels[..., :3] = to_srgb(pixels[..., :3].clip(0, 1))
            return self.find(pixels)[..., None]
        values = as_float(pixels)
        opaque = values[..., -1:] if pixels.shape[2] in (2, 4) else 1.0
        return values[..., :1] * opaque > 0.5


def mask_file(path: Path, *, shown: int = 1) -> MaskSource:
    """A file with a mask; `InputError` if there is no such image."""
    return MaskSource(path, read_header(path).stamp, shown=shown)


@dataclass(frozen=True)
class MaskFile:
    """What all sources let count (without any: all of the image) and the lens left data for."""

    sources: tuple[MaskSource, ...]
    upright: bool
    warp: Warp

    @property
    def pixel_bytes(self) -> int:
        return math.prod(self.warp.size)

    @property
    def decoding_bytes(self) -> int:
        extra = max((s.find.extra_bytes for s in self.sources if s.find), default=0)
        return self.warp.decoding_bytes(as_stored=self.warp.is_identity) + extra

    def pixels(self) -> NDArray:
        return cache.images.get(self, self._make)

    def load(self) -> Tensor:
        return torch.from_numpy(self.pixels().astype(np.float32))

    def _make(self) -> NDArray:
        width, height = self.warp.unbent
        parts = [source.values(upright=self.upright) for source in self.sources] or [np.ones((height, width, 1), bool)]
        counts = [warp_samples(part.astype(np.float32), self.warp, nearest=False) > 0.999 for part in parts]
        return np.logical_and.reduce(counts).astype(np.uint8)
