"""Surveys made up for the tests of advice and of the page."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from recon.datasets import look
from recon.datasets.look import Look
from recon.datasets.overlap import Overlap


def photo(seed: int = 0, *, level: float = 128, spread: float = 100, **changed: Any) -> Look:
    """A look at blocks of random greys."""
    rng = np.random.default_rng(seed)
    blocks = (level + spread * rng.uniform(-1, 1, (15, 20, 1))).clip(0, 255)
    pixels = np.kron(blocks, np.ones((8, 8, 3))).astype(np.uint8)
    found = look.look(pixels)
    return Look(**{**vars(found), **changed})


def overlap(count: int, links: dict[tuple[int, int], int], *, flat: bool = False, features: Any = 2000) -> Overlap:
    """Photos with so many matches in pairs (i, j), whose positions are somewhere."""
    pairs = np.array(sorted(links), np.int64).reshape(-1, 2)
    starts = np.arange(len(pairs) + 1) * 30
    return Overlap(
        features=np.broadcast_to(features, count).astype(np.int64),
        pairs=pairs,
        counts=np.array([links[i, j] for i, j in pairs.tolist()], np.int64),
        flat=np.full(len(pairs), flat),
        moved=np.full(len(pairs), 0.1),
        starts=starts,
        positions=np.random.default_rng(0).uniform(0, 100, (starts[-1], 4)),
    )


def chain(numbers: Iterable[int], matches: int = 300) -> dict[tuple[int, int], int]:
    """Links of each of the photos with the next."""
    return dict.fromkeys(itertools.pairwise(numbers), matches)
