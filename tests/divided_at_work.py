"""What two processes do together in `test_divided.py`, each with a part of the scene; run as a program, it is one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import gsplat_stand_in
import tiny
from ranks_at_work import ADAPTIVE, CPU, MCMC, SPLATS
from recon import checkpoint, ranks
from recon.config import TrainConfig
from recon.datasets.cameras import Cameras
from recon.gaussians import Gaussians
from recon.model import RenderOutput
from recon.opening import first_model
from recon.poses import motion_gradient
from recon.ranks import ALONE, Ranks
from recon.raster import divided_cuda
from recon.raster.divided import Divided, cameras_of_all
from recon.train import StepMetrics, TrainState, start, train

HALFWAY = SPLATS.steps // 2
EXPOSED = dataclasses.replace(SPLATS, strategy=dataclasses.replace(ADAPTIVE, refine_until=0.0))
STILL = dataclasses.replace(EXPOSED, exposure=False)  # which has a kernel of its own where all of a scene is here

CASES: dict[str, TrainConfig] = {
    "still": STILL,
    "exposed": EXPOSED,
    "poses": dataclasses.replace(EXPOSED, refine_poses=True),
    "coarse": dataclasses.replace(STILL, coarse=0.5),
    "adaptive": SPLATS,
    "mcmc": dataclasses.replace(SPLATS, strategy=MCMC),
}


class Stop(Exception):
    pass


def begun(case: str, processes: Ranks = ALONE) -> TrainState:
    """A training on the tiny scene: of one process, with the Gaussians in the order of the parts of two."""
    settings, scene = CASES[case], tiny.scene()
    model = first_model(scene, settings, CPU)
    assert isinstance(model, Gaussians)
    if processes is ALONE:
        numbers = torch.arange(len(model))
        order = torch.cat([numbers[0::2], numbers[1::2]])
        regularisers = model.opacity_reg, model.scale_reg
        model = Gaussians(*model.rows(order).values())
        model.opacity_reg, model.scale_reg = regularisers
    return start(model, settings, scene, processes)


def go_on(state: TrainState, processes: Ranks = ALONE, until: int | None = None) -> TrainState:
    def stop(state: TrainState, metrics: StepMetrics) -> None:
        if state.step == until:
            raise Stop

    with contextlib.suppress(Stop):
        train(state, tiny.scene().train_views, callbacks=[stop], ranks=processes)
    return state


SIZES = ((40, 32), (56, 24))  # of the cameras of two processes
BEHIND = torch.tensor([0.1, 0.2, 0.3])
ENDS = {"both see": (0, 24, 60), "one has none": (0, 0, 60)}


def camera_of(number: int, device: torch.device) -> Cameras:
    """A camera whose matrices learn."""
    camera = tiny.ring(5, *SIZES[number])[number].to(device, torch.float32)
    return dataclasses.replace(camera, viewmats=camera.viewmats.requires_grad_(), Ks=camera.Ks.requires_grad_())


Draw = Callable[..., RenderOutput]


def drawn_and_back(draw: Draw, tensors: list[Tensor], number: int, *, depth: bool, absgrad: bool) -> dict[str, Tensor]:
    """The picture of a camera, and gradients of something that depends on all of it; on the CPU."""
    for tensor in tensors:
        tensor.grad = None
    device = tensors[0].device
    camera = camera_of(number, device)
    out = draw(*tensors, camera, sh_degree=3, background=BEHIND.to(device), depth=depth, absgrad=absgrad)
    weights = torch.randn(out.rgb.shape, generator=torch.Generator().manual_seed(number)).to(device)
    loss = (out.rgb * weights).sum()
    if out.depth is not None:
        loss = loss + (out.depth * weights[..., :1]).sum()
    loss.backward()
    assert out.means2d is not None
    assert out.means2d.grad is not None
    assert out.radii is not None
    assert camera.viewmats.grad is not None
    assert camera.Ks.grad is not None
    found = {"rgb": out.rgb.detach().contiguous(), "alpha": out.alpha.detach().contiguous()}
    found |= {"radii": out.radii.clone(), "means2d": out.means2d.grad.clone()}
    with torch.no_grad():
        found["motion"] = motion_gradient(camera, camera.viewmats.grad, camera.Ks.grad)
    found |= {f"parameter {i}": tensor.grad.clone() for i, tensor in enumerate(tensors) if tensor.grad is not None}
    if out.absgrad is not None:
        found["absgrad"] = out.absgrad.clone()
    return {name: value.cpu().contiguous() for name, value in found.items()}


def by_gsplat(
    processes: Ranks, *given: Tensor | Cameras, sh_degree: int, background: Tensor, depth: bool, absgrad: bool
) -> RenderOutput:
    """The GPU's way, with gsplat's functions replaced by the stand-in's."""
    *tensors, camera = given
    everyone = cameras_of_all(processes, camera)  # type: ignore[arg-type]
    about = (everyone, sh_degree, background[None], 0.01, 1e10)
    return divided_cuda.render(processes, tensors, *about, depth=depth, absgrad=absgrad, antialiased=False)  # type: ignore[arg-type]


def draw_all(processes: Ranks, ways: dict[str, Draw], device: torch.device, folder: Path) -> None:
    for name, ends in ENDS.items():
        own = slice(ends[processes.rank], ends[processes.rank + 1])
        whole = tiny.gaussians(60).to(device).state_dict()
        tensors = [value[own].clone().requires_grad_() for value in whole.values()]
        for way, draw in ways.items():
            for depth in (True, False):
                found = drawn_and_back(draw, tensors, processes.rank, depth=depth, absgrad=not depth)
                save_file(found, folder / f"{way}, {name}, {depth} {processes.rank}.safetensors")


def on_a_gpu(folder: Path) -> None:
    """What can only be done where there is one; both processes share it."""
    processes, device = ranks.expected(), torch.device("cuda", 0)
    with ranks.joined(processes, device):
        draw_all(processes, {"gsplat": Divided(processes)}, device, folder)


def main(folder: Path) -> None:
    processes = ranks.expected()
    gsplat_stand_in.install(pytest.MonkeyPatch())
    with ranks.joined(processes, CPU):
        ways: dict[str, Draw] = {"cpu": Divided(processes), "gpu": functools.partial(by_gsplat, processes)}
        draw_all(processes, ways, CPU, folder)
        for case in CASES:
            state = go_on(begun(case, processes), processes, until=HALFWAY)
            checkpoint.save(state, folder / f"{case} half.safetensors")
            checkpoint.save(go_on(state, processes), folder / f"{case}.safetensors")
            processes.total(0)  # the first has written
            again = checkpoint.load(folder / f"{case} half.safetensors", divided=processes)
            checkpoint.save(go_on(again, processes), folder / f"{case} resumed.safetensors")


if __name__ == "__main__":
    (on_a_gpu if sys.argv[2:] == ["gpu"] else main)(Path(sys.argv[1]))
