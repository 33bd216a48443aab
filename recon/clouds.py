"""Splats as points, for programs that measure and model: centre, colour and normal.

Shape letters: P points, C cameras.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from recon import sh
from recon.datasets.errors import InputError
from recon.datasets.point_cloud import write_points
from recon.datasets.scene import Points
from recon.export import las, pcd
from recon.gaussians import Gaussians

MIN_OPACITY = 0.5  # of splats that become points, where nothing else is asked for: fainter ones are mostly haze
NEAREST = 4  # cameras that a normal is turned to
LOSS = "shapes, opacities, and how colours change with the direction"
LOSS_OF_FIELD = "all but surfaces that cameras agree on, and how colours change with the direction"

SAVERS: dict[str, Callable[[Path, Points, Tensor], None]] = {
    ".points.ply": write_points,
    ".pcd": pcd.save,
    ".las": las.save,
    ".laz": las.save,
}


@torch.no_grad()
def points_of(model: Gaussians, eyes: Tensor | None = None) -> tuple[Points, Tensor]:
    """The centres of splats in the colour of their constant harmonics, and normals [P,3] of length 1.

    A normal is the axis along which a splat is thinnest.

    Args:
        eyes: [C,3] where photos were taken from; normals point to the side where the nearest of them are. None: they
            have no sign that means anything.
    """
    xyz, normals = model.means.detach().double().cpu(), model.normals().double().cpu()
    normals = torch.nn.functional.normalize(normals, dim=-1)
    if eyes is not None and len(eyes) and len(xyz):
        normals = torch.where(_sides(xyz, normals, eyes.double().cpu())[:, None] < 0, -normals, normals)
    return Points(xyz, sh.to_rgb(model.sh0[:, 0]).clamp(0, 1).double().cpu()), normals


def _sides(xyz: Tensor, normals: Tensor, eyes: Tensor) -> Tensor:
    """[P] more than 0 where the normals [P,3] point to the nearest of eyes [C,3], on the whole."""
    from scipy.spatial import cKDTree

    count = min(NEAREST, len(eyes))
    nearest = torch.from_numpy(cKDTree(eyes.numpy()).query(xyz.numpy(), k=[*range(1, count + 1)])[1])
    towards = torch.nn.functional.normalize(eyes[nearest] - xyz[:, None], dim=-1)
    return (towards * normals[:, None]).sum(dim=(1, 2))


def save(points: Points, normals: Tensor, path: Path, kind: str) -> None:
    """Write points in the format of a suffix of `SAVERS`; `InputError` where that cannot be."""
    try:
        SAVERS[kind](path, points, normals)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
