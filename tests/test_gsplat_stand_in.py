"""The stand-in for gsplat's compiled functions: what they declare, and what is asked of them beside the rasteriser."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path

import pytest
import torch

import gsplat_stand_in
from recon.optim import CudaAdam, SelectiveAdam

ASKED = (
    "projection_ewa_3dgs_fused_fwd",
    "projection_ewa_3dgs_fused_bwd",
    "spherical_harmonics_fwd",
    "spherical_harmonics_bwd",
    "intersect_tile",
    "intersect_offset",
    "rasterize_to_pixels_3dgs_fwd",
    "rasterize_to_pixels_3dgs_bwd",
    "adam",
)
KINDS = {"at::Tensor": "Tensor", "uint32_t": "int", "float": "float", "bool": "bool"}


@pytest.fixture(scope="module")
def declared() -> dict[str, list[tuple[str, str]]]:
    """Kinds and names of the arguments of each function that gsplat declares."""
    found = importlib.util.find_spec("gsplat")
    if found is None or found.origin is None:
        pytest.skip("gsplat is not installed")
    text = re.sub(r"//.*", "", (Path(found.origin).parent / "cuda" / "include" / "Ops.h").read_text())
    functions = {}
    for name, inside in re.findall(r"(\w+)\s*\(([^()]*)\)\s*;", text):
        arguments = [argument.replace("&", " ").split() for argument in inside.split(",")]
        functions[name] = [(" ".join(words[:-1]).removeprefix("const "), words[-1]) for words in arguments if words]
    return functions


@pytest.mark.parametrize("name", ASKED)
def test_it_takes_what_gsplat_declares(name: str, declared: dict[str, list[tuple[str, str]]]) -> None:
    own = inspect.signature(getattr(gsplat_stand_in, name)).parameters
    assert list(own) == [argument for _, argument in declared[name]]
    for kind, argument in declared[name]:
        if kind in KINDS:
            assert own[argument].annotation == KINDS[kind], argument


def test_no_other_function_is_asked_for() -> None:
    package = Path(str(importlib.util.find_spec("recon.raster.gsplat_cuda").origin)).parents[1]  # type: ignore[union-attr]
    asked = set().union(*(re.findall(r"\b_C\.(\w+)", path.read_text()) for path in package.glob("**/*.py")))
    assert asked == {*ASKED, "CameraModelType"}


def test_adam_takes_the_steps_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gsplat_stand_in.install(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(50, 3, generator=generator)
    values = []
    for kind in (SelectiveAdam, CudaAdam):
        weight = start.clone().requires_grad_()
        optimizer, draw = kind([weight], lr=0.1), torch.Generator().manual_seed(1)
        for _ in range(20):
            weight.grad = torch.randn(50, 3, generator=draw)
            optimizer.step(visible=torch.rand(50, generator=draw) < 0.7)
        values.append(weight.detach())
    torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-6)
