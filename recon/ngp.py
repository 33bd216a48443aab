"""Instant-NGP (Müller et al. 2022): a hash grid and two small networks, asked only where something may be.

All of space is contracted into a cube (Mip-NeRF 360, eq. 10), and densities are per length in there: then steps that
grow with the distance are of one length. What differs between photos of a real capture, such as the exposure, is a
vector of each photo that the colours see (NeRF in the Wild, Martin-Brualla et al. 2021).

Shape letters: C photos of a step, R rays, N samples of all rays, V photos to learn from.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from recon import hashgrid, packed, rays, rng, sh, volume
from recon.config import NgpConfig, TrainConfig
from recon.datasets.cameras import Cameras
from recon.datasets.scene import Scene
from recon.kernels import hash_grid
from recon.model import RayBatch, RenderOutput
from recon.occupancy import EVERY, Occupancy
from recon.perceptron import perceptron
from recon.reach import Reach, reach_of

GEOMETRY = 16  # what the first network tells of a place: the logarithm of its density, and what the colours see
DEGREE = 3  # of the harmonics that the direction is seen through: 16 of them
MOMENTS = (0.9, 0.99)
THIN = math.log(0.5)  # the logarithm of the density that all begins with
DENSEST = 12.0  # the largest such logarithm
SEEN = 2e-3  # share of a ray below which a sample is left out
MOST = 1024  # samples of a ray
AT_ONCE = 1 << 11  # rays of a picture
BEGINNING = 1 / 256  # rays for each sample of the first step


class Ngp:
    """The table, the networks and where something is. A `recon.model.Field`."""

    unit: ClassVar[str] = "weights"
    kernels: ClassVar[tuple[str, ...]] = ("hash_grid", "occupancy", "packed", "adam")

    def __init__(
        self,
        config: NgpConfig,
        reach: Reach,
        parameters: dict[str, Tensor],
        occupancy: Occupancy,
        ray_count: int,
        halved: int = 0,
    ) -> None:
        """
        Args:
            parameters: see `shapes_of`.
            ray_count: how many rays the next step takes, for each part of a batch.
            halved: how often the steps along rays have become half as long.
        """
        self.config, self.reach, self.occupancy, self.ray_count = config, reach, occupancy, ray_count
        self.halved = halved
        self._layout = layout_of(config)
        self._parameters = {name: value.requires_grad_() for name, value in parameters.items()}
        self._density = [self._parameters[f"density.{i}"] for i in range(2)]
        self._colour = [self._parameters[f"colour.{i}"] for i in range(3)]

    @classmethod
    def start(cls, scene: Scene, settings: TrainConfig, device: torch.device) -> Self:
        config = settings.radiance
        assert isinstance(config, NgpConfig)
        photos = 0 if scene.exact_poses else len(scene.train_views)
        parameters = {}
        for name, shape in shapes_of(config, photos).items():
            if name == "table":
                value = hashgrid.first_table(layout_of(config), settings.seed)
            elif name == "appearance":
                value = torch.zeros(shape)
            else:  # Glorot and Bengio 2010
                draw = rng.generator(settings.seed, name)
                value = math.sqrt(6 / sum(shape)) * (2 * torch.rand(shape, generator=draw) - 1)
            parameters[name] = value.to(device)
        occupancy = Occupancy.full(config.cells, config.step, device)
        return cls(config, reach_of(scene), parameters, occupancy, round(config.samples * BEGINNING))

    @classmethod
    def restore(cls, settings: TrainConfig, tensors: dict[str, Tensor], device: torch.device) -> Self:
        config = settings.radiance
        assert isinstance(config, NgpConfig)
        shapes = shapes_of(config, len(tensors["appearance"]) if "appearance" in tensors else 0)
        of_space = ("occupancy", "cells") if "cells" in tensors else ("occupancy",)  # once they were not kept
        for name, shape in {**shapes, **dict.fromkeys(of_space, (config.cells**3,))}.items():
            if tuple(tensors[name].shape) != shape:
                raise ValueError(f"{name} is {tuple(tensors[name].shape)}, not {shape}")
        cells = tensors.get("cells")
        occupancy = Occupancy(
            *(tensors["occupancy"].to(device), config.cells, config.step, None if cells is None else cells.to(device))
        )
        parameters = {name: tensors[name].to(device) for name in shapes}
        halved = int(tensors.get("halved", 0))  # of checkpoints from before there was such a number
        return cls(config, Reach.restore(tensors), parameters, occupancy, int(tensors["ray_count"]), halved)

    @staticmethod
    def memory(settings: TrainConfig) -> tuple[int, int]:
        config = settings.radiance
        assert isinstance(config, NgpConfig)
        weights = sum(math.prod(shape) for shape in shapes_of(config, 1000).values())
        of_sample = 2 * layout_of(config).width + 8 * config.width + 3 * GEOMETRY
        return 4 * (weights + config.cells**3), 2 * 4 * config.samples * of_sample

    def __len__(self) -> int:
        return sum(value.numel() for value in self._parameters.values())

    @property
    def device(self) -> torch.device:
        return self._parameters["table"].device

    def state_dict(self) -> dict[str, Tensor]:
        """What is learned, where something is, how many rays the next step takes, and how long theirs are."""
        values = {name: value.detach() for name, value in self._parameters.items()}
        counts = {"ray_count": torch.tensor(self.ray_count), "halved": torch.tensor(self.halved)}
        of_space = {"occupancy": self.occupancy.values, "cells": self.occupancy.cells}
        return {**values, **counts, **of_space, **self.reach.state_dict()}

    def param_groups(self, extent: float) -> list[dict[str, Any]]:
        rates = {"lr": self.config.lr, "lr_final": self.config.lr_final, "betas": MOMENTS}
        return [{"params": [value], "name": name, **rates} for name, value in self._parameters.items()]

    def regularisers(self) -> dict[str, Tensor]:
        """None beside what `learn` adds."""
        return {}

    def learn(self, batch: RayBatch, progress: float) -> tuple[Tensor, None]:
        """The squared error of the colours, and how spread out along a ray what it shows is."""
        self.halved = sum(progress >= share for share in self.config.shorter_at)
        origins, directions = (v.reshape(-1, 3) for v in batch.cameras.rays(batch.pixels))
        photos = batch.photos.repeat_interleave(batch.pixels.shape[1]).to(self.device)
        jitter = torch.rand(len(origins), generator=rng.generator(batch.seed, "samples", batch.step))
        shown, cost = self._shown(origins, directions, jitter, self._lit(photos))
        target = batch.rgb.reshape(-1, 3)
        error = (shown[:, :3] + (1 - shown[:, 3:4]) * batch.background - target).square().mean()
        (error + self.config.distortion * shown[:, 5].mean()).backward()  # type: ignore[no-untyped-call]
        for layer in (*self._density, *self._colour):
            if layer.grad is not None:
                layer.grad.add_(layer.detach(), alpha=self.config.decay)
        fitting = len(origins) * self.config.samples // max(1, cost)
        self.ray_count = min(max(fitting, self.ray_count // 2, 1), 2 * self.ray_count, self.config.rays)
        if batch.step % EVERY == EVERY - 1:
            self._look_around(batch)
        return error.detach(), None

    def after_step(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Nothing changes with the progress."""

    def render(
        self,
        cameras: Cameras,
        *,
        pixels: Tensor | None = None,
        background: Tensor | None = None,
        train_frac: float = 1.0,
        depth: bool = True,
        absgrad: bool = False,
        median_depth: bool = False,
    ) -> RenderOutput:
        """See `recon.model.Model.render`. Photos' own light is that of all of them on the average."""

        def seen(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            shown, _ = self._shown(origins, directions, None, self._mean_light(len(origins)))
            alpha = shown[:, 3]
            distance = shown[:, 4] / alpha.clamp_min(1e-10)
            if self.reach.frame is not None:
                distance = self.reach.distances(origins, directions, distance[:, None])[:, 0]
            return shown[:, :3], alpha, distance

        return rays.render(seen, cameras.to(self.device, torch.float32), pixels, background, AT_ONCE)

    @torch.no_grad()
    def density(self, points: Tensor) -> Tensor:
        """See `recon.model.Field.density`. Outside of the unit ball it is right for the mean of directions."""
        found = []
        for part in points.to(self.device, torch.float32).split(AT_ONCE):
            places, faster = self.reach.places(part)
            far = places.norm(dim=-1).clamp_min(1)
            slower = ((2 - 1 / far) / far.square()) ** (2 / 3)  # the cube root of the determinant of the derivatives
            found.append((self._densities_at(volume.contract(places) / 4 + 0.5) * slower * faster).cpu())
        return torch.cat(found)

    def _lit(self, photos: Tensor) -> Tensor | None:
        """[R,A] what the colours see of the photos [R] that rays are of."""
        vectors = self._parameters.get("appearance")
        return None if vectors is None else vectors[photos]

    def _mean_light(self, count: int) -> Tensor | None:
        vectors = self._parameters.get("appearance")
        return None if vectors is None else vectors.mean(dim=0).expand(count, -1)

    def _shown(
        self, origins: Tensor, directions: Tensor, jitter: Tensor | None, light: Tensor | None
    ) -> tuple[Tensor, int]:
        """What rays [R,3] show, see `packed.composite`, and how many samples that takes to find out.

        Args:
            light: [R,A] see `_lit`.
        """
        found, step, table = self._samples(origins, directions, jitter), self._step, self._parameters["table"]
        with torch.no_grad():
            encoded = hashgrid.encode(self._layout, found.positions, table)
            densities = self._densities(perceptron(encoded, self._density)[:, 0])
            if jitter is not None:
                self.occupancy.met(found.positions, densities)
            rows = torch.nonzero(packed.weights_of(found, step * densities) > SEEN)[:, 0]
        kept = found.chosen(rows)
        encoded = hashgrid.encode(self._layout, kept.positions, table, encoded[rows])
        geometry = perceptron(encoded, self._density)
        ray = kept.rays()
        seen = [sh.basis(directions, DEGREE), *(() if light is None else (light,))]
        colours = perceptron(torch.cat([torch.cat(seen, dim=-1)[ray], geometry], dim=-1), self._colour).sigmoid()
        shown = packed.composite(kept, step * self._densities(geometry[:, 0]), colours)
        return shown, (len(densities) + 2 * len(ray)) // 3

    @property
    def _step(self) -> float:
        return self.config.step / 2**self.halved

    def _samples(self, origins: Tensor, directions: Tensor, jitter: Tensor | None) -> packed.Samples:
        """Where rays [R,3] are looked at."""
        begin, along = self.reach.rays(origins, directions)
        span = (0.0, 1.0)
        if self.reach.frame is None:
            begin, along, span = origins, directions, (self.reach.near, math.inf)
        return self.occupancy.march(begin, along, *span, self._step, jitter, MOST)

    def _densities_at(self, positions: Tensor) -> Tensor:
        """[P] in contracted space, whose cube is 0..1."""
        encoded = hashgrid.encode(self._layout, positions, self._parameters["table"])
        return self._densities(perceptron(encoded, self._density)[:, 0])

    @staticmethod
    def _densities(told: Tensor) -> Tensor:
        return (told + THIN).clamp_max(DENSEST).exp()

    @torch.no_grad()
    def _look_around(self, batch: RayBatch) -> None:
        """Find out what is in cells that rays may not come to, because they count as empty."""
        draw = rng.generator(batch.seed, "cells", batch.step)
        places = self.occupancy.to_look_at(batch.step // EVERY, draw)
        densities = self._densities_at(places)
        self.occupancy.fade()
        self.occupancy.met(places, densities)
        self.occupancy.decide()


def layout_of(config: NgpConfig) -> hash_grid.Layout:
    return hash_grid.layout(config.levels, config.features, config.log2_rows, config.base, config.finest)


def shapes_of(config: NgpConfig, photos: int) -> dict[str, tuple[int, ...]]:
    """Of all that is learned; `photos`: how many have a vector of their own."""
    layout, width = layout_of(config), config.width
    light = config.appearance if photos else 0
    shapes: dict[str, tuple[int, ...]] = {
        "table": (layout.rows, layout.features),
        "density.0": (width, layout.width),
        "density.1": (GEOMETRY, width),
        "colour.0": (width, (DEGREE + 1) ** 2 + light + GEOMETRY),
        "colour.1": (width, width),
        "colour.2": (3, width),
    }
    return shapes | ({"appearance": (photos, light)} if light else {})
