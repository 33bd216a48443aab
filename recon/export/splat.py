"""The .splat of antimatter15's viewer: 32 bytes a splat and no header, so what is shown first is what is first.

Positions and scales are floats; colour, opacity and rotation are bytes. Loss, apart from that rounding: all SH but
the constant ones, and colours outside what a screen shows. Splats are ordered by how much they cover, as the viewer's
own converter does. Coordinates are those of a .ply.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.export.rows import Rows, exponentials, from_rgba, logarithms, read_bytes, sigmoid, to_rgba, unit
from recon.gaussians import Gaussians

LOSS = "colour that depends on the direction is left out, rotations are within a degree, colours and opacities in bytes"
ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def save(gaussians: Gaussians, path: Path | str) -> None:
    """Write all Gaussians without their view-dependent colour."""
    path = Path(path)
    rows = Rows.of(gaussians, path)
    opacities = sigmoid(rows.logit_opacities.astype(np.float64))
    shown = rows.log_scales.sum(axis=1, dtype=np.float64) + np.log(np.maximum(opacities, 1e-30))
    order = np.argsort(-shown, kind="stable")
    rows, opacities = rows.taken(order), opacities[order]
    table = np.empty(len(rows), dtype=ROW)
    table["mean"] = rows.means
    table["scale"] = exponentials(rows.log_scales, str(path))
    table["rgba"] = to_rgba(rows.sh0, opacities)
    table["quat"] = np.clip(np.rint(unit(rows.quats) * 128 + 128), 0, 255)
    with atomic_write(path) as file:
        file.write(table.tobytes())


def load(path: Path | str) -> Gaussians:
    """Read a .splat; `InputError` where its size is not that of whole splats, or a number is not finite."""
    path = Path(path)
    data = read_bytes(path)
    if len(data) % ROW.itemsize:
        raise InputError(f"{path}: {len(data):,} bytes are no whole number of splats of {ROW.itemsize}")
    table = np.frombuffer(data, ROW)
    sh0, logit_opacities = from_rgba(table["rgba"])
    return Rows(
        table["mean"],
        unit(table["quat"] / 128.0 - 1),
        logarithms(table["scale"]),
        logit_opacities,
        sh0,
        np.zeros((len(table), 0, 3)),
    ).gaussians(str(path))
