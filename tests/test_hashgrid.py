"""The hash encoding: kernels and torch beside a slow and obvious version that follows tiny-cuda-nn's source."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon import hashgrid
from recon.kernels import hash_grid
from recon.kernels.hash_grid import Layout, layout
from recon.kernels.runtime import get_threads, set_threads


def reference(made: Layout, positions: np.ndarray, table: np.ndarray) -> np.ndarray:
    """One point and one corner after the other, in 32-bit whole numbers as a GPU has them."""
    out = np.zeros((len(positions), made.levels, made.features))
    for level in range(made.levels):
        rows = table[made.offsets[level] : made.offsets[level + 1]].astype(np.float64)
        resolution = int(made.resolutions[level])
        for point, position in enumerate(positions.astype(np.float32)):
            place = position * made.scales[level] + np.float32(0.5)
            cell = np.floor(place).astype(int)
            inside = place.astype(np.float64) - cell
            for corner in np.ndindex(2, 2, 2):
                x, y, z = (int(v) for v in cell + corner)
                index = x + y * resolution + z * resolution**2
                if resolution**3 > len(rows):
                    index = x ^ (y * 2654435761 % 2**32) ^ (z * 805459861 % 2**32)
                weight = np.prod(np.where(corner, inside, 1 - inside))
                out[point, level] += weight * rows[index % len(rows)]
    return out.reshape(len(positions), made.width)


def some(made: Layout, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, borders among them, a table and a gradient."""
    draw = np.random.default_rng(seed)
    positions = draw.random((count, 3)).astype(np.float32)
    positions[: min(count, 2)] = np.arange(min(count, 2))[:, None]
    table = draw.standard_normal((made.rows, made.features)).astype(np.float32)
    return positions, table, draw.standard_normal((count, made.width)).astype(np.float32)


def test_levels_are_laid_out_as_in_tiny_cuda_nn() -> None:
    """Of 16 levels from 16 to 2,048 with 2^19 rows, the sizes that its formulas give (written out by hand)."""
    made = layout(16, 2, 19, 16, 2048)
    assert made.resolutions[:3].tolist() == [16, 23, 31]
    assert made.offsets[:4].tolist() == [0, 4096, 4096 + 12168, 4096 + 12168 + 29792]
    assert made.resolutions[-1] == 2048
    assert np.diff(made.offsets)[-1] == 2**19
    assert made.hashed.tolist() == [0] * 5 + [1] * 11
    assert made.rows * 2 == 12_196_240  # as instant-ngp counts them
    with pytest.raises(ValueError, match="3 features"):
        layout(16, 3, 19, 16, 2048)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.sampled_from([2, 4, 6]),
    st.integers(3, 12),
    st.integers(1, 20),
    st.integers(0, 60),
    st.integers(0, 40),
)
def test_kernels_and_torch_are_the_reference(
    levels: int, features: int, log2_rows: int, base: int, more: int, count: int
) -> None:
    made = layout(levels, features, log2_rows, base, base + more)
    positions, table, gradient = some(made, count)
    expected = reference(made, positions, table)
    np.testing.assert_allclose(hash_grid.encode(made, positions, table), expected, atol=2e-4)
    wide = torch.from_numpy(table).double().requires_grad_()
    found = hashgrid.encode(made, torch.from_numpy(positions), wide)
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=2e-4)
    (found * torch.from_numpy(gradient)).sum().backward()
    assert wide.grad is not None
    np.testing.assert_allclose(hash_grid.encode_back(made, positions, gradient), wide.grad.numpy(), atol=2e-4)


def test_gradients_are_those_of_finite_differences() -> None:
    made = layout(3, 2, 5, 2, 9)
    positions, table, _ = some(made, 6)
    places = torch.from_numpy(positions[2:]).double().requires_grad_()
    wide = torch.from_numpy(table).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p, t: hashgrid.encode(made, p, t), (places, wide))


def test_autograd_gets_the_gradient_of_the_kernels() -> None:
    made = layout(4, 2, 8, 4, 32)
    positions, table, gradient = some(made, 300)
    parameter = torch.from_numpy(table).requires_grad_()
    found = hashgrid.encode(made, torch.from_numpy(positions), parameter)
    found.backward(torch.from_numpy(gradient).T.contiguous().T)
    assert parameter.grad is not None
    assert (parameter.grad.numpy() == hash_grid.encode_back(made, positions, gradient)).all()


def test_the_number_of_threads_changes_nothing() -> None:
    made = layout(3, 4, 10, 4, 50)
    positions, table, gradient = some(made, 20_000)
    before, found = get_threads(), []
    try:
        for threads in (1, 2, 5):
            set_threads(threads)
            found.append((hash_grid.encode(made, positions, table), hash_grid.encode_back(made, positions, gradient)))
    finally:
        set_threads(before)
    for there, back in found[1:]:
        assert (there == found[0][0]).all()
        assert (back == found[0][1]).all()


def test_what_is_no_position_reads_no_foreign_memory() -> None:
    """Outside as at the border; what is not a number as 0."""
    made = layout(2, 2, 6, 4, 16)
    _, table, _ = some(made, 1)
    strange = np.array([[-1e30, 0.5, np.inf], [np.nan, 2.0, -np.inf]], np.float32)
    plain = np.array([[0.0, 0.5, 1.0], [0.0, 1.0, 0.0]], np.float32)
    assert (hash_grid.encode(made, strange, table) == hash_grid.encode(made, plain, table)).all()


def test_the_first_values_are_small_and_of_the_seed() -> None:
    made = layout(4, 2, 10, 4, 32)
    first = hashgrid.first_table(made, 3)
    assert first.shape == (made.rows, 2)
    assert 0.9e-4 < float(first.abs().max()) <= 1e-4
    assert torch.equal(first, hashgrid.first_table(made, 3))
    assert not torch.equal(first, hashgrid.first_table(made, 4))
