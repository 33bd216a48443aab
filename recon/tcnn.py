"""The hash encoding and small networks by tiny-cuda-nn, on an NVIDIA GPU where it is installed.

Its modules keep their weights in one flat parameter, which is given to them anew in each call, made of ours: so what is
learned is ours, a checkpoint is the same with and without it, and gradients find their way back by autograd.

Shape letters: P points, N rows.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from recon.kernels.hash_grid import Layout, growth_of
from recon.optional import loads

ALIGNED = 16  # what tiny-cuda-nn rounds numbers of inputs and outputs up to


@functools.cache
def available() -> bool:
    """See `optional.loads`."""
    return loads("tinycudann")


def fits(layers: Sequence[Tensor]) -> bool:
    """Whether its networks, of one width and inputs that need no filling up, can be these."""
    widths = {len(layer) for layer in layers[:-1]}
    return len(widths) == 1 and layers[0].shape[1] % ALIGNED == 0


@functools.cache
def _encoding(levels: int, features: int, log2_rows: int, base: int, growth: float) -> Any:
    import tinycudann

    return tinycudann.Encoding(
        n_input_dims=3,
        encoding_config={
            "otype": "HashGrid",
            "n_levels": levels,
            "n_features_per_level": features,
            "log2_hashmap_size": log2_rows,
            "base_resolution": base,
            "per_level_scale": growth,
        },
    )


@functools.cache
def _network(inputs: int, width: int, hidden: int, outputs: int) -> Any:
    import tinycudann

    return tinycudann.Network(
        n_input_dims=inputs,
        n_output_dims=outputs,
        network_config={
            "otype": "FullyFusedMLP",
            "activation": "ReLU",
            "output_activation": "None",
            "n_neurons": width,
            "n_hidden_layers": hidden,
        },
    )


def encode(layout: Layout, positions: Tensor, table: Tensor) -> Tensor:
    """`hashgrid.encode`."""
    growth = growth_of(layout.levels, layout.base, layout.finest)
    module = _encoding(layout.levels, layout.features, layout.log2_rows, layout.base, growth)
    found: Tensor = functional_call(module, {"params": table.reshape(-1)}, (positions.clamp(0, 1),))
    return found.float()


def perceptron(x: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """`perceptron.perceptron`, of layers that `fits`."""
    outputs = len(layers[-1])
    module = _network(x.shape[1], len(layers[0]), len(layers) - 1, outputs)
    last = functional.pad(layers[-1], (0, 0, 0, -outputs % ALIGNED))
    flat = torch.cat([layer.reshape(-1) for layer in (*layers[:-1], last)])
    found: Tensor = functional_call(module, {"params": flat}, (x,))
    return found.float()
