"""Scenes for the tests of the rasterisers, and the pixels of a picture that rounding errors may decide."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recon.datasets.cameras import Cameras, intrinsics
from recon.raster import ALPHA_MAX, ALPHA_MIN, HALF, TRANSMITTANCE_MIN, gsplat_cuda, reference

NAMES = ("means", "quats", "log_scales", "logit_opacities", "sh0", "shN")


@dataclass(frozen=True)
class Case:
    """Arguments of a rasteriser. All numbers are exact in float32, and stored as float64."""

    parameters: list[Tensor]  # in the order of NAMES
    cameras: Cameras
    sh_degree: int
    options: dict[str, Any] = field(default_factory=dict)  # background, near, far, antialiased

    def arguments(self, dtype: torch.dtype, device: str) -> tuple[list[Tensor], Cameras, dict[str, Any]]:
        parameters = [tensor.detach().to(device, dtype, copy=True).requires_grad_() for tensor in self.parameters]
        options = {k: v.to(device, dtype) if isinstance(v, Tensor) else v for k, v in self.options.items()}
        return parameters, self.cameras.to(device), {"sh_degree": self.sh_degree, **options}


def turned_camera(
    width: int, height: int, fx: float = 55.0, fy: float | None = None, cx: float | None = None, cy: float | None = None
) -> Cameras:
    """One camera near the origin that looks along +z, slightly turned."""
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = reference.rotations_from_quats(torch.tensor([[1.0, 0.05, -0.08, 0.1]], dtype=torch.float64))[0]
    viewmat[:3, 3] = torch.tensor([0.1, -0.05, 0.2])
    K = intrinsics(fx, fx if fy is None else fy, width / 2 if cx is None else cx, height / 2 if cy is None else cy)
    return Cameras(viewmat[None].float().double(), K, width, height)


def scene(
    count: int,
    *,
    seed: int = 0,
    coefficients: int = 16,
    spread: float = 0.7,
    depths: tuple[float, float] = (1.5, 6.0),
    log_scale: float = -2.3,
    logit: float = 0.0,
) -> list[Tensor]:
    """Random Gaussians in front of the camera: x/z and y/z within +-spread."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    z = depths[0] + (depths[1] - depths[0]) * uniform(count, 1)
    parameters = [
        torch.cat([(2 * uniform(count, 2) - 1) * spread * z, z], dim=1),
        normal(count, 4),
        log_scale + 0.6 * normal(count, 3),
        logit + 1.5 * normal(count),
        0.8 * normal(count, 1, 3),
        0.2 * normal(count, coefficients - 1, 3),
    ]
    return [tensor.float().double() for tensor in parameters]


def cases() -> dict[str, Case]:
    """The contract, by name."""
    camera = turned_camera(52, 40)
    found = {}
    for coefficients, degree in ((1, 0), (4, 1), (9, 2), (16, 3), (16, 1), (9, 0)):
        found[f"degree {degree} of {coefficients} coefficients"] = Case(
            scene(60, seed=coefficients + degree, coefficients=coefficients), camera, degree
        )

    moved = camera.viewmats.repeat(3, 1, 1)
    moved[1, :3, 3] += torch.tensor([0.5, 0.25, 0.5])
    moved[2, :3, 3] += torch.tensor([-0.75, 0.125, 1.0])
    Ks = torch.cat([intrinsics(55, 55, 26, 20), intrinsics(40, 45, 20, 24), intrinsics(70, 65, 28, 18)])
    several = Cameras(moved, Ks, 52, 40)
    found["several cameras"] = Case(scene(60, seed=1), several, 3, {"background": torch.tensor([0.2, 0.5, 0.9])})
    found["a background for each camera"] = Case(
        scene(20, seed=2), several, 3, {"background": torch.tensor([[0.2, 0.5, 0.9], [1, 1, 1], [0.5, 0, 0.25]])}
    )
    found["off-centre, oblong pixels"] = Case(scene(60, seed=3), turned_camera(52, 40, 60, 35, 9.25, 33.5), 3)

    around = scene(150, seed=4, spread=1.8, depths=(-2.0, 5.0), log_scale=-1.0, logit=-1.5)
    found["behind, at the border and far outside"] = Case(around, camera, 3)

    extreme = scene(48, seed=5, spread=0.6)
    extreme[2][:16] = torch.tensor([-7.0, -7.0, 1.5]).double() + 0.1 * extreme[2][:16]  # needles
    extreme[2][16:24] = 1.5  # larger than the picture
    extreme[2][24:32] = -14.0  # far smaller than a pixel
    extreme[2][32:40] = torch.tensor([0.5, 0.5, -9.0]).double()  # plates
    extreme[3][::3], extreme[3][1::6], extreme[3][4::6] = 1.0, 20.0, -20.0
    found["needles, plates, huge, tiny, opaque and clear"] = Case([t.float().double() for t in extreme], camera, 3)

    capped = Case(scene(4, seed=12, spread=0.35, log_scale=0.6, logit=12.0), camera, 3)
    found["alpha at its cap"] = capped
    found["no Gaussians"] = Case(scene(0), camera, 3, {"background": torch.tensor([0.2, 0.5, 0.9])})
    found["one Gaussian"] = Case(scene(1, seed=6, spread=0.2, log_scale=-1.0, logit=2.0), camera, 3)
    found["nothing visible"] = Case(scene(5, seed=6, depths=(-5.0, -1.0)), camera, 3)
    for width, height in ((1, 1), (17, 5), (16, 16), (33, 47)):
        small = turned_camera(width, height, fx=0.9 * max(width, height))
        found[f"{width}x{height} pixels"] = Case(scene(40, seed=7, log_scale=-1.8), small, 3)
    found["saturated"] = Case(scene(250, seed=8, log_scale=-0.7, logit=3.0), turned_camera(24, 20, 30), 3)
    found["near and far"] = Case(scene(60, seed=9), camera, 3, {"near": 2.5, "far": 4.5})
    dark = scene(60, seed=10)
    dark[4] -= 1.5
    found["colours below zero"] = Case(dark, camera, 2)
    unnormalised = scene(40, seed=11)
    unnormalised[1] *= 10.0 ** torch.linspace(-6, 6, 40, dtype=torch.float64)[:, None]
    found["quaternions of any length"] = Case([t.float().double() for t in unnormalised], camera, 3)
    for name in ("degree 3 of 16 coefficients", "several cameras", "needles, plates, huge, tiny, opaque and clear"):
        found[f"{name}, antialiased"] = with_options(found[name], antialiased=True)
    fine = scene(80, seed=13, log_scale=-4.5, logit=1.0)  # a quarter of a pixel
    found["smaller than a pixel, antialiased"] = Case(fine, camera, 3, {"antialiased": True})
    return found


@torch.no_grad()
def undecided(case: Case, margin: float = 2e-4) -> tuple[Tensor, Tensor, Tensor]:
    """Where a rounding error of about `margin` can change what is drawn, and what is drawn at all.

    The picture is not continuous: a contribution starts at alpha = 1/255, a pixel ends at T = 1e-4, and at the cap of
    alpha its gradient ends; the median depth is another's where T is a half. Computed for all Gaussians and pixels at
    once, apart from the reference.

    Returns:
        pixels [C,H,W] at such an edge; Gaussians [C,N] that contribute somewhere; half-extents [C,N,2] before rounding.
    """
    means, quats, log_scales, logits, _, _ = case.parameters
    pixels, contributing, extents = [], [], []
    for i in range(len(case.cameras)):
        camera = case.cameras[i]
        means2d, covariances, z = reference.project(means, quats, log_scales, camera)
        opacities = torch.sigmoid(logits)
        if case.options.get("antialiased"):
            opacities = opacities * reference.compensations(covariances)
        sigmas = (2 * (opacities / ALPHA_MIN).clamp_min(1).log()).sqrt()
        extents.append(sigmas[:, None] * covariances.diagonal(dim1=1, dim2=2).sqrt())
        drawn = (z > case.options.get("near", 0.01)) & (z < case.options.get("far", 1e10))
        order = torch.argsort(torch.where(drawn, z, torch.inf), stable=True)[: int(drawn.sum())]
        y, x = torch.meshgrid(
            torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij"
        )  # fmt: skip
        offsets = torch.stack([x, y], dim=-1) - means2d[order][:, None, None]
        conics = torch.linalg.inv(covariances[order])
        power = 0.5 * torch.einsum("nhwi,nij,nhwj->nhw", offsets, conics, offsets)
        alpha = opacities[order][:, None, None] * torch.exp(-power)
        reached = alpha >= ALPHA_MIN
        capped = torch.where(reached, alpha.clamp_max(ALPHA_MAX), 0)
        after = torch.cumprod(1 - capped, dim=0)
        before = torch.cat([torch.ones_like(after[:1]), after[:-1]])
        alive = before > TRANSMITTANCE_MIN * (1 - 10 * margin)
        edge = ((alpha / ALPHA_MIN).log().abs() < margin) | ((alpha / ALPHA_MAX).log().abs() < margin)
        for threshold in (TRANSMITTANCE_MIN, HALF):
            edge |= reached & ((after / threshold).log().abs() < 10 * margin)
        pixels.append((edge & alive).any(dim=0))
        visible = torch.zeros(len(means), dtype=torch.bool)
        visible[order] = (reached & (after > TRANSMITTANCE_MIN)).flatten(1).any(dim=1)
        contributing.append(visible)
    return torch.stack(pixels), torch.stack(contributing), torch.stack(extents)


def with_options(case: Case, **options: Any) -> Case:
    return replace(case, options=case.options | options)


def always_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have gsplat's rasteriser pack its rows, however few there are."""
    monkeypatch.setattr(gsplat_cuda, "PACKED_CAMERAS", 1)
    monkeypatch.setattr(gsplat_cuda, "PACKED_PAIRS", 0)
