"""The stand-in's projection of Gaussians, dense and packed, and what all of the stand-in has in common."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import torch
from torch import Tensor

from recon.datasets.cameras import Cameras
from recon.raster import EPS2D, reference

NAN = float("nan")
DOUBLE = torch.float64


class CameraModelType(enum.IntEnum):
    PINHOLE = 0


def take(*tensors: Tensor | None) -> None:
    """What gsplat's CHECK_INPUT asks for."""
    for tensor in tensors:
        if tensor is not None:
            assert tensor.is_contiguous(), f"{tuple(tensor.shape)}: not contiguous"
            assert tensor.dtype in (torch.float32, torch.int32, torch.int64, torch.bool), tensor.dtype


def gradients_of(total: Any, inputs: list[Tensor]) -> list[Tensor]:
    """Of a sum; zeros where it does not depend on them."""
    if not (isinstance(total, Tensor) and total.requires_grad):
        return [torch.zeros_like(value) for value in inputs]
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    return [
        torch.zeros_like(value) if gradient is None else gradient.contiguous()
        for value, gradient in zip(inputs, found, strict=True)
    ]


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
    take(means, quats, scales, opacities, viewmats, Ks)
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
    take(means, quats, scales, viewmats, Ks, radii, conics, v_means2d, v_depths, v_conics, v_compensations)
    assert (covars, eps2d, compensations is None) == (None, EPS2D, v_compensations is None)
    assert camera_model == CameraModelType.PINHOLE
    seen = (radii > 0).all(dim=-1)
    given = [None if value is None else value[seen] for value in (v_means2d, v_depths, v_conics, v_compensations)]
    g_means, g_quats, g_scales, g_viewmats = _projection_gradients(
        *(means, quats, scales, Cameras(viewmats, Ks, image_width, image_height), (seen,), given)
    )
    return g_means, None, g_quats, g_scales, g_viewmats if viewmats_requires_grad else None


def projection_ewa_3dgs_packed_fwd(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The rows that are visible: camera after camera, each with its Gaussians in their order."""
    radii, means2d, depths, conics, factors = projection_ewa_3dgs_fused_fwd(
        *(means, covars, quats, scales, opacities, viewmats, Ks, image_width, image_height, eps2d),
        *(near_plane, far_plane, radius_clip, calc_compensations, camera_model),
    )
    seen = (radii > 0).all(dim=-1)
    camera_ids, gaussian_ids = torch.nonzero(seen, as_tuple=True)
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), seen.sum(dim=1).cumsum(dim=0)]).int()
    batch_ids, camera_ids, gaussian_ids = (
        torch.zeros_like(camera_ids),
        camera_ids.contiguous(),
        gaussian_ids.contiguous(),
    )
    radii, means2d, depths, conics = (values[seen] for values in (radii, means2d, depths, conics))
    of_blur = factors[seen] if calc_compensations else None
    return bounds, batch_ids, camera_ids, gaussian_ids, radii, means2d, depths, conics, of_blur


def projection_ewa_3dgs_packed_bwd(
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
    batch_ids: Tensor,
    camera_ids: Tensor,
    gaussian_ids: Tensor,
    conics: Tensor,
    compensations: Tensor | None,
    v_means2d: Tensor,
    v_depths: Tensor,
    v_conics: Tensor,
    v_compensations: Tensor | None,
    viewmats_requires_grad: bool,
    sparse_grad: bool,
) -> tuple[Tensor, None, Tensor, Tensor, Tensor | None]:
    take(means, quats, scales, viewmats, Ks, batch_ids, camera_ids, gaussian_ids, conics, compensations)
    take(v_means2d, v_depths, v_conics, v_compensations)
    assert (covars, eps2d, compensations is None) == (None, EPS2D, v_compensations is None)
    assert (camera_model, sparse_grad) == (CameraModelType.PINHOLE, False)
    count = len(batch_ids)
    assert [ids.dtype for ids in (batch_ids, camera_ids, gaussian_ids)] == [torch.int64] * 3
    assert camera_ids.shape == gaussian_ids.shape == v_depths.shape == (count,)
    assert not batch_ids.any()
    assert (v_means2d.shape, v_conics.shape, conics.shape) == ((count, 2), (count, 3), (count, 3))
    cameras, at = Cameras(viewmats, Ks, image_width, image_height), (camera_ids, gaussian_ids)
    given = [v_means2d, v_depths, v_conics, v_compensations]
    g_means, g_quats, g_scales, g_viewmats = _projection_gradients(means, quats, scales, cameras, at, given)
    return g_means, None, g_quats, g_scales, g_viewmats if viewmats_requires_grad else None


def _projection_gradients(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    cameras: Cameras,
    at: tuple[Tensor, ...],
    given: list[Tensor | None],
) -> list[Tensor]:
    """Of means, quats, scales and view matrices, from those of what `_projected` gives for the pairs `at`, in rows:
    centres, depths, conics and, or None, compensations."""
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (means, quats, scales, cameras.viewmats)]
        moving = dataclasses.replace(cameras, viewmats=inputs[3])
        *values, covariances = _projected(inputs[0], inputs[1], inputs[2], moving)
        if given[3] is not None:
            values.append(torch.stack([reference.compensations(each) for each in covariances]))
        pairs = [(value, rows) for value, rows in zip(values, given, strict=False) if rows is not None]
        return gradients_of(sum((value[at] * rows).sum() for value, rows in pairs), inputs)
