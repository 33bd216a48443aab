"""The last part of a backward pass on the CPU, left to an optimiser that can make it and its step in one go.

The gradients of the parameters are the largest arrays of a training step, and all that happens to them is that the
optimiser reads them once. Where it asks for that, it gets what they follow from instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from recon.kernels.rasterize import (
    NOT_WANTED,
    Floats,
    Parameters,
    View,
    project_camera_view_backward,
    project_view_backward,
)


class Pass(NamedTuple):
    """A backward pass through the projection into one camera, not yet made."""

    tensors: tuple[Tensor, ...]  # the parameters, in the order of `Parameters`
    view: View
    g_centres: Floats  # [N,2]
    g_records: Floats  # [gradient_size(N)]
    g_camera: Floats = NOT_WANTED  # of `camera_gradients`, written when the pass is made

    def _parameters(self) -> Parameters:
        return Parameters(*(tensor.detach().numpy() for tensor in self.tensors))

    def camera_alone(self) -> None:
        """Make what is for the camera, `g_camera`, and leave the parameters without a gradient."""
        project_camera_view_backward(self._parameters(), self.view, self.g_centres, self.g_records, self.g_camera)

    def accumulate(self) -> None:
        """Make it: add to `.grad` of the parameters."""
        gradients = project_view_backward(self._parameters(), self.view, self.g_centres, self.g_records, self.g_camera)
        for tensor, gradient in zip(self.tensors, gradients, strict=True):
            more = torch.from_numpy(gradient)
            tensor.grad = more if tensor.grad is None else tensor.grad + more


class _Collector(NamedTuple):
    owned: frozenset[int]  # ids of the tensors whose gradients may wait
    passes: list[Pass]


_collector: ContextVar[_Collector | None] = ContextVar("_collector", default=None)


@contextlib.contextmanager
def collecting(tensors: Iterable[Tensor]) -> Iterator[list[Pass]]:
    """While inside, backward passes to `tensors` and to no others are left in the list."""
    collector = _Collector(frozenset(map(id, tensors)), [])
    token = _collector.set(collector)
    try:
        yield collector.passes
    finally:
        _collector.reset(token)


def leave(last: Pass) -> bool:
    """Leave a pass to who collects them; False if nobody does."""
    collector = _collector.get()
    if collector is None or not collector.owned.issuperset(map(id, last.tensors)):
        return False
    collector.passes.append(last)
    return True
