"""Mip-NeRF 360 (Barron et al. 2022): all of space, contracted, asked for the frusta of what each pixel sees.

Small networks propose where along a ray there is something, in rounds, and one is asked for its colours there.
With `encoding="hash"` it is Zip-NeRF (Barron et al. 2023).

Shape letters: R rays, K frusta of each.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from recon import intervals, rays, rng, volume
from recon.cone_networks import Networks
from recon.cones import Cones
from recon.config import Mip360Config, TrainConfig
from recon.datasets.cameras import Cameras
from recon.model import RayBatch, RenderOutput
from recon.network_field import NetworkField
from recon.sparing import Ask, Sparing, directly
from recon.torch_threads import one_torch_thread

SPREAD = (0.0025, 0.5)  # proposals are dilated by the first, and by the second over the number of frusta so far
SOFT = 0.001  # errors of colours that are smaller than this count as their squares do (Charbonnier)
NEARER = 0.5  # of the near plane's distance: how near to single cameras things can be in captures that face one way
AT_ONCE = 1 << 12  # points whose density is asked for


class Round(NamedTuple):
    """A step function along rays: edges [R,K+1] and weights [R,K]."""

    s: Tensor
    weights: Tensor


class Mip360(NetworkField[Mip360Config, Networks]):
    """Networks in a row: all but the last propose. A `recon.model.Field`."""

    kernels: ClassVar[tuple[str, ...]] = ("hash_grid", "adam")

    @staticmethod
    def networks_of(config: Mip360Config) -> Networks:
        return Networks(config)

    @staticmethod
    def config_of(settings: TrainConfig) -> Mip360Config:
        assert isinstance(settings.radiance, Mip360Config)
        return settings.radiance

    @staticmethod
    def memory(settings: TrainConfig) -> tuple[int, int]:
        config = Mip360.config_of(settings)
        with torch.device("meta"):
            networks = Networks(config)
        asked = zip(networks.in_turn(), config.samples, strict=True)
        floats = sum(count * network.floats for network, count in asked)
        with_gradient = config.rays * (config.gradients or 1)
        return 4 * sum(p.numel() for p in networks.parameters()), round(4 * with_gradient * floats)

    def param_groups(self, extent: float) -> list[dict[str, Any]]:
        config = self.config
        shared = {
            "lr": config.lr,
            "lr_final": config.lr_final,
            "warm_up": config.warm_up,
            "betas": (0.9, config.second_moment),
            "eps": config.epsilon,
        }
        return [{"params": [value], "name": name, **shared} for name, value in self.networks.named_parameters()]

    def learn(self, batch: RayBatch, progress: float) -> tuple[Tensor, None]:
        """The error of the colours, what proposals have missed, and how spread out the weights are (eq. 14)."""
        config = self.config
        with self._threads():
            origins, directions = batch.cameras.rays(batch.pixels)
            radii = rays.cone_radii(batch.cameras, directions)
            cones = Cones(origins.reshape(-1, 3), directions.reshape(-1, 3), radii.reshape(-1))
            draw = rng.generator(batch.seed, "samples", batch.step)
            share = config.gradients
            sparing = Sparing(share, draw, self.networks.parameters()) if share else None
            (colours, alpha, _), rounds = self._seen(cones, draw, progress, sparing or directly)
            error = colours + (1 - alpha[:, None]) * batch.background - batch.rgb.reshape(-1, 3)
            last = rounds[-1]
            loss = (error.square() + SOFT**2).sqrt().mean()
            loss = loss + config.distortion * volume.distortion(*last).mean()
            for proposal, radius in zip(rounds[:-1], config.blurs, strict=True):
                loss = loss + config.interlevel * _missed(last, proposal, radius).mean()
            if config.decay:
                loss = loss + config.decay * sum(grid.squared() for grid in self.networks.in_turn())
            loss.backward()  # type: ignore[no-untyped-call]
            if sparing is not None:
                sparing.learn()
            if config.longest_gradient:
                nn.utils.clip_grad_norm_(self.networks.parameters(), config.longest_gradient)
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
        """See `recon.model.Model.render`. What is far counts in the depth by its disparity."""
        with one_torch_thread(self.device):
            return rays.render(
                lambda *seen: self._seen(Cones(*seen), None, train_frac)[0],
                *(cameras.to(self.device, torch.float32), pixels, background, self.config.rays),
                cones=True,
            )

    @torch.no_grad()
    def density(self, points: Tensor) -> Tensor:
        """See `recon.model.Field.density`. Of the points themselves, whatever cone of a pixel would blur there."""
        found = []
        with one_torch_thread(self.device):
            for part in points.to(self.device, torch.float32).split(AT_ONCE):
                ahead = part.new_tensor([0.0, 0.0, 1.0]).expand_as(part)  # no density goes by the direction
                placed, unit, _ = self._placed(Cones(part, ahead, part.new_zeros(len(part))))
                here = part.new_zeros(len(part), 2)
                found.append((self.networks.scene(placed, here, None)[0][:, 0] / unit).cpu())
        return torch.cat(found)

    def _seen(
        self, cones: Cones, draw: torch.Generator | None, progress: float, ask: Ask = directly
    ) -> tuple[tuple[Tensor, Tensor, Tensor], list[Round]]:
        """What cones show: colours, opacities, distances; and the step functions of all rounds."""
        config = self.config
        cones, unit, near = self._placed(cones)
        s = torch.tensor([0.0, 1.0]).to(cones.origins).expand(len(cones.origins), 2)
        weights, product = torch.ones_like(s[:, :1]), 1
        rounds: list[Round] = []
        for network, count in zip(self.networks.in_turn(), config.samples, strict=True):
            if rounds:
                s, weights = intervals.dilated(s, weights, SPREAD[0] + SPREAD[1] / product)
            s = intervals.resampled(s, intervals.eased(weights, progress), count, draw)
            product *= count
            t = intervals.distances(s, near, config.far)
            densities, colours = network(cones, t, draw, ask)
            weights, through = volume.weights_of(densities, t.diff(dim=-1))
            rounds.append(Round(s, weights))
        alpha = 1 - through
        middle = (weights * (s[:, 1:] + s[:, :-1]) / 2).sum(dim=-1) / alpha.clamp_min(1e-10)
        distance = torch.where(alpha > 0, unit * intervals.distances(middle, near, config.far), 0)
        return (volume.composite(weights, colours), alpha, distance), rounds

    def _placed(self, cones: Cones) -> tuple[Cones, float, float]:
        """Cones in the space that is contracted, the unit of that space, and where rays begin in it.

        A capture that faces one way looks from the middle of its cameras, and what is nearest to that lies on the unit
        sphere: the contraction makes of what is beyond the same that normalised device coordinates do.
        """
        if self.reach.frame is None:
            return cones, 1.0, self.reach.near
        frame, unit = self.reach.frame.to(cones.origins), self.reach.near
        middle = -frame[:3, :3].T @ frame[:3, 3]
        return cones._replace(origins=(cones.origins - middle) / unit), unit, NEARER


def _missed(last: Round, proposal: Round, radius: float) -> Tensor:
    """[R] what a proposal has missed of the last round."""
    if radius:
        return intervals.missed_when_blurred(*last, *proposal, radius)
    return volume.interlevel(*last, *proposal)
