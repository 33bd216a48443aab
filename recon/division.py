"""One scene of Gaussians divided among several processes: each has a part of them, with their moments and gradients.

So a scene may be as large as the memory of all GPUs together. `raster/divided.py` has how it is drawn; Adam and
densification are each part's own affair.
"""

from __future__ import annotations

import torch

from recon.config import TrainConfig
from recon.datasets.errors import InputError
from recon.gaussians import Gaussians
from recon.kernels.simd import LANES
from recon.ranks import Ranks
from recon.raster.divided import Divided


def part(model: Gaussians, ranks: Ranks) -> Gaussians:
    """The Gaussians of this process: all take them by turns, since neighbours come one after the other in captures, and
    parts that each are a sample of the whole scene have as much to do as each other."""
    rows = torch.arange(ranks.rank, len(model), ranks.count, device=model.device)
    part = model.like(*model.rows(rows).values())
    part.rasterizer = Divided(ranks)
    return part


def check(settings: TrainConfig, ranks: Ranks) -> None:
    """InputError for a training that cannot be divided."""
    if settings.radiance is not None:
        raise InputError(f"--divide: is for splats; it cannot be kept with --method {settings.method}")
    if settings.surface is not None:  # which draws normals, that every camera sees from its own side
        raise InputError("--divide: cannot be kept with --for-mesh")
    if ranks.most(LANES) != -ranks.most(-LANES):  # tiles are as high as vectors are long
        raise InputError("--divide: the processors of these machines are of different kinds")
