"""Small networks without biases, as tiny-cuda-nn's: on the CPU so many rows at a time that they stay in the cache.

On the CPU autograd would write and read what lies between the layers of all rows, which takes longer than the products
do. On a GPU tiny-cuda-nn computes them where it is installed, or else torch in half precision.

Shape letters: N rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recon import tcnn
from recon.kernels.buffers import take
from recon.precision import mixed

ROWS = 1 << 11


def perceptron(x: Tensor, layers: list[Tensor]) -> Tensor:
    """[N,out] of [N,in] by matrices [out,in], with ReLU between them."""
    if x.device.type == "cpu" and x.dtype == torch.float32:
        out: Tensor = _Perceptron.apply(x, *layers)
        return out
    if x.is_cuda and tcnn.available() and tcnn.fits(layers):
        return tcnn.perceptron(x, layers)
    with mixed(x.device):
        return perceptron_in_torch(x, layers).to(x.dtype)


def perceptron_in_torch(x: Tensor, layers: list[Tensor]) -> Tensor:
    """`perceptron` by torch's operations, on any device and in any precision."""
    for layer in layers[:-1]:
        x = functional.relu(functional.linear(x, layer))
    return functional.linear(x, layers[-1])


def _room(rows: int, columns: int) -> Tensor:
    """Memory that was used before: fresh pages take as long as the products."""
    return torch.from_numpy(take((rows, columns), np.float32))


class _Perceptron(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *layers: Tensor) -> Tensor:
        made = [x, *(_room(len(x), len(layer)) for layer in layers)]
        for parts in zip(*(values.split(ROWS) for values in made), strict=True):
            for number, layer in enumerate(layers):
                torch.mm(parts[number], layer.T, out=parts[number + 1])
                if layer is not layers[-1]:
                    parts[number + 1].relu_()
        ctx.made, ctx.layers = made[:-1], layers
        return made[-1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layers, wanted = ctx.layers, ctx.needs_input_grad[0]
        of_layers = [torch.zeros_like(layer) for layer in layers]
        of_x = _room(*ctx.made[0].shape) if wanted else None
        for first in range(0, len(gradient), ROWS):
            piece = slice(first, first + ROWS)
            back = gradient[piece]
            for number in range(len(layers) - 1, -1, -1):
                before = ctx.made[number][piece]
                of_layers[number].addmm_(back.T, before)
                if number:
                    back = torch.mm(back, layers[number])
                    back = torch.ops.aten.threshold_backward(back, before, 0)
                elif of_x is not None:
                    torch.mm(back, layers[0], out=of_x[piece])
        return of_x, *of_layers
