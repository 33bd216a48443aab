"""Captures of scene-linear light: one exposure for all their photos."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from recon.datasets.decode import as_float, decode
from recon.datasets.images import ColourFile
from recon.datasets.scene import Scene, View
from recon.datasets.tone import Tone

MIDDLE_GREY = 0.18  # what the median light of a capture is exposed to
LOOKED_AT = 9  # photos, to find the exposure
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of the primaries of sRGB


def expose(scene: Scene, *, linear: bool = False) -> Scene:
    """A scene whose photos of linear light get a curve, with one exposure for all; other scenes as they are.

    Args:
        linear: photos of 16 bits are of linear light too, as converters of raw photos write them.
    """
    kinds = ("linear", "deep") if linear else ("linear",)
    files = [view.image for view in scene.views if isinstance(view.image, ColourFile) and view.image.kind in kinds]
    if not files:
        return scene
    tone = Tone(MIDDLE_GREY / _median_light(files[:: -(-len(files) // LOOKED_AT)]))
    return replace(scene, views=tuple(_toned(view, kinds, tone) for view in scene.views), tone=tone)


def _toned(view: View, kinds: Collection[str], tone: Tone) -> View:
    image = view.image
    if isinstance(image, ColourFile) and image.kind in kinds:
        return replace(view, image=replace(image, tone=tone))
    return view


def _median_light(files: Sequence[ColourFile]) -> float:
    found = [light for file in files if (light := _light(file.path, file.stamp)) > 0]
    return float(np.median(found)) if found else 1.0


@functools.lru_cache(maxsize=1024)
def _light(path: Path, stamp: tuple[int, int]) -> float:
    """The median luminance of a photo's pixels that are not black; 0 if all are."""
    pixels = as_float(decode(path)[::4, ::4])
    colour = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., [0, 0, 0]]
    luminance = colour @ LUMINANCE
    lit = luminance[(luminance > 0) & np.isfinite(luminance)]
    return float(np.median(lit)) if lit.size else 0.0
