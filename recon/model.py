"""What every scene representation offers to the training loop, the evaluation and the exports.

Shape letters: C cameras, H and W image size, M pixels, N Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from recon.config import TrainConfig
from recon.datasets.cameras import Cameras
from recon.datasets.scene import Scene


@dataclass(frozen=True)
class RenderOutput:
    """Pictures of a scene; "..." is (H, W), or (M,) where pixels were asked for.

    Attributes:
        rgb: [C,...,3] colour, background included; 0..1 for a trained scene, never clamped here.
        alpha: [C,...,1] accumulated opacity.
        depth: [C,...,1] expected distance along the viewing axis, world units; 0 where alpha is 0.
            None where it was not asked for.
        means2d: [C,N,2] projected centres in pixels. After `backward`, its `.grad` is the screen-space gradient that
            densification reads. Gaussians that are not visible have undefined centres and zero gradient.
        radii: [C,N,2] int32 half-extents in pixels, 0 for Gaussians that are not visible.
        absgrad: [C,N,2] filled in by `backward` with the sums over pixels of absolute gradients (AbsGS, Ye et al.
            2024), where asked for.
        median_depth: [C,...,1] distance along the viewing axis, world units, at which half of the light is stopped; 0
            where less than half is. Not differentiable. None where it was not asked for, or the model or the device
            cannot tell.
        sizes: [C,2] int64 on the CPU, width and height of the cameras that `means2d`, `radii` and `absgrad` are of,
            where these are others than those of the pictures: each process of a divided scene has its own Gaussians as
            all cameras of a step see them.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor | None = None
    means2d: Tensor | None = None
    radii: Tensor | None = None
    absgrad: Tensor | None = None
    median_depth: Tensor | None = None
    sizes: Tensor | None = None


class Model(Protocol):
    """A trainable scene. Rendering is a pure function of its parameters."""

    def render(
        self,
        cameras: Cameras,
        *,
        pixels: Tensor | None = None,
        background: Tensor | None = None,
        train_frac: float = 1.0,
        depth: bool = True,
        absgrad: bool = False,
        median_depth: bool = False,
    ) -> RenderOutput:
        """Render.

        Args:
            cameras: batch of C.
            pixels: [C,M,2] image positions to render instead of whole images; ray models only.
            background: [3] or [C,3] colour behind the scene; black if None.
            train_frac: progress of training, 0..1, 1 when it is over; every schedule inside a model follows from it.
            depth: whether depth is wanted; without it training saves the work.
            absgrad: whether `RenderOutput.absgrad` is wanted.
            median_depth: whether `RenderOutput.median_depth` is wanted.
        """
        ...

    def param_groups(self, extent: float) -> list[dict[str, Any]]:
        """Optimiser groups: `params`, `lr`, `name`, and `lr_final`, the learning rate at the end of training."""
        ...

    def regularisers(self) -> dict[str, Tensor]:
        """Named scalar terms that are added to the loss, weights included."""
        ...

    def state_dict(self) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class RayBatch:
    """Pixels of several photos to learn from.

    Attributes:
        cameras: batch of C; their photos may have other sizes than it says.
        pixels: [C,M,2] positions in these photos.
        rgb: [C,M,3] what they show, over `background`.
        background: [3].
        photos: [C] int64 on the CPU, which of the photos to learn from they are.
        seed, step: what the step's random numbers are drawn from; see `rng.generator`.
    """

    cameras: Cameras
    pixels: Tensor
    rgb: Tensor
    background: Tensor
    photos: Tensor
    seed: int
    step: int


class Field(Model, Protocol):
    """A radiance field: a model of rays, which learns from single pixels. It is made from a capture or a checkpoint."""

    unit: ClassVar[str]  # what `len` counts, in the plural
    kernels: ClassVar[tuple[str, ...]]  # modules of `recon.kernels` that a training calls

    @property
    def ray_count(self) -> int | None:
        """How many rays the next step takes, for each part of a batch; None: as many as the settings say."""
        ...

    @classmethod
    def start(cls, scene: Scene, settings: TrainConfig, device: torch.device) -> Self:
        """The field that a training on a normalised scene begins with."""
        ...

    @classmethod
    def restore(cls, settings: TrainConfig, tensors: dict[str, Tensor], device: torch.device) -> Self:
        """The field whose `state_dict` was `tensors`. KeyError, ValueError or RuntimeError if that cannot be."""
        ...

    @staticmethod
    def memory(settings: TrainConfig) -> tuple[int, int]:
        """Bytes that the parameters may take at most, and those of a step beside them."""
        ...

    def __len__(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def density(self, points: Tensor) -> Tensor:
        """[P] how much light a short way stops at world points [P,3], per world unit: 1 - exp(-density length) of it.

        On the CPU, without gradients, float32. Where a field measures lengths otherwise than the world does, such as
        far outside, that may be right in some directions only.
        """
        ...

    def learn(self, batch: RayBatch, progress: float) -> tuple[Tensor, Tensor | None]:
        """Leave the gradient of a batch in the `.grad` of the parameters.

        Returns the loss, and which rows [N] of the parameters have a gradient: uint8, not 0 where they do; None: all.
        """
        ...

    def after_step(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Called after each step of the optimiser, with the share of the training that is done then: what changes with
        that, such as the resolution, changes here, the optimiser's groups included."""
        ...
