"""Cameras: the one place where the geometric conventions are written down.

- Camera axes are OpenCV's: +x right, +y down, +z forward. A format that uses others is converted once, by its loader.
- `viewmats` map world to camera (`camera_from_world`); `c2w` is the inverse.
- Pixels: the centre of the top-left pixel is at (0.5, 0.5); the image covers [0, width] x [0, height].
- Cameras are ideal pinholes. Lens distortion is removed when a scene is loaded (see `images.py`).

Shape letters: C cameras, M pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

# OpenGL/Blender camera axes (+x right, +y up, +z backward) to OpenCV's: negate y and z.
OPENCV_FROM_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras that share one image size. Nothing in it is ever changed.

    Attributes:
        viewmats: [C,4,4] world to camera, OpenCV axes.
        Ks: [C,3,3] intrinsics in pixels.
        width, height: image size in pixels, the same for the whole batch.
    """

    viewmats: Tensor
    Ks: Tensor
    width: int
    height: int

    def __post_init__(self) -> None:
        count = self.viewmats.shape[0]
        if self.viewmats.shape != (count, 4, 4) or self.Ks.shape != (count, 3, 3):
            raise ValueError(f"viewmats {tuple(self.viewmats.shape)}, Ks {tuple(self.Ks.shape)}: not [C,4,4], [C,3,3]")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"image size {self.width}x{self.height} is not positive")

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Self:
        """A sub-batch; an integer gives a batch of one."""
        if isinstance(index, int):
            index = [index]
        elif isinstance(index, Sequence):
            index = list(index)
        return self._with(viewmats=self.viewmats[index], Ks=self.Ks[index])

    def _with(
        self,
        *,
        viewmats: Tensor | None = None,
        Ks: Tensor | None = None,
        width: int | None = None,
        height: int | None = None,
    ) -> Self:
        return type(self)(
            self.viewmats if viewmats is None else viewmats,
            self.Ks if Ks is None else Ks,
            self.width if width is None else width,
            self.height if height is None else height,
        )

    @property
    def c2w(self) -> Tensor:
        """[C,4,4] camera to world."""
        return torch.linalg.inv(self.viewmats)

    @functools.cached_property  # on a GPU, to compute it in every step would be as long as a large kernel
    def positions(self) -> Tensor:
        """[C,3] camera centres, world units."""
        rotation, translation = self.viewmats[:, :3, :3], self.viewmats[:, :3, 3]
        return -(rotation.transpose(1, 2) @ translation[..., None])[..., 0]

    @property
    def forward(self) -> Tensor:
        """[C,3] unit viewing directions (+z of the camera) in the world."""
        return self.viewmats[:, 2, :3]

    @property
    def up(self) -> Tensor:
        """[C,3] unit up directions (-y of the camera) in the world."""
        return -self.viewmats[:, 1, :3]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same cameras there; these ones, if they are there already."""
        # To a GPU nobody waits for what is small; from there it must have arrived.
        ahead = device is not None and torch.device(device).type == "cuda"
        viewmats, Ks = (m.to(device=device, dtype=dtype, non_blocking=ahead) for m in (self.viewmats, self.Ks))
        if viewmats is self.viewmats and Ks is self.Ks:
            return self
        return self._with(viewmats=viewmats, Ks=Ks)

    def resized(self, width: int, height: int) -> Self:
        """The same cameras for an image of another size: the intrinsics follow the pixel grid exactly."""
        scale = self.Ks.new_tensor([width / self.width, height / self.height, 1.0])
        return self._with(Ks=self.Ks * scale[None, :, None], width=width, height=height)

    def transformed(self, target_from_world: Tensor) -> Self:
        """The same cameras in a world moved by a similarity `target_from_world` [4,4] (rotation, scale, translation).

        A view matrix has no scale, so the camera's own unit grows with the world's.
        """
        scale = similarity_scale(target_from_world)
        moved = self.viewmats @ torch.linalg.inv(target_from_world).to(self.viewmats)
        viewmats = moved.clone()
        viewmats[:, :3] *= scale
        return self._with(viewmats=viewmats)

    def rays(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """World rays through pixel positions, one set of pixels for each camera.

        Args:
            pixels: [C,M,2] or [M,2] (the same for all) image positions (x, y); pixel centres are at +0.5.
        Returns:
            origins [C,M,3], directions [C,M,3] of unit length.
        """
        pixels = pixels.to(self.Ks).expand(len(self), -1, 2)
        homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
        in_camera = homogeneous @ torch.linalg.inv(self.Ks).transpose(1, 2)
        directions = in_camera @ self.viewmats[:, :3, :3]
        directions = directions / directions.norm(dim=-1, keepdim=True)
        return self.positions[:, None].expand_as(directions), directions

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Image positions [C,P,2] (px) and depths along the axis [C,P] (world units) of world points [P,3]."""
        in_camera = points.to(self.viewmats) @ self.viewmats[:, :3, :3].transpose(1, 2)
        in_camera = in_camera + self.viewmats[:, None, :3, 3]
        image = in_camera @ self.Ks.transpose(1, 2)
        return image[..., :2] / image[..., 2:], in_camera[..., 2]

    def pixels_of(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Of a batch of one: the pixels [P,2] (column, row) that show world points [P,3], and whether [P] they are in
        the image; where not, the pixel is the first."""
        positions, depth = (values[0] for values in self.project(points))
        size = positions.new_tensor([self.width, self.height])
        inside = (depth > 0) & ((positions >= 0) & (positions < size)).all(dim=-1)
        return torch.where(inside[:, None], positions, 0).long(), inside

    @classmethod
    def from_c2w(cls, c2w: Tensor, Ks: Tensor, width: int, height: int) -> Self:
        """From camera-to-world matrices [C,4,4] with OpenCV axes."""
        return cls(torch.linalg.inv(c2w), Ks, width, height)

    @classmethod
    def cat(cls, cameras: Sequence[Self]) -> Self:
        """One batch of several; all must share the image size."""
        sizes = {(c.width, c.height) for c in cameras}
        if len(sizes) != 1:
            raise ValueError(f"cannot join cameras of {len(sizes)} image sizes: {sorted(sizes)}")
        return cls(torch.cat([c.viewmats for c in cameras]), torch.cat([c.Ks for c in cameras]), *sizes.pop())


def similarity_scale(transform: Tensor) -> Tensor:
    """The scale factor of a similarity transform [4,4]."""
    return torch.linalg.det(transform[:3, :3].double()).abs() ** (1 / 3)


def intrinsics(fx: float, fy: float, cx: float, cy: float) -> Tensor:
    """One intrinsic matrix [1,3,3], float64, from focal lengths and principal point in pixels."""
    return torch.tensor([[[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]], dtype=torch.float64)


def simple_focal(camera: Cameras) -> float | None:
    """The focal length (px) of a batch of one with square pixels and its principal point in the centre, else None."""
    focal = camera.Ks[0, 0, 0]
    simple = intrinsics(float(focal), float(focal), camera.width / 2, camera.height / 2)
    return float(focal) if torch.allclose(camera.Ks.double().cpu(), simple, rtol=1e-6, atol=1e-6) else None


def look_at(eyes: Tensor, targets: Tensor, up: Tensor) -> Tensor:
    """Camera-to-world matrices [C,4,4] (OpenCV axes) at `eyes` [C,3], looking at `targets` [C,3], with `up` [3]."""
    forward = targets - eyes
    forward = forward / forward.norm(dim=-1, keepdim=True)
    right = torch.linalg.cross(forward, up.to(forward).expand_as(forward))
    right = right / right.norm(dim=-1, keepdim=True)
    down = torch.linalg.cross(forward, right)
    c2w = torch.eye(4, dtype=eyes.dtype, device=eyes.device).repeat(len(eyes), 1, 1)
    c2w[:, :3] = torch.stack([right, down, forward, eyes], dim=-1)
    return c2w
