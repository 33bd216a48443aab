"""The stand-in for gsplat's compiled functions: what they declare, and what is asked of them beside the rasteriser."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import gsplat_registered
import gsplat_stand_in
from recon.optim import CudaAdam, SelectiveAdam
from recon.raster import gsplat_calls, gsplat_packed
from recon.raster.gsplat_calls import ARGUMENTS

KINDS = {"at::Tensor": "Tensor", "uint32_t": "int", "float": "float", "bool": "bool"}


class Declared(NamedTuple):
    returned: int  # how many tensors
    arguments: list[tuple[str, str]]  # kinds and names


@pytest.fixture(scope="module")
def declared() -> dict[str, Declared]:
    """What gsplat declares of each function."""
    found = importlib.util.find_spec("gsplat")
    if found is None or found.origin is None:
        pytest.skip("gsplat is not installed")
    text = re.sub(r"//.*", "", (Path(found.origin).parent / "cuda" / "include" / "Ops.h").read_text())
    functions = {}
    for kinds, name, inside in re.findall(r"(std::tuple<[^>]*>|\S+)\s+(\w+)\s*\(([^()]*)\)\s*;", text):
        arguments = [argument.replace("&", " ").split() for argument in inside.split(",")]
        named = [(" ".join(words[:-1]).removeprefix("const "), words[-1]) for words in arguments if words]
        functions[name] = Declared(kinds.count("at::Tensor"), named)
    return functions


@pytest.mark.parametrize("name", ARGUMENTS)
def test_it_takes_and_gives_what_gsplat_declares(name: str, declared: dict[str, Declared]) -> None:
    signature = inspect.signature(getattr(gsplat_stand_in, name))
    own = signature.parameters
    assert list(own) == [argument for _, argument in declared[name].arguments]
    for kind, argument in declared[name].arguments:
        if kind in KINDS:
            assert own[argument].annotation == KINDS[kind], argument
    returned = 0 if signature.return_annotation == "None" else signature.return_annotation.count(",") + 1
    assert returned == declared[name].returned


def test_no_other_function_is_asked_for() -> None:
    package = Path(str(importlib.util.find_spec("recon.raster.gsplat_cuda").origin)).parents[1]  # type: ignore[union-attr]
    callers = [text for path in package.glob("**/*.py") if "gsplat_calls" in (text := path.read_text())]
    asked = set().union(*(re.findall(r"\b(?:compiled|functions\(\))\.(\w+)", text) for text in callers))
    assert asked == {*ARGUMENTS, "CameraModelType"}
    for name, arguments in ARGUMENTS.items():
        assert tuple(inspect.signature(getattr(gsplat_stand_in, name)).parameters) == arguments, name


def test_arguments_are_found_by_their_names() -> None:
    gsplat_registered.library()
    gsplat_registered.library().define("scale(Tensor values, Tensor? masks, int size, float strength) -> Tensor")
    scale = gsplat_calls._adapted("scale", ("values", "amount", "strength"))
    order = gsplat_calls._order(
        "scale", ("values", "amount", "strength"), torch.ops.gsplat.scale.default._schema.arguments
    )
    assert (order, callable(scale)) == ([0, None, 1, 2], True)
    with pytest.raises(gsplat_calls.UnknownGsplat, match="its scale wants strength"):
        gsplat_calls._adapted("scale", ("values", "amount"))
    with pytest.raises(gsplat_calls.UnknownGsplat, match="it has no resize"):
        gsplat_calls._adapted("resize", ("values",))


def test_packed_functions_may_be_others_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    gsplat_registered.install(monkeypatch)
    assert gsplat_packed.offered()
    gsplat_registered.install(monkeypatch)
    for name in gsplat_calls.PACKED:
        monkeypatch.setitem(ARGUMENTS, name, ("means",))
    assert not gsplat_packed.offered()
    assert hasattr(gsplat_calls.functions(), "projection_ewa_3dgs_fused_fwd")
    monkeypatch.setitem(ARGUMENTS, "adam", ("param",))
    gsplat_registered.install(monkeypatch)
    with pytest.raises(gsplat_calls.UnknownGsplat, match="its adam wants"):
        gsplat_packed.offered()


@pytest.mark.parametrize("stand_in", [gsplat_stand_in, gsplat_registered])
def test_adam_takes_the_steps_of_the_cpu(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.install(monkeypatch)
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
