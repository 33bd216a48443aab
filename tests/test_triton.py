"""The kernels in Triton beside what they stand for: by Triton's interpreter on the CPU, and compiled where a GPU is."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import recon
import test_exposure
import test_losses
import test_occupancy
from recon.exposure import Shot

SIZES = [(1, 1), (19, 1), (33, 47), (2, 350)]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Of the tensors; `conftest.py` has the interpreter run the kernels where there is no GPU."""
    if request.param == "cpu" and torch.cuda.is_available():
        pytest.skip("kernels are compiled here: run with -m gpu")
    pytest.importorskip("triton", reason="Triton is not installed")
    return str(request.param)


@pytest.mark.parametrize(("height", "width", "weight"), [*((*size, 0.2) for size in SIZES), (5, 7, 0.0), (5, 7, 1.0)])
def test_the_loss_is_what_it_is_defined_as(height: int, width: int, weight: float, device: str) -> None:
    from recon import losses_cuda

    rgb, target = test_losses.pictures(2, height, width)
    given = rgb.clone().to(device).requires_grad_()
    value = losses_cuda.photometric(given, target.to(device), weight)
    value.backward()
    assert given.grad is not None
    test_losses.assert_close(value.item(), given.grad.cpu(), *test_losses.reference(rgb, target, weight))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_picture_is_exposed_as_pytorch_says(height: int, width: int, device: str) -> None:
    from recon import exposure_cuda

    picture, photo = test_exposure.pictures(height, width)
    coefficients, lens = test_exposure.COEFFICIENTS, (0.4 * width, 0.55 * height, 0.5 * math.hypot(width, height))
    given = picture.clone().to(device).requires_grad_()
    exposed, sums = exposure_cuda.expose(given, photo.to(device), coefficients.to(device), lens)
    gradient = torch.randn(picture.shape, generator=torch.Generator().manual_seed(2))
    exposed.backward(gradient.to(device))
    double = Shot(coefficients.double(), lens)
    wanted, told = double.exposed_and_sums(picture.double(), photo.double())
    torch.testing.assert_close(exposed.detach().cpu().double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sums.cpu().double(), told, rtol=1e-4, atol=1e-5 * float(told.abs().max()))
    assert given.grad is not None
    factor = double.factor(height, width)[None]
    torch.testing.assert_close(given.grad.cpu().double(), gradient.double() * factor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("share", "end", "most"),
    [(0.2, math.inf, 512), (1.0, 30.0, 512), (0.5, 3.0, 7), (0.0, 9.0, 512)],
    ids=["some cells", "all cells", "few samples", "no cell"],
)
def test_rays_are_looked_at_where_the_cpu_looks(share: float, end: float, most: int, device: str) -> None:
    from recon import occupancy_cuda

    rays, side = test_occupancy.some_rays(40), test_occupancy.SIDE
    rays[3, 3], rays[5, 3:5] = 0, 0  # along walls of cells
    cells = np.random.default_rng(2).random((side,) * 3) < share
    wanted = test_occupancy.marched(rays, cells, end, most)
    told = (
        torch.from_numpy(rays),
        torch.from_numpy(cells.astype(np.uint8)),
        torch.from_numpy(test_occupancy.jitter(rays)),
    )
    given, full, jitter = (tensor.to(device) for tensor in told)
    span = (test_occupancy.BEGIN, end, test_occupancy.STEP)
    found = occupancy_cuda.march(given, *span, full.reshape(-1), side, jitter, most)
    assert found[0].tolist() == wanted.starts.tolist()
    for ours, theirs in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_allclose(ours.cpu().numpy(), theirs, rtol=1e-6, atol=2e-7)
    assert bool(share) == (len(wanted.distances) > 100)


def test_kernels_can_be_compiled_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    at_work = Path(__file__).parent / "triton_compiled.py"
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, at_work], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    sources = [path.read_text() for path in Path(recon.__file__).parent.glob("*_cuda.py")]
    launched = {name for source in sources for name in re.findall(r"@triton\.jit\(.*\)\ndef (\w+)\(", source)}
    assert {line.split()[0] for line in done.stdout.splitlines()} == launched
    assert len(launched) > 5
