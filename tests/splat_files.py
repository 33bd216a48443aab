"""Splat files for tests, made and taken apart by other means than the code under test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recon import sh
from recon.gaussians import PARAMETERS, Gaussians
from recon.raster import reference

ENCODINGS = ("ascii", "binary_little_endian", "binary_big_endian")

# The field order of the files of the 3DGS authors, degree 3, written out: the expectation is not computed by the code
# under test.
STANDARD_FIELDS = (
    "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 "
    + " ".join(f"f_rest_{i}" for i in range(45))
    + " opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
).split()


def random_gaussians(count: int, degree: int, seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Gaussians(
        normal(count, 3),
        normal(count, 4),
        normal(count, 3) - 2,
        normal(count),
        normal(count, 1, 3),
        normal(count, sh.num_coefficients(degree) - 1, 3),
        rasterizer=reference.rasterize,
    )


def written_by_gsplat(scene: Gaussians, kind: str, path: Path) -> Path:
    """A scene as gsplat writes it: "ply", "splat" or "ply_compressed", of which the last wants unit quaternions."""
    gsplat = pytest.importorskip("gsplat", reason="gsplat is not installed")
    values = scene.state_dict()
    unit = torch.nn.functional.normalize(values["quats"], dim=-1)
    gsplat.export_splats(
        means=values["means"],
        scales=values["log_scales"],
        quats=unit if kind == "ply_compressed" else values["quats"],
        opacities=values["logit_opacities"],
        sh0=values["sh0"],
        shN=values["shN"],
        format=kind,
        save_to=str(path),
    )
    return path


def assert_same(a: Gaussians, b: Gaussians) -> None:
    for name in PARAMETERS:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def write_ply(path: Path, columns: dict[str, np.ndarray], encoding: str = "binary_little_endian", **parts: Any) -> Path:
    """A .ply by other means than the code under test; `parts` are lines and bytes to put between."""
    order = ">" if encoding == "binary_big_endian" else "<"
    names = {"f4": "float", "f8": "double", "u1": "uchar", "i2": "short", "i4": "int"}
    types = {name: values.dtype.str[1:] for name, values in columns.items()}
    count = len(next(iter(columns.values())))
    lines = ["ply", f"format {encoding} 1.0", *parts.get("before", [])]
    lines += [f"element vertex {parts.get('promised', count)}"]
    lines += [f"property {names[types[name]]} {name}" for name in columns]
    lines += [*parts.get("after", []), "end_header"]
    rows = np.empty(count, dtype=[(name, order + types[name]) for name in columns])
    for name, values in columns.items():
        rows[name] = values
    if encoding == "ascii":
        body = "".join(" ".join(repr(v.item()) for v in row) + "\n" for row in rows).encode()
    else:
        body = rows.tobytes()
    eol = parts.get("eol", "\n")
    path.write_bytes((eol.join(lines) + eol).encode() + parts.get("head", b"") + body + parts.get("tail", b""))
    return path


def columns_of(gaussians: Gaussians) -> dict[str, np.ndarray]:
    """The fields by the definition of the format, one at a time."""
    values = {name: value.detach().numpy() for name, value in gaussians.parameters().items()}
    columns = {axis: values["means"][:, i] for i, axis in enumerate("xyz")}
    columns |= {f"f_dc_{c}": values["sh0"][:, 0, c] for c in range(3)}
    higher = values["shN"].shape[1]
    columns |= {f"f_rest_{c * higher + k}": values["shN"][:, k, c] for c in range(3) for k in range(higher)}
    columns |= {"opacity": values["logit_opacities"]}
    columns |= {f"scale_{i}": values["log_scales"][:, i] for i in range(3)}
    return columns | {f"rot_{i}": values["quats"][:, i] for i in range(4)}
