"""Networks of radiance fields on a GPU: their products in half precision, all else in float32."""

from __future__ import annotations

import contextlib

import torch


def mixed(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Around a network: on a GPU its layers multiply in bfloat16, whose range is float32's, so that no gradient has to
    be scaled. Weights stay float32. On a CPU nothing changes."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()
