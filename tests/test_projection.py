"""Cameras from matrices: a product is taken apart into what it was made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from recon.datasets import projection
from recon.datasets.errors import InputError

angles = st.floats(-3, 3)


@settings(deadline=None)
@given(
    st.tuples(angles, angles, angles),
    st.tuples(*[st.floats(-100, 100)] * 3),
    st.tuples(st.floats(1, 5000), st.floats(1, 5000), st.floats(-100, 5000), st.floats(-100, 5000)),
    st.sampled_from([1.0, -1.0, 1e-6, -3e5]),
)
def test_a_projection_matrix_of_any_scale_is_taken_apart(
    turn: tuple[float, ...], shift: tuple[float, ...], lens: tuple[float, ...], scale: float
) -> None:
    fx, fy, cx, cy = lens
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    pose = np.concatenate([Rotation.from_rotvec(turn).as_matrix(), np.array(shift)[:, None]], axis=1)
    again, viewmat = projection.decomposed(scale * K @ pose, "a")
    assert np.allclose(again, K, rtol=1e-6, atol=1e-6 * np.abs(K).max())
    assert np.allclose(viewmat[:3].numpy(), pose, rtol=0, atol=1e-6 * (1 + np.abs(shift).max()))


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (np.zeros((3, 4)), r"a: projection matrix is singular: \[0 0 0 0; "),
        (np.full((3, 4), np.nan), "a: projection matrix has values that are not finite"),
        (np.ones((3, 4)), "a: projection matrix is singular"),
    ],
)
def test_what_is_no_projection(matrix: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        projection.decomposed(matrix, "a")


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ([[50, 1, 20], [0, 50, 15], [0, 0, 1]], "a: skew 1 is not 0"),
        ([[50, 0, np.inf], [0, 50, 15], [0, 0, 1]], "a: intrinsics have values that are not finite"),
        ([[50, 0, 20], [1, 50, 15], [0, 0, 1]], "a: intrinsics are not of the form"),
        ([[50, 0, 20], [0, 50, 15], [0, 0, 0]], "a: intrinsics are not of the form"),
    ],
)
def test_intrinsics_that_no_pinhole_has(matrix: list[list[float]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        projection.pinhole(np.array(matrix, np.float64), (40, 30), "a")


def test_intrinsics_of_any_scale_and_a_skew_that_does_not_matter() -> None:
    K = np.array([[100, 0.01, 40], [0, 96, 30], [0, 0, 2]])
    assert projection.pinhole(K, (40, 30), "a").params == (50, 48, 20, 15)
    assert projection.pinhole(K, (40, 30), "a", from_centre=True).params == (50, 48, 20.5, 15.5)
