"""The rasteriser of `gsplat_cuda.py` for several cameras of a large scene, most of which each of them does not see.

Only visible pairs of a camera and a Gaussian have rows in what is computed, [M,...], which are sorted by camera and
then by Gaussian, as gsplat's packed functions make them. Of the others no more is kept than `RenderOutput` holds. The
program waits for the GPU to learn how many rows there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon.model import RenderOutput
from recon.raster import EPS2D, gsplat_calls
from recon.raster.gsplat_blending import Pairs, Projected, View, drawn, of_cameras, of_logits

# So many rows at once are given coefficients of their own, 200 MB of them. The kernels' indices allow 89 million rows.
ROWS = 1 << 20


def offered() -> bool:
    """Whether the gsplat that is installed can do this."""
    compiled = gsplat_calls.functions()
    return all(hasattr(compiled, name) for name in gsplat_calls.PACKED)


def rasterize(view: View, parameters: Sequence[Tensor], backgrounds: Tensor | None, *, absgrad: bool) -> RenderOutput:
    """See `recon.raster.Rasterizer`; the centres of what is not visible are 0.

    Args:
        parameters: the six of at least one Gaussian, contiguous.
        backgrounds: [C,3]
    """
    cameras, count = view.cameras, len(view.cameras)
    means2d, conics, channels, opacities, radii, depths, *ids = Projection.apply(
        view, cameras.viewmats, cameras.Ks, *parameters
    )
    pairs = Pairs(count, *ids)
    rows = _rows(pairs, len(parameters[0]))
    absolute = torch.zeros_like(means2d, requires_grad=False) if absgrad else None
    of_rows = means2d.new_zeros(len(rows), 2, requires_grad=False) if absgrad else None
    if means2d.requires_grad:
        means2d.retain_grad()
    projected = Projected(
        Centres.apply(rows, absolute, of_rows, means2d),
        *(conics, channels, opacities, radii.view(-1, 2)[rows], depths),
    )
    rgb, alpha, expected = drawn(
        projected, (cameras.width, cameras.height), backgrounds, of_rows, pairs, depth=view.depth
    )
    return RenderOutput(rgb, alpha, expected, means2d, radii, absgrad=absolute)


class Projection(torch.autograd.Function):
    """Parameters to what the pictures are blended from.

    Returns means2d [C,N,2], conics [M,3], channels [M,3 or 4] (colour and depth), opacities [M]; and without a gradient
    radii [C,N,2], depths [M], and of which camera and which Gaussian each row is, both [M] int64.
    """

    @staticmethod
    def forward(
        ctx: Any,
        view: View,
        viewmats: Tensor,
        Ks: Tensor,
        means: Tensor,
        quats: Tensor,
        log_scales: Tensor,
        logit_opacities: Tensor,
        sh0: Tensor,
        shN: Tensor,
    ) -> tuple[Tensor, ...]:
        compiled = gsplat_calls.functions()
        scales, opacities = log_scales.exp(), logit_opacities.sigmoid()
        bounds, batches, cameras, gaussians, radii, means2d, depths, conics, factors = (
            compiled.projection_ewa_3dgs_packed_fwd(
                *(means, None, quats, scales, opacities, *view.matrices_and_size()),
                *(EPS2D, view.near, view.far, 0.0, view.antialiased, compiled.CameraModelType.PINHOLE),
            )
        )
        ctx.view, ctx.bounds = view, bounds.tolist()
        channels = means.new_empty(len(gaussians), 4 if view.depth else 3)
        positions = view.cameras.positions
        for camera, part in _parts(ctx.bounds):
            seen = _seen(positions[camera], gaussians[part], means, sh0, shN)
            channels[part, :3] = compiled.spherical_harmonics_fwd(view.sh_degree, *seen, None)
        channels[:, :3].add_(0.5).clamp_min_(0)
        if view.depth:
            channels[:, 3] = depths
        shown = opacities[gaussians]
        if view.antialiased:
            shown.mul_(factors)
        ctx.save_for_backward(
            *(means, quats, scales, logit_opacities, opacities, sh0, shN),
            *(batches, cameras, gaussians, conics, channels, factors if view.antialiased else None),
        )
        pairs = Pairs(len(view.cameras), cameras, gaussians)
        placed = [_placed(values, pairs, len(means)) for values in (means2d, radii)]
        ctx.mark_non_differentiable(placed[1], depths, cameras, gaussians)
        ctx.set_materialize_grads(False)
        return placed[0], conics, channels, shown, placed[1], depths, cameras, gaussians

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        g_means2d: Tensor | None,
        g_conics: Tensor | None,
        g_channels: Tensor | None,
        g_opacities: Tensor | None,
        *_: None,
    ) -> tuple[Tensor | None, ...]:
        compiled = gsplat_calls.functions()
        means, quats, scales, logits, opacities, sh0, shN, *of_rows = ctx.saved_tensors
        batches, cameras, gaussians, conics, channels, factors = of_rows
        view = ctx.view
        _, with_viewmats, with_Ks, *wanted = ctx.needs_input_grad
        # A loss of the centres alone has no gradient of the others.
        if g_means2d is None:
            g_means2d = conics.new_zeros(len(conics), 2)
        else:
            g_means2d = g_means2d.reshape(-1, 2)[_rows(Pairs(len(view.cameras), cameras, gaussians), len(means))]
        g_conics = torch.zeros_like(conics) if g_conics is None else g_conics
        g_channels = torch.zeros_like(channels) if g_channels is None else g_channels
        g_depths = g_channels[:, 3].contiguous() if view.depth else conics.new_zeros(len(conics))
        g_factors = None
        if factors is not None:
            g_opacities = torch.zeros_like(factors) if g_opacities is None else g_opacities
            g_factors, g_opacities = g_opacities * opacities[gaussians], g_opacities * factors
        g_means, _, g_quats, g_scales, g_viewmats = compiled.projection_ewa_3dgs_packed_bwd(
            *(means, None, quats, scales, *view.matrices_and_size(), EPS2D, compiled.CameraModelType.PINHOLE),
            *(batches, cameras, gaussians, conics, factors, g_means2d, g_depths, g_conics, g_factors),
            *(with_viewmats or with_Ks, False),
        )
        g_coefficients = means.new_zeros(len(means), 1 + shN.shape[1], 3)
        g_positions = means.new_zeros(len(view.cameras), 3)
        positions = view.cameras.positions
        for camera, part in _parts(ctx.bounds):
            ids = gaussians[part]
            directions, coefficients = _seen(positions[camera], ids, means, sh0, shN)
            g_colours = (g_channels[part, :3] * (channels[part, :3] > 0)).contiguous()
            of_coefficients, of_directions = compiled.spherical_harmonics_bwd(
                *(coefficients.shape[1], view.sh_degree, directions, coefficients, None, g_colours, True)
            )
            g_coefficients.index_add_(0, ids, of_coefficients)
            g_means.index_add_(0, ids, of_directions)
            g_positions[camera] += of_directions.sum(dim=0)
        g_logits = None
        if g_opacities is not None:
            summed = torch.zeros_like(opacities).index_add_(0, gaussians, g_opacities)
            g_logits = of_logits(logits, opacities, summed)
        of_matrices = of_cameras(view.cameras, g_viewmats, g_positions if with_viewmats else None, with_Ks)
        gradients = (
            *(g_means, g_quats, g_scales.mul_(scales), g_logits),
            *(g_coefficients[:, :1], g_coefficients[:, 1:]),
        )
        of_parameters = (g if want else None for g, want in zip(gradients, wanted, strict=True))
        return None, *of_matrices, *of_parameters


class Centres(torch.autograd.Function):
    """Those [M,2] of the rows, of all [C,N,2]; the way back puts the rows' absolute gradients in their places, too."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, absolute: Tensor | None, of_rows: Tensor | None, means2d: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape, ctx.absolute, ctx.of_rows = means2d.shape, absolute, of_rows
        return means2d.view(-1, 2)[rows]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        if ctx.absolute is not None:
            ctx.absolute.view(-1, 2).index_copy_(0, rows, ctx.of_rows)
        everywhere = gradient.new_zeros(ctx.shape)
        everywhere.view(-1, 2).index_copy_(0, rows, gradient)
        return None, None, None, everywhere


def _rows(pairs: Pairs, gaussians: int) -> Tensor:
    """[M] where the pairs are among all C N."""
    return pairs.cameras * gaussians + pairs.gaussians


def _placed(values: Tensor, pairs: Pairs, gaussians: int) -> Tensor:
    """Values [M,2] in their places [C,N,2], among zeros."""
    everywhere = values.new_zeros(pairs.pictures * gaussians, 2)
    return everywhere.index_copy_(0, _rows(pairs, gaussians), values).view(pairs.pictures, gaussians, 2)


def _parts(bounds: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """The cameras with their rows, at most `ROWS` at once; `bounds` [C+1] are where those of each begin and end."""
    for camera, (start, end) in enumerate(itertools.pairwise(bounds)):
        for at in range(start, end, ROWS):
            yield camera, slice(at, min(at + ROWS, end))


def _seen(position: Tensor, ids: Tensor, means: Tensor, sh0: Tensor, shN: Tensor) -> tuple[Tensor, Tensor]:
    """Directions [m,3] from a camera's position to Gaussians, which the kernel normalises, and coefficients [m,K,3]."""
    return means[ids] - position, torch.cat([sh0[ids], shN[ids]], dim=1)
