"""The radiance fields there are: one method, one module, which is loaded when it is asked for."""

from __future__ import annotations

import importlib

from recon.config import TrainConfig
from recon.model import Field

CLASSES = {"nerf": "Nerf", "plenoxels": "Plenoxels", "ngp": "Ngp", "mipnerf360": "Mip360"}


def kernels_of(settings: TrainConfig) -> tuple[str, ...] | None:
    """The modules of `recon.kernels` that a training calls; None: all those that are loaded, for splats."""
    return None if settings.radiance is None else field_class(settings).kernels


def field_class(settings: TrainConfig) -> type[Field]:
    """What makes the field that the settings ask for."""
    found: type[Field] = getattr(importlib.import_module(f"recon.{settings.method}"), CLASSES[settings.method])
    return found
