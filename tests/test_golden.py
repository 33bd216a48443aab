"""Every rasteriser against the golden set."""

from __future__ import annotations

import pytest
import torch

import golden
import gsplat_stand_in
from raster_cases import always_packed
from recon.raster import cpu, gsplat_cuda, reference

# Mean absolute difference of pictures (of depths relative), and relative difference of whole gradients. What rounding
# decides, whether a contribution of 1/255 is drawn, is in the pictures, but has no weight in the gradients.
TOLERANCES = {
    "reference": (1e-7, 1e-6),
    "cpu": (1e-5, 2e-5),
    "stand-in": (1e-5, 2e-4),
    "stand-in, packed": (1e-5, 2e-4),
    "gsplat_cuda": (1e-4, 5e-4),
    "gsplat_cuda, packed": (1e-4, 5e-4),
}
SETS = golden.load()


@pytest.mark.parametrize("case", golden.CASES)
@pytest.mark.parametrize(
    "name", [*list(TOLERANCES)[:4], *(pytest.param(name, marks=pytest.mark.gpu) for name in list(TOLERANCES)[4:])]
)
def test_pictures_and_gradients_are_those_of_the_golden_set(
    name: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rasterize, dtype, device = {
        "reference": (reference.rasterize, torch.float64, "cpu"),
        "cpu": (cpu.rasterize, torch.float32, "cpu"),
        "stand-in": (gsplat_cuda.rasterize, torch.float32, "cpu"),
        "gsplat_cuda": (gsplat_cuda.rasterize, torch.float32, "cuda"),
    }[name.removesuffix(", packed")]
    if name.endswith("packed"):
        always_packed(monkeypatch)
    if name.startswith("stand-in"):
        gsplat_stand_in.install(monkeypatch)
    elif name.startswith("gsplat_cuda") and (problem := gsplat_cuda.problem()):
        pytest.skip(problem)
    scene, weights, expected = SETS[case]
    found = golden.results(rasterize, scene, weights, dtype, device)
    of_pictures, of_gradients = TOLERANCES[name]
    for key, wanted in expected.items():
        difference, value = found[key].double() - wanted.double(), wanted.double()
        if key.startswith("d "):
            assert float(difference.norm()) <= of_gradients * float(value.norm()), key
        else:
            scale = value.abs().clamp_min(1) if key == "depth" else 1
            assert float((difference.abs() / scale).mean()) <= of_pictures, key
