"""gsplat's compiled functions in PyTorch on the CPU: what `gsplat_cuda.py` asks of them can be tried without a GPU.

They take the arguments that gsplat's declare (`test_gsplat_stand_in.py` compares them), refuse what those would refuse
or read wrongly, such as tensors that are not contiguous, and leave undefined what those do: the places of Gaussians
that are not visible hold NaN. Packed rows are those of visible Gaussians alone.
"""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import Tensor

from gsplat_stand_in_projection import NAN, gradients_of, take
from gsplat_stand_in_projection import CameraModelType as CameraModelType
from gsplat_stand_in_projection import projection_ewa_3dgs_fused_bwd as projection_ewa_3dgs_fused_bwd
from gsplat_stand_in_projection import projection_ewa_3dgs_fused_fwd as projection_ewa_3dgs_fused_fwd
from gsplat_stand_in_projection import projection_ewa_3dgs_packed_bwd as projection_ewa_3dgs_packed_bwd
from gsplat_stand_in_projection import projection_ewa_3dgs_packed_fwd as projection_ewa_3dgs_packed_fwd
from recon import sh
from recon.raster import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all that asks for gsplat's compiled functions get these."""
    backend = types.ModuleType("gsplat.cuda._backend")
    backend.__dict__["_C"] = sys.modules[__name__]
    for name in ("gsplat", "gsplat.cuda"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, backend.__name__, backend)


def spherical_harmonics_fwd(degrees_to_use: int, dirs: Tensor, coeffs: Tensor, masks: Tensor | None) -> Tensor:
    take(dirs, coeffs, masks)
    assert (dirs.shape, coeffs.shape[-1]) == ((*coeffs.shape[:-2], 3), 3)
    colours = _colours(degrees_to_use, dirs, coeffs)
    if masks is not None:
        assert masks.shape == dirs.shape[:-1]
        colours[~masks] = NAN
    return colours


def spherical_harmonics_bwd(
    K: int,
    degrees_to_use: int,
    dirs: Tensor,
    coeffs: Tensor,
    masks: Tensor | None,
    v_colors: Tensor,
    compute_v_dirs: bool,
) -> tuple[Tensor, Tensor]:
    take(dirs, coeffs, masks, v_colors)
    assert (coeffs.shape[-2], compute_v_dirs, v_colors.shape) == (K, True, dirs.shape)
    shown = torch.ones(dirs.shape[:-1], dtype=torch.bool) if masks is None else masks
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (coeffs, dirs)]
        total = (_colours(degrees_to_use, inputs[1], inputs[0])[shown] * v_colors[shown]).sum()
        g_coeffs, g_dirs = gradients_of(total, inputs)
    return g_coeffs, g_dirs


def _colours(degree: int, directions: Tensor, coefficients: Tensor) -> Tensor:
    basis = sh.basis(torch.nn.functional.normalize(directions, dim=-1), degree)
    return torch.einsum("...k,...kc->...c", basis, coefficients[..., : basis.shape[-1], :])


def intersect_tile(
    means2d: Tensor,
    radii: Tensor,
    depths: Tensor,
    image_ids: Tensor | None,
    gaussian_ids: Tensor | None,
    I: int,  # noqa: E741 (gsplat's name)
    tile_size: int,
    tile_width: int,
    tile_height: int,
    sort: bool,
    segmented: bool,
) -> tuple[None, Tensor, Tensor]:
    """Every visible Gaussian in every tile of its camera: what a tile does not need changes no picture."""
    take(means2d, radii, depths, image_ids, gaussian_ids)
    assert (sort, segmented) == (True, False)
    assert (radii.shape, depths.shape) == (means2d.shape, means2d.shape[:-1])
    if means2d.dim() == 2:
        assert image_ids is not None
        assert gaussian_ids is not None
        assert [ids.dtype for ids in (image_ids, gaussian_ids)] == [torch.int64] * 2
        assert image_ids.shape == gaussian_ids.shape == depths.shape
        images = image_ids
    else:
        assert (image_ids, gaussian_ids, I) == (None, None, len(means2d))
        images = torch.arange(I).repeat_interleave(means2d.shape[1])
    there, distances = (radii.reshape(-1, 2) > 0).all(dim=-1), depths.reshape(-1)
    keys, members, count = [], [], tile_width * tile_height
    for image in range(I):
        seen = torch.nonzero(there & (images == image))[:, 0]
        seen = seen[torch.argsort(distances[seen], stable=True)]
        members += [seen] * count
        keys += [torch.full_like(seen, image * count + n) for n in range(count)]
    return None, torch.cat(keys), torch.cat(members).int()


def intersect_offset(isect_ids: Tensor, I: int, tile_width: int, tile_height: int) -> Tensor:  # noqa: E741
    tiles = torch.arange(I * tile_width * tile_height)
    return torch.searchsorted(isect_ids, tiles).reshape(I, tile_height, tile_width).int()


def rasterize_to_pixels_3dgs_fwd(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    backgrounds: Tensor | None,
    masks: None,
    image_width: int,
    image_height: int,
    tile_size: int,
    tile_offsets: Tensor,
    flatten_ids: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    take(means2d, conics, colors, opacities, backgrounds, tile_offsets, flatten_ids)
    assert masks is None
    _fit(means2d, conics, colors, opacities, backgrounds, tile_offsets)
    size, tiles = (image_width, image_height, tile_size), (tile_offsets, flatten_ids)
    pictures, alpha, _ = _blended(means2d, conics, colors, opacities, backgrounds, size, tiles)
    return pictures, alpha, torch.zeros(*alpha.shape[:3], dtype=torch.int32)


def rasterize_to_pixels_3dgs_bwd(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    backgrounds: Tensor | None,
    masks: None,
    image_width: int,
    image_height: int,
    tile_size: int,
    tile_offsets: Tensor,
    flatten_ids: Tensor,
    render_alphas: Tensor,
    last_ids: Tensor,
    v_render_colors: Tensor,
    v_render_alphas: Tensor,
    absgrad: bool,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    take(means2d, conics, colors, opacities, backgrounds, tile_offsets, flatten_ids)
    take(render_alphas, last_ids, v_render_colors, v_render_alphas)
    assert masks is None
    _fit(means2d, conics, colors, opacities, backgrounds, tile_offsets)
    size, tiles = (image_width, image_height, tile_size), (tile_offsets, flatten_ids)
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (means2d, conics, colors, opacities)]
        m, c, colours, o = inputs
        pictures, alpha, centres = _blended(m, c, colours, o, backgrounds, size, tiles)
        assert (v_render_colors.shape, v_render_alphas.shape) == (pictures.shape, alpha.shape)
        total = (pictures * v_render_colors).sum() + (alpha * v_render_alphas).sum()
        gradients = gradients_of(total, [*inputs, *(centre for _, centre in centres)])
    absolute = torch.zeros_like(means2d) if absgrad else None
    if absolute is not None:
        for (rows, _), gradient in zip(centres, gradients[4:], strict=True):
            absolute.reshape(-1, 2)[rows] += gradient.abs().sum(dim=(1, 2))
    return absolute, gradients[0], gradients[1], gradients[2], gradients[3]


def _fit(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    backgrounds: Tensor | None,
    tile_offsets: Tensor,
) -> None:
    """What gsplat's kernels take for granted: [I,N,...] or, packed, [M,...], and a background for each picture."""
    rows, images = means2d.shape[:-1], len(tile_offsets)
    assert len(rows) in (1, 2)
    assert len(rows) == 1 or len(means2d) == images
    assert (conics.shape, colors.shape[:-1], opacities.shape) == ((*rows, 3), rows, rows)
    assert colors.shape[-1] in (3, 4)
    assert backgrounds is None or backgrounds.shape == (images, colors.shape[-1])


def _blended(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    backgrounds: Tensor | None,
    size: tuple[int, int, int],
    tiles: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Pictures, alpha, and for each tile which Gaussians it has, with a centre [M,h,w,2] for each of its pixels."""
    (width, height, side), (offsets, members) = size, tiles
    ends = torch.cat([offsets.reshape(-1)[1:], torch.tensor([len(members)])]).reshape(offsets.shape)
    packed = (means2d, conics, colors, opacities)
    flat = packed if means2d.dim() == 2 else [value.flatten(0, 1) for value in packed]
    pictures, alphas, centres = [], [], []
    for camera in range(len(offsets)):
        picture, alpha = [], []
        for row in range(offsets.shape[1]):
            of_row = []
            for column in range(offsets.shape[2]):
                rows = members[offsets[camera, row, column] : ends[camera, row, column]].long()
                ys, xs = torch.meshgrid(
                    torch.arange(row * side, min((row + 1) * side, height)) + 0.5,
                    torch.arange(column * side, min((column + 1) * side, width)) + 0.5,
                    indexing="ij",
                )
                mean, conic, colour, opacity = (value[rows] for value in flat)
                centre = mean[:, None, None].expand(-1, *xs.shape, -1)
                centres.append((rows, centre))
                of_row.append(_tile(torch.stack([xs, ys], dim=-1) - centre, conic, colour, opacity))
            picture.append(torch.cat([part[0] for part in of_row], dim=1))
            alpha.append(torch.cat([part[1] for part in of_row], dim=1))
        pictures.append(torch.cat(picture))
        alphas.append(torch.cat(alpha)[..., None])
    made, alpha_made = torch.stack(pictures), torch.stack(alphas)
    if backgrounds is not None:
        made = made + (1 - alpha_made) * backgrounds[:, None, None]
    return made, alpha_made, centres


def _tile(offset: Tensor, conic: Tensor, colour: Tensor, opacity: Tensor) -> tuple[Tensor, Tensor]:
    """Colours [h,w,D] and alpha [h,w] of M Gaussians in order, at offsets [M,h,w,2] from their centres."""
    x, y = offset.unbind(dim=-1)
    a, b, c = (value[:, None, None] for value in conic.unbind(dim=-1))
    power = 0.5 * (a * x * x + c * y * y) + b * x * y
    alpha = (opacity[:, None, None] * torch.exp(-power)).clamp_max(ALPHA_MAX)
    reached = (alpha >= ALPHA_MIN) & (power >= 0)
    after = torch.cumprod(1 - torch.where(reached, alpha, 0), dim=0)
    drawn = reached & ~((reached & (after.detach() <= TRANSMITTANCE_MIN)).cumsum(dim=0) > 0)
    through = torch.cumprod(1 - torch.where(drawn, alpha, 0), dim=0)
    before = torch.cat([torch.ones_like(through[:1]), through])[:-1]
    weights = torch.where(drawn, alpha, 0) * before
    left = through[-1] if len(through) else torch.ones(offset.shape[1:3])
    return torch.einsum("mhw,md->hwd", weights, colour), 1 - left


def adam(
    param: Tensor,
    param_grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    valid: Tensor | None,
    lr: float,
    b1: float,
    b2: float,
    eps: float,
) -> None:
    take(param, param_grad, exp_avg, exp_avg_sq, valid)
    rows = torch.ones(len(param), dtype=torch.bool) if valid is None else valid
    assert rows.dtype == torch.bool
    with torch.no_grad():
        exp_avg[rows] = b1 * exp_avg[rows] + (1 - b1) * param_grad[rows]
        exp_avg_sq[rows] = b2 * exp_avg_sq[rows] + (1 - b2) * param_grad[rows] ** 2
        param[rows] -= lr * exp_avg[rows] / (exp_avg_sq[rows].sqrt() + eps)
