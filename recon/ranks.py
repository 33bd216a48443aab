"""Several processes that train one scene together, on one machine or many, each on its share of every step.

They are started by `torchrun` and talk through torch.distributed. All hold the same scene and take the same steps:
what each finds is added up, and all else follows from that, from the seed and from what the first process says where
time or memory decide. It alone writes, and speaks to the user.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon.datasets.errors import InputError
from recon.terminal import console

PATIENCE = datetime.timedelta(days=1)  # while the first one finds poses, or is paused, the others wait for it
MEETING = datetime.timedelta(minutes=5)  # until all are there


class Lost(InputError):
    """Another process of the training is gone."""

    def __init__(self) -> None:
        super().__init__("another process of this training is gone")


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, and which of them this one is.

    Attributes:
        rank: the number of this one among all `count`.
        local: its number among the `beside` that are on this machine.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    beside: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, batch: int) -> range:
        """Which parts of a step, of as many as a multiple of the number of processes, are for this one."""
        each = batch // self.count
        return range(self.rank * each, (self.rank + 1) * each)

    def portion(self, count: int) -> int:
        """How many of so many this one has where all take them by turns."""
        return len(range(self.rank, count, self.count))

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Make each tensor its sum over all processes, the same to the last bit in each. Raises `Lost`."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _noticing_loss():
            torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def gathered(self, tensor: Tensor) -> Tensor:
        """Tensors [K,...] of all processes, one after the other: [count K,...]. Raises `Lost`."""
        if self.count == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        with _noticing_loss():
            torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def exchanged(self, parts: Sequence[Tensor], sizes: Sequence[int] | None = None) -> list[Tensor]:
        """What each process has for this one, of tensors [K,...] that each has for all, in order. Raises `Lost`.

        Args:
            parts: for each process, alike but for K.
            sizes: the K of what comes, where that is known.
        """
        if self.count == 1:
            return list(parts)
        given = [len(part) for part in parts]
        together = torch.cat(list(parts))
        with _noticing_loss():
            if sizes is None:
                coming = torch.empty(self.count, dtype=torch.int64)
                torch.distributed.all_to_all_single(coming, torch.tensor(given))
                sizes = coming.tolist()
            got = together.new_empty(sum(sizes), *together.shape[1:])
            torch.distributed.all_to_all_single(got, together, list(sizes), given)
        return list(got.split(list(sizes)))

    def pieces(self, tensor: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
        """What all have, [K,...] each, on the CPU and one after the other, for the first process; the others hand it on
        and get nothing. Raises `Lost`.

        Args:
            sizes: the K of each.
        """
        if self.first:
            yield tensor.detach().cpu().contiguous()
            for rank in range(1, self.count):
                piece = torch.empty(sizes[rank], *tensor.shape[1:], dtype=tensor.dtype)
                with _noticing_loss():
                    torch.distributed.recv(piece, rank)
                yield piece
            return
        with _noticing_loss():
            torch.distributed.send(tensor.detach().cpu().contiguous(), 0)

    def most(self, value: float) -> float:
        """The largest of the values that all processes have. Raises `Lost`."""
        return float(self.gathered(torch.tensor([value], dtype=torch.float64)).max())

    def total(self, count: int) -> int:
        """The sum of the numbers that all processes have. Raises `Lost`."""
        return count if self.count == 1 else int(self.gathered(torch.tensor([count])).sum())

    def told(self, say: Callable[[], Any]) -> Any:
        """What the first process says, who alone is asked: numbers, texts, lists and dicts. Raises `Lost`."""
        if self.count == 1:
            return say()
        said = np.frombuffer(json.dumps(say()).encode(), np.uint8).copy() if self.first else np.zeros(0, np.uint8)
        size = torch.tensor([len(said)])
        with _noticing_loss():
            torch.distributed.broadcast(size, 0)
            text = torch.from_numpy(said) if self.first else torch.empty(int(size), dtype=torch.uint8)
            torch.distributed.broadcast(text, 0)
        return json.loads(text.numpy().tobytes())


ALONE = Ranks()


def expected() -> Ranks:
    """The processes that `torchrun` has started, as the environment has it; one alone without."""
    names = {"rank": "RANK", "count": "WORLD_SIZE", "local": "LOCAL_RANK", "beside": "LOCAL_WORLD_SIZE"}
    found = {name: os.environ.get(variable, "") for name, variable in names.items()}
    if "MASTER_ADDR" not in os.environ or not all(value.isdecimal() for value in found.values()):
        return ALONE
    return Ranks(**{name: int(value) for name, value in found.items()})


@contextlib.contextmanager
def joined(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Meet the others, and part at the end; only the first one speaks to the user. InputError if they do not come."""
    if ranks.count == 1:
        yield
        return
    console.quiet = not ranks.first
    _meet(ranks, device)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _meet(ranks: Ranks, device: torch.device) -> None:
    if ranks.beside == ranks.count:  # nobody from elsewhere is expected
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    # NCCL takes no two processes on one GPU.
    one_each = device.type == "cuda" and ranks.beside <= torch.cuda.device_count()
    try:
        store, rank, count = next(torch.distributed.rendezvous("env://", timeout=MEETING))
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if one_each else "gloo", store=store, rank=rank, world_size=count, timeout=PATIENCE
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the {ranks.count} processes of torchrun do not find each other: {error}") from error


@contextlib.contextmanager
def _noticing_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise Lost from error
