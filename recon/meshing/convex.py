"""Convex parts that a surface is made of roughly, for programs that compute collisions (CoACD, Wei et al. 2022)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recon.datasets.errors import InputError
from recon.export import suffix_of
from recon.meshes import Mesh
from recon.meshing import clean, files

CONCAVE = 0.08  # how far the parts may be from the surface, as a share of its size
SEARCH = {"mcts_nodes": 10, "mcts_iterations": 60}  # for where to cut; what is usual takes minutes
FINEST = 5_000  # triangles that are taken apart; more make the parts no better


def parts(mesh: Mesh) -> list[Mesh]:
    """Convex meshes that cover the inside of `mesh`; holes in it are closed for that."""
    try:
        import coacd
    except ImportError as error:
        raise InputError(f"--collision needs CoACD ({error}); install it with: pip install recon3d[mesh]") from error
    coacd.set_log_level("error")
    coarse = clean.simplified(mesh, FINEST)
    found = coacd.run_coacd(coacd.Mesh(coarse.vertices, coarse.faces.astype(np.int32)), threshold=CONCAVE, **SEARCH)
    return [Mesh(np.asarray(vertices, np.float64), np.asarray(faces, np.int64)) for vertices, faces in found]


def path_beside(path: Path) -> Path:
    """scene.collision.obj for scene.obj."""
    suffix = suffix_of(path, files.SAVERS)
    return path.with_name(f"{path.name[: -len(suffix)]}.collision{path.name[-len(suffix) :]}")
