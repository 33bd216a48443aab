"""Photos that do not fit on a GPU: kept in the host's memory as whole numbers, and copied a step before they are
needed.

A copy from pinned memory, on a stream of its own, runs beside the kernels of the step before, and nothing waits for it
but the kernels that read it. On a CPU the same is done without streams, so that it can be tested.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recon.datasets import cache
from recon.datasets.scene import ImageSource, StoredImage, View

Photo = tuple[Tensor, Tensor | None]  # [H,W,3|4] whole numbers or floats, and a mask [H,W,1]

# Bytes of photos that may stay on the GPU as floats, as `recon.fitting` has it; None: nobody has said how many.
room: int | None = None


class Ahead:
    """Photos on a device, each asked for once when it is known that it comes and once when it is needed."""

    def __init__(self, views: Sequence[View], device: torch.device, most: int | None = None) -> None:
        """
        Args:
            most: bytes of photos that are held for copying; None for the bound of the cache of decoded images.
        """
        self._views, self._device = views, device
        self._most = cache.images.limit if most is None else most
        self._held: dict[int, Photo] = {}
        self._held_bytes = 0
        self._coming: tuple[int, Photo] | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self, number: int) -> None:
        """Have a photo copied that is needed next."""
        if self._coming is not None and self._coming[0] == number:
            return
        if self._stream is None:
            self._coming = number, self._copied(number)
            return
        with torch.cuda.stream(self._stream):
            self._coming = number, self._copied(number)

    def take(self, number: int) -> Photo:
        """A photo on the device; at once, if its copying was begun."""
        coming, self._coming = self._coming, None
        if coming is None or coming[0] != number:
            return self._copied(number)
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            for tensor in coming[1]:
                if tensor is not None:  # its memory belongs to the other stream, which must not use it again too soon
                    tensor.record_stream(current)
        return coming[1]

    def _copied(self, number: int) -> Photo:
        photo, mask = self._held[number] if number in self._held else self._here(number)
        return (
            photo.to(self._device, non_blocking=True),
            None if mask is None else mask.to(self._device, non_blocking=True),
        )

    def hold(self, number: int) -> None:
        """Hold a photo ready for copying, if there is room: it does not stay on the device."""
        if number in self._held:
            return
        photo, mask = self._here(number)
        size = sum(t.numel() * t.element_size() for t in (photo, mask) if t is not None)
        if self._held_bytes + size > self._most:
            return
        if self._stream is not None:
            photo, mask = photo.pin_memory(), None if mask is None else mask.pin_memory()
        self._held[number] = photo, mask
        self._held_bytes += size

    def _here(self, number: int) -> Photo:
        view = self._views[number]
        return _numbers(view.image), None if view.mask is None else view.mask.load()


def _numbers(source: ImageSource) -> Tensor:
    """A photo as it is stored; torch takes no array that it must not write, and has few uses for 16 bits."""
    if not isinstance(source, StoredImage):
        return source.load()
    stored = source.pixels()
    return torch.from_numpy(stored.astype(np.uint8 if stored.dtype == np.uint8 else np.int32))


def as_colour(photo: Tensor) -> Tensor:
    """A photo of `Ahead.take` as floats 0..1."""
    if photo.is_floating_point():
        return photo
    return photo.float() / (255 if photo.dtype == torch.uint8 else 65535)
