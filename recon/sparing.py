"""Gradients of networks that are asked of many samples, most of which hardly change what their pixels show.

All samples are asked without a gradient; then those that matter are asked again, with one. A sample whose own gradient
is small is drawn with a chance as small, and counts the more if it is: what is learned is the same in the mean, as of
every estimate by importance (Owen 2013, "Monte Carlo theory, methods and examples", section 9.1), with less to do.

Shape letters: N samples, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

AT_ONCE = 1 << 11  # samples whose layers stay near a core of a CPU
# Samples are filled up to a multiple of this: for each number that it has not met, torch prepares its products anew.
ALIKE = 128

Function = Callable[..., Tensor]  # of tensors [N,...]: gives [N,O]; no sample's outputs depend on another sample


class Ask(Protocol):
    """How a network is asked."""

    def __call__(self, network: Function, *of: Tensor) -> Tensor: ...


def directly(network: Function, *of: Tensor) -> Tensor:
    """As it is, with all gradients; on a CPU a block of samples after the other."""
    if of[0].device.type != "cpu" or len(of[0]) <= AT_ONCE:
        return network(*of)
    parts = zip(*(values.split(AT_ONCE) for values in of), strict=True)
    return torch.cat([network(*part) for part in parts])


class Sparing:
    """The samples of a step, of which few are looked at again."""

    def __init__(self, share: float, draw: torch.Generator) -> None:
        """
        Args:
            share: of the samples that are looked at in the mean, at most: as much where all matter alike, less where
                few do. One whose gradient is the mean one over `share`, or more, is looked at for certain.
            draw: decides about the others.
        """
        self._share, self._draw = share, draw
        self._asked: list[tuple[Function, tuple[Tensor, ...], Tensor]] = []

    def __call__(self, network: Function, *of: Tensor) -> Tensor:
        """[N,O] what a network says of samples; a loss of that can be followed back to here."""
        with torch.no_grad():
            found = directly(network, *of)
        self._asked.append((network, of, found.requires_grad_()))
        return found

    def learn(self) -> None:
        """After the loss went back: give the networks' weights their gradients."""
        for network, of, found in self._asked:
            assert found.grad is not None
            rows, times = chosen(found.grad, self._share, self._draw)
            network(*(values[rows] for values in of)).backward(found.grad[rows] * times[:, None])
        self._asked.clear()


def chosen(gradient: Tensor, share: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """The rows of a gradient [N,O] that are looked at, and how many times each of them counts: one over its chance.
    Their number is a multiple of `ALIKE`; what they are filled up with counts 0 times."""
    size = gradient.abs().sum(dim=-1)
    chance = (share * size / size.mean().clamp_min(torch.finfo(size.dtype).tiny)).clamp_max(1)
    drawn = torch.rand(len(size), generator=draw).to(chance)
    rows = (~(drawn >= chance)).nonzero()[:, 0]  # also what is not a number: the optimiser is to find it
    times = chance[rows].reciprocal()
    more = -len(rows) % ALIKE
    return functional.pad(rows, (0, more)), functional.pad(times, (0, more))
