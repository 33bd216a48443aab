"""Spherical harmonics by what defines them: an orthonormal basis, closed under rotation, band by band."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y
from torch import Tensor

from recon import sh

DEGREES = range(sh.MAX_DEGREE + 1)


def sphere_quadrature(order: int) -> tuple[Tensor, Tensor]:
    """Directions [M,3] and weights [M] that integrate every polynomial up to degree 2 * order - 1 exactly."""
    z, weights = np.polynomial.legendre.leggauss(order)
    azimuths = 2 * np.pi * np.arange(2 * order) / (2 * order)
    z, phi = (grid.ravel() for grid in np.meshgrid(z, azimuths, indexing="ij"))
    radius = np.sqrt(1 - z * z)
    directions = np.stack([radius * np.cos(phi), radius * np.sin(phi), z], axis=-1)
    return torch.from_numpy(directions), torch.from_numpy(np.repeat(weights, 2 * order) * np.pi / order)


def random_directions(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1)


rotations = st.integers(0, 2**32 - 1).map(
    lambda seed: torch.from_numpy(Rotation.random(random_state=np.random.RandomState(seed)).as_matrix())
)


@pytest.mark.parametrize("degree", DEGREES)
def test_the_basis_is_orthonormal_over_the_sphere(degree: int) -> None:
    directions, weights = sphere_quadrature(5)
    values = sh.basis(directions, degree)
    gram = values.T @ (weights[:, None] * values)
    torch.testing.assert_close(gram, torch.eye(sh.num_coefficients(degree), dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("degree", DEGREES)
def test_the_basis_is_the_textbook_one_up_to_the_order_of_the_format(degree: int) -> None:
    """Against scipy's complex harmonics Y_l^m, Condon-Shortley phase kept, m from -l to l."""
    directions = random_directions(50)
    x, y, z = directions.numpy().T
    expected = []
    for band in range(degree + 1):
        for m in range(-band, band + 1):
            value = sph_harm_y(band, abs(m), np.arccos(z), np.arctan2(y, x))
            expected.append(value.real if m == 0 else math.sqrt(2) * (value.imag if m < 0 else value.real))
    np.testing.assert_allclose(sh.basis(directions, degree).numpy(), np.stack(expected, axis=-1), atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(rotation=rotations, degree=st.sampled_from(DEGREES), seed=st.integers(0, 1000))
def test_a_turned_world_seen_from_a_turned_direction_looks_the_same(rotation: Tensor, degree: int, seed: int) -> None:
    directions = random_directions(30, seed)
    generator = torch.Generator().manual_seed(seed)
    coefficients = torch.randn(30, sh.num_coefficients(degree), 3, generator=generator, dtype=torch.float64)
    before = sh.evaluate(coefficients, directions, degree)
    assert before.max() > 0.5
    after = sh.evaluate(sh.rotate(coefficients, rotation), directions @ rotation.T, degree)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=20)
@given(first=rotations, second=rotations)
def test_rotations_compose_and_are_orthogonal(first: Tensor, second: Tensor) -> None:
    matrices = [sh.rotation_matrix(rotation, 3) for rotation in (first, second, second @ first)]
    torch.testing.assert_close(matrices[1] @ matrices[0], matrices[2], rtol=0, atol=1e-10)
    torch.testing.assert_close(matrices[0] @ matrices[0].T, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-10)


def test_no_rotation_changes_nothing() -> None:
    identity = sh.rotation_matrix(torch.eye(3), 3)
    torch.testing.assert_close(identity, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-12)


def test_rotation_keeps_the_type_of_the_coefficients() -> None:
    turned = sh.rotate(torch.randn(4, 9, 3), torch.eye(3, dtype=torch.float64))
    assert turned.dtype == torch.float32
    assert turned.shape == (4, 9, 3)


def test_colours_are_seen_from_everywhere_and_come_back() -> None:
    rgb = torch.rand(5, 3, dtype=torch.float64)
    coefficients = torch.zeros(5, 16, 3, dtype=torch.float64)
    coefficients[:, 0] = sh.from_rgb(rgb)
    torch.testing.assert_close(sh.evaluate(coefficients, random_directions(5), 3), rgb, rtol=0, atol=1e-12)
    torch.testing.assert_close(sh.to_rgb(sh.from_rgb(rgb)), rgb, rtol=0, atol=1e-12)


def test_only_the_bands_asked_for_are_used_and_negative_light_is_cut() -> None:
    directions = random_directions(6)
    coefficients = torch.randn(6, 16, 3, dtype=torch.float64)
    for degree in DEGREES:
        padded = coefficients.clone()
        padded[:, sh.num_coefficients(degree) :] = 0
        torch.testing.assert_close(
            sh.evaluate(coefficients, directions, degree), sh.evaluate(padded, directions, 3), rtol=0, atol=1e-12
        )
    dark = torch.full((6, 1, 3), -10.0, dtype=torch.float64)
    assert torch.equal(sh.evaluate(dark, directions, 0), torch.zeros(6, 3, dtype=torch.float64))


def test_degrees_and_numbers_of_coefficients_belong_together() -> None:
    assert [sh.num_coefficients(degree) for degree in DEGREES] == [1, 4, 9, 16]
    assert [sh.degree_of(count) for count in (1, 4, 9, 16)] == [0, 1, 2, 3]
    for count in (0, 2, 3, 15, 17, 25):
        with pytest.raises(ValueError, match=f"{count} SH coefficients"):
            sh.degree_of(count)
