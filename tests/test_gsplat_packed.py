"""gsplat's packed functions against its dense ones: the same pictures, gradients and whatever densification reads."""

# The six parameters are passed as a list, whose length mypy cannot see.
# mypy: disable-error-code="call-arg, arg-type, union-attr, misc"
from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import gsplat_registered
import gsplat_stand_in
from raster_cases import NAMES, Case, always_packed, cases, scene, turned_camera, with_options
from recon.datasets.cameras import Cameras
from recon.model import RenderOutput
from recon.raster import gsplat_calls, gsplat_cuda, gsplat_packed
from recon.torch_threads import one_torch_thread

SEVERAL = cases()["several cameras"]
NAMED = ["stand-in", "registered", pytest.param("gsplat_cuda", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True, scope="module")
def quiet_torch() -> Iterator[None]:
    with one_torch_thread(torch.device("cpu")):
        yield


def device_of(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where an implementation is tried, whose functions are installed."""
    if name != "gsplat_cuda":
        {"stand-in": gsplat_stand_in, "registered": gsplat_registered}[name].install(monkeypatch)
        return "cpu"
    if problem := gsplat_cuda.problem():
        pytest.skip(problem)
    return "cuda"


def with_one_that_looks_away(case: Case) -> Case:
    """The same scene, and a last camera that sees nothing of it."""
    cameras = case.cameras
    away = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64)) @ cameras.viewmats[:1]
    viewmats, Ks = torch.cat([cameras.viewmats, away]), torch.cat([cameras.Ks, cameras.Ks[:1]])
    return dataclasses.replace(case, cameras=Cameras(viewmats, Ks, cameras.width, cameras.height))


def tried(case: Case, device: str, *, depth: bool) -> dict[str, Tensor]:
    """All that comes of drawing a case, and of the way back from random weights."""
    parameters, cameras, options = case.arguments(torch.float32, device)
    viewmats, Ks = (matrices.float().requires_grad_() for matrices in (cameras.viewmats, cameras.Ks))
    background = options.pop("background", torch.zeros(3)).to(device).requires_grad_()
    cameras = dataclasses.replace(cameras, viewmats=viewmats, Ks=Ks)
    out = gsplat_cuda.rasterize(*parameters, cameras, background=background, depth=depth, absgrad=True, **options)
    generator = torch.Generator().manual_seed(0)
    pictures = [picture for picture in (out.rgb, out.alpha, out.depth) if picture is not None]
    weights = [torch.randn(picture.shape, generator=generator).to(device) for picture in pictures]
    sum((picture * weight).sum() for picture, weight in zip(pictures, weights, strict=True)).backward()
    return {**named(out), **gradients_by_name([*parameters, viewmats, Ks, background])}


def named(out: RenderOutput) -> dict[str, Tensor]:
    """What was drawn, without the centres of what is not seen."""
    assert out.means2d is not None
    assert out.radii is not None
    assert out.absgrad is not None
    assert out.means2d.grad is not None
    seen = (out.radii > 0).all(dim=-1)
    found = {"rgb": out.rgb, "alpha": out.alpha, "centres": out.means2d[seen], "radii": out.radii.int()}
    if out.depth is not None:
        found["depth"] = out.depth
    found |= {"absgrad": out.absgrad, "d means2d": out.means2d.grad}
    return {name: value.detach().cpu() for name, value in found.items()}


def gradients_by_name(tensors: list[Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in zip((*NAMES, "viewmats", "Ks", "background"), tensors, strict=True):
        assert tensor.grad is not None, name
        found[f"d {name}"] = tensor.grad.cpu()
    return found


def check_the_same(case: Case, device: str, monkeypatch: pytest.MonkeyPatch, *, depth: bool) -> dict[str, Tensor]:
    """Draw a case both ways, compare, and return what was found with packed rows.

    On a GPU sums are made in any order.
    """
    dense = tried(case, device, depth=depth)
    with monkeypatch.context() as patched:
        always_packed(patched)
        packed = tried(case, device, depth=depth)
    assert packed.keys() == dense.keys()
    tolerance = 1e-5 if device == "cpu" else 2e-4
    for name, wanted in dense.items():
        assert packed[name].shape == wanted.shape, name
        assert packed[name].dtype == wanted.dtype, name
        assert packed[name].isfinite().all(), name
        error = float((packed[name] - wanted).double().norm())
        assert error <= tolerance * float(wanted.double().norm()), f"{name}: {error:.1e}"
    return packed


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize(("antialiased", "depth"), [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize("rows", [gsplat_packed.ROWS, 7])
def test_the_same_as_dense(
    name: str, antialiased: bool, depth: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three cameras that see some of the scene, and one that sees nothing; colours all at once and in small parts."""
    device = device_of(name, monkeypatch)
    monkeypatch.setattr(gsplat_packed, "ROWS", rows)
    case = with_one_that_looks_away(with_options(SEVERAL, antialiased=antialiased))
    found = check_the_same(case, device, monkeypatch, depth=depth)
    seen = (found["radii"] > 0).all(dim=-1).sum(dim=1)
    assert (seen[:3] > 20).all()
    assert (seen[:3] < len(case.parameters[0])).any()
    assert seen[3] == 0
    for key in ("absgrad", "d means2d"):
        assert (found[key][:3].flatten(1).norm(dim=1) > 0).all(), key
        assert not found[key][3].any(), key
    torch.testing.assert_close(found["rgb"][3], torch.tensor([0.2, 0.5, 0.9]).expand(40, 52, 3))
    assert not found["alpha"][3].any()


@pytest.mark.parametrize("name", NAMED)
def test_nothing_is_seen_at_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = device_of(name, monkeypatch)
    behind = dataclasses.replace(SEVERAL, parameters=scene(5, seed=6, depths=(-5.0, -2.0)))
    found = check_the_same(behind, device, monkeypatch, depth=True)
    assert not found["radii"].any()
    assert not any(found[f"d {key}"].any() for key in (*NAMES, "viewmats", "Ks", "means2d"))
    assert found["d background"].any()


@pytest.mark.parametrize("name", NAMED)
def test_no_gaussians_at_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = device_of(name, monkeypatch)
    always_packed(monkeypatch)
    parameters, cameras, options = dataclasses.replace(SEVERAL, parameters=scene(0)).arguments(torch.float32, device)
    out = gsplat_cuda.rasterize(*parameters, cameras, absgrad=True, **options)
    assert out.rgb.shape == (3, 40, 52, 3)
    assert [x.shape for x in (out.means2d, out.radii, out.absgrad) if x is not None] == [(3, 0, 2)] * 3


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_seen_is_zero(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = device_of(name, monkeypatch)
    always_packed(monkeypatch)
    parameters, cameras, options = with_one_that_looks_away(SEVERAL).arguments(torch.float32, device)
    out = gsplat_cuda.rasterize(*parameters, cameras, **options)
    assert out.means2d is not None
    assert out.radii is not None
    seen = (out.radii > 0).all(dim=-1)
    assert out.means2d[seen].any()
    assert not out.means2d[~seen].any()
    assert not out.radii[~seen].any()


@settings(deadline=None, max_examples=15, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 12),
    turns=st.lists(st.floats(-3.0, 3.0), min_size=2, max_size=4),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    degree=st.integers(0, 3),
    antialiased=st.booleans(),
    depth=st.booleans(),
)
def test_random_scenes_are_the_same_as_dense(
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    count: int,
    turns: list[float],
    size: tuple[int, int],
    degree: int,
    antialiased: bool,
    depth: bool,
) -> None:
    """Cameras that are turned about the vertical axis, so that some see all and some nothing."""
    gsplat_stand_in.install(monkeypatch)
    camera = turned_camera(*size, fx=0.8 * max(size))
    angles = torch.tensor(turns, dtype=torch.float64)
    turned = torch.eye(4, dtype=torch.float64).repeat(len(turns), 1, 1)
    turned[:, 0, 0] = turned[:, 2, 2] = angles.cos()
    turned[:, 0, 2], turned[:, 2, 0] = angles.sin(), -angles.sin()
    cameras = Cameras((turned @ camera.viewmats).float().double(), camera.Ks.repeat(len(turns), 1, 1), *size)
    parameters = scene(count, seed=seed, coefficients=(degree + 1) ** 2, log_scale=-1.0)
    check_the_same(Case(parameters, cameras, degree, {"antialiased": antialiased}), "cpu", monkeypatch, depth=depth)


def bytes_kept(cameras: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """For the way back, of pictures of 200 Gaussians none of which is seen."""
    parameters = [tensor.float().requires_grad_() for tensor in scene(200, depths=(-5.0, -2.0))]
    one = turned_camera(1, 1)
    several = Cameras(one.viewmats.repeat(cameras, 1, 1), one.Ks.repeat(cameras, 1, 1), 1, 1)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        gsplat_cuda.rasterize(*parameters, several, sh_degree=3)
    return sum(kept.values())


def test_what_is_not_seen_keeps_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is not seen by more cameras; matrices and pictures of a pixel are a few hundred bytes for each."""
    gsplat_stand_in.install(monkeypatch)
    of_dense = bytes_kept(9, monkeypatch) - bytes_kept(1, monkeypatch)
    always_packed(monkeypatch)
    of_packed = bytes_kept(9, monkeypatch) - bytes_kept(1, monkeypatch)
    assert of_dense > 8 * 200 * 200
    assert of_packed < 8 * 200


@pytest.mark.parametrize(("cameras", "gaussians", "packed"), [(3, 20, True), (3, 19, False), (1, 60, False)])
def test_packed_is_chosen_for_many_pairs(
    cameras: int, gaussians: int, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gsplat_stand_in.install(monkeypatch)
    monkeypatch.setattr(gsplat_cuda, "PACKED_PAIRS", 60)
    chosen, packs = [], gsplat_packed.rasterize

    def noted(*arguments: Any, **options: Any) -> RenderOutput:
        chosen.append(True)
        return packs(*arguments, **options)

    monkeypatch.setattr(gsplat_packed, "rasterize", noted)
    several = SEVERAL.cameras[0] if cameras == 1 else SEVERAL.cameras
    case = Case(scene(gaussians), several, 3)
    parameters, cameras_given, options = case.arguments(torch.float32, "cpu")
    gsplat_cuda.rasterize(*parameters, cameras_given, **options)
    assert bool(chosen) == packed


def test_a_gsplat_without_packed_functions_is_called_densely(monkeypatch: pytest.MonkeyPatch) -> None:
    gsplat_stand_in.install(monkeypatch)
    always_packed(monkeypatch)
    parameters, cameras, options = SEVERAL.arguments(torch.float32, "cpu")
    wanted = gsplat_cuda.rasterize(*parameters, cameras, **options).rgb
    fewer = types.SimpleNamespace(
        CameraModelType=gsplat_stand_in.CameraModelType,
        **{n: getattr(gsplat_stand_in, n) for n in gsplat_calls.ARGUMENTS if n not in gsplat_calls.PACKED},
    )
    monkeypatch.setattr(gsplat_calls, "functions", lambda: fewer)
    torch.testing.assert_close(gsplat_cuda.rasterize(*parameters, cameras, **options).rgb, wanted)
