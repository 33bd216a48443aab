"""What `recon.kernels.voxels` computes, in plain torch with autograd: every sample of every ray at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from recon.kernels import voxels

NEAR = 0.05  # the distance at which rays begin
FAR = 2.5  # and end


def contracted(points: Tensor, shell: float) -> Tensor:
    """Points [...,3]: the cube [-1,1]^3 as it is, all else in a shell around it."""
    m = points.abs().amax(dim=-1, keepdim=True).clamp_min(1)
    return points * (1 + shell - shell / m) / m


def sample_distances(rays: Tensor, side: int, shell: float) -> Tensor:
    """[R,K] float64, infinite after a ray's last: steps of half a cell of contracted space."""
    spacing = 2 * (1 + shell) / (side - 1)
    step, farthest = voxels.STEP * spacing, 2 * shell / spacing + 1
    found = []
    for ray in rays.double():
        origin, direction, t, own = ray[:3], ray[3:6], float(ray[6]), []
        while True:
            p = origin + t * direction
            m, axis = (float(v) for v in p.abs().max(dim=0))
            if m > farthest or t > float(ray[7]):
                break
            own.append(t)
            speed = 1.0
            if m > 1:
                dm = float(direction[int(axis)] * p[int(axis)].sign())
                factor, slope = (1 + shell - shell / m) / m, (2 * shell / m - 1 - shell) / m**2
                speed = float((direction * factor + p * slope * dm).norm())
            t += step / speed
        found.append(own)
    most = max(map(len, found))
    return torch.tensor([own + [math.inf] * (most - len(own)) for own in found], dtype=torch.float64)


def render(
    rays: Tensor,
    basis: Tensor,
    distances: Tensor,
    side: int,
    shell: float,
    links: Tensor,
    levels: Tensor,
    sh: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Colours [R,3], opacities [R], sums of weight times distance [R], densities and weights of the samples [R,K].

    Args:
        distances: of the samples, see `sample_distances`.
        levels, sh: [V], [V,27].
    """
    spacing = 2 * (1 + shell) / (side - 1)
    there = distances.isfinite()
    t = torch.where(there, distances, 0).to(levels)
    points = rays[:, None, :3] + t[..., None] * rays[:, None, 3:6]
    places = (contracted(points, shell) + 1 + shell) / spacing
    cells = places.floor().clamp(0, side - 2)
    inside, cells = places - cells, cells.long()
    values = torch.cat([levels[:, None], sh], dim=-1)
    values = torch.cat([values, torch.tensor([[voxels.EMPTY, *[0.0] * 27]]).to(values)])  # of what is not kept
    found = values.new_zeros(*t.shape, 28)
    for corner in range(8):
        offset = torch.tensor([corner >> 2, (corner >> 1) & 1, corner & 1])
        weight = torch.where(offset == 1, inside, 1 - inside).prod(dim=-1)
        i, j, k = (cells + offset).unbind(-1)
        found = found + weight[..., None] * values[links[(i * side + j) * side + k].long()]
    density = voxels.DENSE * functional.softplus(found[..., 0])
    density = density * (there & (found[..., 0] >= math.log(voxels.LEAST / (voxels.DENSE * voxels.STEP * spacing))))
    colours = (torch.einsum("rk,rsck->rsc", basis, found[..., 1:].unflatten(-1, (3, 9))) + 0.5).relu()
    depth = density * voxels.STEP * spacing
    before = torch.cat([torch.zeros_like(depth[:, :1]), depth.cumsum(dim=-1)[:, :-1]], dim=-1)
    seen = (torch.exp(-before) >= voxels.DARK).detach()
    weights = torch.exp(-before) * -torch.expm1(-depth) * seen
    rgb, distance = (weights[..., None] * colours).sum(dim=1), (weights * t).sum(dim=-1)
    return rgb, weights.sum(dim=-1), distance, density * seen, weights
