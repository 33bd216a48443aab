"""A radiance field as the viewer is handed it: drawn and picked, ray by ray. There are no splats of it to edit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from numpy.typing import NDArray

from recon import render
from recon.datasets.cameras import Cameras
from recon.datasets.errors import InputError
from recon.model import Model, RenderOutput
from recon.render import Colour
from recon.subject import drawn, point_at
from recon.torch_threads import one_torch_thread
from recon.viewer.look import Look, Vector
from recon.viewer.subject import Splats


class FieldSubject:
    """A `recon.viewer.subject.Subject` of a radiance field. It is the field itself, also while that is trained."""

    count = 0
    sh_degree = 0

    def __init__(self, model: Model, background: Colour = (0.0, 0.0, 0.0)) -> None:
        """
        Args:
            background: what the scene was trained over, 0..1.
        """
        self._model, self.background = model, background
        self._device = render.device_of(model)

    def draw(self, camera: Cameras, look: Look) -> NDArray:
        """See `recon.viewer.subject.Subject.draw`. What is made of splats shows colours."""
        background = self.background if look.background is None else look.background
        with torch.no_grad(), one_torch_thread(self._device):
            return drawn(self._rendered(camera, None, background), camera, look, background)

    def pick(self, camera: Cameras, x: float, y: float, look: Look) -> Vector | None:
        """See `recon.viewer.subject.Subject.pick`."""
        with torch.no_grad(), one_torch_thread(self._device):
            out = self._rendered(camera, torch.tensor([[[x, y]]]), (0.0, 0.0, 0.0))
        assert out.depth is not None
        return point_at(camera, x, y, float(out.depth)) if float(out.alpha) > render.SOLID else None

    def splats(self, most: int, look: Look) -> Splats | None:
        return None

    def saver(self, look: Look) -> Callable[[Path], int]:
        raise InputError("A radiance field has no splats to save; recon export makes some of it.")

    def _rendered(self, camera: Cameras, pixels: torch.Tensor | None, background: Colour) -> RenderOutput:
        colour = torch.tensor(background, dtype=torch.float32, device=self._device)
        return self._model.render(camera.to(self._device, torch.float32), pixels=pixels, background=colour)
