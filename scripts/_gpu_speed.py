"""How fast training steps and pictures are, beside gsplat alone, our CPU backend and the bandwidth of memory."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import torch

from _bench_scene import VIEWS, make_camera, make_model, make_training
from _gpu_machine import copy_bandwidth
from _gpu_plain import Plain
from _gpu_rows import Enough, Row, StopWatch, held_against, left_out, usable_gpu, wait_for
from recon.datasets.scene import View
from recon.gaussians import Gaussians
from recon.train import TrainState, train

COUNTS = (14_000, 50_000, 200_000, 1_000_000)
SIZES = ((480, 270), (960, 540), (1920, 1080))
ON_CPU = ((14_000, 480, 270), (50_000, 480, 270), (200_000, 960, 540))
RENDERS = tuple(itertools.product((200_000, 1_000_000), ((1280, 720), (1920, 1080))))
QUICK_CASES = ((14_000, 480, 270), (200_000, 960, 540), (1_000_000, 1920, 1080))
QUICK_RENDERS = ((1_000_000, (1920, 1080)),)
SMALLEST = (2000, 96, 64)  # where there is no GPU, or only a glance is wanted

RADIUS = 1.0  # px, the usual standard deviation of a Gaussian
SECONDS = 0.4  # of each measurement
LATE = 10_000  # a step of 3DGS with all bands of spherical harmonics
TIMES_GOAL = 2.0  # gsplat's steps per second
FRAMES_GOAL = 300.0  # frames per second, at 1920x1080 with a million

ROW_BYTES = 4 * 59  # of the parameters of a Gaussian with three bands of spherical harmonics


def steps(arguments: argparse.Namespace) -> Iterator[Row]:
    """Whole training steps: batch, picture, loss, gradients, optimiser, densification's sums."""
    gpu = usable_gpu()
    if gpu is None:
        yield left_out("training steps on the GPU", "no GPU that can be used")
    else:
        bandwidth = copy_bandwidth(gpu, 2**31)
        time_ours(*make_training(*SMALLEST, RADIUS, gpu), gpu)  # a process is slower in its first seconds
        grid = [(count, *size) for size in SIZES for count in COUNTS]
        for case in QUICK_CASES if arguments.quick else grid:
            yield on_gpu(case, gpu, bandwidth, arguments.quick)
    cpu = torch.device("cpu")
    for case in [SMALLEST] if arguments.quick else ON_CPU:
        milliseconds = time_ours(*make_training(*case, RADIUS), cpu)
        yield Row(
            f"CPU, {described(*case)}",
            f"{milliseconds:.2f} ms a step, {1e3 / milliseconds:.0f} steps/s",
            data={"ms": milliseconds, "steps/s": 1e3 / milliseconds},
        )


def on_gpu(case: tuple[int, int, int], gpu: torch.device, bandwidth: float, quick: bool) -> Row:
    """Ours, gsplat's, and the least that moving the memory takes."""
    state, views = make_training(*case, RADIUS, gpu)
    ours = time_ours(state, views, gpu)
    theirs = time_plain(state.model, views, gpu)
    without_ssim = None if quick else time_plain(state.model, views, gpu, ssim=False)
    floor = 1e3 * step_bytes(*case) / (1e9 * bandwidth)
    beside = "" if without_ssim is None else f" ({without_ssim:.2f} ms with L1 alone)"
    return Row(
        f"GPU, {described(*case)}",
        f"{ours:.2f} ms a step, {1e3 / ours:.0f} steps/s; gsplat's plain loop {theirs:.2f} ms{beside}:"
        f" {theirs / ours:.1f} times; {ours / floor:.0f} times the {floor:.3f} ms of memory",
        f"{TIMES_GOAL:g} times",
        held_against(theirs / ours >= TIMES_GOAL),
        {
            "ms": ours,
            "steps/s": 1e3 / ours,
            "plain ms": theirs,
            "plain, L1 alone, ms": without_ssim,
            "times": theirs / ours,
            "floor ms": floor,
        },
    )


def described(count: int, width: int, height: int) -> str:
    return f"{count:,} Gaussians at {width}x{height}"


def step_bytes(count: int, width: int, height: int) -> float:
    """What any step has to move: parameters read for the picture, for the gradients and for Adam, and written, both
    moments read and written; the picture, the photo and the picture's gradient written or read as often as two passes
    over pixels do. Keys, tiles and records of Gaussians are left out."""
    return count * ROW_BYTES * (2 + 6) + width * height * 4 * 3 * 5


def time_ours(state: TrainState, views: Sequence[View], device: torch.device) -> float:
    """Milliseconds of a step of `recon.train.train`."""
    watch = StopWatch(device, SECONDS)
    with suppress(Enough):
        train(state, views, callbacks=[watch])
    return watch.milliseconds


def time_plain(model: Gaussians, views: Sequence[View], device: torch.device, *, ssim: bool = True) -> float:
    """Milliseconds of a step of the plain loop, on the same scene and photos."""
    cameras = [view.camera.to(device, torch.float32) for view in views]
    photos = [view.load()[None].to(device) for view in views]
    plain = Plain(model, 1.0, rate=1e-6, ssim=ssim)
    watch = StopWatch(device, SECONDS)
    with suppress(Enough):
        for number in itertools.count():
            at = number % VIEWS
            plain.step(cameras[at].viewmats, cameras[at].Ks, photos[at], LATE)
            watch()
    return watch.milliseconds


def renders(arguments: argparse.Namespace) -> Iterator[Row]:
    """Pictures one after the other, each waited for, as a viewer does."""
    gpu = usable_gpu()
    if gpu is None:
        yield left_out("pictures on the GPU", "no GPU that can be used")
        count, *size = SMALLEST
        milliseconds = time_frames(count, size[0], size[1], torch.device("cpu"))[0]
        yield Row(f"CPU, {described(*SMALLEST)}", f"{1e3 / milliseconds:.0f} frames/s", data={"ms": milliseconds})
        return
    for count, (width, height) in QUICK_RENDERS if arguments.quick else RENDERS:
        ours, theirs = time_frames(count, width, height, gpu)
        judged = (count, width) == (1_000_000, 1920)
        yield Row(
            f"GPU, {described(count, width, height)}",
            f"{1e3 / ours:.0f} frames/s; gsplat's rasterization {1e3 / theirs:.0f}",
            f"{FRAMES_GOAL:g} frames/s" if judged else "",
            held_against(1e3 / ours >= FRAMES_GOAL) if judged else "",
            {"ms": ours, "frames/s": 1e3 / ours, "gsplat frames/s": 1e3 / theirs},
        )


@torch.no_grad()
def time_frames(count: int, width: int, height: int, device: torch.device) -> tuple[float, float]:
    """Milliseconds of a picture by `Gaussians.render`, and by `gsplat.rasterization` on a GPU (0 elsewhere)."""
    model = make_model(count, width, height, RADIUS).to(device)
    cameras = [make_camera(width, height, number).to(device, torch.float32) for number in range(VIEWS)]

    def ours(number: int) -> None:
        model.render(cameras[number], depth=False)

    def theirs(number: int) -> None:
        from gsplat import rasterization

        camera = cameras[number]
        rasterization(
            *(model.means, model.quats, model.scales, model.opacities, torch.cat([model.sh0, model.shN], dim=1)),
            *(camera.viewmats, camera.Ks, width, height),
            sh_degree=3,
            packed=False,
        )

    return timed(ours, device), timed(theirs, device) if device.type == "cuda" else 0.0


def timed(draw: Callable[[int], None], device: torch.device) -> float:
    """Milliseconds of a picture that is waited for; `draw` is told which camera."""
    watch = StopWatch(device, SECONDS)
    with suppress(Enough):
        for number in itertools.count():
            draw(number % VIEWS)
            wait_for(device)
            watch()
    return watch.milliseconds
