"""Matches of photos taken round a cloud of points, whose poses are exact: for the tests of what finds wrong ones."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from recon.datasets.cameras import look_at
from recon.datasets.epipolar import Matched

COUNT = 16
STEPS = (1, 2, 3)  # photos that each is matched with
SHARED = 50  # matches of a pair


def viewmats(seed: int = 0, count: int = COUNT) -> NDArray[np.float64]:
    """[P,4,4] of cameras that go round, at heights and with aims that vary."""
    rng = np.random.default_rng(seed)
    angle = np.arange(count) * 2 * np.pi / count
    eyes = np.stack([3 * np.cos(angle), 3 * np.sin(angle), 1 + rng.uniform(-0.5, 0.5, count)], axis=-1)
    targets = rng.normal(0, 0.2, (count, 3))
    c2w = look_at(torch.from_numpy(eyes), torch.from_numpy(targets), torch.tensor([0.0, 0.0, 1.0]).double())
    return np.linalg.inv(c2w.numpy())


def matched(seed: int = 0, noise: float = 0.5) -> Matched:
    """Matches that are `noise` px off in each photo, of 1000 px with a focal length of 1000 px."""
    rng = np.random.default_rng([seed, 1])
    poses, points = viewmats(seed), rng.normal(0, 0.5, (400, 3))
    seen = np.einsum("pij,nj->pni", poses[:, :3, :3], points) + poses[:, None, :3, 3]
    planes = seen[..., :2] / seen[..., 2:]
    pairs = np.array(sorted(sorted((i, (i + step) % COUNT)) for i in range(COUNT) for step in STEPS))
    chosen = np.stack([rng.choice(len(points), SHARED, replace=False) for _ in pairs])
    a, b = (
        planes[pairs[:, side, None], chosen].reshape(-1, 2) + rng.normal(0, noise / 1000, (chosen.size, 2))
        for side in range(2)
    )
    starts = np.arange(len(pairs) + 1) * SHARED
    return Matched(pairs, starts, np.diff(starts), a, b, np.full(COUNT, 1000.0), poses)


def turned(degrees: float, axis: int) -> NDArray[np.float64]:
    """[4,4] a turn about one of the camera's axes."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(4)
    others = [k for k in range(3) if k != axis]
    turn[np.ix_(others, others)] = [[cos, -sin], [sin, cos]]
    return turn
