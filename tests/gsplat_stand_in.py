"""gsplat's compiled functions in PyTorch on the CPU: what `gsplat_cuda.py` asks of them can be tried without a GPU.

They take the arguments that gsplat's declare (`test_gsplat_stand_in.py` compares them), refuse what those would refuse
or read wrongly, such as tensors that are not contiguous, and leave undefined what those do: the places of Gaussians
that are not visible hold NaN.
"""

from __future__ import annotations

import enum
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor

from recon import sh
from recon.datasets.cameras import Cameras
from recon.raster import ALPHA_MAX, ALPHA_MIN, EPS2D, TRANSMITTANCE_MIN, reference

NAN = float("nan")
DOUBLE = torch.float64


class CameraModelType(enum.IntEnum):
    PINHOLE = 0


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all that asks for gsplat's compiled functions get these."""
    backend = types.ModuleType("gsplat.cuda._backend")
    backend.__dict__["_C"] = sys.modules[__name__]
    for name in ("gsplat", "gsplat.cuda"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, backend.__name__, backend)


def _take(*tensors: Tensor | None) -> None:
    """What gsplat's CHECK_INPUT asks for."""
    for tensor in tensors:
        if tensor is not None:
            assert tensor.is_contiguous(), f"{tuple(tensor.shape)}: not contiguous"
            assert tensor.dtype in (torch.float32, torch.int32, torch.int64, torch.bool), tensor.dtype


def _projected(means: Tensor, quats: Tensor, scales: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """means2d, depths, conics, and the covariances that these are the inverses of: in double precision, since autograd
    goes through an inverse of matrices that may be nearly singular."""
    means, quats, log_scales, cameras = means.double(), quats.double(), scales.double().log(), cameras.to("cpu", DOUBLE)
    parts = [reference.project(means, quats, log_scales, cameras[i]) for i in range(len(cameras))]
    conics = [torch.linalg.inv(covariances).reshape(-1, 4)[:, [0, 1, 3]] for _, covariances, _ in parts]
    means2d, depths = torch.stack([part[0] for part in parts]), torch.stack([part[2] for part in parts])
    return means2d, depths, torch.stack(conics), torch.stack([part[1] for part in parts])


def projection_ewa_3dgs_fused_fwd(
    means: Tensor,
    covars: None,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    image_width: int,
    image_height: int,
    eps2d: float,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
    calc_compensations: bool,
    camera_model: CameraModelType,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    _take(means, quats, scales, opacities, viewmats, Ks)
    assert (covars, eps2d, radius_clip) == (None, EPS2D, 0.0)
    assert camera_model == CameraModelType.PINHOLE
    cameras = Cameras(viewmats, Ks, image_width, image_height)
    means2d, depths, conics, covariances = _projected(means, quats, scales, cameras)
    factors = torch.stack([reference.compensations(covariances[i]) for i in range(len(cameras))])
    shown = opacities.double() * (factors if calc_compensations else torch.ones_like(factors))
    radii = torch.stack(
        [
            reference.visible_radii(
                *(means2d[i], covariances[i], depths[i], shown[i], cameras[i], near_plane, far_plane)
            )
            for i in range(len(cameras))
        ]
    )
    gone = (radii == 0).any(dim=-1)
    for values in (means2d, depths, conics):
        values[gone] = NAN
    factors[gone] = 0
    of_blur = factors.float() if calc_compensations else torch.empty(0)
    return radii, means2d.float(), depths.float(), conics.float(), of_blur


def projection_ewa_3dgs_fused_bwd(
    means: Tensor,
    covars: None,
    quats: Tensor,
    scales: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    image_width: int,
    image_height: int,
    eps2d: float,
    camera_model: CameraModelType,
    radii: Tensor,
    conics: Tensor,
    compensations: Tensor | None,
    v_means2d: Tensor,
    v_depths: Tensor,
    v_conics: Tensor,
    v_compensations: Tensor | None,
    viewmats_requires_grad: bool,
) -> tuple[Tensor, None, Tensor, Tensor, Tensor | None]:
    _take(means, quats, scales, viewmats, Ks, radii, conics, v_means2d, v_depths, v_conics, v_compensations)
    assert (covars, eps2d, compensations is None) == (None, EPS2D, v_compensations is None)
    assert camera_model == CameraModelType.PINHOLE
    seen = (radii > 0).all(dim=-1)
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (means, quats, scales, viewmats)]
        cameras = Cameras(inputs[3], Ks, image_width, image_height)
        m, d, c, covariances = _projected(inputs[0], inputs[1], inputs[2], cameras)
        pairs = [(m, v_means2d), (d, v_depths), (c, v_conics)]
        if v_compensations is not None:
            pairs.append((torch.stack([reference.compensations(each) for each in covariances]), v_compensations))
        total = sum((value[seen] * given[seen]).sum() for value, given in pairs)
        g_means, g_quats, g_scales, g_viewmats = _gradients(total, inputs)
    return g_means, None, g_quats, g_scales, g_viewmats if viewmats_requires_grad else None


def spherical_harmonics_fwd(degrees_to_use: int, dirs: Tensor, coeffs: Tensor, masks: Tensor) -> Tensor:
    _take(dirs, coeffs, masks)
    colours = _colours(degrees_to_use, dirs, coeffs)
    colours[~masks] = NAN
    return colours


def spherical_harmonics_bwd(
    K: int,
    degrees_to_use: int,
    dirs: Tensor,
    coeffs: Tensor,
    masks: Tensor,
    v_colors: Tensor,
    compute_v_dirs: bool,
) -> tuple[Tensor, Tensor]:
    _take(dirs, coeffs, masks, v_colors)
    assert (coeffs.shape[-2], compute_v_dirs) == (K, True)
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (coeffs, dirs)]
        total = (_colours(degrees_to_use, inputs[1], inputs[0])[masks] * v_colors[masks]).sum()
        g_coeffs, g_dirs = _gradients(total, inputs)
    return g_coeffs, g_dirs


def _colours(degree: int, directions: Tensor, coefficients: Tensor) -> Tensor:
    basis = sh.basis(torch.nn.functional.normalize(directions, dim=-1), degree)
    return torch.einsum("...k,...kc->...c", basis, coefficients[..., : basis.shape[-1], :])


def intersect_tile(
    means2d: Tensor,
    radii: Tensor,
    depths: Tensor,
    image_ids: None,
    gaussian_ids: None,
    I: int,  # noqa: E741 (gsplat's name)
    tile_size: int,
    tile_width: int,
    tile_height: int,
    sort: bool,
    segmented: bool,
) -> tuple[None, Tensor, Tensor]:
    """Every visible Gaussian in every tile of its camera: what a tile does not need changes no picture."""
    _take(means2d, radii, depths)
    assert (image_ids, gaussian_ids, I, sort, segmented) == (None, None, len(means2d), True, False)
    keys, members = [], []
    for camera in range(I):
        seen = torch.nonzero((radii[camera] > 0).all(dim=-1))[:, 0]
        seen = seen[torch.argsort(depths[camera, seen], stable=True)]
        members += [camera * means2d.shape[1] + seen] * (tile_width * tile_height)
        keys += [torch.full_like(seen, camera * tile_width * tile_height + n) for n in range(tile_width * tile_height)]
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
    _take(means2d, conics, colors, opacities, backgrounds, tile_offsets, flatten_ids)
    assert masks is None
    assert opacities.shape == means2d.shape[:2]
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
    _take(means2d, conics, colors, opacities, backgrounds, tile_offsets, flatten_ids)
    _take(render_alphas, last_ids, v_render_colors, v_render_alphas)
    assert masks is None
    size, tiles = (image_width, image_height, tile_size), (tile_offsets, flatten_ids)
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (means2d, conics, colors, opacities)]
        m, c, colours, o = inputs
        pictures, alpha, centres = _blended(m, c, colours, o, backgrounds, size, tiles)
        assert (v_render_colors.shape, v_render_alphas.shape) == (pictures.shape, alpha.shape)
        total = (pictures * v_render_colors).sum() + (alpha * v_render_alphas).sum()
        gradients = _gradients(total, [*inputs, *(centre for _, centre in centres)])
    absolute = torch.zeros_like(means2d) if absgrad else None
    if absolute is not None:
        for (rows, _), gradient in zip(centres, gradients[4:], strict=True):
            absolute.reshape(-1, 2)[rows] += gradient.abs().sum(dim=(1, 2))
    return absolute, gradients[0], gradients[1], gradients[2], gradients[3]


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
    flat = [value.flatten(0, 1) for value in (means2d, conics, colors, opacities)]
    pictures, alphas, centres = [], [], []
    for camera in range(len(means2d)):
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
    _take(param, param_grad, exp_avg, exp_avg_sq, valid)
    rows = torch.ones(len(param), dtype=torch.bool) if valid is None else valid
    assert rows.dtype == torch.bool
    with torch.no_grad():
        exp_avg[rows] = b1 * exp_avg[rows] + (1 - b1) * param_grad[rows]
        exp_avg_sq[rows] = b2 * exp_avg_sq[rows] + (1 - b2) * param_grad[rows] ** 2
        param[rows] -= lr * exp_avg[rows] / (exp_avg_sq[rows].sqrt() + eps)


def _gradients(total: Any, inputs: list[Tensor]) -> list[Tensor]:
    """Of a sum; zeros where it does not depend on them."""
    if not (isinstance(total, Tensor) and total.requires_grad):
        return [torch.zeros_like(value) for value in inputs]
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    return [
        torch.zeros_like(value) if gradient is None else gradient.contiguous()
        for value, gradient in zip(inputs, found, strict=True)
    ]
