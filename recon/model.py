"""What every scene representation offers to the training loop, the evaluation and the exports.

Shape letters: C cameras, H and W image size, M pixels, N Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from recon.datasets.cameras import Cameras


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
        median_depth: [C,...,1] distance along the viewing axis, world units, of the surface at which half of the light
            is stopped; 0 where less than half is. Not differentiable. None where it was not asked for, or where the
            model or the device cannot tell.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor | None = None
    means2d: Tensor | None = None
    radii: Tensor | None = None
    absgrad: Tensor | None = None
    median_depth: Tensor | None = None


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
