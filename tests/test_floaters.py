"""Floaters among splats whose places are known: a ball on a floor of plain and fine parts, and a far background."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from recon.floaters import loneliness, threshold


class Labelled(NamedTuple):
    means: NDArray[np.float32]
    scales: NDArray[np.float32]
    opacities: NDArray[np.float32]
    kinds: NDArray[np.str_]


def directions(rng: np.random.Generator, count: int) -> NDArray:
    vectors = rng.normal(size=(count, 3))
    vectors[:, 2] = np.abs(vectors[:, 2])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def scene(seed: int) -> Labelled:
    """Surfaces of splats as large as they are far apart, single floaters, groups of six, and wide faint ones."""
    rng = np.random.default_rng(seed)
    parts: list[tuple[str, NDArray, float, float, float, float]] = []
    ball = 0.3 * directions(rng, 4000)
    parts.append(("surface", ball, 0.006, 0.5, 0.1, 1.0))
    floor = np.concatenate([rng.uniform(-1, 1, (3000, 2)), np.full((3000, 1), -0.05)], axis=1)
    parts.append(("surface", floor, 0.02, 0.7, 0.1, 1.0))
    patches = rng.uniform(-1, 1, (30, 2))[rng.integers(30, size=3000)] + rng.normal(0, 0.03, (3000, 2))
    parts.append(("surface", np.concatenate([patches, np.full((3000, 1), -0.05)], axis=1), 0.004, 0.5, 0.1, 1.0))
    background = directions(rng, 1500) * rng.uniform(3.5, 5, (1500, 1))
    parts.append(("surface", background, 0.15, 0.4, 0.2, 1.0))
    air = directions(rng, 120) * rng.uniform(0.5, 1.3, (120, 1)) + [0, 0, 0.2]
    parts.append(("single", air, 0.01, 0.8, 0.05, 0.6))
    groups = 0.9 * directions(rng, 12)[:, None] + [0, 0, 0.2] + rng.normal(0, 0.02, (12, 6, 3))
    parts.append(("group", groups.reshape(-1, 3), 0.01, 0.5, 0.05, 0.6))
    wide = directions(rng, 40) * rng.uniform(0.8, 1.2, (40, 1)) + [0, 0, 0.2]
    parts.append(("wide", wide, 0.1, 0.4, 0.03, 0.3))
    means, scales, opacities, kinds = [], [], [], []
    for kind, places, size, spread, least, most in parts:
        means.append(places)
        sizes = size * np.exp(rng.normal(0, spread, (len(places), 1)))
        scales.append(sizes * [1, 1, 0.1])
        opacities.append(rng.uniform(least, most, len(places)))
        kinds.append(np.full(len(places), kind))
    values = [np.concatenate(part).astype(np.float32) for part in (means, scales, opacities)]
    return Labelled(values[0], values[1], values[2], np.concatenate(kinds))


@pytest.mark.parametrize("seed", range(3))
def test_floaters_are_found_and_surfaces_are_spared(seed: int) -> None:
    """At the usual strength 96 % of the floaters are found, and 96 % of what is found are floaters."""
    *splats, kinds = scene(seed)
    floating = kinds != "surface"
    found = loneliness(*splats) > threshold(0.5)
    assert found[floating].mean() > 0.93
    assert floating[found].mean() > 0.93
    for kind in ("single", "group", "wide"):
        assert found[kinds == kind].mean() > 0.8, kind
    assert found[~floating].mean() < 0.003
    assert (loneliness(*splats) > threshold(0.0))[~floating].mean() < 0.0002
    assert (loneliness(*splats) > threshold(1.0))[floating].mean() > 0.99


def test_loneliness_does_not_depend_on_the_unit_or_the_order() -> None:
    *splats, _ = scene(0)
    means, scales, opacities = splats
    usual = loneliness(means, scales, opacities)
    order = np.random.default_rng(0).permutation(len(means))
    assert np.allclose(loneliness(8 * means[order], 8 * scales[order], opacities[order]), usual[order], rtol=1e-4)
    assert np.median(usual) == pytest.approx(1)


def test_loneliness_against_the_obvious_loop() -> None:
    rng = np.random.default_rng(1)
    means, scales = rng.normal(size=(60, 3)).astype("f4"), rng.uniform(0.1, 1, (60, 3)).astype("f4")
    opacities = rng.uniform(0, 1, 60).astype("f4")
    sizes = [float(np.sqrt(np.prod(sorted(row)[1:]))) for row in scales.tolist()]
    measures = []
    for i in range(60):
        others = sorted((float(np.linalg.norm(means[j] - means[i])), j) for j in range(60) if j != i)[:24]
        usual = float(np.median([sizes[j] for _, j in others]))
        measures.append(others[-1][0] / (usual + 0.1 * sizes[i]) * (1.2 - float(opacities[i])) ** 0.5)
    assert np.allclose(loneliness(means, scales, opacities), np.array(measures) / np.median(measures), rtol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_few_splats_have_few_neighbours(count: int) -> None:
    values = loneliness(np.zeros((count, 3), "f4"), np.ones((count, 3), "f4"), np.ones(count, "f4"))
    assert values.shape == (count,)
    assert np.isfinite(values).all()


def test_more_strength_finds_more() -> None:
    thresholds = [threshold(strength) for strength in (-1, 0, 0.3, 0.6, 1, 2)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] == thresholds[1]
    assert thresholds[-1] == thresholds[-2]
