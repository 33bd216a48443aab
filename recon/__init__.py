"""recon: photos in, a 3D scene out.

`load_scene` opens a capture and `load` a trained scene; the rest is in the modules (`recon.train.train`,
`recon.evaluate.evaluate`, `recon.render.frames`, `recon.export.export`). The names here are loaded when first used, so
that `import recon` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recon.datasets import load_scene
    from recon.gaussians import Gaussians
    from recon.loading import load

__version__ = "0.1.0"
__all__ = ["Gaussians", "__version__", "load", "load_scene"]

_HOMES = {"Gaussians": "recon.gaussians", "load": "recon.loading", "load_scene": "recon.datasets"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'recon' has no attribute {name!r}")
