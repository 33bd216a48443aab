"""nerfacto's radiance field, for looking at: what nerfstudio renders of it in evaluation (models/nerfacto.py of 1.1.5).

Two small networks propose where along a ray something is, one after the other; the field is asked there. Its cameras
are where the capture says: what it learned of their poses it uses in training alone.

Shape letters: R rays, K samples of each, P points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn, Self

import torch
from torch import Tensor

from recon import rays, sh, volume
from recon.datasets.cameras import Cameras
from recon.datasets.errors import InputError
from recon.kernels.runtime import get_threads
from recon.model import RenderOutput
from recon.nerfstudio.nerfacto_weights import Asked, Layers, Settings, Weights, through
from recon.torch_threads import all_torch_threads

PADDING = 0.01  # of a proposal's weights, when samples are drawn
AT_ONCE = 1 << 10  # rays of a picture
POINTS_AT_ONCE = 1 << 15
MARK = "field.mlp_base.model."  # what the names of its weights have, and those of splats have not
PROPOSALS = "proposal_networks."  # which other fields of nerfstudio's lack


def is_one(tensors: Mapping[str, Any]) -> bool:
    """Whether the tensors of a checkpoint are a nerfacto's."""
    return all(any(name.startswith(mark) for name in tensors) for mark in (MARK, PROPOSALS))


class Nerfacto:
    """A `recon.model.Field` that is rendered, and not trained."""

    unit: ClassVar[str] = "weights"
    kernels: ClassVar[tuple[str, ...]] = ()
    ray_count: int | None = None

    def __init__(self, settings: Settings, tensors: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """
        Args:
            tensors: of the checkpoint, as they are called in the model. KeyError or ValueError where they do not fit.
        """
        weights = Weights(tensors, device)
        self.settings = settings
        self._box = weights.get("field.aabb", 2, 3)
        self._field = weights.field(settings)
        rounds = range(settings.num_proposal_iterations)
        if settings.use_same_proposal_network:
            self._proposals = [weights.proposal(0, settings)] * len(rounds)
        else:
            self._proposals = [weights.proposal(number, settings) for number in rounds]
        self._colours = weights.colours(settings)
        self._harmonics = sh_of_tcnn if f"{MARK}params" in tensors else sh_of_torch

    def state_dict(self) -> dict[str, Tensor]:
        """The weights, as they are kept here."""
        parts: dict[str, tuple[Tensor | None, Layers]] = {"colours": (None, self._colours)}
        for name, asked in {"field": self._field, **{f"proposal{i}": p for i, p in enumerate(self._proposals)}}.items():
            parts[name] = (asked.table, asked.layers)
        found = {}
        for name, (table, layers) in parts.items():
            if table is not None:
                found[f"{name}.table"] = table
            for number, (weight, bias) in enumerate(layers):
                found[f"{name}.{number}.weight"] = weight
                if bias is not None:
                    found[f"{name}.{number}.bias"] = bias
        return found

    def __len__(self) -> int:
        return sum(value.numel() for value in self.state_dict().values())

    @property
    def device(self) -> torch.device:
        return self._box.device

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
        """See `recon.model.Model.render`. Where the last sample of a ray is its background, no other is shown."""
        behind = None if self.settings.background_color == "last_sample" else background
        with torch.no_grad(), all_torch_threads(self.device, get_threads()):
            return rays.render(self._seen, cameras.to(self.device, torch.float32), pixels, behind, AT_ONCE)

    @torch.no_grad()
    def density(self, points: Tensor) -> Tensor:
        """See `recon.model.Field.density`."""
        with all_torch_threads(self.device, get_threads()):
            parts = points.to(self.device, torch.float32).split(POINTS_AT_ONCE)
            return torch.cat([self._asked(self._field, part)[0].cpu() for part in parts])

    def _seen(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `rays.render` asks of rays [R,3]: colours, opacities, expected distances."""
        counts = self.settings.num_proposal_samples_per_ray[: len(self._proposals)]
        s = torch.linspace(0, 1, counts[0] + 1, device=origins.device).expand(len(origins), -1)
        for asked, count in zip(self._proposals, (*counts[1:], self.settings.num_nerf_samples_per_ray), strict=True):
            weights = self._sampled(asked, origins, directions, s)[0]
            at = volume.stratified((len(origins),), count + 1).to(s)
            s = volume.importance(s, weights + (PADDING - volume.LEAST_WEIGHT), at)
        weights, middles, geometry = self._sampled(self._field, origins, directions, s)
        seen = self._harmonics(directions)[:, None].expand(*s[:, 1:].shape, -1)
        colours = through(self._colours, torch.cat([seen, geometry[..., 1:]], dim=-1)).sigmoid().nan_to_num()
        alpha = weights.sum(dim=-1)
        rgb = volume.composite(weights, colours)
        if self.settings.background_color == "last_sample":
            rgb = rgb + colours[:, -1] * (1 - alpha[:, None])
        return rgb, alpha, (weights * middles).sum(dim=-1) / (alpha + 1e-10)

    def _sampled(self, asked: Asked, origins: Tensor, directions: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights [R,K] of the intervals between coordinates [R,K+1], the distances of their middles, and what the
        network tells there [R,K,out]."""
        edges = self._distances(s)
        middles = (edges[:, 1:] + edges[:, :-1]) / 2
        points = origins[:, None] + directions[:, None] * middles[..., None]
        densities, told = self._asked(asked, points.reshape(-1, 3))
        weights, _ = volume.weights_of(densities.reshape(middles.shape), edges.diff(dim=-1))
        return weights.nan_to_num(), middles, told.reshape(*middles.shape, -1)

    def _asked(self, asked: Asked, points: Tensor) -> tuple[Tensor, Tensor]:
        """Densities [P] at points [P,3] of the world, and all that the network tells there [P,out]."""
        if self.settings.disable_scene_contraction:
            positions = (points - self._box[0]) / (self._box[1] - self._box[0])
        else:
            positions = (contract(points) + 2) / 4
        inside = ((positions > 0) & (positions < 1)).all(dim=-1)
        told = asked(positions * inside[:, None])
        return self.settings.average_init_density * told[:, 0].exp() * inside, told

    def _distances(self, s: Tensor) -> Tensor:
        """Distances along rays of coordinates 0..1. nerfstudio moves the near plane to the camera in evaluation."""
        far = torch.tensor(self.settings.far_plane, device=s.device)
        if self.settings.proposal_initial_sampler == "uniform":
            return s * far
        # Half of the coordinates are for distances up to 1, and half are even in disparity from there on.
        s = s * torch.where(far < 1, far / 2, 1 - 1 / (2 * far))
        return torch.where(s < 0.5, 2 * s, 1 / (2 - 2 * s))

    # What only trainings ask of a field

    @classmethod
    def start(cls, *_: Any) -> Self:
        """Never: see `InputError`'s text."""
        _refuse()

    @classmethod
    def restore(cls, *_: Any) -> Self:
        """Never, since no checkpoint of ours holds one."""
        _refuse()

    @staticmethod
    def memory(*_: Any) -> tuple[int, int]:
        """Never, as no training begins."""
        _refuse()

    def param_groups(self, extent: float) -> list[dict[str, Any]]:
        """One that does not move, since an optimiser wants one."""
        return [{"params": [self._field.table], "name": "table", "lr": 0.0, "lr_final": 0.0}]

    def regularisers(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def learn(self, *_: Any) -> NoReturn:
        """Never."""
        _refuse()

    def after_step(self, *_: Any) -> NoReturn:
        """Never."""
        _refuse()


def _refuse() -> NoReturn:
    raise InputError("a nerfacto of nerfstudio's is looked at here, and not trained; train its capture: recon train")


def contract(points: Tensor) -> Tensor:
    """Points [P,3] of all space in the cube -2..2; that of -1..1 stays as it is (Mip-NeRF 360, eq. 10, with the largest
    coordinate as the length)."""
    size = points.abs().amax(dim=-1, keepdim=True)
    return torch.where(size < 1, points, (2 - 1 / size) * (points / size))


def sh_of_tcnn(directions: Tensor) -> Tensor:
    """[R,16] tiny-cuda-nn's harmonics of unit directions [R,3], which are those of splats."""
    return sh.basis(directions, 3)


def sh_of_torch(directions: Tensor) -> Tensor:
    """[R,16] what nerfstudio makes in PyTorch of unit directions [R,3] (utils/math.py): it moves these to 0..1, as
    tiny-cuda-nn wants them, and does not move them back; and its signs are others."""
    x, y, z = ((directions + 1) / 2).unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    functions = [
        torch.full_like(x, 0.28209479177387814),
        *(0.4886025119029199 * each for each in (y, z, x)),
        *(1.0925484305920792 * each for each in (x * y, y * z)),
        0.9461746957575601 * zz - 0.31539156525251999,
        1.0925484305920792 * x * z,
        0.5462742152960396 * (xx - yy),
        0.5900435899266435 * y * (3 * xx - yy),
        2.890611442640554 * x * y * z,
        0.4570457994644658 * y * (5 * zz - 1),
        0.3731763325901154 * z * (5 * zz - 3),
        0.4570457994644658 * x * (5 * zz - 1),
        1.445305721320277 * z * (xx - yy),
        0.5900435899266435 * x * (xx - 3 * yy),
    ]
    return torch.stack(functions, dim=-1)
