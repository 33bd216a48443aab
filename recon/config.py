"""What can be configured, as plain data: imports nothing heavy, so that the command line can show it at once."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from recon.datasets.errors import InputError

T = TypeVar("T")

Preset = Literal["fast", "default", "best", "full"]
PoseChoice = Literal["auto", "refine", "keep"]
Background = Literal["auto", "black", "white", "random"]
Method = Literal["splats", "nerf", "plenoxels", "ngp", "mipnerf360"]
Encoding = Literal["ipe", "hash"]


@dataclass(frozen=True)
class AdaptiveConfig:
    """Split, prune and reset (Kerbl et al. 2023, section 5). Shares are of the whole training."""

    kind: Literal["adaptive"] = "adaptive"
    max_gaussians: int = 50_000
    refine_from: float = 0.04  # share
    refine_until: float = 0.6  # share
    refine_every: int = 100  # steps
    grad_threshold: float = 0.0  # mean screen-space gradient that asks for more detail; 0: the largest ones
    absgrad: bool = True  # judge by the sums of absolute gradients (AbsGS): finds blur that cancels out
    prune_opacity: float = 0.005
    prune_scale: float = 0.1  # of the extent; only after the first opacity reset
    reset_every: int = 0  # steps between opacity resets; 0: never


@dataclass(frozen=True)
class MCMCConfig:
    """Relocation and noise under a cap on the count (3DGS-MCMC, Kheradmand et al. 2024)."""

    kind: Literal["mcmc"] = "mcmc"
    max_gaussians: int = 50_000
    refine_from: float = 0.02  # share
    refine_until: float = 0.85  # share
    refine_every: int = 50  # steps
    growth: float = 0.1  # of the count, at each refinement
    dead_opacity: float = 0.005
    noise: float = 7e4  # times the learning rate of the means
    opacity_reg: float = 0.01
    scale_reg: float = 0.01


@dataclass(frozen=True)
class SurfaceConfig:
    """What makes Gaussians pieces of a surface; see `surface.py`. Shares are of the whole training."""

    flatness: float = 10.0  # the smallest scale of a Gaussian is at most the middle one by this
    flat_from: float = 0.3  # share; until then that grows from 1
    normal_weight: float = 0.15  # of the disagreement between normals, beside the photometric loss
    begins: float = 0.4  # share; the normals are compared from then on: those of reduced photos round off the scene
    every: int = 4  # steps between comparisons, each of which counts as many times


@dataclass(frozen=True)
class NerfConfig:
    """A network that is asked for every point of space (Mildenhall et al. 2020), with the published sizes."""

    kind: Literal["nerf"] = "nerf"
    rays: int = 1024  # in a step
    width: int = 256  # of the layers
    depth: int = 8  # layers before density
    coarse_samples: int = 64  # along a ray
    fine_samples: int = 128  # more, where the coarse ones found something
    frequencies: int = 10  # of positions
    direction_frequencies: int = 4
    gradients: float = 0.0  # the share of the samples with a gradient, at most: see `sparing.py`; 0: all of them
    lr: float = 5e-4
    lr_final: float = 5e-5
    warm_up: float = 0.0  # share of the training in which learning rates rise


@dataclass(frozen=True)
class PlenoxelsConfig:
    """A sparse grid of densities and harmonics (Fridovich-Keil et al. 2022). Shares are of the whole training."""

    kind: Literal["plenoxels"] = "plenoxels"
    rays: int = 1024  # in a step
    core: float = 0.45  # half the side of the cube in the middle whose cells are small; cameras are within 1
    sides: tuple[int, ...] = (64, 128, 256)  # of the grid, in voxels, one after the other
    finer_at: tuple[float, ...] = (0.1, 0.3)  # shares after which the next one begins
    one_colour_until: float = 0.2  # share before which no colour changes with the direction
    of_direction: float = 1.0  # how fast colours learn to change with the direction, beside the colours themselves
    least_photos: int = 3  # that show a place; of captures of few photos less
    max_voxels: int = 2_500_000
    shell: float = 1.0  # how thick, in halves of the cube's side, the shell around it is that holds all that is outside
    ndc_shell: float = 0.125  # that of captures which face one way
    least_weight: float = 0.02  # voxels that no ray sees more of than this are dropped when the grid gets finer
    lr_density: float = 0.3
    lr_sh: float = 0.02
    lr_final: float = 0.05  # share that both fall to
    tv_density: float = 1e-5  # weights of total variation, for the mean over voxels
    tv_sh: float = 1e-3
    tv_until: float = 0.9  # share
    distortion: float = 0.01  # weight of how spread out along a ray is what it sees, in the mean over rays
    sparsity: float = 1e-6  # weight of the sum over samples of log(1 + 2 density^2), in the mean over rays


@dataclass(frozen=True)
class NgpConfig:
    """A hash grid and small networks (Instant-NGP, Müller et al. 2022)."""

    kind: Literal["ngp"] = "ngp"
    rays: int = 4096  # in a step, at most
    samples: int = 1 << 14  # in a step, about: as many rays are taken as have so many
    levels: int = 8  # of the grid
    features: int = 4  # of each level
    log2_rows: int = 17  # of the most rows of a level
    base: int = 16  # corners along a side of the first level
    finest: int = 1024  # of the last
    width: int = 32  # of the networks' layers; 64 as published
    appearance: int = 16  # numbers that say how a photo of estimated poses was lit and exposed; 0: none
    cells: int = 128  # along a side of the grid that says where nothing is
    step: float = 0.02  # between samples to begin with, where cameras are about 1 from the middle
    shorter_at: tuple[float, ...] = (0.15, 0.4)  # shares of the training after which it is half as long
    distortion: float = 0.01  # weight of how spread out along a ray what it shows is
    lr: float = 2e-2
    lr_final: float = 4e-4
    decay: float = 1e-6  # of the networks' weights


@dataclass(frozen=True)
class Mip360Config:
    """Networks that are asked for what a pixel's cone sees (Mip-NeRF 360, Barron et al. 2022); small, for a CPU."""

    kind: Literal["mipnerf360"] = "mipnerf360"
    encoding: Encoding = "ipe"  # of frusta; hash: Zip-NeRF's (Barron et al. 2023)
    rays: int = 128  # in a step
    samples: tuple[int, ...] = (24, 16, 12)  # along a ray, of each round; the last is that of colours
    width: int = 128  # of the layers
    depth: int = 6  # layers before density
    proposal_width: int = 64
    proposal_depth: int = 2
    branch_width: int = 128  # of the layers before colours
    branch_depth: int = 1
    frequencies: int = 10  # of positions
    proposal_frequencies: int = 6
    direction_frequencies: int = 4
    far: float = 1e6  # where rays end
    gradients: float = 0.0  # the share of the frusta with a gradient, at most: see `sparing.py`; 0: all of them
    blurs: tuple[float, ...] = (0.0, 0.0)  # of what is compared with each proposal; 0: it is not blurred
    interlevel: float = 1.0  # weight of what proposals have missed
    distortion: float = 0.01  # weight of how spread out what a ray meets is
    longest_gradient: float = 0.0  # it is shortened to this length; 0: it is not
    lr: float = 2e-3
    lr_final: float = 2e-5
    warm_up: float = 0.02  # share of the training in which learning rates rise
    second_moment: float = 0.999  # how slowly Adam's second moment changes
    epsilon: float = 1e-6  # Adam's
    # Hash grids
    finest: tuple[int, ...] = ()  # corners along a side of the finest level, of each round; the coarsest has 16
    log2_rows: int = 16  # of the table of a level
    features: int = 2  # of a level
    balls: tuple[int, ...] = ()  # that stand for a frustum in each round: 6, or 1
    decay: float = 0.0  # weight of the mean of the squared features, summed over levels


Radiance = NerfConfig | PlenoxelsConfig | NgpConfig | Mip360Config


@dataclass(frozen=True)
class TrainConfig:
    """A training, complete: with the capture and this, two runs give the same scene."""

    steps: int = 3000
    batch: int = 1  # views of a step; of a radiance field, how many times its rays
    seconds: float | None = None  # train so long instead; `steps` is about how many that will be, schedules go by time
    seed: int = 0
    sh_degree: int = 3
    ssim_weight: float = 0.2
    lr_scale: float = 2.5  # times the learning rates of `gaussians.LEARNING_RATES`; the shorter, the larger
    background: Background = "auto"  # auto: the capture's own
    exposure: bool = True  # learn how each photo was exposed; see `exposure.py`
    depth_weight: float = 0.0  # of `losses.relative_depth`, for photos that come with depths
    refine_poses: bool = False  # learn where each photo was taken from; see `poses.py`
    antialiased: bool = False  # see `Gaussians`
    coarse: float = 0.3  # share of the steps that see photos at a quarter and at half of their size; see `pace`
    initial_points: int = 20_000  # how many to start from when the capture has no points
    strategy: AdaptiveConfig | MCMCConfig = field(default_factory=AdaptiveConfig)
    surface: SurfaceConfig | None = None  # where the scene is to give a mesh
    radiance: Radiance | None = None  # train such a field, and no Gaussians

    @property
    def method(self) -> Method:
        return "splats" if self.radiance is None else self.radiance.kind

    @property
    def max_gaussians(self) -> int:
        return self.strategy.max_gaussians if self.radiance is None else 0


RADIANCE = {  # by their kind
    "nerf": NerfConfig,
    "plenoxels": PlenoxelsConfig,
    "ngp": NgpConfig,
    "mipnerf360": Mip360Config,
}

# How many steps a preset takes. On two cores and 50 photos of 270x480 about 20 s, a minute and three:
# after that it learns by heart, and held-out photos get worse. `full` has the steps of 3DGS, for hundreds of photos.
PRESETS: dict[Preset, int] = {"fast": 1100, "default": 3000, "best": 7500, "full": 30_000}

# Those of radiance fields. Of `nerf` and `mipnerf360` the longer ones are for GPUs and for patience; `full` is about
# what was published.
FIELD_PRESETS: dict[str, dict[Preset, int]] = {
    "nerf": {"fast": 2_000, "default": 20_000, "best": 200_000, "full": 300_000},
    "mipnerf360": {"fast": 1_000, "default": 5_000, "best": 25_000, "full": 250_000},
    "plenoxels": {"fast": 1_500, "default": 5_000, "best": 15_000, "full": 100_000},
    "ngp": {"fast": 3_000, "default": 16_000, "best": 48_000, "full": 100_000},
}

MOST_STEPS_PER_SECOND = 100  # what no budget of seconds reckons with more than


def for_steps(steps: int, strategy: Literal["adaptive", "mcmc"] = "adaptive") -> TrainConfig:
    """What so many steps are best used for: with fewer steps, fewer Gaussians that learn faster.

    The powers go through what was best on one capture for 200 to 3,500 steps; docs/recipe.md has the figures.
    """
    count = 75_000 * min((steps / 2000) ** 0.6, (steps / 2000) ** 0.4)
    count = min(max(int(round(count, -3)), 1000), 400_000)
    coarse = round(min(max(0.4 * (1500 / steps) ** 0.4, 0.1), 0.65), 3)
    every = min(max(steps // 5, 20), 100)
    # Reduced photos show no fine detail: enough of those that add some must come after them.
    adaptive = AdaptiveConfig(max_gaussians=count, refine_every=every, refine_until=min(max(coarse + 0.25, 0.6), 0.85))
    return TrainConfig(
        steps=steps,
        lr_scale=round(3 * (2000 / steps) ** 0.4, 2),
        coarse=coarse,
        strategy=adaptive if strategy == "adaptive" else MCMCConfig(max_gaussians=count, refine_every=every // 2),
    )


def for_field(method: str, steps: int, encoding: Encoding = "ipe", *, on_gpu: bool = False) -> TrainConfig:
    """The settings of a radiance field. Photos are seen in full size from the start, as they are and from where they
    are: rays through single pixels show no neighbours to compare, nor a camera's pull on a whole picture."""
    if method == "plenoxels":
        radiance: Radiance = plenoxels_for(steps)
    elif method == "mipnerf360":
        radiance = mip360_for(encoding, on_gpu=on_gpu)
    else:
        radiance = NgpConfig() if method == "ngp" else nerf_for(on_gpu=on_gpu)
    return TrainConfig(steps=steps, lr_scale=1.0, coarse=0.0, exposure=False, radiance=radiance)


def nerf_for(*, on_gpu: bool) -> NerfConfig:
    """As published on a GPU. On a CPU the networks are the same, but a step takes few rays, of fewer samples, most of
    which have no gradient, and learning rates are higher: so many more steps fit into minutes."""
    if on_gpu:
        return NerfConfig()
    return NerfConfig(
        rays=64, coarse_samples=32, fine_samples=48, gradients=0.1, lr=1.5e-3, lr_final=1.5e-4, warm_up=0.05
    )


def mip360_for(encoding: Encoding, *, on_gpu: bool) -> Mip360Config:
    """As published on a GPU, but with rays that fit into one; on a CPU the networks and tables are smaller, too."""
    if encoding == "ipe":
        published: dict[str, Any] = {
            "rays": 1 << 12,
            "samples": (64, 64, 32),
            "longest_gradient": 1e-3,
            "width": 1024,
            "depth": 8,
            "proposal_width": 256,
            "proposal_depth": 4,
            "frequencies": 12,
            "proposal_frequencies": 12,
        }
        return dataclasses.replace(Mip360Config(), **(published if on_gpu else {"gradients": 0.3}))
    small = Mip360Config(
        encoding="hash",
        rays=2048,
        width=64,
        depth=1,
        proposal_width=16,
        proposal_depth=1,
        branch_width=64,
        branch_depth=2,
        blurs=(0.03, 0.003),
        interlevel=0.01,
        distortion=0.005,
        lr=1e-2,
        lr_final=1e-3,
        second_moment=0.99,
        epsilon=1e-15,
        finest=(256, 512, 2048),
        features=4,
        balls=(1, 1, 6),
        decay=0.1,
    )
    published = {
        "rays": 1 << 12,
        "samples": (64, 64, 32),
        "proposal_width": 64,
        "branch_width": 256,
        "warm_up": 0.2,
        "finest": (512, 2048, 8192),
        "log2_rows": 21,
        "balls": (6, 6, 6),
    }
    return dataclasses.replace(small, **(published if on_gpu else {}))


def plenoxels_for(steps: int) -> PlenoxelsConfig:
    """A grid as fine as there are steps for: fog that has not settled yet would fill a finer one, and take longer."""
    if steps < 300:
        return PlenoxelsConfig(sides=(64,), finer_at=())
    if steps < 1200:
        return PlenoxelsConfig(sides=(64, 128), finer_at=(0.3,))
    if steps < 3500:
        return PlenoxelsConfig()
    usual = PlenoxelsConfig(finer_at=(0.05, 0.15), one_colour_until=0.1, of_direction=0.5)
    if steps < 5500:
        return usual
    sides, finer_at = (*usual.sides, 384), (*usual.finer_at, 0.4)
    return dataclasses.replace(usual, sides=sides, finer_at=finer_at, max_voxels=4_000_000)


def in_batches(config: TrainConfig, steps: int, batch: int) -> TrainConfig:
    """The settings of a training on single views for one that takes several of them in each of fewer steps.

    A step on so many views is that much surer of its way: rates grow with their root (Malladi et al. 2022, "On the SDEs
    and Scaling Rules for Adaptive Gradient Algorithms", who scale Adam's moments too: see `optim.moments`).
    """
    if batch == 1:
        return config
    strategy: AdaptiveConfig | MCMCConfig = dataclasses.replace(
        config.strategy, refine_every=max(1, config.strategy.refine_every // batch)
    )
    if isinstance(strategy, AdaptiveConfig):
        strategy = dataclasses.replace(strategy, reset_every=-(-strategy.reset_every // batch))
    rate = round(config.lr_scale * batch**0.5, 4)
    return dataclasses.replace(config, steps=steps, batch=batch, lr_scale=rate, strategy=strategy)


def to_json(config: TrainConfig) -> dict[str, Any]:
    return dataclasses.asdict(config)


def from_json(values: dict[str, Any], source: str) -> TrainConfig:
    """The config that `to_json` wrote; InputError naming `source` (a file) and the key where that is not what it is."""
    values = dict(values)
    values["strategy"] = _nested(values, "strategy", {"adaptive": AdaptiveConfig, "mcmc": MCMCConfig}, source)
    if values.get("radiance") is not None:
        values["radiance"] = _nested(values, "radiance", RADIANCE, source)
    if isinstance(values.get("surface"), dict):
        values["surface"] = checked(SurfaceConfig, values["surface"], f"{source}: surface.")
    return checked(TrainConfig, values, f"{source}: ")


def _nested(values: dict[str, Any], name: str, kinds: dict[Any, Any], source: str) -> Any:
    """The settings `name`, of the kind that they say they are."""
    nested = values.get(name)
    kind = nested.get("kind") if isinstance(nested, dict) else None
    if not isinstance(nested, dict) or kind not in kinds:
        raise InputError(f"{source}: {name}.kind is {json.dumps(kind)}, not one of {', '.join(kinds)}")
    return checked(kinds[kind], nested, f"{source}: {name}.")


def checked(kind: type[T], values: dict[str, Any], prefix: str) -> T:
    """A dataclass from values that a user may have edited; InputError, beginning with `prefix`, for a wrong one."""
    hints = typing.get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            raise InputError(f"{prefix}{key} is not a setting of this version")
        if not _fits(value, hints[key]):
            raise InputError(f"{prefix}{key} cannot be {value!r}")
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except TypeError as error:
        raise InputError(f"{prefix[:-2]}: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:  # JSON has lists
        return isinstance(value, (list, tuple)) and all(_fits(part, typing.get_args(hint)[0]) for part in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is hint
