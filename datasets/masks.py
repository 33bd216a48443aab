"""Which pixels of photos count, said beside the capture: a folder of masks, alpha, a colour key, or people left out.

A rule is a text: "alpha"; "key:#rrggbb" or "key:#rrggbb:TOLERANCE"; "people"; or else a folder. Of several rules all
have to let a pixel count, and so has the capture's own mask.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.datasets import people
from recon.datasets.decode import as_float, eight_bits, read_header
from recon.datasets.errors import InputError
from recon.datasets.folders import find_image
from recon.datasets.images import with_mask
from recon.datasets.mask_files import Finder, MaskSource, mask_file
from recon.datasets.scene import Scene, View

TOLERANCE = 20.0  # CIELAB, for a colour key: 2 is just seen, 20 is another shade of the same colour
EDGE = 0.002  # of the longer side: so far from the key's colour, pixels still have some of it
OPAQUE = 0.5  # the least alpha of a pixel that counts
ROWS_AT_ONCE = 256

log = logging.getLogger("recon")


def parse(texts: Sequence[str]) -> tuple[Rule, ...]:
    """The rules that texts say; `InputError` for one that says none."""
    return tuple(_parsed(text) for text in texts)


def spelled(texts: Sequence[str]) -> tuple[str, ...]:
    """The same rules as texts that mean the same from anywhere: with whole paths. `InputError` as for `parse`."""
    rules = parse(texts)
    return tuple(
        str(rule.folder.resolve()) if isinstance(rule, FolderRule) else text
        for text, rule in zip(texts, rules, strict=True)
    )


def apply(scene: Scene, texts: Sequence[str]) -> Scene:
    """A scene in which only what the rules let count counts.

    Raises:
        InputError: no rule, one that finds nothing in any photo, or a segmenter that is not installed.
    """
    for rule in parse(texts):
        scene = replace(scene, views=rule.apply(scene.views))
    return scene


@dataclass(frozen=True)
class FolderRule:
    """Masks in files, bright where pixels count, found by the photos' names: a.png, a.jpg.png or a_mask.png."""

    folder: Path

    def source(self, photo: Path) -> MaskSource | None:
        return mask_of(self.folder, photo)

    def apply(self, views: Sequence[View]) -> tuple[View, ...]:
        masked = tuple(with_mask(view, self.source) for view in views)
        without = [view.name for view in masked if view.mask is None]
        if len(without) == len(views):
            raise InputError(f"masks {self.folder}: none here for any of the {len(views)} photos, such as {without[0]}")
        if without:
            log.warning("masks %s: none here for %d of %d photos", self.folder, len(without), len(views))
        return masked


@dataclass(frozen=True)
class AlphaRule:
    """What is transparent does not count; photos are without an alpha channel then."""

    def source(self, photo: Path) -> MaskSource | None:
        header = read_header(photo)
        return MaskSource(photo, header.stamp, Opaque()) if header.has_alpha else None

    def apply(self, views: Sequence[View]) -> tuple[View, ...]:
        masked = tuple(with_mask(view, self.source, opaque=True) for view in views)
        if all(view.mask is old.mask for view, old in zip(masked, views, strict=True)):
            raise InputError(f"masks alpha: none of the {len(views)} photos, such as {views[0].name}, has any")
        return masked


@dataclass(frozen=True)
class FinderRule:
    """Masks that are found in the photos themselves."""

    find: Finder

    def source(self, photo: Path) -> MaskSource | None:
        return MaskSource(photo, read_header(photo).stamp, self.find)

    def apply(self, views: Sequence[View]) -> tuple[View, ...]:
        return tuple(with_mask(view, self.source) for view in views)


Rule = FolderRule | AlphaRule | FinderRule


@dataclass(frozen=True)
class Opaque:
    """Finds what is opaque."""

    extra_bytes: int = 0

    def __call__(self, pixels: NDArray) -> NDArray[np.bool_]:
        return as_float(pixels[..., -1]) > OPAQUE


@dataclass(frozen=True)
class Unlike:
    """Finds what is not of a colour, nor near its edge.

    Attributes:
        colour: sRGB, 0..255.
        tolerance: the distance in CIELAB (CIE 1976) up to which a pixel has the colour.
    """

    colour: tuple[int, int, int]
    tolerance: float
    extra_bytes: int = 0

    def __call__(self, pixels: NDArray) -> NDArray[np.bool_]:
        from scipy import ndimage

        key = _lab(np.array([[self.colour]], np.uint8))[0, 0]
        counts = np.empty(pixels.shape[:2], bool)
        for top in range(0, len(pixels), ROWS_AT_ONCE):  # the work arrays stay small
            rows = eight_bits(pixels[top : top + ROWS_AT_ONCE])
            counts[top : top + len(rows)] = ((_lab(rows) - key) ** 2).sum(axis=-1) > self.tolerance**2
        steps = max(1, round(EDGE * max(counts.shape)))
        return ndimage.binary_erosion(counts, iterations=steps, border_value=1)


def mask_of(folder: Path, photo: Path) -> MaskSource | None:
    """A photo's mask in a folder. Where EXIF turns the photo but not the mask, that is of the photo as it is shown, as
    most programs would make it, unless only what is stored is as wide and high."""
    found = find_mask(folder, photo)
    if found is None:
        return None
    header, mask = read_header(photo), read_header(found)
    as_stored = mask.width * header.height == mask.height * header.width
    said = mask.orientation != 1 or (header.orientation >= 5 and as_stored and header.width != header.height)
    return mask_file(found, shown=1 if said else header.orientation)


def find_mask(folder: Path, photo: Path) -> Path | None:
    """The mask of a photo, which is called as its file is, or the end of its path in the folder."""
    for depth in range(min(3, len(photo.parts)), 0, -1):
        named = folder.joinpath(*photo.parts[-depth:])
        for name in (named.name, named.stem, f"{named.stem}_mask", f"{named.stem}.mask"):
            found = find_image(named.with_name(name))
            if found is not None and found != photo:
                return found
    return None


def _parsed(text: str) -> Rule:
    if text == "alpha":
        return AlphaRule()
    if text == "people":
        return FinderRule(people.finder())
    if text.startswith("key:"):
        match = re.fullmatch(r"key:#([0-9a-fA-F]{6})(?::(\d+(?:\.\d*)?))?", text)
        if match is None:
            raise InputError(f"masks {text}: a colour key is key:#rrggbb or key:#rrggbb:TOLERANCE, as key:#00ff00:30")
        red, green, blue = bytes.fromhex(match[1])
        return FinderRule(Unlike((red, green, blue), TOLERANCE if match[2] is None else float(match[2])))
    if not Path(text).is_dir():
        raise InputError(f"masks {text}: is neither a folder nor alpha, people or key:#rrggbb")
    return FolderRule(Path(text))


def _lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """CIELAB [H,W,3] of sRGB [H,W,3]."""
    from PIL import Image, ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(Image.fromarray(pixels), *profiles, outputMode="LAB")
    stored = np.asarray(converted)  # L as 0..255, a and b as whole numbers with a sign
    return np.concatenate([stored[..., :1] * np.float32(100 / 255), stored[..., 1:].view(np.int8)], axis=-1)
