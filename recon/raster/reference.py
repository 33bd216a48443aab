"""The definition of the picture: obvious, slow PyTorch, differentiable by autograd, in float32 or float64.

One Gaussian at a time over all pixels, front to back. Everything faster is compared with this, forward and backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon import sh
from recon.datasets.cameras import Cameras
from recon.model import RenderOutput
from recon.raster import ALPHA_MAX, ALPHA_MIN, EPS2D, FOV_MARGIN, HALF, MAX_SIGMAS, TRANSMITTANCE_MIN


def rotations_from_quats(quats: Tensor) -> Tensor:
    """Rotation matrices [N,3,3] of quaternions [N,4] wxyz of any length."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


def covariances(quats: Tensor, log_scales: Tensor) -> Tensor:
    """World covariances [N,3,3] = R S S^T R^T (Kerbl et al. 2023, eq. 6)."""
    factor = rotations_from_quats(quats) * log_scales.exp()[:, None, :]
    return factor @ factor.transpose(1, 2)


def project(means: Tensor, quats: Tensor, log_scales: Tensor, camera: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """EWA projection into one camera: means2d [N,2] px, covariances2d [N,2,2] px^2 and depths [N] (eq. 5).

    The Jacobian is taken at a direction clamped to slightly more than the image; without that, Gaussians far outside
    the view would smear over all of it.
    """
    rotation, translation = camera.viewmats[0, :3, :3], camera.viewmats[0, :3, 3]
    K = camera.Ks[0]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    x, y, z = (means @ rotation.T + translation).unbind(-1)
    safe_z = torch.where(z > 0, z, torch.ones_like(z))  # rows behind the camera are dropped by the caller

    def clamped(ratio: Tensor, focal: Tensor, centre: Tensor, size: int) -> Tensor:
        margin = FOV_MARGIN * 0.5 * size / focal
        return ratio.clamp(-(centre / focal + margin), (size - centre) / focal + margin)

    u = clamped(x / safe_z, fx, cx, camera.width)
    v = clamped(y / safe_z, fy, cy, camera.height)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / safe_z, zero, -fx * u / safe_z, zero, fy / safe_z, -fy * v / safe_z], dim=-1).reshape(
        -1, 2, 3
    )
    to_image = jacobian @ rotation
    covariances2d = to_image @ covariances(quats, log_scales) @ to_image.transpose(1, 2)
    covariances2d = covariances2d + EPS2D * torch.eye(2, dtype=means.dtype, device=means.device)
    means2d = torch.stack([fx * x / safe_z + cx, fy * y / safe_z + cy], dim=-1)
    return means2d, covariances2d, z


def compensations(covariances2d: Tensor) -> Tensor:
    """Factors [N] of opacities: the blur that `project` adds is to spread Gaussians, and not to make more of them, or
    else small ones look larger the farther away they are (Yu et al. 2024, "Mip-Splatting", eq. 9)."""
    blur = EPS2D * torch.eye(2, dtype=covariances2d.dtype, device=covariances2d.device)
    return (torch.linalg.det(covariances2d - blur) / torch.linalg.det(covariances2d)).clamp_min(0).sqrt()


@torch.no_grad()
def visible_radii(
    means2d: Tensor,
    covariances2d: Tensor,
    depths: Tensor,
    opacities: Tensor,
    camera: Cameras,
    near: float,
    far: float,
) -> Tensor:
    """Half-extents [N,2] int32 of the boxes outside which alpha is below 1/255; 0 for what cannot be seen."""
    sigmas = (2 * (opacities / ALPHA_MIN).clamp_min(1.0).log()).sqrt().clamp_max(MAX_SIGMAS)
    deviations = covariances2d.diagonal(dim1=1, dim2=2).sqrt()
    radii = (sigmas[:, None] * deviations).ceil()
    size = means2d.new_tensor([camera.width, camera.height])
    inside = ((means2d + radii > 0) & (means2d - radii < size)).all(dim=-1)
    seen = inside & (depths > near) & (depths < far) & (opacities >= ALPHA_MIN)
    return torch.where(seen[:, None], radii, torch.zeros_like(radii)).to(torch.int32)


def rasterize(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    logit_opacities: Tensor,
    sh0: Tensor,
    shN: Tensor,
    cameras: Cameras,
    *,
    sh_degree: int,
    background: Tensor | None = None,
    near: float = 0.01,
    far: float = 1e10,
    depth: bool = True,
    absgrad: bool = False,
    median_depth: bool = False,
    antialiased: bool = False,
) -> RenderOutput:
    """See `recon.raster.Rasterizer`."""
    cameras = cameras.to(means.device, means.dtype)
    opacities = torch.sigmoid(logit_opacities)
    coefficients = torch.cat([sh0, shN], dim=1)
    projected = [project(means, quats, log_scales, cameras[i]) for i in range(len(cameras))]
    means2d = torch.stack([p[0] for p in projected])
    if means2d.requires_grad:
        means2d.retain_grad()
    absolute = torch.zeros_like(means2d) if absgrad else None
    backgrounds = means.new_zeros(3) if background is None else background.to(means)
    backgrounds = backgrounds.expand(len(cameras), 3)
    pictures, radii = [], []
    for i, (_, covariances2d, depths) in enumerate(projected):
        camera = cameras[i]
        directions = torch.nn.functional.normalize(means - camera.positions, dim=-1)
        colours = sh.evaluate(coefficients, directions, sh_degree)
        shown = opacities * compensations(covariances2d) if antialiased else opacities
        extents = visible_radii(means2d[i], covariances2d, depths, shown, camera, near, far)
        radii.append(extents)
        visible = torch.nonzero((extents > 0).all(dim=-1))[:, 0]
        order = visible[torch.argsort(depths.detach()[visible], stable=True)]
        pictures.append(
            _blend(
                means2d[i],
                covariances2d,
                depths,
                colours,
                shown,
                order,
                camera,
                backgrounds[i],
                absolute[i] if absolute is not None else None,
            )
        )
    rgb, alpha, expected, median = (torch.stack(channel) for channel in zip(*pictures, strict=True))
    return RenderOutput(
        *(rgb, alpha, expected if depth else None, means2d, torch.stack(radii)),
        absgrad=absolute,
        median_depth=median if median_depth else None,
    )


def _blend(
    means2d: Tensor,
    covariances2d: Tensor,
    depths: Tensor,
    colours: Tensor,
    opacities: Tensor,
    order: Tensor,
    camera: Cameras,
    background: Tensor,
    absolute: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Front-to-back compositing (eq. 3) of the Gaussians in `order`.

    Returns rgb [H,W,3], alpha, depth and median depth [H,W,1]. The last is that of the Gaussian which takes the
    transmittance to a half or below, and 0 where none does.
    """
    ys = torch.arange(camera.height, dtype=means2d.dtype, device=means2d.device) + 0.5
    xs = torch.arange(camera.width, dtype=means2d.dtype, device=means2d.device) + 0.5
    pixels = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)
    transmittance = torch.ones_like(pixels[..., 0])
    finished = torch.zeros_like(transmittance, dtype=torch.bool)
    rgb = torch.zeros_like(pixels[..., :1]).expand(-1, -1, 3)
    distance, median = torch.zeros_like(transmittance), torch.zeros_like(transmittance)
    for index in order.tolist():
        centre = means2d[index].expand_as(pixels)
        if absolute is not None and centre.requires_grad:
            _accumulate_absolute(centre, absolute[index])
        offset = pixels - centre
        power = 0.5 * torch.einsum("hwi,ij,hwj->hw", offset, torch.linalg.inv(covariances2d[index]), offset)
        alpha = (opacities[index] * torch.exp(-power)).clamp_max(ALPHA_MAX)
        after = transmittance * (1 - alpha)
        reached = (alpha >= ALPHA_MIN) & (power >= 0) & ~finished
        finished = finished | (reached & (after <= TRANSMITTANCE_MIN))
        drawn = reached & ~finished
        weight = torch.where(drawn, alpha * transmittance, torch.zeros_like(alpha))
        rgb = rgb + weight[..., None] * colours[index]
        distance = distance + weight * depths[index]
        halfway = drawn & (transmittance > HALF) & (after <= HALF)
        median = torch.where(halfway, depths[index].detach(), median)
        transmittance = torch.where(drawn, after, transmittance)
    alpha = 1 - transmittance
    expected = distance / alpha.clamp_min(1e-10)
    return rgb + transmittance[..., None] * background, alpha[..., None], expected[..., None], median[..., None]


def _accumulate_absolute(centre: Tensor, absolute: Tensor) -> None:
    """Make the backward pass add the per-pixel absolute gradients of `centre` [H,W,2] into `absolute` [2]."""

    def add(gradient: Tensor) -> None:  # what a hook returns would replace the gradient
        absolute.add_(gradient.abs().sum(dim=(0, 1)))

    centre.register_hook(add)
