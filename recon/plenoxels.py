"""Plenoxels (Fridovich-Keil et al. 2022): a sparse grid of densities and harmonics, without a network.

The paper's background, layers of spheres around the grid, is here a shell of the same grid: see `kernels/voxels.py`.
The kernels run on the CPU, whatever else there is.

Shape letters: N corners along a side of the grid, V rows (corners that are kept), C cameras, R rays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recon import rays, rng, sh
from recon.config import PlenoxelsConfig, TrainConfig
from recon.datasets.cameras import Cameras
from recon.datasets.scene import Scene, View
from recon.kernels import voxels
from recon.kernels.voxel_gradient import gradient_of, most_seen
from recon.kernels.voxel_smooth import add_variation
from recon.kernels.voxels import DENSE, EMPTY, ROW, Floats, Grid
from recon.model import RayBatch, RenderOutput
from recon.optim import SelectiveAdam
from recon.reach import Reach, reach_of

DEGREE = 2
THIN = -5.0  # the level that all begins with: seven tenths of the light come through a unit of contracted space
MOMENTS = (0.0, 0.95)  # RMSProp, as published: Adam without a mean of the gradients
SMOOTHED = 0.01  # share of the rows whose variation counts in a step
LOOKING = 60  # rays of all photos together, for each square of a side of the grid, that tell what is seen of it
CHUNK = 1 << 16
FEW = 10  # as often as a capture has so many photos, one more must show a place
FLAT = (1.0, 1.0, 1 / 3)  # of normalised device coordinates: fewer cells from near to far than across a picture


class Plenoxels:
    """The grid, and how it gets finer. A `recon.model.Field`."""

    unit: ClassVar[str] = "voxels"
    ray_count: int | None = None
    kernels: ClassVar[tuple[str, ...]] = ("voxels", "voxel_gradient", "voxel_smooth", "adam")
    device = torch.device("cpu")

    def __init__(
        self,
        config: PlenoxelsConfig,
        reach: Reach,
        links: Tensor,
        levels: Tensor,
        harmonics: Tensor,
        cameras: dict[str, Tensor],
    ) -> None:
        """
        Args:
            reach: of which the nearest distance counts, and the frame.
            links: [N,N,N] int32, see `Grid`.
            levels: [V], of which `Grid` makes densities. harmonics: [V,ROW].
            cameras: `viewmats` [C,4,4], `Ks` [C,3,3] and `sizes` [C,2] of the photos to train on: what none of them
                sees is dropped when the grid gets finer.
        """
        self.config, self.reach, self._cameras = config, reach, cameras
        self.levels, self.harmonics = levels.requires_grad_(), harmonics.requires_grad_()
        self._follow(links)

    @property
    def _shell(self) -> float:
        """In normalised device coordinates little is outside the cube."""
        return self.config.shell if self.reach.frame is None else self.config.ndc_shell

    def _follow(self, links: Tensor) -> None:
        self.links, self.side = links, len(links)
        flat = links.reshape(-1).numpy()
        self._blocks = voxels.blocks_of(flat, self.side)
        self._cells = np.flatnonzero(flat >= 0).astype(np.int32)

    @classmethod
    def start(cls, scene: Scene, settings: TrainConfig, device: torch.device) -> Self:
        """Thin grey fog, where enough photos look: one that looks alone could explain itself by what is there."""
        config = settings.radiance
        assert isinstance(config, PlenoxelsConfig)
        reach, side, views = reach_of(scene), config.sides[0], scene.train_views
        cameras = {
            "viewmats": torch.cat([view.camera.viewmats for view in views]).float(),
            "Ks": torch.cat([view.camera.Ks for view in views]).float(),
            "sizes": torch.tensor([(view.camera.width, view.camera.height) for view in views]),
        }
        kept = torch.ones((side,) * 3, dtype=torch.bool)
        if reach.frame is None:
            kept = _photos_of(config, reach, views) >= min(config.least_photos, 1 + len(views) // FEW)
        rows = int(kept.sum())
        links = torch.full((side,) * 3, -1, dtype=torch.int32)
        links[kept] = torch.arange(rows, dtype=torch.int32)
        return cls(config, reach, links, torch.full((rows,), THIN), torch.zeros(rows, ROW), cameras)

    @classmethod
    def restore(cls, settings: TrainConfig, tensors: dict[str, Tensor], device: torch.device) -> Self:
        assert isinstance(settings.radiance, PlenoxelsConfig)
        links, levels, harmonics = tensors["links"], tensors["levels"], tensors["harmonics"]
        rows, kept = len(levels), links[links >= 0]
        if len(set(links.shape)) != 1 or links.ndim != 3 or links.dtype != torch.int32:
            raise ValueError(f"links {tuple(links.shape)}, {links.dtype}: not a cube of int32")
        if harmonics.shape != (rows, ROW) or not torch.equal(kept, torch.arange(rows, dtype=torch.int32)):
            raise ValueError("the rows do not fit the links")
        return cls(
            *(settings.radiance, Reach.restore(tensors), links, levels, harmonics),
            {name: tensors[name] for name in ("viewmats", "Ks", "sizes")},
        )

    @staticmethod
    def memory(settings: TrainConfig) -> tuple[int, int]:
        config = settings.radiance
        assert isinstance(config, PlenoxelsConfig)
        # Making the grid finer takes a few whole grids of floats.
        return config.max_voxels * 4 * (1 + ROW), config.rays * 64 * 40 + 16 * max(config.sides) ** 3

    def __len__(self) -> int:
        return len(self.levels)

    def state_dict(self) -> dict[str, Tensor]:
        values = {"levels": self.levels.detach(), "harmonics": self.harmonics.detach()}
        return {"links": self.links, **values, **self._cameras, **self.reach.state_dict()}

    def param_groups(self, extent: float) -> list[dict[str, Any]]:
        rates = {"levels": self.config.lr_density, "harmonics": self.config.lr_sh}
        return [
            {
                "params": [getattr(self, name)],
                "name": name,
                "lr": rate,
                "lr_final": rate * self.config.lr_final,
                "betas": MOMENTS,
            }
            for name, rate in rates.items()
        ]

    def regularisers(self) -> dict[str, Tensor]:
        """None that autograd would see: `learn` adds what is like one."""
        return {}

    def grid(self) -> Grid:
        """The values as the kernels see them, in the same memory."""
        values = self.levels.detach().numpy(), self.harmonics.detach().numpy()
        links = self.links.reshape(-1).numpy()
        return Grid(self.side, self._shell, links, self._blocks, *values)

    def learn(self, batch: RayBatch, progress: float) -> tuple[Tensor, Tensor]:
        """The squared error of the colours, sparsity along the rays, and total variation of some of the rows."""
        config, grid = self.config, self.grid()
        made, basis = self._prepared(*batch.cameras.rays(batch.pixels))
        if progress < config.one_colour_until:  # or else what stands before one camera would be seen by it alone
            basis[:, 1:] = 0
        target, background = batch.rgb.reshape(-1, 3).numpy(), batch.background.numpy()
        red, green, blue = background.tolist()
        out, records = voxels.march_to(
            grid, made, basis, target, (red, green, blue), config.sparsity, config.distortion
        )
        gradient = gradient_of(grid, records, basis)
        if progress < config.tv_until:
            rows = len(self)
            count = max(1, round(SMOOTHED * rows))
            draw = rng.generator(batch.seed, "rows to smooth", batch.step)
            first = int(torch.randint(rows - count + 1, (1,), generator=draw))
            add_variation(
                *(grid, self._cells, first, count),
                (config.tv_density / count, config.tv_sh / count),
                gradient,
            )
        self.levels.grad = torch.from_numpy(gradient.levels)
        self.harmonics.grad = torch.from_numpy(gradient.harmonics)
        error = out[:, :3] + (1 - out[:, 3:4]) * background - target
        return torch.tensor(np.square(error).mean()), torch.from_numpy(gradient.seen)

    def after_step(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Make the grid finer when that is due."""
        sides, due = self.config.sides, sum(progress >= share for share in self.config.finer_at)
        while self.side < sides[min(due, len(sides) - 1)]:
            self._refine(optimizer, next(side for side in sides if side > self.side))

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
        """See `recon.model.Model.render`. The depth has no gradient."""

        def seen(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            made, basis = self._prepared(origins, directions)
            out = _March.apply(self.levels, self.harmonics, self.grid(), made, basis)
            along = out[:, 4].detach() / out[:, 3].detach().clamp_min(1e-10)
            if self.reach.frame is None:
                return out[:, :3], out[:, 3], self.config.core * along
            s = along / torch.from_numpy(made[:, 7])
            return out[:, :3], out[:, 3], self.reach.distances(origins, directions, s[:, None])[:, 0]

        return rays.render(seen, cameras.to(self.device, torch.float32), pixels, background, CHUNK)

    @torch.no_grad()
    def density(self, points: Tensor) -> Tensor:
        """See `recon.model.Field.density`. In the shell it is right for rays that go across."""
        shell, found = self._shell, []
        for part in points.to(torch.float32).split(CHUNK):
            places, longer = self.reach.places(part)
            if self.reach.frame is None:
                places, longer = places / self.config.core, longer / self.config.core
            else:
                places, longer = places * torch.tensor(FLAT), longer * math.prod(FLAT) ** (1 / 3)
            largest = places.abs().amax(dim=-1, keepdim=True).clamp_min(1.0)
            slower = (1 + shell - shell / largest) / largest
            at = (places * slower + 1 + shell) * ((self.side - 1) / (2 * (1 + shell)))
            dense = DENSE * functional.softplus(self._interpolated(at)[:, 0])
            found.append(dense * longer * slower[:, 0])
        return torch.cat(found)

    @torch.no_grad()
    def _refine(self, optimizer: torch.optim.Optimizer, side: int) -> None:
        """A grid of more corners, where any photo sees something of this one. The optimiser begins anew."""
        seen = self._seen()
        kept = functional.max_pool3d((seen > self.config.least_weight).float()[None], 3, stride=1, padding=1)
        finer = functional.interpolate(kept[None], (side,) * 3, mode="trilinear", align_corners=True)[0, 0] > 0
        if int(finer.sum()) > self.config.max_voxels:  # those of which most is seen
            shows = functional.max_pool3d(seen[None], 3, stride=1, padding=1)
            shows = functional.interpolate(shows[None], (side,) * 3, mode="trilinear", align_corners=True)[0, 0]
            last = len(shows.reshape(-1)) - self.config.max_voxels
            finer &= shows > shows.reshape(-1).kthvalue(last).values
        new = self._interpolated(finer.nonzero() * ((self.side - 1) / (side - 1)))
        links = torch.full((side,) * 3, -1, dtype=torch.int32)
        links[finer] = torch.arange(len(new), dtype=torch.int32)
        groups = {group["name"]: group for group in optimizer.param_groups}
        if isinstance(optimizer, SelectiveAdam):
            optimizer.forget_arrays()
        for name, values in (("levels", new[:, 0]), ("harmonics", new[:, 1:])):
            optimizer.state.pop(getattr(self, name), None)
            parameter = values.clone(memory_format=torch.contiguous_format).requires_grad_()
            groups[name]["params"] = [parameter]
            setattr(self, name, parameter)
        self._follow(links)

    def _seen(self) -> Tensor:
        """[N,N,N] the most that any ray to train on sees of each corner, as far as a part of the rays tells."""
        viewmats, Ks, sizes = (self._cameras[name] for name in ("viewmats", "Ks", "sizes"))
        every = max(1, round((int(sizes.prod(dim=-1).sum()) / LOOKING) ** 0.5 / self.side))
        grid = self.grid()
        most = np.zeros(len(self), np.float32)
        for viewmat, K, (width, height) in zip(viewmats, Ks, sizes.tolist(), strict=True):
            pixels = rays.all_pixels(Cameras(viewmat[None], K[None], -(-width // every), -(-height // every)))
            made, basis = self._prepared(*Cameras(viewmat[None], K[None], width, height).rays(every * pixels))
            np.maximum(most, most_seen(grid, voxels.march_weights(grid, made, basis)), out=most)
        found = torch.zeros(self.side**3)
        found[torch.from_numpy(self._cells).long()] = torch.from_numpy(most)
        return found.reshape(self.links.shape)

    def _prepared(self, origins: Tensor, directions: Tensor) -> tuple[Floats, Floats]:
        """Rays [R,RAY] and the harmonics [R,9] in their directions, as the kernels take them."""
        origins, directions = origins.reshape(-1, 3), directions.reshape(-1, 3)
        limits = torch.tensor([[self.reach.near / self.config.core, math.inf]]).expand(len(origins), 2)
        starts, along = origins / self.config.core, directions
        if self.reach.frame is not None:
            starts, ways = (part * torch.tensor(FLAT).to(part) for part in self.reach.rays(origins, directions))
            lengths = ways.norm(dim=-1, keepdim=True)
            along, limits = ways / lengths, torch.cat([torch.zeros_like(lengths), lengths], dim=-1)
        made = torch.cat([starts, along, limits], dim=-1).float().contiguous()
        basis = sh.basis(directions, DEGREE).float().contiguous().numpy()
        basis[:, 1:] *= self.config.of_direction
        return made.numpy(), basis

    def _interpolated(self, places: Tensor) -> Tensor:
        """[K,1+ROW] levels and harmonics at places [K,3] counted in corners."""
        values = torch.cat([self.levels[:, None], self.harmonics], dim=-1)
        values = torch.cat([values, torch.zeros_like(values[:1])])
        values[-1, 0] = EMPTY  # of what is not kept
        links = torch.where(self.links < 0, len(self), self.links).long()
        parts = []
        for part in places.split(CHUNK):
            cells = part.floor().clamp(0, self.side - 2)
            inside, cells = part - cells, cells.long()
            found = torch.zeros(len(part), 1 + ROW)
            for corner in range(8):
                offset = torch.tensor([corner >> 2, (corner >> 1) & 1, corner & 1])
                weight = torch.where(offset == 1, inside, 1 - inside).prod(dim=-1)
                found += weight[:, None] * values[links[(cells + offset).unbind(-1)]]
            parts.append(found)
        return torch.cat(parts)


def _photos_of(config: PlenoxelsConfig, reach: Reach, views: Sequence[View]) -> Tensor:
    """[N,N,N] how many photos show the corners of the first grid, or one next to them, beyond the nearest distance."""
    line = torch.linspace(-1 - config.shell, 1 + config.shell, config.sides[0])
    places = torch.cartesian_prod(line, line, line)
    largest = places.abs().amax(dim=-1, keepdim=True).clamp_min(1.0)
    # The contraction backwards; the last corners are at infinity.
    outwards = config.shell / (largest * (1 + config.shell - largest).clamp_min(1e-3))
    points = config.core * outwards * places
    count = torch.zeros(len(points))
    for view in views:
        inside = view.camera.pixels_of(points)[1]
        count += inside & ((points - view.camera.positions.to(points)).norm(dim=-1) > reach.near)
    return functional.max_pool3d(count.reshape(1, *(len(line),) * 3), 3, stride=1, padding=1)[0]


class _March(torch.autograd.Function):
    """`voxels.march`, differentiable in levels and harmonics."""

    @staticmethod
    def forward(ctx: Any, levels: Tensor, harmonics: Tensor, grid: Grid, made: Floats, basis: Floats) -> Tensor:
        ctx.grid, ctx.made, ctx.basis = grid, made, basis
        return torch.from_numpy(voxels.march(grid, made, basis))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        given = gradient[:, :4].contiguous().numpy()
        found = gradient_of(ctx.grid, voxels.march_back(ctx.grid, ctx.made, ctx.basis, given), ctx.basis)
        unseen = found.seen == 0
        found.levels[unseen] = 0
        found.harmonics[unseen] = 0
        return torch.from_numpy(found.levels), torch.from_numpy(found.harmonics), None, None, None
