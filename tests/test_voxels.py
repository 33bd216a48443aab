"""The kernels of the voxel grid beside `voxels_reference`, forward and backward."""

import math

import numpy as np
import pytest
import torch

import voxels_reference as reference
from recon import sh, volume
from recon.kernels import voxels
from recon.kernels.runtime import get_threads, set_threads
from recon.kernels.voxel_gradient import gradient_of, most_seen
from recon.kernels.voxels import ROW, Grid

SIDE, SHELL = 14, 0.5


def grid(seed: int = 0, kept: float = 0.6, level: float = -2.5, side: int = SIDE) -> Grid:
    """A random grid whose values vary; whole regions of it are empty."""
    rng = np.random.default_rng(seed)
    there = rng.random(side**3) < kept
    x = np.arange(side)
    there &= ((x[:, None, None] // 5 + x[:, None] // 5 + x // 5) % 3 > 0).reshape(-1)
    links = np.where(there, np.cumsum(there) - 1, -1).astype(np.int32)
    rows = int(there.sum())
    levels = (level + 3 * rng.standard_normal(rows)).astype(np.float32)
    harmonics = np.zeros((rows, ROW), np.float32)
    harmonics[:, :27] = 0.4 * rng.standard_normal((rows, 27))
    return Grid(side, SHELL, links, voxels.blocks_of(links, side), levels, harmonics)


def rays(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """From around and outside the cube, towards its middle."""
    generator = torch.Generator().manual_seed(seed)
    origins = 1.3 * (2 * torch.rand(count, 3, generator=generator) - 1)
    directions = torch.nn.functional.normalize(0.4 * torch.randn(count, 3, generator=generator) - origins, dim=-1)
    limits = torch.tensor([reference.NEAR, math.inf]).repeat(count, 1)
    limits[::3, 1] = reference.FAR
    made = torch.cat([origins, directions, limits], dim=-1)
    return made.numpy(), sh.basis(directions, 2).numpy()


def by_reference(scene: Grid, made: np.ndarray, basis: np.ndarray):
    """Values that require gradients, in float64, and what the reference renders from them."""
    links = torch.from_numpy(scene.links)
    links = torch.where(links < 0, len(scene.levels), links)
    levels = torch.from_numpy(scene.levels).double().requires_grad_()
    harmonics = torch.from_numpy(scene.harmonics[:, :27]).double().requires_grad_()
    distances = reference.sample_distances(torch.from_numpy(made), scene.side, SHELL)
    wide = [torch.from_numpy(values).double() for values in (made, basis)]
    out = reference.render(wide[0], wide[1], distances, scene.side, SHELL, links, levels, harmonics)
    return levels, harmonics, out


@pytest.mark.parametrize("level", [-5.0, 1.0])
def test_rays_show_what_the_reference_shows(level):
    scene, (made, basis) = grid(level=level), rays(70)
    _, _, (rgb, alpha, distance, _, _) = by_reference(scene, made, basis)
    out = torch.from_numpy(voxels.march(scene, made, basis)).double()
    assert float(alpha.detach().min()) < 0.98
    torch.testing.assert_close(out[:, :3], rgb.detach(), atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(out[:, 3], alpha.detach(), atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(out[:, 4], distance.detach(), atol=1e-3, rtol=1e-4)


def assert_gradients(scene, made, basis, records, loss, levels, harmonics) -> None:
    loss.backward()
    found = gradient_of(scene, records, basis)
    seen = found.seen != 0
    assert 0 < seen.sum() < len(seen)
    for values, expected in ((found.levels, levels.grad), (found.harmonics[:, :27], harmonics.grad)):
        assert float(expected[~seen].abs().max()) == 0
        scale = float(expected.abs().max())
        assert np.abs(values[seen] - expected[seen].numpy()).max() < 2e-4 * scale
    assert np.abs(found.harmonics[seen][:, 27:]).max() == 0


@pytest.mark.parametrize("level", [-5.0, 1.0])
def test_given_gradients_reach_the_values(level):
    scene, (made, basis) = grid(level=level), rays(70)
    levels, harmonics, (rgb, alpha, _, _, _) = by_reference(scene, made, basis)
    given = np.random.default_rng(1).standard_normal((70, 4)).astype(np.float32)
    loss = (rgb * torch.from_numpy(given[:, :3])).sum() + (alpha * torch.from_numpy(given[:, 3])).sum()
    assert_gradients(scene, made, basis, voxels.march_back(scene, made, basis, given), loss, levels, harmonics)


def test_squared_errors_sparsity_and_distortion_reach_the_values():
    scene, (made, basis) = grid(), rays(70)
    levels, harmonics, (rgb, alpha, _, sampled, weights) = by_reference(scene, made, basis)
    target = np.random.default_rng(2).random((70, 3)).astype(np.float32)
    background = (0.2, 0.5, 0.9)
    out, records = voxels.march_to(scene, made, basis, target, background, 0.03, 0.2)
    shown = rgb + (1 - alpha[:, None]) * torch.tensor(background, dtype=torch.float64)
    loss = (shown - torch.from_numpy(target)).square().mean() + 0.03 * (1 + 2 * sampled**2).log().sum(dim=-1).mean()
    edges = torch.arange(weights.shape[1] + 1) * voxels.STEP * scene.spacing  # of the samples, in contracted space
    loss = loss + 0.2 * volume.distortion(edges, weights).mean()
    assert np.array_equal(out, voxels.march(scene, made, basis))
    assert_gradients(scene, made, basis, records, loss, levels, harmonics)


def test_the_same_bits_for_any_number_of_threads():
    scene, (made, basis) = grid(side=30), rays(500)
    target = np.random.default_rng(2).random((500, 3)).astype(np.float32)
    before = get_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            set_threads(threads)
            out, records = voxels.march_to(scene, made, basis, target, (0.0, 0.0, 0.0), 0.01, 0.01)
            gradient = gradient_of(scene, records, basis)
            seen = gradient.seen != 0
            found.append((out, gradient.levels[seen], gradient.harmonics[seen], most_seen(scene, records)))
    finally:
        set_threads(before)
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_empty_blocks_are_jumped_over_without_a_trace():
    scene, (made, basis) = grid(kept=0.02), rays(60)
    assert 0 < scene.blocks.mean() < 1
    everywhere = scene._replace(blocks=np.ones_like(scene.blocks))
    np.testing.assert_allclose(voxels.march(scene, made, basis), voxels.march(everywhere, made, basis), atol=2e-6)


def test_blocks_hold_all_corners_of_their_cells():
    side = 11
    for corner in ((0, 0, 0), (4, 3, 8), (10, 4, 5)):
        links = np.full((side,) * 3, -1, np.int32)
        links[corner] = 0
        blocks = voxels.blocks_of(links.reshape(-1), side).reshape(3, 3, 3)
        expected = np.zeros((3, 3, 3), np.uint8)
        for i, j, k in np.ndindex(side - 1, side - 1, side - 1):
            if all(a - 1 <= b <= a for a, b in zip(corner, (i, j, k), strict=True)):
                expected[i // 4, j // 4, k // 4] = 1
        assert np.array_equal(blocks, expected)


def test_what_is_seen_of_a_row_is_its_largest_weight():
    """A thick cloud, seen from one side: what is at the front is seen most, what is behind hardly."""
    links = np.arange(SIDE**3, dtype=np.int32)
    scene = Grid(
        *(SIDE, SHELL, links, voxels.blocks_of(links, SIDE)),
        *(np.full(SIDE**3, -2.7, np.float32), np.zeros((SIDE**3, ROW), np.float32)),
    )
    made = np.tile(np.array([-0.99, 0.05, 0.05, 1, 0, 0, 0.05, np.inf], np.float32), (4, 1))
    basis = sh.basis(torch.from_numpy(made[:, 3:6]), 2).numpy()
    seen = most_seen(scene, voxels.march_weights(scene, made, basis)).reshape(SIDE, SIDE, SIDE)
    along = seen.max(axis=(1, 2))
    first = int(along.argmax())
    assert first in (2, 3)
    assert bool((np.diff(along[first + 1 :]) <= 0).all())
    assert float(seen[:, 0].max()) == 0


def test_room_for_records_grows_as_it_is_needed():
    scene, (made, basis) = grid(), rays(40)
    room, voxels._room[0] = voxels._room[0], 1
    try:
        records = voxels.march_weights(scene, made, basis)
    finally:
        voxels._room[0] = room
    assert records.counts.sum() > 40
    assert len(records.cells) >= records.counts.sum()
