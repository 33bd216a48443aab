"""What a training can be asked for on the command line, and the settings that follow."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import secrets
from dataclasses import dataclass
from typing import Any, Literal

from recon import config
from recon.config import Background, Encoding, Method, PoseChoice, Preset, SurfaceConfig, TrainConfig
from recon.datasets.errors import InputError


@dataclass(frozen=True)
class Options:
    """What a training was asked for; kept in the run's config.json. None: the preset's, or chosen automatically."""

    scene: str
    method: Method = "splats"
    encoding: Encoding = "ipe"
    downscale: int | None = None
    test_every: int = 8
    masks: tuple[str, ...] = ()
    linear: bool = False
    preset: Preset = "default"
    budget_seconds: float | None = None
    strategy: Literal["adaptive", "mcmc"] = "adaptive"
    steps: int | None = None
    batch_size: int = 1
    max_gaussians: int | None = None
    grad_threshold: float | None = None
    absgrad: bool = True
    reset_every: int | None = None
    background: Background = "auto"
    exposure: bool = True
    depth_weight: float = 0.0
    for_mesh: bool = False
    antialiased: bool = False
    poses: PoseChoice = "auto"
    seed: int = 0

    def train_config(self, *, on_gpu: bool = False) -> TrainConfig:
        """The preset with what was asked for; InputError naming the option that cannot be.

        Args:
            on_gpu: whether the training runs there, where networks can have their published sizes.
        """
        self._check("steps", self.steps, 1)
        self._check("batch-size", self.batch_size, 1)
        self._check("budget-seconds", self.budget_seconds, 1)
        if self.budget_seconds is not None and not math.isfinite(self.budget_seconds):
            raise InputError(f"--budget-seconds {self.budget_seconds}: must be finite")
        if self.steps is not None and self.budget_seconds is not None:
            raise InputError("--steps and --budget-seconds: only one of them can be kept; leave one out")
        self._check("max-gaussians", self.max_gaussians, 1)
        self._check("reset-every", self.reset_every, 0)
        self._check("grad-threshold", self.grad_threshold, 0)
        self._check("seed", self.seed, 0)
        self._check("depth-weight", self.depth_weight, 0)
        if self.encoding != "ipe" and self.method != "mipnerf360":
            raise InputError(f"--encoding {self.encoding}: is for --method mipnerf360")
        presets = config.PRESETS if self.method == "splats" else config.FIELD_PRESETS[self.method]
        batch = self.batch_size
        steps = -(-presets[self.preset] // batch) if self.steps is None else self.steps
        if self.budget_seconds is not None:  # an upper bound, until a few steps are timed
            steps = math.ceil(self.budget_seconds * config.MOST_STEPS_PER_SECOND)
        if self.method != "splats":
            chosen = config.for_field(self.method, steps * batch, self.encoding, on_gpu=on_gpu)
            return self._of_field(config.in_batches(chosen, steps, batch))
        chosen = config.for_steps(steps * batch, self.strategy)
        wanted = {
            "max_gaussians": self.max_gaussians,
            "grad_threshold": self.grad_threshold,
            "absgrad": None if self.absgrad else False,
            "reset_every": self.reset_every,
        }
        known = {f.name for f in dataclasses.fields(chosen.strategy)}
        for name, value in wanted.items():
            if value is not None and name not in known:
                raise InputError(f"--{name.replace('_', '-')}: not a setting of --strategy {self.strategy}")
        given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        asked = dataclasses.replace(
            chosen,
            background=self.background,
            exposure=self.exposure,
            depth_weight=self.depth_weight,
            surface=SurfaceConfig() if self.for_mesh else None,
            antialiased=self.antialiased,
            seed=self.seed,
            strategy=dataclasses.replace(chosen.strategy, **given),
        )
        return config.in_batches(asked, steps, batch)

    @property
    def counts_pixels(self) -> bool:
        """Whether the number of Gaussians is to follow from the photos, too; see `fitting.for_pixels`."""
        others = (self.max_gaussians, self.budget_seconds, self.steps)
        return self.preset == "full" and self.method == "splats" and all(each is None for each in others)

    def _of_field(self, chosen: TrainConfig) -> TrainConfig:
        of_splats = (
            "strategy",
            "max_gaussians",
            "grad_threshold",
            "absgrad",
            "reset_every",
            "depth_weight",
            "exposure",
            "for_mesh",
            "antialiased",
        )
        for option in self.changed():
            name = option.removeprefix("--").removeprefix("no-").replace("-", "_")
            if name in of_splats or (name == "poses" and self.poses == "refine"):
                raise InputError(f"{option}: is for splats; it cannot be kept with --method {self.method}")
        return dataclasses.replace(chosen, background=self.background, seed=self.seed)

    @staticmethod
    def _check(option: str, value: float | None, least: int) -> None:
        if value is not None and not value >= least:
            raise InputError(f"--{option} {value}: must be at least {least}")

    def changed(self) -> list[str]:
        """The options, as typed, that are not at their defaults."""
        fields = [f for f in dataclasses.fields(self) if f.name != "scene" and getattr(self, f.name) != f.default]
        return [f"--{'no-' if getattr(self, f.name) is False else ''}{f.name.replace('_', '-')}" for f in fields]


@dataclass(frozen=True)
class Address:
    """Where the viewer is served.

    Attributes:
        host: an address of this machine; anything but a loopback address asks for a token.
        port: the next free one is taken if it is not; 0 for any.
    """

    host: str = "127.0.0.1"
    port: int = 8080

    @property
    def token(self) -> str | None:
        """A new secret, where others than this machine can reach the address."""
        return None if self.host == "localhost" or _is_loopback(self.host) else secrets.token_urlsafe(16)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
