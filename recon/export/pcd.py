"""The .pcd of the Point Cloud Library, version 0.7, binary: x, y, z, rgb, normal_x, normal_y, normal_z.

All are float32. The bits of `rgb` are the integer 0x00RRGGBB, which is how that library has always stored colours.

Layout: https://pointclouds.org/documentation/tutorials/pcd_file_format.html. Shape letter: P points.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from recon.datasets.files import atomic_write
from recon.datasets.scene import Points
from recon.export.rows import to_bytes

FIELDS = ("x", "y", "z", "rgb", "normal_x", "normal_y", "normal_z")


def save(path: Path, points: Points, normals: Tensor) -> None:
    """Write points with normals [P,3]."""
    count = len(points)
    rows = np.empty((count, len(FIELDS)), dtype="<f4")
    rows[:, :3], rows[:, 4:] = points.xyz.numpy(), normals.numpy()
    red, green, blue = to_bytes(points.rgb.numpy()).astype("<u4").T
    rows.view("<u4")[:, 3] = red << 16 | green << 8 | blue
    header = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        f"FIELDS {' '.join(FIELDS)}",
        f"SIZE{' 4' * len(FIELDS)}",
        f"TYPE{' F' * len(FIELDS)}",
        f"COUNT{' 1' * len(FIELDS)}",
        f"WIDTH {count}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {count}",
        "DATA binary",
        "",
    ]
    with atomic_write(path) as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(rows.tobytes())
