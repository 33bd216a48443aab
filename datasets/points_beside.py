"""Points beside the photos: files that may be of the same capture, taken only where its cameras see what they hold."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from recon.datasets.errors import InputError
from recon.datasets.ply import read_fields
from recon.datasets.point_cloud import read_points
from recon.datasets.scene import Points, View

LOOKED_AT = 20_000  # points: laser scans have millions
MOSTLY = 0.5  # of the points: so many at least are seen, where they are of the capture

log = logging.getLogger("recon")


def find(root: Path, views: Sequence[View], source_from_world: Tensor) -> Points | None:
    """The points of the one .ply in a capture's folder, which its program exported in the frame of its files.

    None where there is none, more than one, or one that is not of these cameras, which a warning tells. Splats are no
    points.
    """
    files = [file for file in sorted(root.glob("*.ply")) if _has_points(file)]
    if len(files) > 1:
        log.warning("%s: %d .ply files; none is taken for the capture's points", root, len(files))
    if len(files) != 1:
        return None
    points = read_points(files[0])
    if points is None:
        return None
    to_world = torch.linalg.inv(source_from_world.double())
    moved = replace(points, xyz=points.xyz @ to_world[:3, :3].T + to_world[:3, 3])
    return if_seen(moved, views, files[0])


def if_seen(points: Points, views: Sequence[View], file: Path) -> Points | None:
    """Points of a file, if most of them are seen by two views or more. Else None and a warning: they lie elsewhere."""
    some = points.xyz[:: -(-len(points) // LOOKED_AT)]
    seen = torch.zeros(len(some), dtype=torch.int64)
    for view in views:
        seen += view.camera.pixels_of(some)[1]
    share = float((seen >= min(2, len(views))).double().mean())
    if share >= MOSTLY:
        return points
    log.warning("%s: its points are left out: the capture's cameras see only %.0f%% of them", file, 100 * share)
    return None


def _has_points(file: Path) -> bool:
    """Whether a .ply has vertices that are no Gaussians. One that cannot be read is none of ours to complain of."""
    try:
        fields = read_fields(file)
    except InputError:
        return False
    return {"x", "y", "z"} <= set(fields) and "f_dc_0" not in fields
