"""The golden set: a few scenes with the pictures and gradients that the reference has given in float64, stored.

Every rasteriser is compared with it, and so is the reference: what a scene looks like must not change by accident.
`python tests/golden.py` writes it anew, should it have to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import raster_cases
from raster_cases import NAMES, Case
from recon.datasets.cameras import Cameras
from recon.raster import Rasterizer, reference

FILE = Path(__file__).with_name("golden.safetensors")
CASES = (
    "degree 3 of 16 coefficients",
    "several cameras",
    "off-centre, oblong pixels",
    "behind, at the border and far outside",
    "smaller than a pixel, antialiased",
)
PICTURES = {"rgb": 3, "alpha": 1, "depth": 1}


def results(rasterize: Rasterizer, case: Case, weights: dict[str, Tensor], dtype: torch.dtype, device: str) -> dict:
    """Pictures, and the gradients of their sum times weights, on the CPU."""
    parameters, cameras, options = case.arguments(dtype, device)
    out = rasterize(*parameters, cameras, **options)  # type: ignore[call-arg, arg-type, misc]
    pictures = {name: getattr(out, name) for name in PICTURES}
    sum((pictures[name] * weights[name].to(device, dtype)).sum() for name in PICTURES).backward()  # type: ignore[union-attr]
    gradients = {f"d {name}": tensor.grad for name, tensor in zip(NAMES, parameters, strict=True)}
    return {name: value.detach().cpu() for name, value in (pictures | gradients).items()}


def load() -> dict[str, tuple[Case, dict[str, Tensor], dict[str, Tensor]]]:
    """Cases by name, each with the weights of its pictures and what is expected."""
    stored = load_file(FILE)
    found = {}
    for name in CASES:
        own = {key.removeprefix(f"{name}/"): value for key, value in stored.items() if key.startswith(f"{name}/")}
        width, height, degree, antialiased = own["numbers"].tolist()
        cameras = Cameras(own["viewmats"].double(), own["Ks"].double(), width, height)
        options: dict[str, Any] = {"background": own["background"].double()} if "background" in own else {}
        if antialiased:
            options["antialiased"] = True
        case = Case([own[key].double() for key in NAMES], cameras, degree, options)
        weights = {key: own[f"weight {key}"] for key in PICTURES}
        found[name] = case, weights, {key: own[key] for key in (*PICTURES, *(f"d {name}" for name in NAMES))}
    return found


def write() -> None:
    stored: dict[str, Tensor] = {}
    for name in CASES:
        case = raster_cases.cases()[name]
        undecided, _, _ = raster_cases.undecided(case)
        generator = torch.Generator().manual_seed(0)
        weights = {
            key: torch.randn(*undecided.shape, channels, generator=generator) * ~undecided[..., None]
            for key, channels in PICTURES.items()
        }
        cameras = case.cameras
        own = dict(zip(NAMES, case.parameters, strict=True))
        own |= {"viewmats": cameras.viewmats, "Ks": cameras.Ks}
        own |= {key: value for key, value in case.options.items() if isinstance(value, Tensor)}
        own |= {f"weight {key}": value for key, value in weights.items()}
        own |= results(reference.rasterize, case, weights, torch.float64, "cpu")
        stored |= {f"{name}/{key}": value.float().contiguous() for key, value in own.items()}
        numbers = cameras.width, cameras.height, case.sh_degree, case.options.get("antialiased", False)
        stored[f"{name}/numbers"] = torch.tensor(numbers)
    save_file(stored, FILE)


if __name__ == "__main__":
    write()
