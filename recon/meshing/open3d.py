"""Open3D, where it is installed, and meshes in its types."""

from __future__ import annotations

from typing import Any

import numpy as np

from recon.datasets.errors import InputError
from recon.meshes import Mesh


def library() -> Any:
    """The module; `InputError` where it is not there."""
    try:
        import open3d
    except ModuleNotFoundError as error:
        raise InputError(f"surfaces need Open3D ({error}); install it with: pip install recon3d[mesh]") from error
    except ImportError as error:  # it is there, but wants libraries of the system that not every one has
        remedy = "on Debian and Ubuntu: sudo apt install libusb-1.0-0 libgl1"
        raise InputError(f"surfaces need Open3D, which cannot be loaded here ({error}); {remedy}") from error
    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    return open3d


def to_tensors(mesh: Mesh) -> Any:
    """As `open3d.t.geometry.TriangleMesh`; texture coordinates are left out."""
    o3d = library()
    made = o3d.t.geometry.TriangleMesh()
    made.vertex.positions = o3d.core.Tensor(mesh.vertices.astype(np.float32))
    made.triangle.indices = o3d.core.Tensor(mesh.faces.astype(np.int64))
    if mesh.colors is not None:
        made.vertex.colors = o3d.core.Tensor(mesh.colors.astype(np.float32))
    return made


def from_tensors(made: Any) -> Mesh:
    """From `open3d.t.geometry.TriangleMesh`."""
    colors = made.vertex.colors.numpy().astype(np.float32) if "colors" in made.vertex else None
    return Mesh(
        made.vertex.positions.numpy().astype(np.float64).reshape(-1, 3),
        made.triangle.indices.numpy().astype(np.int64).reshape(-1, 3),
        None if colors is None else colors.clip(0, 1),
    )


def to_legacy(mesh: Mesh) -> Any:
    """As `open3d.geometry.TriangleMesh`, which keeps float64; texture coordinates are left out."""
    o3d = library()
    made = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices), o3d.utility.Vector3iVector(mesh.faces.astype(np.int32))
    )
    if mesh.colors is not None:
        made.vertex_colors = o3d.utility.Vector3dVector(mesh.colors.astype(np.float64))
    return made


def from_legacy(made: Any) -> Mesh:
    """From `open3d.geometry.TriangleMesh`."""
    colors = np.asarray(made.vertex_colors, np.float32).clip(0, 1) if made.has_vertex_colors() else None
    return Mesh(np.array(made.vertices, np.float64), np.array(made.triangles, np.int64), colors)
