"""Times of the stages of a training step and of a render, and the comparison with the reference."""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from _bench_scene import NAMES, VIEWS, make_camera, make_model, make_scene, make_training
from recon.kernels import runtime
from recon.raster import Rasterizer, cpu, reference
from recon.train import StepMetrics, TrainState, train

STAGES = {  # by the names of kernels, those of earlier commits too
    "project_gaussians": "project",
    "sort_and_fill": "bin",
    "sort_by_digit": "bin",
    "fill_tiles": "bin",
    "blend": "blend",
    "blend_backward": "blend back",
    "blend_backward_absolute": "blend back",
    "gather": "gather",
    "project_gaussians_backward": "project back",
    "_adam": "Adam",
    "project_gaussians_step": "project back + Adam",
    "_photometric": "loss",
    "_expose": "exposure",
    "_expose_gradient": "exposure",
    "_unpack_8": "photo",
}
FORWARD = ("project", "bin", "blend")
JOINED = ("project back", "Adam")  # in one pass where it can be; their sum where it was not, to be compared with that
OTHER = "other"  # of a step: all that is not inside a kernel
WARM_UP = 2 * VIEWS  # steps that are not counted: they compile, fetch memory and prepare photos

Clock = Callable[[], float]


class Enough(Exception):
    """Ends a training."""


def clock_for(threads: int) -> Clock:
    """CPU time of the process for one thread: other programs hardly disturb it. Else the time on the wall."""
    return time.process_time if threads == 1 else time.perf_counter


def median_seconds(work: Callable[[], object], times: int) -> float:
    """What one go takes the processor; the first is not counted."""
    found = []
    for _ in range(times + 1):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return statistics.median(found[1:])


@contextmanager
def timed_kernels(clock: Clock) -> Iterator[dict[str, float]]:
    """Seconds spent in each stage while the block runs; a kernel that STAGES does not know is its own stage."""
    spent: dict[str, float] = defaultdict(float)
    original = runtime.launch

    def launch(kernel: Any, *args: Any, **options: Any) -> None:
        began = clock()
        original(kernel, *args, **options)
        spent[STAGES.get(kernel.__name__, kernel.__name__.strip("_"))] += clock() - began

    modules = [module for name, module in sys.modules.items() if name.startswith("recon.")]
    launching: list[Any] = [module for module in modules if getattr(module, "launch", None) is original]
    for module in launching:
        module.launch = launch
    try:
        yield spent
    finally:
        for module in launching:
            module.launch = original


def time_step(count: int, width: int, height: int, threads: int, repeat: int, radius: float) -> dict[str, float]:
    """Median milliseconds of every stage of a step of `recon.train.train`, and of the whole step."""
    runtime.set_threads(threads)
    clock = clock_for(threads)
    state, views = make_training(count, width, height, radius)
    samples: dict[str, list[float]] = defaultdict(list)
    began = clock()
    steps = 0

    def watch(_: TrainState, metrics: StepMetrics) -> None:
        nonlocal began, steps
        now = clock()
        steps += 1
        if steps > WARM_UP:
            whole = now - began
            row = dict(spent) | {OTHER: whole - sum(spent.values()), "step": whole}
            row.setdefault(" + ".join(JOINED), sum(spent.get(stage, 0.0) for stage in JOINED))
            for stage, seconds in row.items():
                samples[stage].append(1e3 * seconds)
        if steps == WARM_UP + repeat:
            raise Enough
        spent.clear()
        began = clock()

    with timed_kernels(clock) as spent, suppress(Enough):
        train(state, views, callbacks=[watch])
    medians = {stage: statistics.median(values) for stage, values in samples.items()}
    ordered = [stage for stage in dict.fromkeys(STAGES.values()) if stage in medians]
    known = {*ordered, OTHER, "step"}
    ordered += [stage for stage in medians if stage not in known]
    return {stage: medians[stage] for stage in (*ordered, OTHER, "step")}


def time_render(
    count: int, width: int, height: int, threads: int, repeat: int, radius: float, *, depth: bool = False
) -> float:
    """Median milliseconds of a picture by `Gaussians.render`, without gradients, from one view after the other."""
    runtime.set_threads(threads)
    clock = clock_for(threads)
    model = make_model(count, width, height, radius)
    cameras = [make_camera(width, height, number) for number in range(VIEWS)]
    seconds = []
    with torch.no_grad():
        for number in range(WARM_UP + repeat):
            began = clock()
            model.render(cameras[number % VIEWS], depth=depth)
            seconds.append(clock() - began)
    return 1e3 * statistics.median(seconds[WARM_UP:])


def time_stages(count: int, width: int, height: int, threads: int, repeat: int, radius: float) -> dict[str, float]:
    """`time_step` and `time_render` in one row."""
    row = time_step(count, width, height, threads, repeat, radius)
    row["steps/s"] = 1e3 / row["step"]
    row["render"] = time_render(count, width, height, threads, repeat, radius)
    return row


def compare_with_reference(count: int, width: int, height: int, radius: float, seed: int) -> dict[str, float | int]:
    """Milliseconds forward and backward of both, and the errors of the CPU rasteriser.

    Errors are the largest absolute differences of the pictures, and relative ones (L2) of all gradients, from the
    reference in float64. "pixels off" counts those where a rounding error decides whether an alpha of 1/255 is drawn.
    """
    runs = [
        with_gradients(reference.rasterize, torch.float64, count, width, height, radius, seed),
        with_gradients(cpu.rasterize, torch.float32, count, width, height, radius, seed),
    ]
    exact, ours = runs[0][1], runs[1][1]
    times = [
        min(with_gradients(rasterize, torch.float32, count, width, height, radius, seed)[0] for _ in range(repeat))
        for rasterize, repeat in ((reference.rasterize, 1), (cpu.rasterize, 5))
    ]
    row: dict[str, float | int] = {"reference ms": 1e3 * times[0], "ms": 1e3 * times[1], "times": times[0] / times[1]}
    for name in ("rgb", "alpha", "depth"):
        row[name] = float((ours[name] - exact[name]).abs().max())
    row["pixels off"] = int(((ours["rgb"] - exact["rgb"]).abs() > 1e-4).any(dim=-1).sum())
    for name in (*NAMES, "means2d", "absgrad"):
        gradient = "d " + name
        row[gradient] = float((ours[gradient] - exact[gradient]).norm() / exact[gradient].norm())
    return row


def with_gradients(
    rasterize: Rasterizer,
    dtype: torch.dtype,
    count: int,
    width: int,
    height: int,
    radius: float,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[float, dict[str, Any]]:
    """Seconds of a forward and a backward pass, the pictures, and the gradients of random sums of them."""
    camera = make_camera(width, height)
    scene = [tensor.float() for tensor in make_scene(count, camera, radius, seed)]
    parameters = [tensor.to(device, dtype).requires_grad_() for tensor in scene]
    background = torch.tensor([0.2, 0.5, 0.9], dtype=dtype, device=device)
    call: Any = rasterize
    began = time.perf_counter()
    out = call(*parameters, camera, sh_degree=3, background=background, absgrad=True)
    generator = torch.Generator().manual_seed(seed)
    loss = torch.zeros((), dtype=dtype, device=device)
    for picture in (out.rgb, out.alpha, out.depth):
        weights = torch.randn(picture.shape, generator=generator, dtype=torch.float64)
        loss = loss + (picture * weights.to(device, dtype)).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    seconds = time.perf_counter() - began
    found: dict[str, Any] = {name: getattr(out, name).detach() for name in ("rgb", "alpha", "depth")}
    found |= {"d " + name: tensor.grad for name, tensor in zip(NAMES, parameters, strict=True)}
    return seconds, found | {"d means2d": out.means2d.grad, "d absgrad": out.absgrad}
