"""What cameras do to light: the exposure and white balance of each photo, and the fall-off of a lens to its corners.

Photos of one scene are brighter or darker, warmer or cooler than each other, because the camera adjusts itself, and
darker towards their corners. A scene that has to look like all of them can only make that a property of its surfaces:
colours that change with the direction, and floaters. So a picture is compared with a photo after it was exposed like
it. The factor of a pixel is exp(gain + sum_k falloff_k (r^2k - mean of r^2k)) in each colour, with r the distance from
the principal point, 1 at half the picture's diagonal: a gain for each photo, a fall-off for all photos of one size.

Both are learned beside the scene by small robust Gauss-Newton steps: see `kernels/expose.py`, which has the maths for
CPUs; here it stands in PyTorch, as the definition. The scene itself has the mean exposure of all photos. What exposure
a camera would have chosen where none has been trained on follows from the photos before and after.

Shape letters: V photos to train on, L lenses, H and W image size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import losses
from recon.along import between
from recon.datasets.cameras import Cameras
from recon.datasets.scene import Scene, View
from recon.kernels.expose import COEFFICIENTS, EVERY, PRODUCTS, ROBUST, SATURATED, SQUARES
from recon.late import Late, Told

Lens = tuple[float, float, float]

POWERS = COEFFICIENTS - 1  # of r^2

# What share of a Gauss-Newton step is taken, at the beginning and at the end of a training. A gain is its photo's own,
# a fall-off is what many photos agree on.
GAIN_RATES = (0.3, 0.1)
FALLOFF_RATES = (0.03, 0.01)
RIDGE = 1e-3  # times the weight of all pixels: keeps the fall-off small where a photo says nothing of it
# Which sums make the normal matrix, and what is added to its diagonal.
HANKEL = np.arange(COEFFICIENTS)[:, None] + np.arange(COEFFICIENTS)
ADDED = np.diag((np.arange(COEFFICIENTS) > 0) * RIDGE + 1e-9)


@dataclass(frozen=True, eq=False)
class Shot:
    """How a photo was exposed: the factor of a pixel is exp(sum_k coefficients[k] r^2k).

    Attributes:
        coefficients: [3,COEFFICIENTS] of each colour.
        lens: x and y of the principal point, and the distance from it at which r is 1, in pixels of the picture.
    """

    coefficients: Tensor
    lens: Lens

    def factor(self, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
        """[H,W,3]"""
        coefficients = self.coefficients.to(device, non_blocking=True)
        powers = _powers(self.lens, height, width, COEFFICIENTS, coefficients.device, coefficients.dtype)
        return (powers @ coefficients.T).exp()

    def resized(self, factor: float) -> Shot:
        """The same for a picture whose sides are so many times as long."""
        x, y, radius = self.lens
        return Shot(self.coefficients, (factor * x, factor * y, factor * radius))

    def exposed(self, rgb: Tensor) -> Tensor:
        """A picture [...,H,W,3] of the scene as this photo shows it; differentiable."""
        height, width = rgb.shape[-3:-1]
        return rgb * self.factor(height, width, rgb.device)

    def exposed_and_sums(self, rgb: Tensor, target: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`exposed` and the `sums` of that, on a GPU in one pass where Triton can be used."""
        if rgb.is_cuda and mask is None and losses.has_triton():
            from recon import exposure_cuda

            coefficients = self.coefficients.to(rgb.device, non_blocking=True)
            return exposure_cuda.expose(rgb, target, coefficients, self.lens)
        exposed = self.exposed(rgb)
        return exposed, self.sums(exposed.detach(), target, mask)

    @torch.no_grad()
    def sums(self, exposed: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """What a picture tells of the exposure: [3,SQUARES + PRODUCTS], see `kernels/expose.py`.

        Args:
            exposed, target: [1,H,W,3] the picture as exposed, and the photo.
            mask: [1,H,W,1] 0 where a pixel does not count.
        """
        height, width = exposed.shape[1:3]
        difference = target - exposed
        counts = target < SATURATED if mask is None else (target < SATURATED) & (mask != 0)
        weighted = exposed * counts / difference.abs().clamp_min(ROBUST)
        powers = _powers(self.lens, height, width, SQUARES, exposed.device, exposed.dtype)[::EVERY].reshape(-1, SQUARES)
        squares = (weighted * exposed)[:, ::EVERY].reshape(-1, 3).T @ powers
        products = (weighted * difference)[:, ::EVERY].reshape(-1, 3).T @ powers[:, :PRODUCTS]
        return torch.cat([squares, products], dim=1)


@functools.lru_cache(maxsize=4)
def _powers(lens: Lens, height: int, width: int, count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[H,W,count] r^0, r^2, r^4, ... of every pixel."""
    x, y, radius = lens
    columns = (torch.arange(width, device=device, dtype=dtype) + 0.5 - x) / radius
    rows = (torch.arange(height, device=device, dtype=dtype) + 0.5 - y) / radius
    square = rows[:, None] ** 2 + columns**2
    return torch.stack([square**k for k in range(count)], dim=-1)


class Exposure:
    """The exposures of a capture's photos, on the CPU. Zero gains and fall-offs to begin with: pictures as they are."""

    def __init__(
        self,
        places: Tensor,
        lenses: Tensor,
        centres: Tensor,
        means: Tensor,
        gains: Tensor | None = None,
        falloff: Tensor | None = None,
    ) -> None:
        """
        Args:
            places: [V] int64, which of all photos of the capture those to train on are, in order.
            lenses: [V] int64, the lens of each.
            centres: [V,2] principal points, as shares of width and height.
            means: [L,POWERS] of r^2, r^4, ... over the picture.
            gains: [V,3] logarithms; their mean is 0.
            falloff: [L,3,POWERS]
        """
        self.places, self.lenses, self.centres, self.means = places, lenses, centres, means
        self._late = Late(self._learn)
        self.gains = means.new_zeros(len(places), 3) if gains is None else gains
        self.falloff = means.new_zeros(len(means), 3, POWERS) if falloff is None else falloff
        shapes = {
            "lenses": (len(places),),
            "centres": (len(places), 2),
            "means": (len(means), POWERS),
            "gains": (len(places), 3),
            "falloff": (len(means), 3, POWERS),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} of the exposure is {tuple(getattr(self, name).shape)}, not {shape}")
        # As arrays and plain numbers, with which so little is done many times as fast.
        self._gains, self._falloff, self._means = self.gains.numpy(), self.falloff.numpy(), means.numpy()
        self._lenses: list[int] = lenses.tolist()
        self._centres: list[list[float]] = centres.tolist()
        if not all(0 <= lens < len(means) for lens in self._lenses):
            raise ValueError("lenses of the exposure are not all there")

    @classmethod
    def of(cls, scene: Scene) -> Exposure:
        """For the photos that a scene is trained on."""
        sizes: dict[tuple[int, int], int] = {}
        lenses: list[int] = []
        centres: list[list[float]] = []
        means: list[Tensor] = []
        for view in scene.train_views:
            camera, size = view.camera, (view.camera.width, view.camera.height)
            centre = _centre(camera)
            if size not in sizes:
                sizes[size] = len(means)
                arguments = (COEFFICIENTS, torch.device("cpu"), torch.float64)
                powers = _powers(_lens(centre, camera), camera.height, camera.width, *arguments)
                means.append(powers[..., 1:].mean(dim=(0, 1)))
            lenses.append(sizes[size])
            centres.append(centre)
        return cls(
            torch.tensor(scene.train),
            torch.tensor(lenses),
            torch.tensor(centres, dtype=torch.float64),
            torch.stack(means).float(),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """What the constructor takes."""
        self._late.settle()
        return {name: getattr(self, name) for name in ("places", "lenses", "centres", "means", "gains", "falloff")}

    def shot(self, photo: int, cameras: Cameras) -> Shot:
        """Of one of the photos to train on (0 ... V-1), whose camera may be resized."""
        return self._shot(self._gains[photo], self._lenses[photo], self._centres[photo], cameras)

    def _shot(self, gain: NDArray[np.float32], lens: int, centre: Sequence[float], cameras: Cameras) -> Shot:
        coefficients, falloff = np.empty((3, COEFFICIENTS), np.float32), self._falloff[lens]
        coefficients[:, 0], coefficients[:, 1:] = gain - falloff @ self._means[lens], falloff
        return Shot(torch.from_numpy(coefficients), _lens(centre, cameras))

    def learn(self, photo: int, sums: Told, progress: float) -> None:
        """A step towards what a photo tells; if a GPU says so, it is taken some steps later.

        Args:
            sums: of `Shot.sums`.
            progress: the share of the training that is done, 0..1.
        """
        self._late.tell(photo, sums, progress)

    def _learn(self, photo: int, sums: NDArray[np.float64], progress: float) -> None:
        gains, lens = self._gains, self._lenses[photo]
        rate, falloff_rate = (first * (last / first) ** progress for first, last in (GAIN_RATES, FALLOFF_RATES))
        step = _gauss_newton(sums)
        gains[photo] += rate * (step[:, 0] + step[:, 1:] @ self._means[lens])
        self._falloff[lens] += falloff_rate * step[:, 1:]
        gains -= gains.mean(0)

    def predicted(self, views: Sequence[View], wanted: Sequence[int]) -> list[Shot]:
        """How photos that were not trained on would have been exposed, as far as those before and after tell.

        Args:
            views: all of the capture, in order.
            wanted: which of them.
        """
        self._late.settle()
        places, gains = self.places.tolist(), self._gains.astype(np.float64)
        found = between(gains, [view.camera for view in views], places, wanted)
        nearest = np.minimum(np.searchsorted(places, wanted), len(places) - 1)
        return [
            self._shot(gain.astype(np.float32), self._lenses[row], _centre(views[place].camera), views[place].camera)
            for gain, row, place in zip(found, nearest, wanted, strict=True)
        ]


def _centre(cameras: Cameras) -> list[float]:
    """The principal point as shares of width and height."""
    return [float(cameras.Ks[0, 0, 2]) / cameras.width, float(cameras.Ks[0, 1, 2]) / cameras.height]


def _lens(centre: Sequence[float], cameras: Cameras) -> Lens:
    """`Shot.lens` of a camera whose principal point is known."""
    return centre[0] * cameras.width, centre[1] * cameras.height, 0.5 * math.hypot(cameras.width, cameras.height)


def _gauss_newton(sums: NDArray[np.float64]) -> NDArray[np.float32]:
    """The change [3,COEFFICIENTS] that `sums` ask for."""
    sums = sums / np.maximum(sums[:, :1], 1e-12)  # all are 0 where no pixel counts; then the change is 0 as well
    return np.linalg.solve(sums[:, HANKEL] + ADDED, sums[:, SQUARES:, None])[..., 0].astype(np.float32)
