#!/usr/bin/env python
"""Time the CPU rasteriser stage by stage, and measure its errors against the reference.

Times are medians over repetitions in milliseconds: with one thread CPU time of the process, which other programs hardly
disturb, with more the clock on the wall. Prints a table; `--json FILE` appends one line per measurement.

    python scripts/bench_raster.py --counts 10000 50000 --sizes 480x270 --threads 1 2
    python scripts/bench_raster.py --errors
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon.datasets.cameras import Cameras, intrinsics
from recon.kernels import bin as binning
from recon.kernels import rasterize as passes
from recon.kernels import runtime
from recon.raster import cpu, reference

STAGES = {
    "project_gaussians": "project",
    "sort_by_digit": "bin",
    "fill_tiles": "bin",
    "blend": "blend",
    "blend_backward": "blend back",
    "gather": "gather",
    "project_gaussians_backward": "project back",
}
NAMES = ("means", "quats", "log_scales", "logit_opacities", "sh0", "shN")


def make_camera(width: int, height: int) -> Cameras:
    """A field of view of 60 degrees, slightly turned and moved from the origin."""
    focal = 0.5 * width / math.tan(math.radians(30))
    cosine, sine = math.cos(0.1), math.sin(0.1)
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = torch.tensor([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])
    viewmat[:3, 3] = torch.tensor([0.05, -0.03, 0.2])
    return Cameras(viewmat[None], intrinsics(focal, focal, width / 2, height / 2), width, height)


def make_scene(count: int, camera: Cameras, radius: float, seed: int = 0) -> list[Tensor]:
    """Gaussians all over the picture and a little beyond, at depths 2 to 10, most of them `radius` pixels wide.

    Returns:
        the parameters in the order of `NAMES`, float64.
    """
    rng = np.random.default_rng(seed)
    size = np.array([camera.width, camera.height])
    focal = float(camera.Ks[0, 0, 0])
    pixels = (rng.random((2, count)).T * 1.16 - 0.08) * size
    z = 2 + 8 * rng.random(count)
    in_camera = np.column_stack([(pixels - size / 2) / focal * z[:, None], z])
    rotation, translation = camera.viewmats[0, :3, :3].numpy(), camera.viewmats[0, :3, 3].numpy()
    quats = rng.normal(size=(count, 4))
    spread = rng.normal(size=(count, 1)) * 0.3 + rng.normal(size=(count, 3)) * 0.5
    logit_opacities = rng.normal(size=count) * 1.5 - 0.7
    sh0, shN = rng.normal(size=(count, 1, 3)) * 0.8, rng.normal(size=(count, 15, 3)) * 0.15
    arrays = (
        (in_camera - translation) @ rotation,
        quats,
        np.log(radius * z / focal)[:, None] + spread,
        logit_opacities,
        sh0,
        shN,
    )
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]


@contextmanager
def timed_kernels(clock: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Seconds spent in each stage of STAGES while the block runs."""
    spent: dict[str, float] = defaultdict(float)

    def launch(kernel: runtime.Kernel, *args: Any, threads: int | None = None) -> None:
        start = clock()
        runtime.launch(kernel, *args, threads=threads)
        spent[STAGES[kernel.__name__]] += clock() - start

    binning.launch = passes.launch = launch
    try:
        yield spent
    finally:
        binning.launch = passes.launch = runtime.launch


def time_stages(count: int, width: int, height: int, threads: int, repeat: int, radius: float) -> dict[str, float]:
    """Median milliseconds of every stage, of a render and of a render with its gradients."""
    runtime.set_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    camera = make_camera(width, height)
    parameters = [tensor.float().requires_grad_() for tensor in make_scene(count, camera, radius)]
    rng = np.random.default_rng(0)
    gradient = torch.from_numpy(rng.normal(size=(1, 3, height, width)).astype(np.float32)).permute(0, 2, 3, 1)

    def step() -> None:
        for tensor in parameters:
            tensor.grad = None
        cpu.rasterize(*parameters, camera, sh_degree=3, depth=False).rgb.backward(gradient)

    def render() -> None:
        with torch.no_grad():
            cpu.rasterize(*parameters, camera, sh_degree=3, depth=False)

    samples: dict[str, list[float]] = defaultdict(list)
    for number in range(repeat + 2):
        with timed_kernels(clock) as spent:
            step()
        start = clock()
        step()
        middle = clock()
        render()
        spent.update({"forward + backward": middle - start, "render": clock() - middle})
        if number >= 2:  # the first ones compile and fetch memory
            for stage, seconds in spent.items():
                samples[stage].append(1e3 * seconds)
    return {stage: statistics.median(values) for stage, values in samples.items()}


def measure_errors(count: int, width: int, height: int, radius: float, seed: int) -> dict[str, float | int]:
    """Largest absolute differences of the pictures, and relative ones (L2) of all gradients, from float64.

    "pixels off" counts those where a rounding error decides whether an alpha of 1/255 is drawn.
    """
    camera = make_camera(width, height)
    scene = [tensor.float() for tensor in make_scene(count, camera, radius, seed)]
    outputs, gradients = [], []
    for rasterize, dtype in ((reference.rasterize, torch.float64), (cpu.rasterize, torch.float32)):
        parameters = [tensor.to(dtype).requires_grad_() for tensor in scene]
        background = torch.tensor([0.2, 0.5, 0.9], dtype=dtype)
        out = rasterize(*parameters, camera, sh_degree=3, background=background, absgrad=True)
        generator = torch.Generator().manual_seed(seed)
        loss = torch.zeros((), dtype=dtype)
        for picture in (out.rgb, out.alpha, out.depth):
            weights = torch.randn(picture.shape, generator=generator, dtype=torch.float64)
            loss = loss + (picture * weights.to(dtype)).sum()
        loss.backward()
        outputs.append({"rgb": out.rgb.detach(), "alpha": out.alpha.detach(), "depth": out.depth.detach()})
        gradients.append(
            dict(zip(NAMES, (tensor.grad for tensor in parameters), strict=True))
            | {"means2d": out.means2d.grad, "absgrad": out.absgrad}
        )
    difference = {name: (outputs[1][name] - exact).abs() for name, exact in outputs[0].items()}
    errors = {name: float(values.max()) for name, values in difference.items()}
    errors["pixels off"] = int((difference["rgb"] > 1e-4).any(dim=-1).sum())
    for name, exact in gradients[0].items():
        errors["d " + name] = float((gradients[1][name] - exact).norm() / exact.norm())
    return errors


def table(rows: list[dict[str, Any]], number: str) -> str:
    """A table in Markdown of dictionaries with the same keys."""
    lines = [list(rows[0])] + [
        [format(v, number) if isinstance(v, float) else str(v) for v in r.values()] for r in rows
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["| " + " | ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 50_000, 200_000], help="Gaussians")
    parser.add_argument("--sizes", nargs="+", default=["480x270", "960x540"], help="WIDTHxHEIGHT in pixels")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, runtime.available_cores()])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--radius", type=float, default=1.0, help="usual standard deviation of a Gaussian, px")
    parser.add_argument("--errors", action="store_true", help="measure errors instead of times")
    parser.add_argument("--json", type=Path, help="append the measurements to this file, one per line")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # torch's own threads would spin beside ours

    rows: list[dict[str, Any]] = []
    if arguments.errors:
        for count, width, height in ((200, 64, 48), (1000, 64, 48), (1000, 160, 120)):
            for seed in range(3):
                case = {"size": f"{width}x{height}", "Gaussians": count, "seed": seed}
                rows.append(case | measure_errors(count, width, height, 2.0, seed))
    else:
        for size in arguments.sizes:
            width, height = (int(side) for side in size.split("x"))
            for count in arguments.counts:
                for threads in arguments.threads:
                    case = {"size": size, "Gaussians": count, "threads": threads}
                    rows.append(case | time_stages(count, width, height, threads, arguments.repeat, arguments.radius))
    print(table(rows, ".1e" if arguments.errors else ".2f"))
    if arguments.json:
        with arguments.json.open("a") as file:
            file.writelines(json.dumps(row | {"lanes": runtime.LANES}) + "\n" for row in rows)


if __name__ == "__main__":
    main()
