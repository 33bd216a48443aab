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


@contextlib.contextmanager
def all_torch_threads(device: torch.device, count: int) -> Iterator[None]:
    """Around a network on a CPU, which runs in torch alone: `count` threads of torch's."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
