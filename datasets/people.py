"""People in photos, found by whichever segmenter is installed; none of them is needed for anything else."""

from __future__ import annotations

import functools
import importlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.datasets.decode import eight_bits
from recon.datasets.errors import InputError

LONGEST_SIDE = 1024  # px, to which photos are reduced to look for people
MARGIN = 0.01  # of the longer side: so far around people nothing counts
NETWORK = 300 * 2**20  # bytes that a segmenter takes for a moment, beside its weights

Segmenter = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]  # [H,W,3] sRGB -> [H,W], where people are

_one_at_a_time = threading.Lock()  # each takes memory, and all cores


@dataclass(frozen=True)
class NoPeople:
    """Finds where no people are.

    Attributes:
        package: whose segmenter says so.
    """

    package: str

    @property
    def extra_bytes(self) -> int:
        """One photo is looked at at a time, while each thread has one to decode: of the whole, a thread's share."""
        return NETWORK // (os.cpu_count() or 1)

    def __call__(self, pixels: NDArray) -> NDArray[np.bool_]:
        from scipy import ndimage

        small = _reduced(pixels)
        with _one_at_a_time:
            found = _segmenter(self.package)(small)
        steps = max(1, round(MARGIN * max(found.shape)))
        return ~ndimage.binary_dilation(found, iterations=steps)


def finder() -> NoPeople:
    """One that is ready; `InputError` where no segmenter is installed, or its weights cannot be had."""
    for package in _LOADERS:
        try:
            _segmenter(package)
        except ImportError:
            continue
        except InputError:
            raise
        except Exception as error:  # networks and their downloads raise almost anything
            said = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"masks people: {package} is installed, but cannot be used: {said}") from error
        return NoPeople(package)
    raise InputError(f"masks people: needs a segmenter: install the package {' or '.join(_LOADERS)}")


def _reduced(pixels: NDArray) -> NDArray[np.uint8]:
    """[h,w,3] of at most `LONGEST_SIDE` pixels."""
    from PIL import Image

    image = Image.fromarray(eight_bits(pixels))
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.asarray(image)


@functools.cache
def _segmenter(package: str) -> Segmenter:
    return _LOADERS[package]()


def _torchvision() -> Segmenter:
    """DeepLabv3 (Chen et al. 2017) with MobileNetV3; one of its classes is "person"."""
    import torch
    from torchvision.models import segmentation

    weights = segmentation.DeepLabV3_MobileNet_V3_Large_Weights.DEFAULT
    network = segmentation.deeplabv3_mobilenet_v3_large(weights=weights).eval()
    prepare, person = weights.transforms(), weights.meta["categories"].index("person")

    def people(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        with torch.no_grad():
            scores: Any = network(prepare(torch.from_numpy(pixels.copy()).permute(2, 0, 1))[None])["out"][0]
        return (scores.argmax(dim=0) == person).numpy()

    return people


def _rembg() -> Segmenter:
    """U2-Net (Qin et al. 2020), trained on people."""
    rembg = importlib.import_module("rembg")
    session = rembg.new_session("u2net_human_seg")
    return lambda pixels: np.asarray(rembg.remove(pixels, session=session, only_mask=True)) > 127


_LOADERS: dict[str, Callable[[], Segmenter]] = {"torchvision": _torchvision, "rembg": _rembg}
