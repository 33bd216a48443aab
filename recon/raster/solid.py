"""Gaussians as solids with sharp edges, for looking at their shapes: CPU only, forward only.

A solid of a Gaussian is what is within `RADIUS` standard deviations of it. Blending stays as it is. Only the record of
each Gaussian is made steeper: alpha = 2^(log2 opacity - v) with v = curve dx^2 + u^2 becomes 2^(STEEP - s v), where s
is such that 1/255 is reached where it was before; so the tiles that a Gaussian touches remain the same, and alpha is
at its cap nearly up to there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from recon.datasets.cameras import Cameras
from recon.kernels.splat import CURVE, LOG2_ALPHA_MIN, LOG2_OPACITY, RECORD, SHEAR, STRETCH
from recon.raster import MAX_SIGMAS
from recon.raster.passes import as_tensors, blend, project

STEEP = 64.0  # the exponent at the centre: alpha leaves its cap at 0.94 of the radius
RADIUS = MAX_SIGMAS  # of a solid, in standard deviations, where the opacity is nearly 1


def rasterize_solid(
    parameters: Sequence[Tensor], cameras: Cameras, *, background: Tensor, near: float, far: float
) -> tuple[Tensor, Tensor]:
    """Colours [C,H,W,3], of band 0 alone, and alpha [C,H,W,1].

    Args:
        parameters: as a `Rasterizer` takes them. Opacities should be nearly 1, or else 0.
    """
    views, _, _ = project([tensor.contiguous() for tensor in parameters], cameras, 0, near, far)
    steeper = (STEEP - LOG2_ALPHA_MIN) / -LOG2_ALPHA_MIN
    for view in views:
        records = view.lists.records.reshape(-1, RECORD)
        with np.errstate(all="ignore"):  # records of what is not seen are of any content
            records[:, [STRETCH, SHEAR]] *= np.float32(steeper**0.5)
            records[:, CURVE] *= np.float32(steeper)
            records[:, LOG2_OPACITY] = STEEP
    rgb, alpha, *_ = as_tensors(blend(views, background.expand(len(cameras), 3).numpy(), False)[0])
    return rgb, alpha
