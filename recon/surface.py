"""Gaussians as pieces of a surface: what a training that is to give a mesh adds, so that depths and normals are right.

Photos alone are satisfied by a haze of blobs as thick as a few of them. Two things make it a surface:

- Gaussians are held flat (PGSR, Chen et al. 2024): plates have a normal, the axis of their smallest scale.
- These normals, blended as colours are, are to agree with those of the depth that is rendered (2D Gaussian Splatting,
  Huang et al. 2024, eq. 14). That turns the plates into the surface and draws them together.

The second costs a rendering of its own, so it is done in some steps only, with a weight that makes up for it.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from recon import sh
from recon.batches import Batch
from recon.config import SurfaceConfig
from recon.datasets.cameras import Cameras
from recon.gaussians import Gaussians
from recon.raster import Rasterizer, rasterizer_for
from recon.render import normals_from_depth


def disagreement(
    rasterize: Rasterizer, parameters: dict[str, Tensor], cameras: Cameras, mask: Tensor | None = None
) -> Tensor:
    """1 - cosine between the normals of the Gaussians and that of the depth, blended as colours are: the mean over all
    pixels, a scalar; differentiable in the parameters but the colours.

    Args:
        rasterize: with whatever type of floats the parameters have.
        parameters: of `Gaussians.parameters`.
        cameras: a batch of one.
        mask: [1,H,W,1], 0 where a pixel is not to be used.
    """
    means, quats, log_scales = parameters["means"], parameters["quats"], parameters["log_scales"]
    normals = _thinnest_axes(quats, log_scales)
    away = ((means - cameras.positions) * normals).sum(dim=-1, keepdim=True).detach() > 0
    normals = torch.where(away, -normals, normals)
    # As colours, of which none may be negative.
    out = rasterize(
        *(means, quats, log_scales, parameters["logit_opacities"], sh.from_rgb((normals + 1) / 2)[:, None]),
        normals.new_zeros(len(means), 0, 3),
        cameras,
        sh_degree=0,
    )
    assert out.depth is not None
    blended = 2 * out.rgb[0] - out.alpha[0]
    of_depth = normals_from_depth(out.depth[0, ..., 0], cameras)
    wrong = out.alpha[0, ..., 0] - (blended * of_depth).sum(dim=-1)
    return (wrong if mask is None else wrong * (mask[0, ..., 0] != 0)).mean()


def _thinnest_axes(quats: Tensor, log_scales: Tensor) -> Tensor:
    """[N,3] the axis of the smallest scale, as `Gaussians.normals`, but differentiable and without the other two."""
    axes = torch.zeros_like(log_scales).scatter_(1, log_scales.detach().argmin(dim=-1, keepdim=True), 1.0)
    real, imaginary = torch.nn.functional.normalize(quats, dim=-1).split([1, 3], dim=-1)
    twice = 2 * torch.linalg.cross(imaginary, axes)
    return axes + real * twice + torch.linalg.cross(imaginary, twice)


def pull(model: Gaussians, batch: Batch, config: SurfaceConfig, step: int, progress: float) -> None:
    """Add the gradient of `disagreement` to those of a step, if it is one of those that compare normals."""
    if step % config.every or progress < config.begins:
        return
    rasterize = functools.partial(model.rasterizer or rasterizer_for(model.device), antialiased=model.antialiased)
    wrong = disagreement(rasterize, model.parameters(), batch.cameras, batch.mask)
    loss = config.normal_weight * config.every * wrong
    loss.backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def flatten(model: Gaussians, config: SurfaceConfig, step: int, progress: float) -> None:
    """Hold the smallest scale of each Gaussian to a share of the middle one, now and then before a step is taken."""
    if step % config.every:
        return
    limit = -min(progress / config.flat_from, 1.0) * math.log(config.flatness)
    values, axes = model.log_scales.sort(dim=1)
    model.log_scales.scatter_(1, axes[:, :1], torch.minimum(values[:, :1], values[:, 1:2] + limit))
