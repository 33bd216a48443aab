"""What radiance fields have in common whose parameters are torch's networks: how they begin, are kept and are moved."""

from __future__ import annotations

import contextlib
from typing import ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from recon import rng
from recon.config import Mip360Config, NerfConfig, TrainConfig
from recon.datasets.scene import Scene
from recon.kernels.runtime import get_threads
from recon.reach import Reach, reach_of
from recon.torch_threads import all_torch_threads, one_torch_thread

C = TypeVar("C", bound=NerfConfig | Mip360Config)
N = TypeVar("N", bound=nn.Module)


class NetworkField(Generic[C, N]):
    """The part of a `recon.model.Field` that does not depend on what the networks are asked."""

    unit: ClassVar[str] = "weights"
    ray_count: int | None = None

    def __init__(self, config: C, reach: Reach) -> None:
        self.config, self.reach = config, reach
        self.networks = self.networks_of(config)

    @staticmethod
    def networks_of(config: C) -> N:
        """The networks, with weights that torch draws."""
        raise NotImplementedError

    @staticmethod
    def config_of(settings: TrainConfig) -> C:
        """The field's own part of the settings."""
        raise NotImplementedError

    @classmethod
    def start(cls, scene: Scene, settings: TrainConfig, device: torch.device) -> Self:
        with torch.random.fork_rng(devices=[]):  # torch's layers draw their first weights from its one generator
            torch.manual_seed(rng.generator(settings.seed, "first weights").initial_seed())
            return cls(cls.config_of(settings), reach_of(scene)).to(device)

    @classmethod
    def restore(cls, settings: TrainConfig, tensors: dict[str, Tensor], device: torch.device) -> Self:
        reach = Reach.restore(tensors)
        model = cls(cls.config_of(settings), reach)
        model.networks.load_state_dict(
            {name: value for name, value in tensors.items() if name not in reach.state_dict()}
        )
        return model.to(device)

    def to(self, device: torch.device) -> Self:
        """Move the weights there."""
        self.networks.to(device)
        return self

    def __len__(self) -> int:
        return sum(p.numel() for p in self.networks.parameters())

    @property
    def device(self) -> torch.device:
        return next(self.networks.parameters()).device

    def _threads(self) -> contextlib.AbstractContextManager[None]:
        """Around a step: torch's threads where all samples have a gradient, which `sparing` has no threads for."""
        return one_torch_thread(self.device) if self.config.gradients else all_torch_threads(self.device, get_threads())

    def state_dict(self) -> dict[str, Tensor]:
        """The weights, and what of the rays is looked at."""
        return {**self.networks.state_dict(), **self.reach.state_dict()}

    def regularisers(self) -> dict[str, Tensor]:
        """None beside those of the rays, which `learn` adds."""
        return {}

    def after_step(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Nothing about a network changes but its weights."""
