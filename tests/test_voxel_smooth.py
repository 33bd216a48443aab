"""Total variation beside its definition, differentiated by torch."""

import numpy as np
import torch

from recon.kernels import voxel_smooth
from recon.kernels.voxel_gradient import Gradient
from test_voxels import SIDE, grid


def by_definition(links: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The sum over corners and channels [V,C]: of differences to the next corners, where these are kept."""
    total = values.new_zeros(())
    for row, (i, j, k) in enumerate((links >= 0).nonzero().tolist()):
        squares = torch.full_like(values[row], voxel_smooth.EPS)
        for corner in ((i + 1, j, k), (i, j + 1, k), (i, j, k + 1)):
            if max(corner) < SIDE and links[corner] >= 0:
                squares = squares + (values[int(links[corner])] - values[row]).square()
        total = total + squares.sqrt().sum()
    return total


def test_rows_get_all_of_their_gradient_and_no_other_is_touched():
    scene = grid(seed=4)
    links = torch.from_numpy(scene.links).reshape(SIDE, SIDE, SIDE)
    rows = len(scene.levels)
    cells = np.flatnonzero(scene.links >= 0).astype(np.int32)
    values = torch.from_numpy(np.concatenate([scene.levels[:, None], scene.harmonics[:, :27]], axis=1)).double()
    values.requires_grad_()
    by_definition(links, values).backward()
    first, count = rows // 3, rows // 2
    seen = np.zeros(rows, np.uint8)
    seen[first : first + 5] = 1
    found = Gradient(np.full(rows, 7.0, np.float32), np.full((rows, 32), 7.0, np.float32), seen)
    voxel_smooth.add_variation(scene, cells, first, count, (0.5, 2.0), found)
    expected = values.grad.numpy()
    own = slice(first + 5, first + count)
    np.testing.assert_allclose(found.levels[own], 0.5 * expected[own, 0], atol=1e-4)
    np.testing.assert_allclose(found.harmonics[own, :27], 2 * expected[own, 1:], atol=1e-3)
    # What was there is added to.
    before = slice(first, first + 5)
    np.testing.assert_allclose(found.levels[before], 7 + 0.5 * expected[before, 0], atol=1e-4)
    outside = np.ones(rows, bool)
    outside[first : first + count] = False
    assert (found.levels[outside] == 7).all()
    assert (found.harmonics[outside] == 7).all()
    assert (found.seen != 0).sum() == count
