"""How much memory a training takes, said before it starts, and what is reduced so that it fits into a limit.

The estimate is a sum of named terms. What can be counted is counted from the layouts of the arrays; the rest are
constants, measured as the peak of resident memory (tests/test_memory.py compares the sum with that). It errs upwards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from recon.batches import depth_bytes, reduced_bytes
from recon.config import MCMCConfig, TrainConfig
from recon.datasets.errors import InputError
from recon.datasets.scene import Scene, StoredImage, View
from recon.evaluate import TOGETHER
from recon.fields import field_class
from recon.kernels.runtime import get_threads
from recon.kernels.splat import TILE_HEIGHT, TILE_WIDTH

GB = 10**9
MB = 10**6

SHARE = 0.8  # of the memory that is free, where no limit is given

# The program
LIBRARIES = 120 * MB  # what is loaded between the opening of a capture and the first step: SciPy, compiled kernels
COMPILING = 100 * MB  # the compiler, where the kernels are not compiled yet
SCORING = 50 * MB  # what the first scored photo loads: Pillow's fonts and writers

# Bytes per pixel of the largest photo
PICTURE = 68  # rendering, its transmittance and gradient, and two photos as floats
RENDERED = 40  # a rendering with depth, in evaluation, of which one is kept for each view
KEPT_RENDERED = 12
COMPARED_NORMALS = 360  # normals, those of the depth, and what PyTorch keeps for their gradients: `surface.pull`
SCORED = 220  # a photo, differences in double precision, the side-by-side picture; in each thread

# Gaussians, beside their parameters and as many moments of each of two kinds
RECORD = 190  # bytes: records, sorting keys, centres, radii, and gradients of these; what densification remembers
NORMAL = 300  # bytes: a normal as a colour, and what PyTorch keeps for its gradient
SLOT = 108  # bytes for each tile that a Gaussian touches: a slot of sums, an entry in the tile's list, and their room
OVERDRAW = 80  # Gaussians above a pixel, by their extents; 36 to 74 were seen
COPIES = 10  # times the parameters: new rows beside the old ones, and a checkpoint in memory, twice, to be written
GPU_COPIES = 9  # times the parameters, on a GPU: gradients, moments, activated ones, new rows beside old ones
FIELD_COPIES = 6  # times the parameters of a radiance field: a checkpoint in memory, twice
OUTGROWN = 4  # times the kernels' scratch memory: buffers of sizes that the scene has outgrown, up to the spare bytes
SPARE = 256 * MB  # free scratch memory that is kept for use again
LEAST_SPARE = 16 * MB

KEPT_SHARES = (1.0, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)  # of the photos, tried in turn
LEAST_PHOTOS = 64 * MB  # of photos, for which it is not worth to decode any twice
FEWEST = 1000  # Gaussians
FEW = 10_000  # rather than fewer of them (and than a quarter of those wanted), photos are made smaller


@dataclass(frozen=True)
class Workload:
    """What a training is made of, as far as memory goes.

    Attributes:
        photo_bytes: of all photos to train on and their masks, as they are stored in memory.
        reduced_bytes: of their reduced copies for the coarse steps, of the level that takes most.
        decoding_bytes: to decode one photo, for a moment.
        pixels, held_out_pixels: of the largest photo to train on, and held out.
        held_out: how many photos are.
        count: the most Gaussians there may be; 0 for a radiance field.
        field_bytes, step_bytes: of the parameters of a radiance field, and of a step beside them.
        gradients: whether gradients of all parameters are written: a step of plain photometric loss needs none.
        surface: whether normals are compared, by a second rendering beside that of the colours.
        parts: in how many the Gaussians are divided, of which this process has one.
        on_gpu: whether all but the photos and checkpoints is in other memory than this is about.
    """

    photo_bytes: int
    reduced_bytes: int
    decoding_bytes: int
    pixels: int
    held_out_pixels: int
    held_out: int
    count: int
    sh_degree: int
    threads: int
    field_bytes: int = 0
    step_bytes: int = 0
    gradients: bool = False
    surface: bool = False
    parts: int = 1
    on_gpu: bool = False


@dataclass(frozen=True)
class Estimate:
    """The most memory a training and its evaluation take, in bytes, by what takes it.

    Attributes:
        program: interpreter, libraries and what is loaded already.
        photos: kept in memory.
        decoding: a photo on its way into memory, when not all are kept.
        reading: photos on their way into memory before the training, one in each thread; evaluation does the same.
        gaussians: parameters and moments, of a radiance field too.
        kernels: gradients of parameters where there are any, and scratch memory.
        pictures: what is rendered and compared in a step.
        copies: for densification and checkpoints.
        evaluation: rendering and scoring held-out photos, when the training needs no pictures and copies any more.
    """

    program: int
    photos: int
    decoding: int
    reading: int
    gaussians: int
    kernels: int
    pictures: int
    copies: int
    evaluation: int

    @property
    def total(self) -> int:
        kept = self.program + self.photos + self.gaussians + self.kernels
        return kept + max(self.reading, self.decoding + self.pictures + self.copies, self.evaluation)


@dataclass(frozen=True)
class Plan:
    """How a training is to keep to a limit.

    Attributes:
        photo_limit: bytes of photos as stored, and again of reduced ones, to keep; others are decoded again.
        photo_share: what part of the photos that is, 0..1.
        spare: bytes of free scratch memory to keep.
        count: the most Gaussians there may be.
    """

    estimate: Estimate
    photo_limit: int
    photo_share: float
    spare: int
    count: int


def workload(scene: Scene, settings: TrainConfig, *, on_gpu: bool, parts: int = 1) -> Workload:
    """What training on a scene is made of."""
    views = scene.train_views
    field_bytes, step_bytes = (0, 0) if settings.radiance is None else field_class(settings).memory(settings)
    return Workload(
        photo_bytes=sum(_stored_bytes(view) for view in views) + depth_bytes(views, settings),
        reduced_bytes=reduced_bytes(views, settings),
        decoding_bytes=max(_decoding_bytes(view) for view in scene.views),
        pixels=most_pixels(views),
        held_out_pixels=most_pixels(scene.test_views),
        held_out=len(scene.test),
        count=settings.max_gaussians,
        sh_degree=settings.sh_degree,
        threads=get_threads(),
        field_bytes=field_bytes,
        step_bytes=settings.batch * step_bytes,
        # Those of several views are added up; of one they go straight to the optimiser.
        gradients=isinstance(settings.strategy, MCMCConfig) or settings.surface is not None or settings.batch > 1,
        surface=settings.surface is not None,
        parts=parts,
        on_gpu=on_gpu,
    )


def _sources(view: View) -> list[StoredImage]:
    """Images that are decoded; those that are in memory anyway are part of the program."""
    return [source for source in (view.image, view.mask) if isinstance(source, StoredImage)]


def _stored_bytes(view: View) -> int:
    return sum(source.pixel_bytes for source in _sources(view))


def _decoding_bytes(view: View) -> int:
    return max((source.decoding_bytes for source in _sources(view)), default=0)


def most_pixels(views: Sequence[View]) -> int:
    """Those of the largest view; 0 if there is none."""
    return max((view.camera.width * view.camera.height for view in views), default=0)


def estimate(work: Workload, *, program: int, photo_limit: int | None = None, spare: int = SPARE) -> Estimate:
    """What a training takes.

    Args:
        program: bytes that are held before it, with all that is going to be loaded; see `program_bytes`.
        photo_limit, spare: see `Plan`; None keeps all photos.
    """
    row = 4 * (11 + 3 * (work.sh_degree + 1) ** 2)  # bytes of the parameters of a Gaussian
    photos = [work.photo_bytes, work.reduced_bytes]
    if photo_limit is not None:
        photos = [min(size, photo_limit) for size in photos]
    here = 0 if work.on_gpu else 1
    pixels = max(work.pixels, work.held_out_pixels)
    # How many tiles a Gaussian touches follows from its side, and that from count, pixels and overdraw.
    side = math.sqrt(OVERDRAW * pixels / max(1, work.count))
    slots = work.count * (1 + side / TILE_WIDTH) * (1 + side / TILE_HEIGHT)
    seen = work.count * RECORD + round(slots * SLOT)
    own = -(-work.count // work.parts)  # a picture may show the Gaussians of all parts
    scratch = seen + (own * row if work.gradients else 0) + (seen + work.count * NORMAL if work.surface else 0)
    together = min(TOGETHER, work.held_out)
    scored = RENDERED + together * KEPT_RENDERED + min(work.threads, together) * SCORED
    again = here * work.count * row if work.parts > 1 else 0  # the whole scene, once it is trained
    return Estimate(
        program=program,
        photos=sum(photos),
        decoding=work.decoding_bytes,
        reading=work.threads * work.decoding_bytes,
        gaussians=here * (own * 3 * row + work.field_bytes * 3),
        kernels=here * (scratch + min(spare, OUTGROWN * scratch) + work.field_bytes + work.step_bytes),
        pictures=here * work.pixels * (PICTURE + (COMPARED_NORMALS if work.surface else 0)),
        copies=own * row * COPIES + work.field_bytes * FIELD_COPIES,
        evaluation=work.held_out_pixels * scored + work.threads * work.decoding_bytes + SCORING + again
        if together
        else 0,
    )


def plan(work: Workload, *, program: int, limit: int, fewest: int = FEWEST) -> Plan | None:
    """The least reduction with which a training stays within `limit` bytes; None if none does.

    Spare scratch memory goes first, which costs little time, then photos in memory, which costs the time to decode
    them again and again, and last Gaussians, down to `fewest`.
    """
    whole = max(work.photo_bytes, work.reduced_bytes, 1)

    def tried(share: float, spare: int, count: int) -> Plan:
        kept = max(round(share * whole), min(whole, LEAST_PHOTOS))
        found = estimate(dataclasses.replace(work, count=count), program=program, photo_limit=kept, spare=spare)
        # What is left may hold photos that take more than expected, such as 16-bit ones.
        left = max(0, limit - found.total) // 4 if kept == whole else 0
        return Plan(found, kept + left, kept / whole, spare, count)

    choices = [(1.0, SPARE, work.count), *((share, LEAST_SPARE, work.count) for share in KEPT_SHARES)]
    for choice in choices:
        if (found := tried(*choice)).estimate.total <= limit:
            return found
    low, high = min(fewest, work.count), work.count  # the most Gaussians that fit, by bisection
    if tried(KEPT_SHARES[-1], LEAST_SPARE, low).estimate.total > limit:
        return None
    while high - low > 1:  # `low` fits, `high` does not
        middle = (low + high) // 2
        if tried(KEPT_SHARES[-1], LEAST_SPARE, middle).estimate.total <= limit:
            low = middle
        else:
            high = middle
    return tried(KEPT_SHARES[-1], LEAST_SPARE, max(low // 1000 * 1000, min(fewest, work.count)))


def smallest_plan(work: Workload, *, program: int) -> Plan:
    """With as few photos and as little spare memory as it goes, and all Gaussians, whether or not it fits."""
    whole = max(work.photo_bytes, work.reduced_bytes, 1)
    kept = max(round(KEPT_SHARES[-1] * whole), min(whole, LEAST_PHOTOS))
    smallest = estimate(work, program=program, photo_limit=kept, spare=LEAST_SPARE)
    return Plan(smallest, kept, kept / whole, LEAST_SPARE, work.count)


def few(count: int) -> int:
    """How few Gaussians, of `count` wanted, are still better than smaller photos."""
    return min(count, max(FEW, count // 4))


def least(work: Workload, *, program: int) -> int:
    """Bytes below which no plan can be made."""
    fewest = dataclasses.replace(work, count=min(FEWEST, work.count))
    return smallest_plan(fewest, program=program).estimate.total


def program_bytes(*, compiled: bool) -> int:
    """What this process holds, with what it is going to load."""
    return held_bytes() + LIBRARIES + (0 if compiled else COMPILING)


def held_bytes() -> int:
    """The physical memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


def limit_bytes(max_memory: float | None, beside: int = 1) -> int:
    """The bytes that this process may hold: what the user says (GB), or most of what it has and what is free, which as
    many as `beside` processes share."""
    if max_memory is None:
        return held_bytes() + round(SHARE * free_bytes() / beside)
    if not (math.isfinite(max_memory) and max_memory > 0):
        raise InputError(f"--max-memory {max_memory:g}: must be more than 0 (GB)")
    return round(max_memory * GB)


def taken_on_gpu(settings: TrainConfig, count: int, pixels: int) -> int:
    """Bytes that a training takes on a GPU beside photos.

    Args:
        count: of Gaussians that there may be on it.
        pixels: of the largest photo.
    """
    row, pixel = _each_on_gpu(settings)
    return count * row + pixels * pixel


def most_on_gpu(settings: TrainConfig, free: int, pixels: int) -> int:
    """How many Gaussians there is room for on a GPU of which a training may have so many bytes."""
    row, pixel = _each_on_gpu(settings)
    return max(0, (free - pixels * pixel) // row)


def _each_on_gpu(settings: TrainConfig) -> tuple[int, int]:
    """What a Gaussian takes there, and a pixel."""
    row = GPU_COPIES * 4 * (11 + 3 * (settings.sh_degree + 1) ** 2) + RECORD
    surface = settings.surface is not None
    return row + NORMAL * surface, PICTURE + COMPARED_NORMALS * surface


def float_photos(views: Sequence[View]) -> int:
    """Bytes of all photos and masks as floats in full size, as a GPU learns from them."""
    of_masks = sum(view.camera.width * view.camera.height for view in views if view.mask is not None)
    return of_masks + sum(12 * view.camera.width * view.camera.height for view in views)


def free_bytes() -> int:
    """Memory that can be had without swapping, by the machine and by the control groups that this process is in."""
    free = [psutil.virtual_memory().available]
    for folder in _control_groups():
        for limit_file, used_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _number(folder / limit_file), _number(folder / used_file)
            if limit is not None and used is not None:
                free.append(max(0, limit - used + _cached(folder)))
    return min(free)


def _control_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """Folders of the memory controller, of versions 1 and 2, from this process's own group up to the root."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            base = root if controllers == "" else root / "memory"
            group = base / path.lstrip("/")
            found += [folder for folder in (group, *group.parents) if folder.is_relative_to(base)]
    return found


def _number(file: Path) -> int | None:
    """The number in a file; None where there is none ("max" stands for no limit)."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _cached(folder: Path) -> int:
    """Bytes of a control group that are copies of files and given up when memory is wanted."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
