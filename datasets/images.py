"""Photos to views: what every loader uses to turn an image file and a camera into an undistorted, resized `View`.

The order is: decode, turn upright, remove the lens distortion, reduce the size. All of it happens when a view is
loaded; making a view reads the header of its file only. Distortion and reduction work in the file's own (gamma) values,
as the field does, with colours weighted by alpha.

Sizes. A capture's camera describes an image of a declared size; the file may be a rescaled copy of it. Intrinsics
follow the actual pixel grid, for each axis by itself. `downscale` always refers to the declared size, so that the same
value gives the same result from the originals and from an `images_N` folder; images are never enlarged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets import cache, fields, lens
from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.decode import ImageHeader, Kind, as_float, decode, image_size, read_header, save_image
from recon.datasets.depth_files import DepthFile
from recon.datasets.errors import InputError
from recon.datasets.folders import choose_image_folder, find_image, list_images, view_names
from recon.datasets.lens import SourceCamera
from recon.datasets.mask_files import MaskFile, MaskSource, mask_file
from recon.datasets.resample import Warp, area_resize, warp_colour
from recon.datasets.scene import View
from recon.datasets.tone import Tone

__all__ = [
    "ArrayImage",
    "BytesImage",
    "ColourFile",
    "SourceCamera",
    "area_resize",
    "choose_image_folder",
    "file_of",
    "find_image",
    "image_size",
    "list_images",
    "make_view",
    "save_image",
    "split_every",
    "view_names",
    "with_mask",
]

SMALLEST_SIDE = 16  # px; `downscale` does not go below
LIGHTEST = 1e9  # linear light beyond it is the same


@dataclass(frozen=True, eq=False)
class ArrayImage:
    """An image that is in memory: float32 [H,W,K]."""

    image: Tensor

    def load(self) -> Tensor:
        return self.image


@dataclass(frozen=True, eq=False)
class BytesImage:
    """A photo that is in memory as bytes: uint8 [H,W,3|4]. A `recon.datasets.scene.StoredImage`."""

    stored: NDArray[np.uint8]

    @property
    def pixel_bytes(self) -> int:
        return self.stored.nbytes

    @property
    def decoding_bytes(self) -> int:
        return 0

    def pixels(self) -> NDArray[np.uint8]:
        return self.stored

    def load(self) -> Tensor:
        return torch.from_numpy(self.stored.astype(np.float32) / np.float32(255))


@dataclass(frozen=True)
class ColourFile:
    """A photo in a file.

    Attributes:
        stamp, kind: see `ImageHeader`.
        upright: whether `warp` begins with the photo as EXIF wants it shown.
        opaque: whether its alpha channel, if it has one, is left out.
        tone: the curve through which linear light is seen, behind all that moves pixels.
    """

    path: Path
    stamp: tuple[int, int]
    kind: Kind
    upright: bool
    warp: Warp
    opaque: bool = False
    tone: Tone | None = None

    @property
    def _is_as_stored(self) -> bool:
        return self.warp.is_identity and self.tone is None

    @property
    def pixel_bytes(self) -> int:
        width, height = self.warp.size
        return 3 * width * height * (1 if self._is_as_stored and self.kind == "usual" else 2)

    @property
    def decoding_bytes(self) -> int:
        return self.warp.decoding_bytes(as_stored=self._is_as_stored)

    def pixels(self) -> NDArray:
        return cache.images.get(self, self._make)

    def load(self) -> Tensor:
        stored = self.pixels()
        return torch.from_numpy(stored.astype(np.float32) / np.float32(255 if stored.dtype == np.uint8 else 65535))

    def _make(self) -> NDArray:
        pixels = decode(self.path, upright=self.upright)
        if pixels.shape[2] <= 2:  # grey, with or without alpha
            pixels = pixels[..., [0, 0, 0, 1][: pixels.shape[2] + 2]]
        if self.opaque:
            pixels = pixels[..., :3]
        if self._is_as_stored and pixels.dtype != np.float32:
            return pixels
        image = as_float(pixels)
        if self.tone is not None:
            image = np.minimum(image, LIGHTEST)  # files of light say infinite of what was too bright for them
        if not np.isfinite(image).all():
            raise InputError(f"{self.path}: has pixels that are not finite")
        image = warp_colour(image, self.warp)
        if self.tone is not None:
            image[..., :3] = self.tone.shown(image[..., :3])
        return np.rint(image.clip(0, 1) * 65535).astype(np.uint16)


def make_view(
    name: str,
    image_path: Path,
    camera: SourceCamera,
    viewmat: Tensor,
    *,
    downscale: float = 1,
    mask_path: Path | None = None,
    depth_path: Path | None = None,
    depth_scale: float = 1.0,
    confidence_path: Path | None = None,
    stored_pixels: bool = False,
    where: str | None = None,
) -> View:
    """A view of a photo: undistorted, `downscale` times smaller than `camera` declares, decoded when loaded.

    Args:
        name: unique in the scene; what runs and reports call the view.
        image_path: the photo; its size may differ from the camera's by a rescaling.
        camera: as the capture's files have it, lens distortion included.
        viewmat: [4,4] world to camera, OpenCV axes, rotation and translation.
        downscale: how many times smaller than `camera` the view is to be. Never enlarges: with a file that is smaller
            than asked for, the view has the file's size.
        mask_path: an image that is bright (and opaque) where pixels may be used.
        depth_path, depth_scale: an image or .npy of depths along the viewing axis, and the factor to world units; the
            largest number of 16 bits is no depth.
        confidence_path: an image that is dark where the depths are not to be trusted, so unknown.
        stored_pixels: what `camera` means by the image when EXIF wants it turned and the sizes do not tell: the pixels
            as stored (COLMAP and Bundler do not look at EXIF) or as shown (else). The view is upright in either case;
            if need be its camera turns along.
        where: what messages about the camera and its pose start with; the photo's path if not given.
    Raises:
        InputError: no such file, sizes that no rescaling explains, unusable camera or pose, downscale out of range.
    """
    where = where or f"{image_path}"
    lens.check_camera(camera, where)
    viewmat = checked_pose(viewmat, where)
    if not (math.isfinite(downscale) and downscale >= 1):
        raise InputError(f"{image_path}: downscale {downscale:g} is not 1 or more")
    header = read_header(image_path)
    width, height, camera_upright = _reconcile(header, camera, stored_pixels, f"{image_path}")

    pinhole = lens.undistorted(camera)
    bent = None if lens.is_pinhole(camera) else camera
    unbent = (
        max(1, round(pinhole.width * width / camera.width)),
        max(1, round(pinhole.height * height / camera.height)),
    )
    size = (
        _reduced(unbent[0], downscale * width / camera.width),
        _reduced(unbent[1], downscale * height / camera.height),
    )
    if downscale > 1 and min(size) < min(SMALLEST_SIDE, *unbent):
        raise InputError(
            f"{image_path}: downscale {downscale:g} leaves {size[0]}x{size[1]} px, fewer than {SMALLEST_SIDE}"
        )
    if bent is not None:
        # Sampled a whole number of times as fine as the view, the reduction is a plain (fast) mean.
        unbent = (size[0] * max(1, round(unbent[0] / size[0])), size[1] * max(1, round(unbent[1] / size[1])))
    # EXIF turns that the camera knows nothing of are made at the end, together with the camera.
    turns = 0 if camera_upright else {3: 2, 6: 3, 8: 1}.get(header.orientation, 0)
    warp = Warp(bent, unbent, size, turns)

    cameras = Cameras(viewmat[None], intrinsics(*pinhole.params), pinhole.width, pinhole.height).resized(*size)
    for _ in range(turns):
        cameras = _turned_left(cameras)
    mask = depth = None
    if mask_path is not None:
        mask = MaskFile((mask_file(mask_path),), camera_upright, warp)
    elif bent is not None and lens.has_blank_pixels(bent):
        mask = MaskFile((), camera_upright, warp)
    if depth_path is not None:
        files = tuple((path, read_header(path).stamp) for path in (depth_path, confidence_path) if path is not None)
        depth = DepthFile(files, camera_upright, warp, depth_scale)
    photo = ColourFile(image_path, header.stamp, header.kind, camera_upright, warp)
    return View(name, cameras, photo, mask, depth)


def split_every(
    names: Sequence[str], every: int = 8, places: Sequence[Hashable] | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Indices (train, test): every `every`-th by name, beginning with the first, is for testing; 0 means none.

    The field's convention (mip-NeRF 360). At least one view is left to train on; a single view is for training. Views
    of the same place count as one and stay together: of a panorama all faces are held out, or none is.
    """
    if every < 0 or every == 1:
        raise InputError(f"test_every {every} is not 0 (no test views) or at least 2")
    by_name = sorted(range(len(names)), key=lambda i: names[i])
    together: dict[Hashable, list[int]] = {}
    for i in by_name:
        together.setdefault(i if places is None else places[i], []).append(i)
    held_out = list(together.values())[::every] if every and len(together) > 1 else []
    test = set(itertools.chain(*held_out))
    return tuple(i for i in range(len(names)) if i not in test), tuple(sorted(test))


def with_mask(view: View, find: Callable[[Path], MaskSource | None], *, opaque: bool = False) -> View:
    """A view of `make_view` of which only those pixels count that count in the mask found for its photo too.

    Args:
        find: the mask for a photo's file; None where all of it counts.
        opaque: the alpha channel is left out.
    """
    image, mask = view.image, view.mask
    assert isinstance(image, ColourFile)
    if opaque:
        view = replace(view, image=replace(image, opaque=True))
    source = find(image.path)
    if source is None:
        return view
    before = mask.sources if isinstance(mask, MaskFile) else ()
    return replace(view, mask=MaskFile((*before, source), image.upright, image.warp))


def file_of(view: View) -> Path | None:
    """The file that holds just the pixels that a view shows; None where they are changed, or not from a file."""
    source = view.image
    if not isinstance(source, ColourFile) or not source.warp.is_identity or source.tone is not None:
        return None
    header = read_header(source.path)
    return source.path if header.orientation == 1 and not (source.opaque and header.has_alpha) else None


def checked_pose(viewmat: Tensor, where: str) -> Tensor:
    """A rigid world-to-camera matrix [4,4] float64; rounding in the file (up to 1%) is taken out of its rotation."""
    viewmat = torch.as_tensor(viewmat, dtype=torch.float64)
    if viewmat.shape != (4, 4):
        raise InputError(f"{where}: pose of shape {tuple(viewmat.shape)} is not 4x4")
    if not torch.isfinite(viewmat).all():
        raise InputError(f"{where}: pose has values that are not finite: {fields.rows(viewmat[:3])}")
    linear = viewmat[:3, :3]
    deviation = float((linear @ linear.T - torch.eye(3, dtype=torch.float64)).abs().max())
    if deviation > 0.02 or torch.linalg.det(linear) <= 0 or not torch.equal(viewmat[3], _LAST_ROW):
        raise InputError(f"{where}: pose is not a rotation and a translation: {fields.rows(viewmat)}")
    u, _, vh = torch.linalg.svd(linear)
    rotation = u @ vh
    centre = -torch.linalg.solve(linear, viewmat[:3, 3])
    rigid = torch.eye(4, dtype=torch.float64)
    rigid[:3, :3], rigid[:3, 3] = rotation, -rotation @ centre
    return rigid


_LAST_ROW = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)


def _reconcile(header: ImageHeader, camera: SourceCamera, stored_pixels: bool, where: str) -> tuple[int, int, bool]:
    """The file's (width, height) as the camera sees it, and whether the camera sees it as shown (not as stored)."""
    sizes = {True: header.upright_size, False: (header.width, header.height)}
    preferred = not stored_pixels or header.orientation == 1
    for upright in (preferred, not preferred):
        if _is_rescaled(sizes[upright], (camera.width, camera.height)):
            return *sizes[upright], upright
    width, height = sizes[preferred]
    raise InputError(f"{where}: image is {width}x{height}, its camera is for {camera.width}x{camera.height}")


def _is_rescaled(size: tuple[int, int], declared: tuple[int, int]) -> bool:
    """Whether one scale, up to rounding each side by less than a pixel, leads from `declared` to `size`."""
    low = max((side - 1) / whole for side, whole in zip(size, declared, strict=True))
    high = min((side + 1) / whole for side, whole in zip(size, declared, strict=True))
    return low < high


def _reduced(side: int, factor: float) -> int:
    """A side divided by `factor`; kept when that would change it by a rounding only."""
    return side if factor <= 1 + 1.5 / side else max(1, round(side / factor))


def _turned_left(cameras: Cameras) -> Cameras:
    """The cameras of images turned a quarter counter-clockwise (`numpy.rot90`)."""
    quarter = torch.tensor([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    fx, fy = cameras.Ks[0, 0, 0], cameras.Ks[0, 1, 1]
    cx, cy = cameras.Ks[0, 0, 2], cameras.Ks[0, 1, 2]
    Ks = intrinsics(float(fy), float(fx), float(cy), cameras.width - float(cx))
    return Cameras(quarter @ cameras.viewmats, Ks, cameras.height, cameras.width)
