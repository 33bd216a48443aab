"""Every rasteriser against the reference in float64: the same pictures, the same gradients of everything."""

# The six parameters are passed as a list, whose length mypy cannot see.
# mypy: disable-error-code="call-arg, arg-type, union-attr, index, misc"
from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import gsplat_registered
import gsplat_stand_in
from raster_cases import NAMES, Case, always_packed, cases, scene, turned_camera, undecided
from recon.datasets.cameras import Cameras
from recon.model import RenderOutput
from recon.poses import MOTION, moved
from recon.raster import Rasterizer, cpu, gsplat_blending, gsplat_cuda, reference
from recon.torch_threads import one_torch_thread

CASES = cases()
# Gradients of very thin or very wide Gaussians are differences of large numbers.
LOOSER = {"needles, plates, huge, tiny, opaque and clear": 100.0}


@dataclass(frozen=True)
class Implementation:
    rasterize: Rasterizer
    device: str
    picture_error: float  # absolute; for depths relative
    gradient_error: float  # relative, of the whole tensor
    row_error: float  # relative, of a single Gaussian
    median_depth: bool  # whether it offers that


STAND_INS: dict[str, Any] = {"stand-in": gsplat_stand_in, "registered": gsplat_registered, "packed": gsplat_stand_in}
ON_GPU = [pytest.param(name, marks=pytest.mark.gpu) for name in ("gsplat_cuda", "gsplat_cuda, packed")]


def implementation(name: str) -> Implementation:
    if name == "cpu":
        return Implementation(cpu.rasterize, "cpu", 5e-6, 1e-5, 5e-4, median_depth=True)
    if name in STAND_INS:
        return Implementation(gsplat_cuda.rasterize, "cpu", 2e-5, 2e-4, 5e-3, median_depth=False)
    problem = gsplat_cuda.problem()
    if problem:
        pytest.skip(problem)
    return Implementation(gsplat_cuda.rasterize, "cuda", 1e-4, 5e-4, 1e-2, median_depth=False)


@pytest.fixture(autouse=True, scope="module")
def quiet_torch() -> Iterator[None]:
    """The pictures are small: torch's threads would only wait for each other."""
    with one_torch_thread(torch.device("cpu")):
        yield


@pytest.fixture(autouse=True)
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """gsplat's functions in PyTorch, for what is tried with them, and packed rows, for what is tried with those."""
    name = request.node.callspec.params.get("name", "") if hasattr(request.node, "callspec") else ""
    if name in STAND_INS:
        STAND_INS[name].install(monkeypatch)
    if "packed" in name:
        always_packed(monkeypatch)


both = pytest.mark.parametrize("name", ["cpu", *STAND_INS, *ON_GPU])


@dataclass(frozen=True)
class Rendered:
    """What a rasteriser gave, on the CPU in float64."""

    pictures: dict[str, Tensor | None]
    means2d: Tensor
    radii: Tensor
    gradients: dict[str, Tensor]


def render(
    rasterize: Rasterizer, case: Case, weights: dict[str, Tensor], dtype: torch.dtype, device: str, **options: Any
) -> Rendered:
    """Rasterise, and differentiate the sum of all pictures times their weights."""
    parameters, cameras, arguments = case.arguments(dtype, device)
    motion = torch.zeros(len(cameras), MOTION, dtype=torch.float64, device=device, requires_grad=True)
    cameras = moved(cameras, motion)
    out: RenderOutput = rasterize(*parameters, cameras, **arguments, absgrad=True, **options)
    loss = sum((tensor * 0).sum() for tensor in parameters)
    for name, weight in weights.items():
        loss = loss + (getattr(out, name) * weight.to(device, dtype)).sum()
    loss.backward()
    assert out.means2d is not None
    assert out.radii is not None
    assert out.absgrad is not None
    gradients = {name: tensor.grad for name, tensor in zip(NAMES, parameters, strict=True)}
    gradients["motion"] = torch.zeros_like(motion) if motion.grad is None else motion.grad
    gradients["means2d"] = torch.zeros_like(out.means2d) if out.means2d.grad is None else out.means2d.grad
    gradients["absgrad"] = out.absgrad
    pictures = {name: getattr(out, name) for name in ("rgb", "alpha", "depth", "median_depth")}
    return Rendered(
        {name: None if p is None else p.detach().cpu().double() for name, p in pictures.items()},
        out.means2d.detach().cpu().double(),
        out.radii.cpu(),
        {name: gradient.detach().cpu().double() for name, gradient in gradients.items()},
    )


def random_weights(case: Case, decided: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Random gradients of the pictures, none where rounding errors decide."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(case.cameras), case.cameras.height, case.cameras.width)
    weights = {
        name: torch.randn(*shape, channels, generator=generator, dtype=torch.float64) * decided[..., None]
        for name, channels in (("rgb", 3), ("alpha", 1), ("depth", 1))
    }
    weights["depth"] *= 0.2
    return weights


def check_agreement(
    name: str, case: Case, only: tuple[str, ...] = ("rgb", "alpha", "depth"), looser: float = 1
) -> None:
    """Compare an implementation with the reference, forward and backward; the loss sees the pictures in `only`."""
    tested = implementation(name)
    edges, contributing, extents = undecided(case, 2e-4 * min(looser, 10))
    weights = {k: v for k, v in random_weights(case, ~edges).items() if k in only}
    options = {"depth": "depth" in only, "median_depth": tested.median_depth}
    expected = render(reference.rasterize, case, weights, torch.float64, "cpu", **options)
    got = render(tested.rasterize, case, weights, torch.float32, tested.device, **options)

    for key, picture in got.pictures.items():
        wanted = expected.pictures[key]
        assert (picture is None) == (wanted is None)
        if picture is None or wanted is None:
            continue
        assert picture.shape == wanted.shape
        error = (picture - wanted).abs() / (wanted.abs().clamp_min(1) if "depth" in key else 1)
        off = error[~edges]
        assert not (off > tested.picture_error * looser).any(), f"{key}: {off.max():.1e}"

    assert got.radii.shape == expected.radii.shape
    assert got.radii.dtype == torch.int32
    rounded = (extents - extents.round()).abs() < 1e-3  # may be rounded up or not
    assert torch.equal(got.radii[contributing & ~rounded.any(-1)], expected.radii[contributing & ~rounded.any(-1)])
    visible = (expected.radii > 0).all(dim=-1)
    if visible.any():
        distance = (got.means2d - expected.means2d)[visible].abs()
        assert (distance <= 1e-5 * expected.means2d[visible].abs().clamp_min(10)).all()

    for key, wanted in expected.gradients.items():
        gradient = got.gradients[key]
        assert gradient.shape == wanted.shape
        assert gradient.isfinite().all(), key
        if wanted.norm() == 0:
            assert gradient.norm() == 0, key
            continue
        relative = (gradient - wanted).norm() / wanted.norm()
        assert relative <= tested.gradient_error * looser, f"{key}: {relative:.1e}"
        if key == "motion":
            continue
        rows = wanted.reshape(-1, wanted[0].numel()) if key in NAMES else wanted.reshape(-1, 2)
        error = (gradient.reshape(rows.shape) - rows).norm(dim=1)
        allowed = tested.row_error * looser * rows.norm(dim=1) + 0.3 * tested.gradient_error * rows.norm()
        worst = (error - allowed).argmax() if len(error) else 0
        assert (error <= allowed).all(), f"{key}, row {worst}: {error[worst]:.1e} of {rows[worst].norm():.1e}"


@both
@pytest.mark.parametrize("case", CASES)
def test_the_same_pictures_and_gradients(name: str, case: str) -> None:
    check_agreement(name, CASES[case], looser=LOOSER.get(case, 1))


@both
@pytest.mark.parametrize("only", [("rgb",), ("alpha",), ("depth",), ("rgb", "alpha")])
def test_a_loss_of_some_pictures_alone(name: str, only: tuple[str, ...]) -> None:
    check_agreement(name, CASES["several cameras"], only)


@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 40),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    degree=st.integers(0, 3),
    spread=st.floats(0.1, 3.0),
    log_scale=st.floats(-5.0, -1.0),
    logit=st.floats(-3.0, 1.0),
)
def test_random_scenes(
    seed: int, count: int, width: int, height: int, degree: int, spread: float, log_scale: float, logit: float
) -> None:
    """In a tiny picture behind opaque Gaussians all gradients are small differences, so the errors count for more."""
    parameters = scene(
        count,
        seed=seed,
        coefficients=(degree + 1) ** 2,
        spread=spread,
        depths=(-1.0, 5.0),
        log_scale=log_scale,
        logit=logit,
    )
    camera = turned_camera(width, height, fx=0.8 * max(width, height))
    check_agreement("cpu", Case(parameters, camera, degree), looser=30)


def test_few_pixels_are_undecided() -> None:
    """Or else the comparisons would compare nothing."""
    for name, case in CASES.items():
        edges, contributing, _ = undecided(case, 2e-4 * min(LOOSER.get(name, 1), 10))
        assert edges.double().mean() < 0.2, name
        if "no" not in name.split() and name != "nothing visible":
            assert contributing.any(), name


def test_saturation_ends_pixels_and_hides_what_is_behind() -> None:
    case = CASES["saturated"]
    _, contributing, _ = undecided(case)
    parameters, cameras, options = case.arguments(torch.float64, "cpu")
    out = reference.rasterize(*parameters, cameras, **options)
    assert (out.alpha > 1 - 2e-2).double().mean() > 0.9
    assert (~contributing).sum() > 50


@pytest.mark.parametrize("channel", ["rgb", "alpha", "depth"])
def test_gradients_of_the_reference_are_those_of_finite_differences(channel: str) -> None:
    parameters = scene(3, seed=3, coefficients=4, spread=0.25, depths=(2.0, 3.0), log_scale=-1.5, logit=1.0)
    camera = turned_camera(5, 4, fx=5.0)
    background = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)

    def picture(*tensors: Tensor) -> Tensor:
        out = reference.rasterize(*tensors, camera, sh_degree=1, background=background)
        return getattr(out, channel)

    inputs = [tensor.requires_grad_() for tensor in parameters]
    assert picture(*inputs).abs().max() > 0.1
    assert torch.autograd.gradcheck(picture, inputs, eps=1e-6, atol=1e-6, rtol=1e-4)


@both
def test_centres_can_be_differentiated_and_have_losses_of_their_own(name: str) -> None:
    tested = implementation(name)
    case = CASES["degree 1 of 4 coefficients"]
    gradients = []
    for rasterize, dtype, device in (
        (reference.rasterize, torch.float64, "cpu"),
        (tested.rasterize, torch.float32, tested.device),
    ):
        parameters, cameras, options = case.arguments(dtype, device)
        out = rasterize(*parameters, cameras, **options)
        assert out.means2d is not None
        assert out.radii is not None
        seen = (out.radii > 0).all(dim=-1)
        (out.rgb.square().mean() + 1e-3 * out.means2d[seen].square().mean()).backward()
        gradients.append((parameters[0].grad.cpu().double(), out.means2d.grad.cpu().double()))
    for wanted, got in zip(*gradients, strict=True):
        assert (got - wanted).norm() <= 10 * tested.gradient_error * wanted.norm()


@both
def test_intrinsics_are_differentiable(name: str) -> None:
    tested = implementation(name)
    case = CASES["several cameras"]
    gradients = []
    for rasterize, dtype, device in (
        (reference.rasterize, torch.float64, "cpu"),
        (tested.rasterize, torch.float32, tested.device),
    ):
        parameters, cameras, options = case.arguments(dtype, device)
        Ks = cameras.Ks.clone().requires_grad_()
        out = rasterize(*parameters, dataclasses.replace(cameras, Ks=Ks), **options)
        (out.rgb.square().sum() + 0.1 * out.depth.sum()).backward()
        assert Ks.grad is not None
        gradients.append(Ks.grad.cpu()[:, (0, 1, 0, 1), (0, 1, 2, 2)])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=2e-3, atol=2e-3 * float(gradients[0].abs().mean()))


def test_what_gsplat_does_not_give_follows_from_what_it_gives() -> None:
    """The gradients of intrinsics, and of view matrices through directions, against autograd."""
    case = CASES["several cameras"]
    (means, quats, log_scales, *_), cameras, _ = case.arguments(torch.float64, "cpu")
    viewmats, Ks = cameras.viewmats.clone().requires_grad_(), cameras.Ks.clone().requires_grad_()
    moving = Cameras(viewmats, Ks, cameras.width, cameras.height)
    projected = [reference.project(means, quats, log_scales, moving[i]) for i in range(len(moving))]
    means2d = torch.stack([centre for centre, _, _ in projected])
    inverse = torch.linalg.inv(torch.stack([covariance for _, covariance, _ in projected]))
    conics = torch.stack([inverse[..., 0, 0], inverse[..., 0, 1], inverse[..., 1, 1]], dim=-1)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in (means2d, conics)]
    far_off = (means2d < -8) | (means2d > means2d.new_tensor([60.0, 46.0]))  # of 52x40: the Jacobian has limits there
    assert 10 < far_off.any(dim=-1).sum() < 0.8 * means2d[..., 0].numel()
    loss = sum((x * w).sum() for x, w in zip((means2d, conics), weights, strict=True))
    wanted, g_viewmats = torch.autograd.grad(loss, (Ks, viewmats))
    with torch.no_grad():
        torch.testing.assert_close(gsplat_blending.of_intrinsics(moving, g_viewmats), wanted)

    directions = means - moving.positions[:, None]
    weight = torch.randn(directions.shape, generator=generator, dtype=torch.float64)
    (wanted,) = torch.autograd.grad((directions * weight).sum(), viewmats)
    with torch.no_grad():
        torch.testing.assert_close(gsplat_blending.of_directions(viewmats, weight.sum(dim=1)), wanted[:, :3])


@both
def test_the_background_is_differentiable(name: str) -> None:
    tested = implementation(name)
    case = CASES["several cameras"]
    gradients = []
    for rasterize, dtype, device in (
        (reference.rasterize, torch.float64, "cpu"),
        (tested.rasterize, torch.float32, tested.device),
    ):
        parameters, cameras, options = case.arguments(dtype, device)
        background = torch.tensor([0.2, 0.5, 0.9], dtype=dtype, device=device, requires_grad=True)
        out = rasterize(*parameters, cameras, **(options | {"background": background}))
        out.rgb.square().sum().backward()
        gradients.append(background.grad.cpu().double())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=0)


@both
def test_cameras_may_lie_in_memory_in_any_way(name: str) -> None:
    tested = implementation(name)
    parameters, cameras, options = CASES["several cameras"].arguments(torch.float32, tested.device)

    def turned(matrices: Tensor) -> Tensor:
        return matrices.transpose(1, 2).contiguous().transpose(1, 2)

    moved = Cameras(turned(cameras.viewmats), turned(cameras.Ks), cameras.width, cameras.height)
    assert not moved.viewmats.is_contiguous()
    first, second = (tested.rasterize(*parameters, c, **options) for c in (cameras, moved))
    torch.testing.assert_close(first.rgb, second.rgb, rtol=0, atol=1e-6)
