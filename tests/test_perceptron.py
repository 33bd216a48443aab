import pytest
import torch

from recon.perceptron import ROWS, perceptron, perceptron_in_torch


@pytest.mark.parametrize("rows", [0, 1, 100, ROWS, 2 * ROWS + 3])
def test_pieces_have_the_values_and_gradients_of_the_whole(rows: int) -> None:
    draw = torch.Generator().manual_seed(0)
    layers = [torch.randn(shape, generator=draw) for shape in ((16, 8), (16, 16), (3, 16))]
    x, gradient = torch.randn(rows, 8, generator=draw), torch.randn(rows, 3, generator=draw)
    found = []
    for function, kind in ((perceptron, torch.float32), (perceptron_in_torch, torch.float64)):
        own = [value.detach().to(kind).requires_grad_() for value in (x, *layers)]
        out = function(own[0], own[1:])
        out.backward(gradient.to(kind))
        found.append([out.detach(), *(value.grad for value in own)])
    for ours, expected in zip(*found, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours.double(), expected, atol=1e-3, rtol=1e-4)


def test_an_input_without_gradient_gets_none() -> None:
    layers = [torch.ones(4, 2, requires_grad=True), torch.ones(1, 4, requires_grad=True)]
    x = torch.ones(5, 2)
    perceptron(x, layers).sum().backward()
    assert x.grad is None
    assert layers[0].grad is not None
    assert layers[0].grad.tolist() == [[5.0, 5.0]] * 4
