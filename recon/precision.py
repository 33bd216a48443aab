"""Networks of radiance fields: their products in half precision, all else in float32."""

from __future__ import annotations

import contextlib
import functools

import llvmlite.binding
import torch

WORTH_IT = 128  # width of layers: with narrower ones a CPU rounds longer than it multiplies


def mixed(device: torch.device, width: int = 0) -> contextlib.AbstractContextManager[object]:
    """Around a network with layers of that width: on a GPU they multiply in bfloat16, whose range is float32's, so that
    no gradient has to be scaled. Weights stay float32. So do wide layers on a CPU that has instructions for it; on
    others nothing changes."""
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    if width >= WORTH_IT and _cpu_multiplies():
        return torch.autocast("cpu", torch.bfloat16)
    return contextlib.nullcontext()


@functools.cache
def _cpu_multiplies() -> bool:
    """Whether this CPU has products of bfloat16, twice as fast as those of float32; else torch imitates them."""
    try:
        features = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:  # llvmlite does not know this processor
        return False
    return bool(features.get("avx512bf16") or features.get("amx-bf16"))
