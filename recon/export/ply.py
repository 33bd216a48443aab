"""The .ply of "3D Gaussian Splatting" (Kerbl et al. 2023), the form in which every splat tool takes a scene.

One float32 row per Gaussian: position, a normal that is all zeros, SH coefficients (the constant ones, then the
others channel by channel: all of red, all of green, all of blue), logit of the opacity, logarithms of the scales,
quaternion wxyz.

Shape letters: N Gaussians, K = (sh_degree + 1)^2 coefficients.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recon import sh
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.datasets.ply import read_vertices
from recon.gaussians import Gaussians

NORMALS = ("nx", "ny", "nz")


def field_names(coefficients: int) -> list[str]:
    """The properties of a Gaussian with K = `coefficients`, in the order of the file and without the normal."""
    return [
        *("x", "y", "z"),
        *(f"f_dc_{i}" for i in range(3)),
        *(f"f_rest_{i}" for i in range(3 * (coefficients - 1))),
        "opacity",
        *(f"scale_{i}" for i in range(3)),
        *(f"rot_{i}" for i in range(4)),
    ]


def save(gaussians: Gaussians, path: Path | str) -> None:
    """Write all Gaussians in their own coordinate frame, as they are stored; `load` gives the same numbers back.

    Raises `InputError` if a parameter is not finite: no reader could draw such a file.
    """
    path = Path(path)
    names = field_names(1 + gaussians.shN.shape[1])
    table = np.concatenate(_columns(gaussians), axis=1, dtype="<f4")
    _check_finite(path, table, names)
    names[3:3] = NORMALS
    table = np.insert(table, [3, 3, 3], 0.0, axis=1)
    # 3DGS's own viewer takes the third line for the number of vertices: no comment may come before it.
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    header += [*(f"property float {name}" for name in names), "end_header", ""]
    with atomic_write(path) as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(table.tobytes())


def load(path: Path | str) -> Gaussians:
    """Read a splat .ply: its fields by name, in any order, of any numeric type and in any of the three encodings.

    Raises `InputError` where the file is not a .ply, is truncated, lacks a field, has a number of SH coefficients that
    belongs to no degree, or has a value that is not finite.
    """
    path = Path(path)
    vertices = read_vertices(path)
    names = field_names(_coefficients(path, vertices))
    table = np.empty((len(vertices), len(names)), dtype=np.float32)
    with np.errstate(over="ignore"):  # a double too large for a float becomes inf, which is reported below
        for column, name in enumerate(names):
            table[:, column] = vertices[name]
    _check_finite(path, table, names)
    parts = np.split(table, [3, 6, len(names) - 8, len(names) - 7, len(names) - 4], axis=1)
    means, sh0, rest, logit_opacities, log_scales, quats = (torch.from_numpy(part) for part in parts)
    shN = rest.reshape(len(table), 3, rest.shape[1] // 3).transpose(1, 2)
    return Gaussians(means, quats, log_scales, logit_opacities[:, 0], sh0[:, None], shN)


def _columns(gaussians: Gaussians) -> list[NDArray[np.float32]]:
    """The parameters as arrays [N,...] in the order of `field_names`."""
    values = {name: value.detach().cpu().numpy() for name, value in gaussians.parameters().items()}
    count = len(gaussians)
    return [
        values["means"],
        values["sh0"].reshape(count, 3),
        values["shN"].transpose(0, 2, 1).reshape(count, 3 * values["shN"].shape[1]),
        values["logit_opacities"].reshape(count, 1),
        values["log_scales"],
        values["quats"],
    ]


def _coefficients(path: Path, vertices: np.ndarray) -> int:
    """K of the file; checks that the fields of that many coefficients are there."""
    present = vertices.dtype.names or ()
    rest = sum(name.startswith("f_rest_") for name in present)
    missing = [name for name in field_names(1 + rest // 3) if name not in present]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(f"{path}: not a file of Gaussian splats: its vertices have no {', '.join(missing[:3])}{more}")
    if rest not in {3 * (sh.num_coefficients(degree) - 1) for degree in range(sh.MAX_DEGREE + 1)}:
        raise InputError(f"{path}: {rest} f_rest fields belong to no SH degree: 0, 9, 24 or 45 do")
    return 1 + rest // 3


def _check_finite(path: Path, table: NDArray[np.float32], names: list[str]) -> None:
    finite = np.isfinite(table)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(f"{path}: {names[column]} of Gaussian {row} is {table[row, column]}")
