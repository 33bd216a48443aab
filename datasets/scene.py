"""A posed capture: views, points, and how its world relates to the one of the files it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets.cameras import Cameras
from recon.datasets.tone import Tone


class ImageSource(Protocol):
    """Something that yields an image when asked: a file decoded lazily, or an array in memory."""

    def load(self) -> Tensor:
        """float32 [H,W,K]; colour is 0..1 (K = 3, or 4 with straight alpha), a mask has K = 1 (1 = use the pixel),
        depth has K = 1 in world units along the viewing axis (0 = unknown)."""
        ...


@runtime_checkable
class StoredImage(ImageSource, Protocol):
    """An image that is kept in memory as whole numbers, which take a quarter or half of the memory of floats."""

    @property
    def pixel_bytes(self) -> int:
        """Bytes that `pixels` is likely to take."""
        ...

    @property
    def decoding_bytes(self) -> int:
        """Bytes that making `pixels` is likely to take for a moment."""
        ...

    def pixels(self) -> NDArray:
        """[H,W,K] uint8 or uint16, not to be written to. Of a colour, the largest number stands for 1; a mask is 0 or
        1. Kept for the next call, within the bound of `recon.datasets.cache.images`."""
        ...


@dataclass(frozen=True)
class Points:
    """A coloured point cloud.

    Attributes:
        xyz: [P,3] world units.
        rgb: [P,3] 0..1.
        error: [P] mean reprojection error in pixels of the full-size photos, where known.
        tracks: [O,2] int64, where known: point `tracks[i, 0]` was found in the photo of view `tracks[i, 1]`.
    """

    xyz: Tensor
    rgb: Tensor
    error: Tensor | None = None
    tracks: Tensor | None = None

    def __post_init__(self) -> None:
        if self.xyz.ndim != 2 or self.xyz.shape[1] != 3 or self.rgb.shape != self.xyz.shape:
            raise ValueError(f"points {tuple(self.xyz.shape)}, colours {tuple(self.rgb.shape)}: not [P,3] each")

    def __len__(self) -> int:
        return self.xyz.shape[0]

    def select(self, keep: Tensor) -> Points:
        """The points where `keep` [P] bool is true, with what is known of them."""
        tracks = self.tracks
        if tracks is not None:
            renumbered = keep.cumsum(dim=0) - 1
            tracks = tracks[keep[tracks[:, 0]]]
            tracks = torch.stack([renumbered[tracks[:, 0]], tracks[:, 1]], dim=-1)
        error = None if self.error is None else self.error[keep]
        return Points(self.xyz[keep], self.rgb[keep], error, tracks)


@dataclass(frozen=True)
class View:
    """One photo and its camera (a batch of one). The photo is decoded when `load` is called."""

    name: str
    camera: Cameras
    image: ImageSource
    mask: ImageSource | None = None
    depth: ImageSource | None = None

    def load(self) -> Tensor:
        """The photo: float32 [H,W,3|4], 0..1, straight alpha; its size is the camera's."""
        return self.image.load()


@dataclass(frozen=True)
class Scene:
    """All that is known of a capture.

    Attributes:
        name: what runs are filed under.
        views: in the order of their names.
        train, test: indices into `views`; `test` is never trained on.
        points: from structure from motion, when the capture has them.
        source_from_world: [4,4] float64 similarity; maps this scene's world to the frame of the capture's files.
        background: the colour behind photos that have an alpha channel, where the format's convention fixes one.
        up: [3] the capture's up direction in this scene's world, where the format or the normalisation knows it.
        exact_poses: whether the poses are those that the pictures were rendered or the rig was calibrated with, and
            not an estimate.
        tone: the curve through which photos of scene-linear light are seen; None where no photo is.
    """

    name: str
    views: tuple[View, ...]
    train: tuple[int, ...]
    test: tuple[int, ...]
    points: Points | None = None
    source_from_world: Tensor = field(default_factory=lambda: torch.eye(4, dtype=torch.float64))
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    up: Tensor | None = None
    exact_poses: bool = False
    tone: Tone | None = None

    @property
    def train_views(self) -> list[View]:
        return [self.views[i] for i in self.train]

    @property
    def test_views(self) -> list[View]:
        return [self.views[i] for i in self.test]

    @property
    def extent(self) -> float:
        """1.1 times the largest distance of a training camera from their centre: 3DGS's unit for step sizes.

        1 where all cameras stand in one place, which has no size.
        """
        positions = torch.cat([view.camera.positions for view in self.train_views])
        spread = float((positions - positions.mean(dim=0)).norm(dim=-1).max())
        return 1.1 * spread if spread > 1e-9 * float(positions.abs().max()) else 1.0
