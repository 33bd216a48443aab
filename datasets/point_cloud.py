"""Coloured points in .ply files, as capture tools write and read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.datasets.ply import read_vertices
from recon.datasets.scene import Points

NORMALS = ("nx", "ny", "nz")


def read_points(file: Path) -> Points | None:
    """The finite points of a .ply with x, y, z and, if it has them, red, green, blue (else grey); None without any."""
    vertices = read_vertices(file)
    fields = vertices.dtype.names or ()
    if not {"x", "y", "z"} <= set(fields):
        raise InputError(f"{file}: its vertices have no x, y, z")
    xyz = torch.from_numpy(np.stack([vertices[axis].astype(np.float64) for axis in "xyz"], axis=-1))
    rgb = torch.full(xyz.shape, 0.5)
    if {"red", "green", "blue"} <= set(fields):
        colours = np.stack([vertices[channel] for channel in ("red", "green", "blue")], axis=-1)
        peak = np.iinfo(colours.dtype).max if colours.dtype.kind in "iu" else 1
        rgb = torch.from_numpy(colours.astype(np.float32) / np.float32(peak))
    keep = torch.isfinite(xyz).all(dim=-1)
    return Points(xyz, rgb).select(keep) if keep.any() else None


def write_points(file: Path, points: Points, normals: torch.Tensor | None = None) -> None:
    """Write a binary .ply with x, y, z as floats, colours of 8 bits, and normals [P,3] where they are given."""
    colours = ("red", "green", "blue")
    floats = ("x", "y", "z", *(() if normals is None else NORMALS))
    rows = np.zeros(len(points), np.dtype([(name, "<f4") for name in floats] + [(name, "u1") for name in colours]))
    eight_bits = (points.rgb.double().clamp(0, 1) * 255).round()
    columns: list[tuple[Sequence[str], torch.Tensor]] = [("xyz", points.xyz), (colours, eight_bits)]
    if normals is not None:
        columns.append((NORMALS, normals))
    for names, values in columns:
        for i, name in enumerate(names):
            rows[name] = values[:, i].numpy()
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property float {name}" for name in floats] + [f"property uchar {name}" for name in colours]
    with atomic_write(file) as target:
        target.write("\n".join([*header, "end_header", ""]).encode())
        target.write(rows.tobytes())
