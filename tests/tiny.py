"""A tiny scene for tests: a cloud of Gaussians, photographed from a ring of cameras by the reference rasteriser."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon import sh
from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.images import ArrayImage, SourceCamera, make_view, save_image
from recon.datasets.scene import Points, Scene, View
from recon.gaussians import Gaussians
from recon.raster import reference


def gaussians(count: int, *, seed: int = 0, degree: int = 3, **options: Any) -> Gaussians:
    """A random cloud in the unit ball."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return Gaussians(
        0.4 * normal(count, 3),
        normal(count, 4),
        -2.0 + 0.4 * normal(count, 3),
        1.0 + normal(count),
        0.8 * normal(count, 1, 3),
        0.1 * normal(count, sh.num_coefficients(degree) - 1, 3),
        **options,
    )


def ring(count: int, width: int = 40, height: int = 32) -> Cameras:
    """Cameras on a ring, looking at the origin from a little above."""
    angles = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    eyes = torch.stack([3 * angles.cos(), 3 * angles.sin(), torch.full_like(angles, 0.8)], dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    K = intrinsics(1.2 * width, 1.2 * width, width / 2, height / 2)
    return Cameras.from_c2w(look_at(eyes, torch.zeros_like(eyes), up), K.repeat(count, 1, 1), width, height)


@functools.cache
def scene(views: int = 8, width: int = 40, height: int = 32) -> Scene:
    """The cloud's photos; view 0 is held out. The points are the cloud's centres, in its colours."""
    truth = gaussians(60, degree=0, rasterizer=reference.rasterize)
    cameras = ring(views, width, height)
    with torch.no_grad():
        photos = truth.render(cameras).rgb.clamp(0, 1)
    points = Points(truth.means.detach().double(), sh.to_rgb(truth.sh0.detach()[:, 0]).clamp(0, 1).double())
    members = tuple(View(f"{i:03d}.png", cameras[i], ArrayImage(photos[i])) for i in range(views))
    return Scene("tiny", members, train=tuple(range(1, views)), test=(0,), points=points)


def stored_views(folder: Path, count: int, channels: int = 3) -> list[View]:
    """Photos of 80x64 in files."""
    generator = torch.Generator().manual_seed(0)
    cameras = ring(count, 80, 64)
    source = SourceCamera("PINHOLE", (80.0, 80.0, 40.0, 32.0), 80, 64)
    views = []
    for number in range(count):
        path = folder / f"{number}.png"
        save_image(path, torch.randint(0, 256, (64, 80, channels), generator=generator) / 255)
        views.append(make_view(path.name, path, source, cameras.viewmats[number]))
    return views
