"""The parameters of Gaussians as a look has them drawn: hidden, resized, coloured. The stored ones are never changed.

Only what differs from the stored parameters is made anew, and kept until what it follows from changes: a picture then
takes no longer than a plain render.

Shape letter: N splats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import sh
from recon.datasets.cameras import Cameras
from recon.gaussians import Gaussians
from recon.raster import EPS2D


class Parameters(NamedTuple):
    """What a `Rasterizer` takes: see `gaussians.PARAMETERS`."""

    means: Tensor
    quats: Tensor
    log_scales: Tensor
    logit_opacities: Tensor
    sh0: Tensor
    shN: Tensor


HIDDEN = -20.0  # logit of an opacity that the projection culls
OPAQUE = 8.0  # logit of one that is capped
TINT = (1.0, 0.45, 0.05)
TINTED = 0.75  # the share of the tint in what is selected
SOLID_SIZE = 0.5  # factor on the size of ellipsoids as drawn, whose tails are not seen otherwise
LIGHT = (0.35, 0.2, 0.92)  # where the light comes from that shades ellipsoids; a unit vector, nearly
SHADOW = 0.45  # what is left of it on a surface along the light
FULL_WIDTH = 2.3548  # the width at half height, in standard deviations


class Looks:
    """Makes parameters from those of a model. The model may change between calls of `follow`, and only there."""

    def __init__(self, model: Gaussians) -> None:
        self._kept: dict[str, tuple[Hashable, Tensor]] = {}
        self.follow(model)

    def follow(self, model: Gaussians) -> None:
        self._model = model
        self._stored = Parameters(**model.state_dict())
        self._kept.clear()

    def splats(self, hidden: NDArray | None, tinted: NDArray | None, size: float, version: Hashable) -> Parameters:
        """As they are, but for what is hidden, tinted and resized.

        Args:
            hidden, tinted: [N] bool; None: none are.
            version: another one whenever these masks are others.
        """
        return self._stored._replace(
            logit_opacities=self._logits(hidden, version),
            sh0=self._tinted("colours", self._stored.sh0, tinted, version),
            log_scales=self._sized(size),
        )

    def ellipsoids(self, hidden: NDArray | None, tinted: NDArray | None, size: float, version: Hashable) -> Parameters:
        """Each as a solid: opaque, of one colour, darker the more it faces away from a light."""
        shaded = self._keep("shaded", 0, self._shaded)
        return self._stored._replace(
            logit_opacities=self._opaque(hidden, version),
            sh0=self._tinted("shaded and tinted", shaded, tinted, version),
            log_scales=self._sized(size * SOLID_SIZE),
        )

    def points(
        self, hidden: NDArray | None, tinted: NDArray | None, size: float, version: Hashable, camera: Cameras
    ) -> Parameters:
        """Each as a dot of so many pixels, as far as a dot can be smaller than a pixel."""
        row = camera.viewmats[0, 2].to(self._stored.means)
        depths = self._stored.means @ row[:3] + row[3]
        focal = float(camera.Ks[0, [0, 1], [0, 1]].mean())
        spread = math.sqrt(max((size / FULL_WIDTH) ** 2 - EPS2D, 1e-6)) / focal
        return self._stored._replace(
            logit_opacities=self._opaque(hidden, version),
            sh0=self._tinted("colours", self._stored.sh0, tinted, version),
            log_scales=(depths.clamp_min(1e-6) * spread).log()[:, None].expand(-1, 3),
        )

    def _sized(self, factor: float) -> Tensor:
        stored = self._stored.log_scales
        return stored if factor == 1 else self._keep("sizes", factor, lambda: stored + math.log(factor))

    def _logits(self, hidden: NDArray | None, version: Hashable) -> Tensor:
        stored = self._stored.logit_opacities
        if hidden is None:
            return stored
        return self._keep("logits", version, lambda: stored.masked_fill(self._mask(hidden), HIDDEN))

    def _opaque(self, hidden: NDArray | None, version: Hashable) -> Tensor:
        def make() -> Tensor:
            opaque = torch.full_like(self._stored.logit_opacities, OPAQUE)
            return opaque if hidden is None else opaque.masked_fill(self._mask(hidden), HIDDEN)

        return self._keep("opaque", version, make)

    def _tinted(self, name: str, colours: Tensor, tinted: NDArray | None, version: Hashable) -> Tensor:
        if tinted is None:
            return colours
        tint = sh.from_rgb(colours.new_tensor(TINT))
        return self._keep(
            name, version, lambda: torch.where(self._mask(tinted)[:, None, None], colours.lerp(tint, TINTED), colours)
        )

    def _shaded(self) -> Tensor:
        facing = (self._model.normals() @ self._stored.means.new_tensor(LIGHT)).abs()
        rgb = sh.to_rgb(self._stored.sh0).clamp(0, 1)
        return sh.from_rgb(rgb * (SHADOW + (1 - SHADOW) * facing)[:, None, None])

    def _mask(self, rows: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self._model.device)

    def _keep(self, name: str, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        kept = self._kept.get(name)
        if kept is None or kept[0] != key:
            kept = self._kept[name] = (key, make())
        return kept[1]
