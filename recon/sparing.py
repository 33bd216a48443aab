"""Gradients of networks that are asked of many samples, most of which hardly change what their pixels show.

All samples are asked without a gradient; then those that matter are asked again, with one. A sample whose own gradient
is small is drawn with a chance as small, and counts the more if it is: what is learned is the same in the mean, as of
every estimate by importance (Owen 2013, "Monte Carlo theory, methods and examples", section 9.1), with less to do.

On a CPU these samples are asked in blocks, each by one thread. Blocks follow from the number of samples, so what is
found does not depend on how many threads there are. Torch's own threads would wait for each other after every product,
and the longer, the more other programs do on the machine.

Shape letters: N samples, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from recon.kernels.runtime import spread

AT_ONCE = 1 << 10  # samples of a block, at most
LEARNED = 1 << 9  # the same where they have gradients
ADDED_UP = 16  # blocks whose gradients of all weights are held at a time
# Samples are filled up to a multiple of this: for each number that it has not met, torch prepares its products anew.
ALIKE = 128

Function = Callable[..., Tensor]  # of tensors [N,...]: gives [N,O]; no sample's outputs depend on another sample


class Ask(Protocol):
    """How a network is asked."""

    def __call__(self, network: Function, *of: Tensor) -> Tensor: ...


def directly(network: Function, *of: Tensor) -> Tensor:
    """As it is, with all gradients; on a CPU in blocks of samples."""
    if of[0].device.type != "cpu" or len(of[0]) <= AT_ONCE:
        return network(*of)
    parts = _blocks(AT_ONCE, *of)
    if torch.is_grad_enabled():
        return torch.cat([network(*part) for part in parts])
    found: dict[int, Tensor] = {}

    def ask(number: int) -> None:
        with torch.no_grad():  # which is a thread's own
            found[number] = network(*parts[number])

    spread(ask, len(parts))
    return torch.cat([found[number] for number in range(len(parts))])


class Sparing:
    """The samples of a step, of which few are looked at again."""

    def __init__(self, share: float, draw: torch.Generator, weights: Iterable[nn.Parameter]) -> None:
        """
        Args:
            share: of the samples that are looked at in the mean, at most: as much where all matter alike, less where
                few do. One whose gradient is the mean one over `share`, or more, is looked at for certain.
            draw: decides about the others.
            weights: of all networks that are asked.
        """
        self._share, self._draw, self._weights = share, draw, list(weights)
        self._asked: list[tuple[Function, tuple[Tensor, ...], Tensor]] = []

    def __call__(self, network: Function, *of: Tensor) -> Tensor:
        """[N,O] what a network says of samples; a loss of that can be followed back to here."""
        with torch.no_grad():
            found = directly(network, *of)
        self._asked.append((network, of, found.requires_grad_()))
        return found

    def learn(self) -> None:
        """After the loss went back: give the networks' weights their gradients."""
        parts = list[tuple[Function, tuple[Tensor, ...]]]()
        for network, of, found in self._asked:
            assert found.grad is not None
            rows, times = chosen(found.grad, self._share, self._draw)
            again = *(values[rows] for values in of), found.grad[rows] * times[:, None]
            parts += [(network, part) for part in _blocks(LEARNED, *again)]
        self._asked.clear()
        for first in range(0, len(parts), ADDED_UP):
            self._add_up(parts[first : first + ADDED_UP])

    def _add_up(self, parts: Sequence[tuple[Function, tuple[Tensor, ...]]]) -> None:
        made: dict[int, tuple[Tensor | None, ...]] = {}

        def back(number: int) -> None:
            network, (*of, gradient) = parts[number]
            with torch.enable_grad():
                made[number] = torch.autograd.grad(network(*of), self._weights, gradient, allow_unused=True)

        if parts[0][1][0].device.type == "cpu":
            spread(back, len(parts))
        else:
            for number in range(len(parts)):
                back(number)
        for number in range(len(parts)):  # in order: sums are the same whoever made what they are of
            for weight, gradient in zip(self._weights, made[number], strict=True):
                if gradient is not None:
                    weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)


def _blocks(most: int, *of: Tensor) -> list[tuple[Tensor, ...]]:
    """Samples in blocks of about one size and, but for small ones, of an even number."""
    pairs = -(-len(of[0]) // (2 * most))
    size = -(-len(of[0]) // (2 * pairs * ALIKE)) * ALIKE if pairs else 1
    return list(zip(*(values.split(size) for values in of), strict=True))


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
