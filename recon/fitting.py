"""Making a training fit into memory before it starts, and saying so in a line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from recon import ahead, memory
from recon.config import TrainConfig
from recon.datasets import cache
from recon.datasets.errors import InputError
from recon.datasets.scene import Scene
from recon.kernels import buffers
from recon.kernels.runtime import compiled_before
from recon.memory import GB, Plan

LEAST_SIDE = 100  # px; photos are not made smaller than this to save memory
LEAST_GAUSSIANS = 1000  # on a GPU
# Pixels of all photos to train on up to which a preset has Gaussians enough; see `for_pixels`.
FEW_PIXELS = 25_000_000
MOST_GAUSSIANS = 3_000_000
TOLERANCE = 1.1  # what was begun under a limit must go on under it, though the process holds other things by then
STEPS = (2, 3, 4, 6, 8, 12, 16)  # what the downscale is multiplied with, in turn


@dataclass(frozen=True)
class Fitted:
    """A capture and settings whose training fits into memory."""

    scene: Scene
    downscale: int | None  # None: as it was
    settings: TrainConfig
    plan: Plan
    said: str


def fit(
    open_at: Callable[[int | None], tuple[Scene, int]],
    downscale: int | None,
    settings: TrainConfig,
    *,
    on_gpu: bool,
    max_memory: float | None,
    beside: int = 1,
    parts: int = 1,
    counts_pixels: bool = False,
) -> Fitted:
    """Open a capture so that training on it fits, and bound what is kept in memory.

    What does not fit is reduced: first the photos that are kept, then Gaussians, then the photos' size.

    Args:
        open_at: opens the capture at a downscale (None: its own choice), and says which one that was.
        max_memory: GB, or None for most of what is free.
        beside: processes of the same training on this machine, which share what is free.
        parts: in how many the Gaussians are divided, of which this process has one.
        counts_pixels: whether there may be more Gaussians than the settings say; see `for_pixels`.
    Raises:
        InputError: naming the least that would do, if that is more than the limit.
    """
    limit = memory.limit_bytes(max_memory, beside)
    scene, asked = open_at(downscale)
    now, factors, given = asked, iter(STEPS), settings
    while True:
        if counts_pixels:
            views = scene.train_views
            settings = for_pixels(given, sum(view.camera.width * view.camera.height for view in views))
        wanted = settings.max_gaussians
        work = memory.workload(scene, settings, on_gpu=on_gpu, parts=parts)
        program = memory.program_bytes(compiled=on_gpu or compiled_before())
        found = memory.plan(work, program=program, limit=limit)
        factor = next(factors, None)
        if found is not None and (found.count >= memory.few(wanted) or not _can_shrink(scene, now, asked, factor)):
            break
        if not _can_shrink(scene, now, asked, factor):
            least = memory.least(work, program=program)
            raise InputError(f"{_limit_name(max_memory, limit)}: too little; the least that does is {_up(least)} GB")
        assert factor is not None
        scene, now = open_at(asked * factor)
    _keep_to(found)
    if settings.radiance is None:
        strategy = dataclasses.replace(settings.strategy, max_gaussians=found.count)
        settings = dataclasses.replace(settings, strategy=strategy)
    reduced = _reductions(found, now if now != asked else None, wanted)
    said = _said(found, max_memory, limit, reduced)
    return Fitted(scene, now, settings, found, said)


def for_pixels(settings: TrainConfig, pixels: int) -> TrainConfig:
    """The same with as many Gaussians as so many pixels, of all photos together, can tell of: their root, since photos
    overlap the more, the more of them there are."""
    most = settings.strategy.max_gaussians
    count = min(int(round(max(1.0, (pixels / FEW_PIXELS) ** 0.5) * most, -3)), MOST_GAUSSIANS)
    return dataclasses.replace(
        settings, strategy=dataclasses.replace(settings.strategy, max_gaussians=max(count, most))
    )


def refit(
    scene: Scene,
    settings: TrainConfig,
    *,
    on_gpu: bool,
    max_memory: float | None,
    beside: int = 1,
    parts: int = 1,
    state_bytes: int = 0,
) -> Fitted:
    """The same for a training whose settings are fixed, since it has begun: only less is kept in memory.

    Args:
        state_bytes: what its state has brought into memory already: the estimate has it among the Gaussians.
    Raises:
        InputError: it does not fit into the limit that the user gives.
    """
    limit = memory.limit_bytes(max_memory, beside)
    work = memory.workload(scene, settings, on_gpu=on_gpu, parts=parts)
    program = memory.program_bytes(compiled=on_gpu or compiled_before()) - state_bytes
    found = memory.plan(work, program=program, limit=limit, fewest=work.count)
    if found is None:
        found = memory.smallest_plan(work, program=program)
        if max_memory is not None and found.estimate.total > TOLERANCE * limit:
            least = _up(found.estimate.total)
            raise InputError(f"--max-memory {max_memory:g}: too little for this run; it takes {least} GB")
    _keep_to(found)
    said = _said(found, max_memory, limit, _reductions(found, None, found.count))
    return Fitted(scene, None, settings, found, said)


def fit_on_gpu(scene: Scene, settings: TrainConfig, free: int, *, parts: int = 1) -> tuple[TrainConfig, str]:
    """Bound the Gaussians by what there is room for on a GPU, and say what they take.

    Args:
        free: bytes of it that the training may have.
        parts: in how many the Gaussians are divided, each on a GPU of its own.
    Raises:
        InputError: there is no room for pictures of that size.
    """
    pixels, wanted = memory.most_pixels(scene.train_views), settings.max_gaussians
    count = min(wanted, parts * memory.most_on_gpu(settings, free, pixels))
    if count < min(wanted, LEAST_GAUSSIANS):
        raise InputError(
            f"{free / GB:.2g} GB of GPU memory, which is what there is, are too little for photos of"
            f" {pixels / 1e6:.3g} million pixels; --downscale makes them smaller"
        )
    strategy = dataclasses.replace(settings.strategy, max_gaussians=count)
    taken = memory.taken_on_gpu(settings, -(-count // parts), pixels)
    reduced = f"; at most {count:,} Gaussians instead of {wanted:,}" if count < wanted else ""
    said = f"GPU memory: about {taken / GB:.2g} GB of {free / GB:.3g} GB, beside photos{reduced}"
    return dataclasses.replace(settings, strategy=strategy), said


def keep_on_gpu(scene: Scene, settings: TrainConfig, free: int, *, parts: int = 1) -> str:
    """Decide how many photos stay on a GPU, and say so; see `fit_on_gpu`."""
    taken = memory.taken_on_gpu(settings, -(-settings.max_gaussians // parts), memory.most_pixels(scene.train_views))
    ahead.room = room = max(0, free - taken)
    wanted = memory.float_photos(scene.train_views)
    if wanted <= room:
        return f"All photos stay on the GPU ({wanted / GB:.2g} GB)."
    return (
        f"{room / wanted:.0%} of the photos stay on the GPU ({room / GB:.2g} GB); the others are copied there a step"
        " before they are needed."
    )


def _keep_to(plan: Plan) -> None:
    """Set the bounds of what this process keeps in memory."""
    cache.images.limit = plan.photo_limit
    buffers.SPARE = plan.spare


def _can_shrink(scene: Scene, now: int, asked: int, factor: int | None) -> bool:
    if factor is None:
        return False
    side = min(min(view.camera.width, view.camera.height) for view in scene.views)
    return side * now // (asked * factor) >= LEAST_SIDE


def _reductions(plan: Plan, downscale: int | None, wanted: int) -> list[str]:
    reduced = []
    if downscale is not None:
        reduced.append(f"photos reduced (--downscale {downscale})")
    if plan.photo_share < 1:
        reduced.append(f"{plan.photo_share:.0%} of the photos kept decoded")
    if plan.count < wanted:
        reduced.append(f"at most {plan.count:,} Gaussians")
    return reduced


def _said(plan: Plan, max_memory: float | None, limit: int, reduced: list[str]) -> str:
    about = f"Memory: about {plan.estimate.total / GB:.2g} GB of {limit / GB:.3g} GB"
    if not reduced:
        return about
    return f"{about}. {_limit_name(max_memory, limit)}: {', '.join(reduced)}"


def _limit_name(max_memory: float | None, limit: int) -> str:
    return f"{limit / GB:.2g} GB of memory are free" if max_memory is None else f"--max-memory {max_memory:g}"


def _up(size: int) -> str:
    """GB, rounded up to what can be given as the option."""
    return f"{-(-size // (GB // 100)) / 100:g}"
