"""Random numbers as a pure function of a seed and of what they are for.

Whatever a step draws depends on (seed, purpose, step) alone, so a resumed run draws what an uninterrupted one would
have drawn, and a checkpoint needs no generator state.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def generator(seed: int, purpose: str, index: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose ("view order", "background", ...) at one step or epoch.

    Those of different devices draw different numbers: what is drawn little of comes from the CPU's everywhere.
    """
    entropy = [seed, zlib.crc32(purpose.encode()), index]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))
