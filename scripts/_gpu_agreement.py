"""How far the GPU's pictures and gradients are from the CPU's, and both from the reference in float64."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from _bench_scene import NAMES
from _bench_stages import with_gradients
from _gpu_rows import FAILED, OK, Row, left_out, usable_gpu
from recon.colormap import INFERNO, colourise
from recon.raster import cpu, gsplat_cuda, reference

# Gaussians, width, height, radius in px. The reference takes seconds for a thousand, so the large ones go without.
WITH_REFERENCE = ((200, 64, 48, 2.0), (1000, 160, 120, 2.0))
LARGE = ((50_000, 480, 270, 1.0), (200_000, 960, 540, 1.0), (200_000, 960, 540, 2.0))
SMALLEST = ((200, 64, 48, 2.0),)

MEAN_GOAL = 1e-3  # of pictures, absolute
GRADIENT_GOAL = 1e-2  # of whole tensors, relative: single pixels, at which an alpha of 1/255 is drawn or not, are in it

SHOWN = 100  # times the difference, in the picture that is written


def agreement(arguments: argparse.Namespace) -> Iterator[Row]:
    """Each pair of a fast rasteriser and what it is compared with, on random scenes."""
    gpu = usable_gpu()
    for case in SMALLEST if arguments.quick else WITH_REFERENCE:
        exact = results("reference", *case)
        fast = {"CPU": results("CPU", *case)} | ({"GPU": results("GPU", *case)} if gpu else {})
        for name, found in fast.items():
            yield compared(f"{name} and the reference, {described(*case)}", found, exact)
    if gpu is None:
        yield left_out("GPU and CPU", "no GPU that can be used")
        return
    for case in LARGE[:1] if arguments.quick else LARGE:
        ours, theirs = results("GPU", *case), results("CPU", *case)
        yield compared(f"GPU and CPU, {described(*case)}", ours, theirs)
    save_difference(ours["rgb"], theirs["rgb"], arguments.output / "agreement.png")


def described(count: int, width: int, height: int, radius: float) -> str:
    return f"{count:,} Gaussians of {radius:g} px at {width}x{height}"


def results(name: str, count: int, width: int, height: int, radius: float) -> dict[str, Tensor]:
    """Pictures and gradients of a scene, on the CPU in float64."""
    rasterize: Any
    rasterize, dtype, device = {
        "reference": (reference.rasterize, torch.float64, "cpu"),
        "CPU": (cpu.rasterize, torch.float32, "cpu"),
        "GPU": (gsplat_cuda.rasterize, torch.float32, "cuda"),
    }[name]
    found = with_gradients(rasterize, dtype, count, width, height, radius, 0, device)[1]
    return {key: value.detach().cpu().double() for key, value in found.items()}


def compared(what: str, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> Row:
    """Mean and largest absolute difference of the pictures; relative ones (L2) of the gradients."""
    data: dict[str, float] = {}
    for key in ("rgb", "alpha"):
        difference = (found[key] - wanted[key]).abs()
        data |= {f"{key} mean": float(difference.mean()), f"{key} max": float(difference.max())}
    for key in ("d " + name for name in (*NAMES, "means2d", "absgrad")):
        data[key] = float((found[key] - wanted[key]).norm() / wanted[key].norm())
    worst = max((key for key in data if key.startswith("d ")), key=lambda key: data[key])
    # NaN is not below anything.
    good = all(data[key] < (GRADIENT_GOAL if key.startswith("d ") else 1) for key in data)
    good = good and data["rgb mean"] < MEAN_GOAL and data["alpha mean"] < MEAN_GOAL
    return Row(
        what,
        f"colours differ by {data['rgb mean']:.1e} (mean), {data['rgb max']:.1e} (largest); worst gradient"
        f" {worst.removeprefix('d ')}: {data[worst]:.1e}",
        f"mean {MEAN_GOAL:g}, gradients {GRADIENT_GOAL:g}",
        OK if good else FAILED,
        {key: f"{value:.1e}" for key, value in data.items()},
    )


def save_difference(ours: Tensor, theirs: Tensor, path: Any) -> None:
    """The GPU's picture, the CPU's, and SHOWN times their difference side by side. Pictures are [1,H,W,3]."""
    from PIL import Image

    difference = SHOWN * (ours - theirs).abs().mean(dim=-1)[0].numpy()
    panels = [picture[0].clamp(0, 1).numpy() for picture in (ours, theirs)] + [colourise(difference, INFERNO)]
    Image.fromarray(np.rint(255 * np.concatenate(panels, axis=1)).astype(np.uint8)).save(path)
