"""What is asked of tiny-cuda-nn, of a stand-in with its signatures and its layout of weights; it needs a GPU itself."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import Tensor, nn

from recon import tcnn
from recon.hashgrid import encode_in_torch, first_table
from recon.kernels.hash_grid import layout
from recon.perceptron import perceptron_in_torch


class Encoding(nn.Module):
    def __init__(self, n_input_dims: int, encoding_config: dict, seed: int = 1337, dtype: object = None) -> None:
        super().__init__()
        assert n_input_dims == 3
        assert encoding_config["otype"] == "HashGrid"
        levels, growth = encoding_config["n_levels"], encoding_config["per_level_scale"]
        base = encoding_config["base_resolution"]
        self._layout = layout(
            *(levels, encoding_config["n_features_per_level"], encoding_config["log2_hashmap_size"], base),
            round(base * growth ** (levels - 1)),
        )
        self.params = nn.Parameter(torch.full((self._layout.rows * self._layout.features,), torch.nan))

    def forward(self, x: Tensor) -> Tensor:
        return encode_in_torch(self._layout, x, self.params.reshape(self._layout.rows, -1)).half()


class Network(nn.Module):
    def __init__(self, n_input_dims: int, n_output_dims: int, network_config: dict, seed: int = 1337) -> None:
        super().__init__()
        assert network_config["activation"] == "ReLU"
        assert network_config["output_activation"] == "None"
        assert n_input_dims % 16 == 0
        width = network_config["n_neurons"]
        hidden = network_config["n_hidden_layers"]
        self._outputs = n_output_dims
        self._shapes = [(width, n_input_dims), *[(width, width)] * (hidden - 1), (-(-n_output_dims // 16) * 16, width)]
        self.params = nn.Parameter(torch.full((sum(a * b for a, b in self._shapes),), torch.nan))

    def forward(self, x: Tensor) -> Tensor:
        sizes = [a * b for a, b in self._shapes]
        layers = [p.reshape(shape) for p, shape in zip(self.params.split(sizes), self._shapes, strict=True)]
        return perceptron_in_torch(x, layers)[:, : self._outputs].half()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tinycudann", types.SimpleNamespace(Encoding=Encoding, Network=Network))
    for cached in (tcnn._encoding, tcnn._network):
        cached.cache_clear()


def test_it_is_not_there_where_it_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises OSError where there is no GPU."""
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    tcnn.available.cache_clear()
    assert not tcnn.available()
    tcnn.available.cache_clear()


@pytest.mark.usefixtures("stand_in")
def test_the_encoding_gets_the_rows_of_the_table() -> None:
    made = layout(3, 2, 9, 4, 40)
    table = (1e4 * first_table(made, 0)).requires_grad_()
    places = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    found = tcnn.encode(made, places, table)
    expected = encode_in_torch(made, places, table)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
    (of_table,) = torch.autograd.grad(found.sum(), table)
    torch.testing.assert_close(of_table, torch.autograd.grad(expected.sum(), table)[0], atol=1e-3, rtol=1e-3)


@pytest.mark.usefixtures("stand_in")
def test_the_networks_get_the_matrices() -> None:
    draw = torch.Generator().manual_seed(0)
    layers = [0.3 * torch.randn(shape, generator=draw) for shape in ((32, 16), (32, 32), (3, 32))]
    own = [layer.requires_grad_() for layer in layers]
    assert tcnn.fits(own)
    assert not tcnn.fits([layers[0][:, :15], *layers[1:]])
    assert not tcnn.fits([layers[0], layers[1][:5], layers[2]])
    x = torch.randn(40, 16, generator=draw)
    found, expected = tcnn.perceptron(x, own), perceptron_in_torch(x, own)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
    ours, wanted = (torch.autograd.grad(values.sum(), own) for values in (found, expected))
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-2, rtol=1e-3)
