"""Torch's own CPU threads, kept out of the way of our kernels'."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_torch_thread(device: torch.device) -> Iterator[None]:
    """On a CPU our kernels use the cores; torch's own threads would spin after each operation and take one away."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
