"""What the CPU rasteriser promises beyond the contract: bits, memory, errors."""

# The six parameters are passed as a list, whose length mypy cannot see.
# mypy: disable-error-code="call-arg, arg-type, union-attr, index, misc"
from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raster_cases import NAMES, Case, cases, scene, turned_camera
from recon import raster
from recon.kernels import buffers, rasterize, runtime, splat, tiles
from recon.model import RenderOutput
from recon.raster import cpu
from recon.torch_threads import one_torch_thread

CASE = cases()["several cameras"]


@pytest.fixture(autouse=True, scope="module")
def quiet_torch() -> Iterator[None]:
    with one_torch_thread(torch.device("cpu")):
        yield


@pytest.fixture
def threads() -> Iterator[None]:
    before = runtime.get_threads()
    yield
    runtime.set_threads(before)


def render(case: Case, **options: Any) -> tuple[RenderOutput, list[Tensor]]:
    parameters, cameras, arguments = case.arguments(torch.float32, "cpu")
    return cpu.rasterize(*parameters, cameras, **(arguments | options)), parameters


def gradients(out: RenderOutput, parameters: list[Tensor]) -> list[Tensor]:
    assert out.depth is not None
    (out.rgb.square().sum() + out.alpha.sum() + 0.1 * out.depth.sum()).backward()
    assert out.means2d is not None
    assert out.means2d.grad is not None
    return [tensor.grad for tensor in parameters if tensor.grad is not None] + [out.means2d.grad]


def everything(case: Case) -> list[Tensor]:
    out, parameters = render(case, absgrad=True)
    results = [out.rgb, out.alpha, out.depth, out.means2d, out.radii, *gradients(out, parameters), out.absgrad]
    return [tensor.detach().clone() for tensor in results if tensor is not None]


def test_any_number_of_threads_gives_the_same_bits(threads: None) -> None:
    crowd = Case(scene(40_000, coefficients=4, log_scale=-4.0), turned_camera(200, 150, 180), 1)
    assert crowd.parameters[0].shape[0] > 4 * splat.CHUNK
    results = []
    for count in (1, 2, 5, 2):
        runtime.set_threads(count)
        results.append(everything(crowd))
    for other in results[1:]:
        for mine, theirs in zip(results[0], other, strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", ["4", "8", "16"])
def test_every_vector_width_keeps_the_contract_inside_its_arrays(lanes: str) -> None:
    """The contract again in a process of its own, with all accesses to arrays checked."""
    environment = os.environ | {"RECON_SIMD_LANES": lanes, "RECON_SIMD_CHECK": "1"}
    tests = Path(__file__).parent
    files = [str(tests / name) for name in ("test_simd.py", "test_rasterizer_contract.py")]
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=tests.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_kernels_use_the_numbers_of_the_contract() -> None:
    assert np.float32(raster.EPS2D) == splat.EPS2D
    assert np.float32(raster.ALPHA_MAX) == splat.ALPHA_MAX
    assert np.float32(np.log2(raster.ALPHA_MIN)) == splat.LOG2_ALPHA_MIN
    assert np.float32(raster.TRANSMITTANCE_MIN) == splat.TRANSMITTANCE_MIN
    assert raster.FOV_MARGIN == splat.FOV_MARGIN


def test_room_for_slots_is_found_and_limited(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaussians that touch most of 130 tiles, so that the first guess cannot be enough."""
    runtime.set_threads(1)
    wide = Case(scene(100, seed=30, spread=0.1, log_scale=1.0, logit=-3.0), turned_camera(200, 150, 180), 3)
    monkeypatch.setattr(rasterize, "_slots_per_gaussian", 8.0)
    guessed_too_low = gradients(*render(wide))
    needed = 100 * rasterize._slots_per_gaussian / 1.25
    assert needed > 2 * (100 * 8 + tiles.PAGE)
    guessed_well = gradients(*render(wide))
    assert all(torch.equal(a, b) for a, b in zip(guessed_too_low, guessed_well, strict=True))
    monkeypatch.setattr(rasterize, "MAX_SLOTS", 1000)
    with pytest.raises(ValueError, match=r"100 Gaussians touch \d+ tiles .* 200x150: too many"):
        render(wide)


def test_pictures_are_planar_in_memory() -> None:
    out, _ = render(CASE)
    assert out.rgb.permute(0, 3, 1, 2).is_contiguous()
    assert out.rgb.shape == (3, 40, 52, 3)


def test_the_layout_of_gradients_and_inputs_does_not_matter() -> None:
    out, parameters = render(CASE)
    weights = torch.randn(out.rgb.shape, generator=torch.Generator().manual_seed(0))
    out.rgb.backward(weights)
    planar = weights.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert planar.stride() != weights.stride()
    strided = [torch.stack([tensor.detach()] * 2, dim=-1).requires_grad_() for tensor in parameters]
    _, cameras, options = CASE.arguments(torch.float32, "cpu")
    again = cpu.rasterize(*(tensor[..., 1] for tensor in strided), cameras, **options)
    assert torch.equal(again.rgb, out.rgb)
    again.rgb.backward(planar)
    for tensor, wide in zip(parameters, strided, strict=True):
        assert torch.equal(wide.grad[..., 1], tensor.grad)
        assert not wide.grad[..., 0].any()


def test_several_renders_before_their_gradients() -> None:
    other = Case(scene(300, seed=20, log_scale=-1.5), turned_camera(70, 50), 3)
    alone = [gradients(*render(case)) for case in (CASE, other)]
    first, second = render(CASE), render(other)
    together = [gradients(*second), gradients(*first)][::-1]
    for mine, theirs in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_results_stay_what_they_are() -> None:
    out, parameters = render(CASE, absgrad=True)
    grads = gradients(out, parameters)
    kept = [out.rgb, out.alpha, out.depth, out.means2d, out.radii, out.absgrad, *grads]
    copies = [tensor.detach().clone() for tensor in kept if tensor is not None]
    for seed in range(3):
        gradients(*render(replace(CASE, parameters=scene(60, seed=seed))))
    for tensor, copy in zip(kept, copies, strict=True):
        assert tensor is not None
        assert torch.equal(tensor, copy)


def busy_bytes() -> int:
    gc.collect()
    return sum(
        length
        for length, same in buffers._buffers.items()
        for i in range(len(same))
        if buffers._references(same, i) != buffers._FREE
    )


def test_memory_is_used_again_and_nothing_is_kept(threads: None) -> None:
    runtime.set_threads(1)  # with more, how many slots are reserved differs a little from run to run
    large = Case(scene(5000, coefficients=4, log_scale=-3.5), turned_camera(160, 120, 150), 1)
    gradients(*render(large))  # how much room there is for slots follows from the picture before
    before = busy_bytes()
    gradients(*render(large))
    assert busy_bytes() == before
    held = sum(length * len(same) for length, same in buffers._buffers.items())
    for _ in range(3):
        gradients(*render(large))
    assert sum(length * len(same) for length, same in buffers._buffers.items()) == held
    results = 1.2 * (5 * 160 * 120 * 4 + 5000 * 16)  # the pictures and the centres, with what rounding up adds
    with torch.no_grad():
        out, parameters = render(large)
    assert out.rgb.grad_fn is None
    assert busy_bytes() - before < results
    out, parameters = render(large)
    assert busy_bytes() - before > 1.5 * results
    gradients(out, parameters)
    for tensor in parameters:
        tensor.grad = None
    assert busy_bytes() - before < results, "the pictures must not keep what the gradient needed"
    with pytest.raises(RuntimeError, match="second time"):
        out.rgb.sum().backward()
    del out
    assert busy_bytes() == before


def test_gradients_only_where_wanted() -> None:
    parameters, cameras, options = CASE.arguments(torch.float32, "cpu")
    whole = gradients(cpu.rasterize(*parameters, cameras, **options), parameters)
    for chosen in range(len(NAMES)):
        some = [tensor.detach().requires_grad_(i == chosen) for i, tensor in enumerate(parameters)]
        out = cpu.rasterize(*some, cameras, **options)
        gradients(out, some)
        assert torch.equal(some[chosen].grad, whole[chosen])
        assert all(tensor.grad is None for i, tensor in enumerate(some) if i != chosen)


def test_gradients_twice_add_up() -> None:
    out, parameters = render(CASE, absgrad=True)
    loss = out.rgb.square().sum()
    loss.backward(retain_graph=True)
    assert out.absgrad is not None
    once = [tensor.grad.clone() for tensor in parameters] + [out.absgrad.clone()]
    loss.backward()
    for tensor, single in zip([*(t.grad for t in parameters), out.absgrad], once, strict=True):
        torch.testing.assert_close(tensor, 2 * single, rtol=1e-6, atol=0)


def test_what_the_gradient_needs_may_not_be_changed() -> None:
    out, parameters = render(CASE)
    with torch.no_grad():
        parameters[0].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.rgb.sum().backward()


def test_without_depth_there_is_none_and_the_rest_is_the_same() -> None:
    with_depth, _ = render(CASE)
    without, _ = render(CASE, depth=False)
    assert without.depth is None
    assert torch.equal(without.rgb, with_depth.rgb)
    assert torch.equal(without.alpha, with_depth.alpha)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_named(name: str, value: float) -> None:
    """The last row and the last number: where the kernels take leave of whole vectors."""
    parameters, cameras, options = CASE.arguments(torch.float32, "cpu")
    position = NAMES.index(name)
    with torch.no_grad():
        parameters[0][-1] = torch.tensor([0.0, 0.0, 3.0])
        parameters[3][-1] = 2.0
        parameters[position].view(-1)[-1] = value
    with pytest.raises(ValueError, match=f"{name} contains NaN or infinity, first in row 59"):
        cpu.rasterize(*parameters, cameras, **options)


def test_a_size_beyond_float32_is_named() -> None:
    parameters, cameras, options = CASE.arguments(torch.float32, "cpu")
    with torch.no_grad():
        parameters[0][7] = torch.tensor([0.0, 0.0, 3.0])
        parameters[2][7] = 60.0
    with pytest.raises(ValueError, match=r"log_scales: a Gaussian is too large .* row 7"):
        cpu.rasterize(*parameters, cameras, **options)


@pytest.mark.parametrize("field", ["viewmats", "Ks"])
def test_cameras_that_are_not_finite_are_named(field: str) -> None:
    parameters, cameras, options = CASE.arguments(torch.float32, "cpu")
    broken = getattr(cameras, field).clone()
    broken[1, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=rf"cameras.{field} contains NaN"):
        cpu.rasterize(*parameters, replace(cameras, **{field: broken}), **options)


def test_a_camera_gets_the_same_gradient_with_and_without_the_gaussians() -> None:
    parameters, cameras, options = CASE.arguments(torch.float32, "cpu")
    found = []
    for tensors in (parameters, [tensor.detach() for tensor in parameters]):
        Ks = cameras.Ks.clone().requires_grad_()
        cpu.rasterize(*tensors, replace(cameras, Ks=Ks), **options).rgb.square().sum().backward()
        assert Ks.grad is not None
        found.append(Ks.grad)
    assert torch.equal(*found)
    assert found[0].abs().max() > 0


def test_shapes_and_types_that_do_not_fit_are_named() -> None:
    parameters, cameras, options = CASE.arguments(torch.float32, "cpu")
    for position, name in enumerate(NAMES):
        for wrong in (parameters[position].double(), parameters[position][1:] if position else parameters[0][:, :2]):
            changed = [*parameters[:position], wrong, *parameters[position + 1 :]]
            with pytest.raises(ValueError, match=f"^{name} is "):
                cpu.rasterize(*changed, cameras, **options)
    for bad in ({"sh_degree": 4}, {"sh_degree": -1}, {"near": -1.0}, {"near": float("nan")}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} "):
            cpu.rasterize(*parameters, cameras, **(options | bad))
