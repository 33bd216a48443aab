"""Marching through contracted space, beside the same walk in plain Python, and what the grid remembers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recon import volume
from recon.kernels import occupancy as kernels
from recon.kernels.runtime import get_threads, set_threads
from recon.occupancy import FADING, VISIBLE, Occupancy

STEP, SIDE, BEGIN = 0.05, 8, 0.1


def some_rays(count: int = 60) -> np.ndarray:
    draw = np.random.default_rng(0)
    rays = draw.standard_normal((count, 6)).astype(np.float32)
    rays[:, :3] *= 0.7
    rays[1::2, 3:] /= np.linalg.norm(rays[1::2, 3:], axis=-1, keepdims=True)
    return rays


def jitter(rays: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).random(len(rays)).astype(np.float32)


def marched(rays: np.ndarray, cells: np.ndarray, end: float = math.inf, most: int = 512) -> kernels.Samples:
    return kernels.march(rays, BEGIN, end, STEP, cells.reshape(-1).astype(np.uint8), SIDE, jitter(rays), most)


def distances_of(ray: np.ndarray, first: float, end: float) -> list[float]:
    """Of steps that are as long as a small move says that they have to be, in a space where nothing is jumped over."""
    origin, direction = (torch.from_numpy(part.astype(np.float64)) for part in np.split(ray, 2))

    def length(t: float) -> float:
        a, b = (volume.contract(origin + at * direction) for at in (t - 1e-6, t + 1e-6))
        return STEP * 2e-6 / float((b - a).norm())

    t, found = BEGIN + first * length(BEGIN), []
    while t < end and float((origin + t * direction).norm()) < 2 / STEP:
        found.append(t)
        t += length(t)
    return found


def test_steps_are_of_one_length_in_contracted_space() -> None:
    rays = some_rays(20)
    found = marched(rays, np.ones((SIDE,) * 3), 30.0)
    for number, (ray, first) in enumerate(zip(rays, jitter(rays), strict=True)):
        own = slice(*found.starts[number : number + 2])
        expected = distances_of(ray, float(first), 30.0)
        assert abs(len(expected) - len(found.distances[own])) <= 1  # the last may be on either side of the end
        several = min(len(expected), len(found.distances[own]))
        np.testing.assert_allclose(found.distances[own][:several], expected[:several], rtol=2e-3)
    np.testing.assert_allclose(np.diff(found.lengths[: found.starts[1]]), STEP, rtol=1e-4)
    points = torch.from_numpy(rays[np.repeat(np.arange(20), np.diff(found.starts))])
    places = points[:, :3] + torch.from_numpy(found.distances)[:, None] * points[:, 3:]
    np.testing.assert_allclose(4 * found.positions - 2, volume.contract(places), atol=1e-4)


def test_what_is_jumped_over_is_what_is_empty() -> None:
    """In the ball the samples in full cells are those of a march through a full grid, since jumps are whole steps."""
    rays, cells = some_rays(), np.random.default_rng(2).random((SIDE,) * 3) < 0.2
    rays[:, :3] *= 0.9 / np.linalg.norm(rays[:, :3], axis=-1, keepdims=True)
    some, whole = marched(rays, cells), marched(rays, np.ones_like(cells))
    full = cells[tuple((whole.positions * SIDE).astype(int).clip(0, SIDE - 1).T)]
    expected = whole.distances[full & (np.linalg.norm(4 * whole.positions - 2, axis=-1) < 1)]
    found = some.distances[np.linalg.norm(4 * some.positions - 2, axis=-1) < 1]
    assert 100 < len(found) < len(whole.distances) / 4
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert len(marched(rays, np.zeros_like(cells)).distances) == 0
    assert np.diff(marched(rays, np.ones_like(cells), most=5).starts).max() == 5


def test_the_number_of_threads_changes_nothing() -> None:
    rays, cells = some_rays(200), np.random.default_rng(2).random((SIDE,) * 3) < 0.5
    before, found = get_threads(), []
    try:
        for threads in (1, 3):
            set_threads(threads)
            found.append(marched(rays, cells))
    finally:
        set_threads(before)
    assert all((a == b).all() for a, b in zip(*found, strict=True))


def test_cells_are_full_until_nothing_is_met_in_them() -> None:
    grid = Occupancy.full(SIDE, STEP, torch.device("cpu"))
    assert grid.cells.all()
    place = torch.tensor([[0.51, 0.26, 0.9]])
    for look in range(40):
        assert ((grid.to_look_at(look, torch.Generator().manual_seed(look)) - 0.5).norm(dim=-1) <= 0.5).all()
        grid.fade()
        grid.met(place, torch.tensor([5 * VISIBLE / STEP]))
        grid.decide()
    assert grid.cells.sum() == 1
    assert grid.cells.reshape(SIDE, SIDE, SIDE)[4, 2, 7] == 1
    grid.fade()
    assert float(grid.values.max()) == pytest.approx(5 * FADING * VISIBLE / STEP)


def test_every_cell_is_looked_at() -> None:
    grid = Occupancy.full(48, STEP, torch.device("cpu"))
    grid.values.zero_()
    for look in range(-(-(48**3) // (1 << 14))):
        places = grid.to_look_at(look, torch.Generator().manual_seed(look))
        grid.met(places, torch.ones(len(places)))
    axis = (torch.arange(48) + 0.5) / 48
    inside = (torch.cartesian_prod(axis, axis, axis) - 0.5).norm(dim=-1) < 0.5 - 1 / 48
    assert (grid.values[inside] == 1).all()
