"""Rasterisers of 3D Gaussians: one contract, several implementations that give the same picture.

`reference.py` is the definition, in plain PyTorch; `cpu.py` and `gsplat_cuda.py` are the fast ones. The maths is that
of "3D Gaussian Splatting for Real-Time Radiance Field Rendering" (Kerbl et al. 2023) in gsplat's details, so that a
scene looks the same everywhere.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from recon.datasets.cameras import Cameras
from recon.model import RenderOutput

EPS2D = 0.3  # px^2 added to the diagonal of every projected covariance: no Gaussian is thinner than a pixel
ALPHA_MIN = 1 / 255  # a contribution below this is skipped
ALPHA_MAX = 0.999  # opacity of one Gaussian at one pixel is capped here
TRANSMITTANCE_MIN = 1e-4  # a pixel is finished before the Gaussian that would take its transmittance to this or below
HALF = 0.5  # the median depth is where the transmittance falls to this
MAX_SIGMAS = 3.33  # no Gaussian reaches further than this: exp(-3.33^2/2) is just under 1/255
FOV_MARGIN = 0.3  # x/z and y/z are clamped, inside the Jacobian only, to the image plus this share of tan(fov/2)


class NotFiniteError(ValueError, FloatingPointError):
    """NaN or infinity in a parameter or camera: wrong input, or a training that diverged."""


class Rasterizer(Protocol):
    """A pure function of stored Gaussian parameters and cameras, differentiable in the parameters.

    It takes the parameters as they are stored and applies the activations itself (`exp`, `sigmoid`, normalisation):
    on a CPU each would otherwise cost a pass over memory, forward and backward.
    """

    def __call__(
        self,
        means: Tensor,  # [N,3] world units
        quats: Tensor,  # [N,4] wxyz, any length but zero
        log_scales: Tensor,  # [N,3]
        logit_opacities: Tensor,  # [N]
        sh0: Tensor,  # [N,1,3]
        shN: Tensor,  # [N,K-1,3], K = 1, 4, 9 or 16
        cameras: Cameras,
        *,
        sh_degree: int,  # how many bands to use; at most the K of the coefficients allows
        background: Tensor | None = None,  # [3] or [C,3]; black if None
        near: float = 0.01,
        far: float = 1e10,
        depth: bool = True,
        absgrad: bool = False,
        median_depth: bool = False,
        antialiased: bool = False,  # opacities make up for `EPS2D`: see `reference.compensations`
    ) -> RenderOutput: ...


def rasterizer_for(device: torch.device | str) -> Rasterizer:
    """The fast rasteriser of a device: Numba on a CPU, gsplat on an NVIDIA GPU."""
    kind = torch.device(device).type
    if kind == "cuda":
        from recon.raster.gsplat_cuda import rasterize as on_gpu

        return on_gpu
    if kind == "cpu":
        from recon.raster.cpu import rasterize as on_cpu

        return on_cpu
    raise ValueError(f"no rasteriser for device {device}")
