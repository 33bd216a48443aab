"""Coloured points in .ply files, as capture tools write and read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.datasets.ply import read_vertices
from recon.datasets.scene import Points


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


def write_points(file: Path, points: Points) -> None:
    """Write a binary .ply with x, y, z as floats and colours of 8 bits."""
    fields = [(axis, "<f4") for axis in "xyz"] + [(channel, "u1") for channel in ("red", "green", "blue")]
    rows = np.empty(len(points), np.dtype(fields))
    for i, axis in enumerate("xyz"):
        rows[axis] = points.xyz[:, i].numpy()
    colours = (points.rgb.double().clamp(0, 1) * 255).round().numpy()
    for i, channel in enumerate(("red", "green", "blue")):
        rows[channel] = colours[:, i]
    names = {"<f4": "float", "u1": "uchar"}
    properties = "".join(f"property {names[kind]} {name}\n" for name, kind in fields)
    with atomic_write(file) as target:
        target.write(
            f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{properties}end_header\n".encode()
        )
        target.write(rows.tobytes())
