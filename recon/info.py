"""What is installed and what the machine offers, and what that means for the user."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

from rich.table import Table

from recon import __version__

PACKAGES = ("torch", "numpy", "numba", "pycolmap", "imageio", "trimesh", "embreex", "gsplat")


def table() -> Table:
    """One row for each thing: what it is, what was found, what follows."""
    import psutil
    import torch

    from recon.kernels.runtime import get_threads
    from recon.kernels.simd import LANES
    from recon.raster import gsplat_cuda

    result = Table("", "Found", "What it means", title=f"recon {__version__}", title_justify="left")
    result.add_row("Python", platform.python_version(), sys.executable)
    result.add_row("System", f"{platform.system()} {platform.machine()}", "")
    result.add_row("CPU", f"{get_threads()} threads, {LANES} lanes", _lanes_meaning(LANES))
    memory = psutil.virtual_memory()
    result.add_row("Memory", f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free", "")
    problem = gsplat_cuda.problem()
    if problem is None:
        result.add_row("GPU", torch.cuda.get_device_name(), "trains on the GPU (--device auto)")
    else:
        result.add_row("GPU", "not usable", f"{problem}: trains on the CPU")
    for name in PACKAGES:
        version = _version(name)
        result.add_row(name, version or "not installed", "" if version else _missing_meaning(name))
    lpips = _version("torchvision")
    result.add_row("torchvision", lpips or "not installed", "" if lpips else "LPIPS is given as n/a")
    board = _version("tensorboard")
    result.add_row("tensorboard", board or "not installed", "" if board else "--tensorboard cannot be used")
    las = _version("laspy")
    result.add_row("laspy", las or "not installed", "" if las else "exports no .las and .laz")
    return result


def _version(package: str) -> str | None:
    """The version of an installed package, without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _lanes_meaning(lanes: int) -> str:
    names = {16: "AVX-512", 8: "AVX2", 4: "NEON or SSE"}
    return f"{names[lanes]} vectors: {lanes} pixels at a time on each thread"


def _missing_meaning(package: str) -> str:
    meanings = {"embreex": "recon demo cannot make its scene", "gsplat": "needed on an NVIDIA GPU only"}
    return meanings.get(package, "recon is not fully installed: install it again")
