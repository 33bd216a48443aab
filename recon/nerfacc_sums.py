"""Sums along packed rays by nerfacc (Li et al. 2023), on an NVIDIA GPU where it is installed.

Its samplers are not used: they step through boxes inside each other, and Instant-NGP here takes steps of one length in
a contracted space (`occupancy_cuda.py`).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from recon.optional import loads


@functools.cache
def available() -> bool:
    """See `optional.loads`."""
    return loads("nerfacc")


def before(starts: Tensor, values: Tensor) -> Tensor:
    """[N] the sum of what is before each value [N] in its ray; differentiable.

    Args:
        starts: [R+1] see `recon.packed.Samples`.
    """
    import nerfacc

    rays = torch.stack([starts[:-1], starts.diff()], dim=-1)
    found: Tensor = nerfacc.exclusive_sum(values.contiguous(), packed_info=rays)
    return found
