"""Corrections of the cameras, learned beside the scene: where each photo was taken from, and how long its lens is.

Poses that were estimated are off by a little, and then no scene fits all photos: it gets blurred where they disagree.
So each photo's camera may turn about its centre and move, and all photos of one lens have a common zoom, a factor of
their focal lengths. The rasterisers give the gradients (`Rasterizer`), Adam takes the steps; its second moments are
common to all photos, so that those that are off move and those that are right have only noise and stay.

A scene and all its cameras can turn, move and grow together without a picture changing. The corrections have no part
in that: their mean turn and step are 0, and so is the growth, or else the scene would leave the frame of the capture.

What the corrections of held-out photos would be, which nothing is learned from, follows from the photos before and
after: errors of estimated poses change slowly along the way of the camera.

Shape letters: V photos to train on, L lenses, C cameras.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.along import between
from recon.config import PoseChoice
from recon.datasets.cameras import Cameras
from recon.datasets.scene import Scene, View
from recon.late import Late, Told

Doubles = NDArray[np.float64]

MOTION = 7  # a turn (3) and a step (3) in the axes of the camera, the logarithm of a zoom

START = 0.3  # share of the training before which the scene says too little of where it is seen from
RATES = (1e-3, 1e-4)  # radians and world units at a step of Adam, then and at the end
WORTH_IT = 1000  # steps of a training below which each photo is seen too seldom for its pose to be found
ZOOM = 0.02  # times the rate, for the logarithm of a zoom
FIRST, SECOND = 0.9, 0.99  # moments of Adam
ZOOM_FIRST = 0.98  # that of a zoom, of which every photo says something

# The cross product with a vector v as a matrix, row by row, is v @ ACROSS.
ACROSS = np.zeros((3, 9))
ACROSS[(0, 0, 1, 1, 2, 2), (5, 7, 2, 6, 1, 3)] = (-1, 1, 1, -1, -1, 1)
# sin(a)/a and (1 - cos(a))/a^2 as polynomials of a^2, exact to 1e-9 up to a = 1
SERIES = ((1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880), (0.5, -1 / 24, 1 / 720, -1 / 40320, 1 / 3628800))


def moved(cameras: Cameras, motion: Tensor) -> Cameras:
    """Cameras after motions [C,MOTION] of their own, with turns of at most a radian; differentiable in them."""
    viewmats, Ks = cameras.viewmats.to(motion), cameras.Ks.to(motion)
    turned = rotations(motion[:, :3]) @ viewmats[:, :3]
    there = torch.cat([turned[..., :3], turned[..., 3:] + motion[:, 3:6, None]], dim=2)
    zoom = motion[:, 6, None, None].exp()
    zoomed = torch.cat([torch.cat([Ks[:, :2, :2] * zoom, Ks[:, :2, 2:]], dim=2), Ks[:, 2:]], dim=1)
    return Cameras(torch.cat([there, viewmats[:, 3:]], dim=1), zoomed, cameras.width, cameras.height)


def rotations(turns: Tensor) -> Tensor:
    """Rotation matrices [C,3,3] of rotation vectors [C,3] of at most a radian; differentiable, at 0 too.

    Rodrigues' formula.
    """
    matrices = (turns @ turns.new_tensor(ACROSS)).reshape(-1, 3, 3)
    sine, versine = _series((turns * turns).sum(-1)[:, None, None])
    return torch.eye(3, dtype=turns.dtype, device=turns.device) + sine * matrices + versine * (matrices @ matrices)


def _rotation(turn: Doubles) -> Doubles:
    """The same of one vector [3]: [3,3]. In numpy so little is done many times as fast."""
    x, y, z = turn.tolist()
    matrix = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    sine, versine = _series(x * x + y * y + z * z)
    return np.eye(3) + sine * matrix + versine * (matrix @ matrix)


def _series(square: Any) -> Any:
    """sin(a)/a and (1 - cos(a))/a^2 of a^2: numbers or tensors."""
    return ((((((s[4] * square + s[3]) * square) + s[2]) * square + s[1]) * square + s[0]) for s in SERIES)


def motion_gradient(cameras: Cameras, g_viewmats: Tensor, g_Ks: Tensor) -> Tensor:
    """The gradient [MOTION] of a camera's motion at rest, see `moved`, from those of its matrices; a batch of one."""
    turn = g_viewmats[0, :3] @ cameras.viewmats[0, :3].T
    turn = (turn - turn.T).flatten()
    zoom = (g_Ks[0, :2, :2] * cameras.Ks[0, :2, :2]).sum()
    return torch.cat([turn[7:8], turn[2:4], g_viewmats[0, :3, 3], zoom[None]])


def wanted(choice: PoseChoice, scene: Scene, steps: int) -> bool:
    """Whether a training of so many steps is to refine the poses of a scene."""
    return choice == "refine" or (choice == "auto" and not scene.exact_poses and steps >= WORTH_IT)


class Poses:
    """The corrected cameras of a capture's photos."""

    def __init__(
        self,
        photos: Tensor,
        rotations: Tensor,
        places: Tensor,
        lenses: Tensor,
        turns: Tensor,
        steps: Tensor,
        zooms: Tensor,
        means: Tensor,
        zoom_means: Tensor,
        squares: Tensor,
        visits: Tensor,
    ) -> None:
        """
        Args:
            photos: [V] int64, which of all photos of the capture those to train on are, in order.
            rotations: [V,3,3] from the world to the cameras as given.
            places: [V,3] of the cameras as given.
            lenses: [V] int64, the lens of each.
            turns, steps: [V,3] rotation vectors and ways of the cameras in the axes of the world.
            zooms: [L] logarithms.
            means: [V,6], zoom_means: [L], squares: [MOTION], moments of Adam.
            visits: [V] int64, how often each has been learned from.
        """
        count, kinds = len(photos), len(zooms)
        shapes = {
            "rotations": (count, 3, 3),
            "places": (count, 3),
            "lenses": (count,),
            "turns": (count, 3),
            "steps": (count, 3),
            "means": (count, 6),
            "zoom_means": (kinds,),
            "squares": (MOTION,),
            "visits": (count,),
        }
        given = locals()
        for name, shape in shapes.items():
            if given[name].shape != shape:
                raise ValueError(f"{name} of the poses are {tuple(given[name].shape)}, not {shape}")
        self.photos, self.lenses = photos, lenses
        self._late = Late(self._learn)
        # As plain numbers, which are read faster.
        self._lenses: list[int] = lenses.tolist()
        self._visits: list[int] = visits.tolist()
        if not all(0 <= lens < kinds for lens in self._lenses):
            raise ValueError("lenses of the poses are not all there")
        self.rotations, self.places, self.turns, self.steps = map(_own, (rotations, places, turns, steps))
        self.zooms, self.means, self.zoom_means, self.squares = map(_own, (zooms, means, zoom_means, squares))
        self._away = self.places - self.places.mean(axis=0)
        self._pull = self._away / (self._away * self._away).sum().clip(1e-12)
        self._levers = (self.places @ ACROSS).reshape(-1, 3, 3)  # x -> place x x

    @classmethod
    def of(cls, scene: Scene) -> Poses:
        """For the photos that a scene is trained on; nothing corrected yet."""
        kinds: dict[tuple[float, ...], int] = {}
        lenses, views = [], scene.train_views
        for view in views:
            camera = view.camera
            kind = (camera.width, camera.height, *camera.Ks.flatten().tolist())
            lenses.append(kinds.setdefault(kind, len(kinds)))

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64)

        count, several = len(views), len(kinds)
        return cls(
            photos=torch.tensor(scene.train),
            rotations=torch.cat([view.camera.viewmats[:, :3, :3].double() for view in views]),
            places=torch.cat([view.camera.positions.double() for view in views]),
            lenses=torch.tensor(lenses),
            turns=zeros(count, 3),
            steps=zeros(count, 3),
            zooms=zeros(several),
            means=zeros(count, 6),
            zoom_means=zeros(several),
            squares=zeros(MOTION),
            visits=torch.zeros(count, dtype=torch.int64),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """What the constructor takes."""
        self._late.settle()
        names = ("rotations", "places", "turns", "steps", "zooms", "means", "zoom_means", "squares")
        plain = {"photos": self.photos, "lenses": self.lenses, "visits": torch.tensor(self._visits)}
        return {name: torch.as_tensor(getattr(self, name)) for name in names} | plain

    def camera(self, photo: int, cameras: Cameras) -> Cameras:
        """Where the camera of a photo (0 ... V-1) is, of which it may be a resized one; a batch of one, float32."""
        where = (self.rotations[photo], self.places[photo] + self.steps[photo], self.turns[photo])
        return self._corrected(cameras, *where, self.zooms[self._lenses[photo]])

    def _corrected(self, cameras: Cameras, rotation: Doubles, place: Doubles, turn: Doubles, zoom: float) -> Cameras:
        turned = rotation @ _rotation(-turn)
        viewmats, Ks = np.zeros((1, 4, 4), np.float32), cameras.Ks.cpu().numpy().astype(np.float32)
        viewmats[0, :3, :3], viewmats[0, :3, 3], viewmats[0, 3, 3] = turned, -(turned @ place), 1
        Ks[:, :2, :2] *= np.float32(np.exp(zoom))
        return Cameras(torch.from_numpy(viewmats), torch.from_numpy(Ks), cameras.width, cameras.height)

    def learn(self, photo: int, gradient: Told, progress: float) -> None:
        """A step against a gradient of the motion of a photo's camera; if a GPU has it, the step is taken some steps
        later.

        Args:
            gradient: [MOTION]
            progress: the share of the training that is done, 0..1.
        """
        if progress >= START:
            self._late.tell(photo, gradient, progress)

    def _learn(self, photo: int, slope: Doubles, progress: float) -> None:
        rate = RATES[0] * (RATES[1] / RATES[0]) ** ((progress - START) / (1 - START))
        lens = self._lenses[photo]
        self._visits[photo] += 1
        total = sum(self._visits)
        of_lens = sum(n for n, own in zip(self._visits, self._lenses, strict=True) if own == lens)
        self.squares += (1 - SECOND) * (slope * slope - self.squares)
        self.means[photo] += (1 - FIRST) * (slope[:6] - self.means[photo])
        self.zoom_means[lens] += (1 - ZOOM_FIRST) * (slope[6] - self.zoom_means[lens])
        size = (self.squares / (1 - SECOND**total)).clip(1e-30) ** 0.5
        step = self.means[photo] * (rate / (1 - FIRST ** self._visits[photo])) / size[:6]
        rotation = self.rotations[photo]
        # What the camera does is the opposite of what it sees the world do.
        self.turns[photo] += step[:3] @ rotation
        self.steps[photo] += step[3:] @ rotation
        self.zooms[lens] -= ZOOM * rate / (1 - ZOOM_FIRST**of_lens) * self.zoom_means[lens] / size[6]
        self._stay()

    def _stay(self) -> None:
        """Take out what all cameras do together."""
        common = self.turns.mean(0)
        self.turns -= common
        self.steps += self._levers @ common
        self.steps -= self.steps.mean(0)
        self.steps -= (self._pull * self.steps).sum() * self._away

    def corrected(self, views: Sequence[View]) -> tuple[View, ...]:
        """All views of the capture, in order: those trained on where they are, others by those before and after."""
        self._late.settle()
        found = [view.camera for view in views]
        known = self.photos.tolist()
        others = sorted(set(range(len(views))) - set(known))
        if others:
            learned = np.concatenate([self.turns, self.steps], axis=1)
            guesses = np.concatenate(
                [between(learned[:, part], found, known, others) for part in (slice(0, 3), slice(3, 6))], axis=1
            )
        for row, photo in enumerate(known):
            found[photo] = self.camera(row, views[photo].camera)
        for guess, photo in zip(guesses if others else (), others, strict=True):
            camera = views[photo].camera
            rotation, place = _own(camera.viewmats[0, :3, :3]), _own(camera.positions[0])
            nearest = min(range(len(known)), key=lambda row: abs(known[row] - photo))
            zoom = self.zooms[self._lenses[nearest]]
            found[photo] = self._corrected(camera, rotation, place + guess[3:], guess[:3], zoom)
        return tuple(
            dataclasses.replace(view, camera=camera.to(view.camera.viewmats.device))
            for view, camera in zip(views, found, strict=True)
        )


def _own(values: Tensor) -> Doubles:
    """As an array, with which so little is done five times as fast, in double precision."""
    return values.to("cpu", torch.float64).numpy()
