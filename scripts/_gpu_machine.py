"""What is there: the GPU and what it is used through, and whether gsplat's kernels can be had."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from _gpu_rows import FAILED, OK, Row, left_out
from recon.kernels.runtime import available_cores

PACKAGES = ("torch", "numpy", "numba", "triton", "gsplat", "nerfacc", "tinycudann")

READY_GSPLAT = """
from gsplat.cuda._backend import _C
print(_C.__file__ if _C is not None else "")
"""
READY_LOSS = """
from recon import losses_cuda
print("Triton" if losses_cuda.usable() else "")
"""


def machine(arguments: argparse.Namespace) -> Iterator[Row]:
    """Hardware, driver, packages, and the bandwidth of copying."""
    versions = {name: _version(name) for name in PACKAGES}
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        capability = f"{found.major}.{found.minor}"
        memory = found.total_memory / 2**30
        driver = _asked("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "unknown"
        yield Row(
            "GPU",
            f"{found.name}, compute capability {capability}, {memory:.0f} GiB, driver {driver}",
            verdict=OK,
            data={"name": found.name, "capability": capability, "memory_gib": memory, "driver": driver},
        )
    else:
        yield left_out("GPU", "none that torch can use: all parts that need one are left out")
    nvcc = _asked("nvcc", "--version")
    yield Row("CUDA", f"torch's {torch.version.cuda or 'none'}; nvcc: {nvcc.splitlines()[-1] if nvcc else 'none'}")
    yield Row("packages", ", ".join(f"{name} {found or 'none'}" for name, found in versions.items()), data=versions)
    yield Row("CPU", f"{available_cores()} cores, Python {sys.version.split()[0]}")
    if torch.cuda.is_available():
        rate = copy_bandwidth(torch.device("cuda"), 2**26 if arguments.quick else 2**31)
        yield Row("copying within the GPU's memory", f"{rate:.0f} GB/s, read and written", data={"gb_per_s": rate})


def kernels(arguments: argparse.Namespace) -> Iterator[Row]:
    """Compile or load what runs on the GPU, in processes of their own, as a first command would."""
    if not torch.cuda.is_available():
        yield left_out("kernels for the GPU", "no GPU")
        return
    major, minor = torch.cuda.get_device_capability()
    # Without these gsplat compiles for a list of GPUs, ten files at a time.
    environment = {"TORCH_CUDA_ARCH_LIST": f"{major}.{minor}", "MAX_JOBS": str(available_cores())} | dict(os.environ)
    for what, code in (("gsplat's kernels", READY_GSPLAT), ("kernels of the loss", READY_LOSS)):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        said = done.stdout.strip().splitlines()
        if done.returncode == 0 and said and said[-1]:
            yield Row(
                what, f"ready after {seconds:.1f} s: {Path(said[-1]).name}", verdict=OK, data={"seconds": seconds}
            )
        else:
            errors = done.stderr.strip().splitlines() or ["not there"]
            (arguments.output / f"{what.split()[-1]}_errors.txt").write_text(done.stderr, encoding="utf-8")
            yield Row(what, f"not usable: {errors[-1][:200]}", verdict=FAILED, data={"seconds": seconds})


def copy_bandwidth(device: torch.device, size: int) -> float:
    """GB/s, read and written together, of copying `size` bytes on a GPU: the median of ten."""
    source = torch.empty(size // 4, device=device).uniform_()
    target = torch.empty_like(source)
    seconds = []
    for _ in range(12):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1e3)
    return 2 * size / statistics.median(seconds[2:]) / 1e9


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _asked(*command: str) -> str:
    """What a program says; nothing where there is none."""
    program = shutil.which(command[0])
    if program is None and command[0] == "nvcc":
        program = shutil.which("nvcc", path="/usr/local/cuda/bin")
    if program is None:
        return ""
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
