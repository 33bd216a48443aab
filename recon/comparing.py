"""A photo of the capture against the picture through its camera: side by side, or as the error of each pixel.

Shape letters: H and W image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets.cameras import Cameras
from recon.datasets.scene import Scene
from recon.evaluate import draw_error, over_background
from recon.exposure import Shot
from recon.render import Colour, to_uint8
from recon.torch_threads import one_torch_thread
from recon.viewer.look import Look
from recon.viewer.subject import Subject

LINE = 255  # grey between the photo and the render
DARKER = 3  # times: what is beside the photo
Picture = TypeVar("Picture", Tensor, NDArray[np.uint8])


class Part(NamedTuple):
    """A rectangle of a picture, px."""

    left: int
    top: int
    width: int
    height: int

    def of(self, picture: Picture) -> Picture:
        """That part of a picture [H,W,...], in the same memory."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


def wipe(render: NDArray[np.uint8], photo: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """The photo left of a line at `share` of the width, the render right of it; all are [H,W,3]."""
    width = render.shape[1]
    column = round(min(1.0, max(0.0, share)) * width)
    picture = render.copy()
    picture[:, :column] = photo[:, :column]
    if 0 < column < width:
        picture[:, column - 1 : column + 1] = LINE
    return picture


def fitted(camera: Cameras, width: int, height: int) -> tuple[Cameras, Part]:
    """A camera (batch of one) that sees all that another one does, in the middle of a picture of this size; and where
    in that picture."""
    factor = min(width / camera.width, height / camera.height)
    own = camera.resized(max(1, round(factor * camera.width)), max(1, round(factor * camera.height)))
    left, top = (width - own.width) // 2, (height - own.height) // 2
    Ks = own.Ks.clone()
    Ks[:, :2, 2] += Ks.new_tensor([left, top])
    return Cameras(own.viewmats, Ks, width, height), Part(left, top, own.width, own.height)


class PhotoComparison:
    """A `recon.viewer.browser.Comparison` of the photos of a scene with what was trained on them."""

    def __init__(self, scene: Scene, subject: Subject, shots: Sequence[Shot] | None = None) -> None:
        """
        Args:
            shots: how each of the views was exposed; None: as the scene is.
        """
        self._views, self._subject, self._shots = scene.views, subject, shots
        # The last photo and where it counts, and what they were made for.
        self._photo: tuple[tuple[int, int, int, Colour], Tensor, Tensor | None] | None = None

    @property
    def names(self) -> list[str]:
        return [view.name for view in self._views]

    def draw(
        self, index: int, width: int, height: int, how: Literal["wipe", "error"], share: float, look: Look
    ) -> NDArray[np.uint8]:
        """A picture [height,width,3] through the camera of a photo, which is as large in it as it fits.

        "wipe": the photo left of `share` of the width, the render right of it; what the photo does not show is darker.
        "error": of the colours, black where the photo does not count or show anything.
        """
        if how == "error":  # of colours; the size of points is not one of splats
            look = replace(look, mode="rgb", size=1.0 if look.mode == "points" else look.size)
        camera, part = fitted(self._views[index].camera, width, height)
        picture = self._subject.draw(camera, look)
        with torch.no_grad(), one_torch_thread(torch.device("cpu")):
            render = part.of(torch.from_numpy(picture)) / 255
            if self._shots is not None and look.mode == "rgb":
                shot = self._shots[index].resized(part.width / self._views[index].camera.width)
                render = render * shot.factor(part.height, part.width, render.device)
            photo, counts = self._sized(index, part, look.background or self._subject.background)
            if how == "error":
                result = np.zeros_like(picture)
                part.of(result)[:] = draw_error(render.clamp(0, 1), photo, counts)
            else:
                result = picture // DARKER
                share = (share * width - part.left) / part.width
                part.of(result)[:] = wipe(to_uint8(render), to_uint8(photo), share)
        return result

    def _sized(self, index: int, part: Part, background: Colour) -> tuple[Tensor, Tensor | None]:
        """A photo as large as a part of a picture, and [H,W] which of its pixels count; None: all."""
        key = (index, part.width, part.height, background)
        if self._photo is None or self._photo[0] != key:
            photo, mask = over_background(self._views[index].load().cpu(), torch.tensor(background)), None
            if (source := self._views[index].mask) is not None:
                mask = _resized(source.load().cpu(), part)[..., 0] > 0.5
            self._photo = (key, _resized(photo, part), mask)
        return self._photo[1:]


def _resized(image: Tensor, part: Part) -> Tensor:
    """An image [h,w,K] as large as a part of a picture."""
    size = (part.height, part.width)
    planes = torch.nn.functional.interpolate(image.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True)
    return planes[0].permute(1, 2, 0)
