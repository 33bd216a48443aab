"""NeRF (Mildenhall et al. 2020): a network that is asked for the density and colour of points, coarse, then fine.

Shape letters: R rays, K samples of each.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from recon import rays, rng, volume
from recon.config import NerfConfig, TrainConfig
from recon.datasets.cameras import Cameras
from recon.model import RayBatch, RenderOutput
from recon.network_field import NetworkField
from recon.precision import mixed
from recon.sparing import Ask, Sparing, directly
from recon.torch_threads import one_torch_thread

SKIP = 5  # the layer that sees the position once more
DENSITY_BIAS = -1.0  # of a softplus: the air begins thin, and no density is stuck at 0 as the paper's ReLU can be
AT_ONCE = 1 << 12  # rays of a picture


def encode(values: Tensor, frequencies: int) -> Tensor:
    """[...,C(1 + 2 F)] the values, and sines and cosines of 1, 2, 4, ... times them (eq. 4)."""
    scaled = values[..., None, :] * 2.0 ** torch.arange(frequencies, device=values.device)[:, None]
    return torch.cat([values, scaled.sin().flatten(-2), scaled.cos().flatten(-2)], dim=-1)


class Network(nn.Module):
    """Positions and directions to densities and colours (figure 7)."""

    def __init__(self, config: NerfConfig) -> None:
        super().__init__()
        self.config = config
        of_position, of_direction = 3 + 6 * config.frequencies, 3 + 6 * config.direction_frequencies
        sizes = [of_position] + [config.width] * (config.depth - 1)
        self.trunk = nn.ModuleList(
            nn.Linear(size + (of_position if i == SKIP else 0), config.width) for i, size in enumerate(sizes)
        )
        self.density = nn.Linear(config.width, 1)
        self.feature = nn.Linear(config.width, config.width)
        self.branch = nn.Linear(config.width + of_direction, config.width // 2)
        self.colour = nn.Linear(config.width // 2, 3)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):  # as published: Glorot's
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Densities [R,K] and colours [R,K,3] of positions [R,K,3] seen along unit directions [R,3]."""
        return meant(self.outputs(*in_rows(positions, directions)), positions.shape[:2])

    def outputs(self, positions: Tensor, directions: Tensor) -> Tensor:
        """[N,4] what density and colour are made of, at positions [N,3] seen along unit directions [N,3]."""
        with mixed(positions.device, self.config.width):
            encoded = x = encode(positions, self.config.frequencies)
            for i, layer in enumerate(self.trunk):
                x = functional.relu(layer(torch.cat([encoded.to(x), x], dim=-1) if i == SKIP else x))
            feature = self.feature(x)
            seen_along = encode(directions, self.config.direction_frequencies).to(feature)
            branch = functional.relu(self.branch(torch.cat([feature, seen_along], dim=-1)))
            return torch.cat([self.density(x), self.colour(branch)], dim=-1).float()


def in_rows(positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [R,K,3] and directions [R,3] of rays as those of samples, [R K,3] both."""
    return positions.reshape(-1, 3), directions[:, None].expand_as(positions).reshape(-1, 3)


def meant(outputs: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Densities [R,K] and colours [R,K,3] of a network's outputs [R K,4]; `shape` is R, K."""
    outputs = outputs.reshape(*shape, 4)
    return functional.softplus(outputs[..., 0] + DENSITY_BIAS), outputs[..., 1:].sigmoid()


class Nerf(NetworkField[NerfConfig, nn.ModuleDict]):
    """Two networks: what the coarse one finds tells where the fine one is asked. A `recon.model.Field`."""

    kernels: ClassVar[tuple[str, ...]] = ("adam",)

    @staticmethod
    def networks_of(config: NerfConfig) -> nn.ModuleDict:
        return nn.ModuleDict({"coarse": Network(config), "fine": Network(config)})

    @staticmethod
    def config_of(settings: TrainConfig) -> NerfConfig:
        assert isinstance(settings.radiance, NerfConfig)
        return settings.radiance

    @staticmethod
    def memory(settings: TrainConfig) -> tuple[int, int]:
        config = Nerf.config_of(settings)
        with torch.device("meta"):
            weights = 2 * sum(p.numel() for p in Network(config).parameters())
        samples = config.rays * (2 * config.coarse_samples + config.fine_samples)
        with_gradient = samples * (config.gradients or 1)
        return 4 * weights, round(4 * with_gradient * (2 * config.depth + 6) * config.width)

    def param_groups(self, extent: float) -> list[dict[str, Any]]:
        config = self.config
        rates = {"lr": config.lr, "lr_final": config.lr_final, "warm_up": config.warm_up}
        return [{"params": [value], "name": name, **rates} for name, value in self.networks.named_parameters()]

    def learn(self, batch: RayBatch, progress: float) -> tuple[Tensor, None]:
        """Both networks learn from the squared error of their colours (eq. 6)."""
        with self._threads():
            origins, directions = (values.reshape(-1, 3) for values in batch.cameras.rays(batch.pixels))
            draw = rng.generator(batch.seed, "samples", batch.step)
            target = batch.rgb.reshape(-1, 3)
            loss = target.new_zeros(())
            share = self.config.gradients
            sparing = Sparing(share, draw, self.networks.parameters()) if share else None
            for colour, alpha, _ in self._seen(origins, directions, draw, sparing or directly):
                loss = loss + (colour + (1 - alpha[:, None]) * batch.background - target).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            if sparing is not None:
                sparing.learn()
        return loss.detach(), None

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
        """See `recon.model.Model.render`."""
        with one_torch_thread(self.device):
            return rays.render(
                lambda origins, directions: self._seen(origins, directions, None)[1],
                *(cameras.to(self.device, torch.float32), pixels, background, AT_ONCE),
            )

    @torch.no_grad()
    def density(self, points: Tensor) -> Tensor:
        """See `recon.model.Field.density`. In normalised device coordinates it is right for the mean of directions."""
        network, found = self.networks["fine"], []
        assert isinstance(network, Network)
        with one_torch_thread(self.device):
            for part in points.to(self.device, torch.float32).split(AT_ONCE):
                places, faster = self.reach.places(part)
                ahead = part.new_tensor([0.0, 0.0, 1.0]).expand_as(part)  # no density goes by the direction
                told = directly(network.outputs, *in_rows(places[:, None], ahead))
                found.append((meant(told, places[:, None].shape[:2])[0][:, 0] * faster).cpu())
        return torch.cat(found)

    def _seen(
        self, origins: Tensor, directions: Tensor, draw: torch.Generator | None, ask: Ask = directly
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What the coarse and the fine network show of rays [R,3]: colours, opacities, expected distances."""
        config, count = self.config, len(origins)
        s = volume.stratified((count,), config.coarse_samples, draw).to(origins)
        coarse, weights = self._asked(ask, self.networks["coarse"], origins, directions, s)
        # As published: between the middles of the samples, which leaves out the first and the last.
        middles = (s[:, 1:] + s[:, :-1]) / 2
        at = volume.stratified((count,), config.fine_samples, draw).to(origins)
        more = volume.importance(middles, weights[:, 1:-1], at)
        s = torch.cat([s, more], dim=-1).sort(dim=-1).values
        fine, _ = self._asked(ask, self.networks["fine"], origins, directions, s)
        return [coarse, fine]

    def _asked(
        self, ask: Ask, network: nn.Module, origins: Tensor, directions: Tensor, s: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """What a network shows of rays at coordinates [R,K], and the weights [R,K] of these."""
        begin, along = self.reach.rays(origins, directions)
        assert isinstance(network, Network)
        positions = begin[:, None] + s[..., None] * along[:, None]
        densities, colours = meant(ask(network.outputs, *in_rows(positions, directions)), s.shape)
        lengths = torch.cat([s, torch.ones_like(s[:, :1])], dim=-1).diff(dim=-1)
        weights, through = volume.weights_of(densities, lengths * along.norm(dim=-1, keepdim=True))
        alpha = 1 - through
        distances = self.reach.distances(origins, directions, s)
        distance = (weights * distances).sum(dim=-1) / alpha.clamp_min(1e-10)
        return (volume.composite(weights, colours), alpha, distance), weights
