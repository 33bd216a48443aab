"""Sizes of pictures: as small as the time asks for, as large as the window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon.viewer.quality import LONGEST, SMALLEST, Pace

SIDES = st.integers(1, 5000)


@pytest.mark.parametrize(("each", "whole"), [(1e-9, True), (200e-9, False)])
def test_a_moving_camera_gets_what_the_time_allows(each: float, whole: bool) -> None:
    """Pictures that cost so many seconds a pixel, and 3 ms each."""
    pace, size = Pace(target=1 / 30), (1280, 720)
    for _ in range(40):
        pace.took(size[0] * size[1], 0.003 + each * size[0] * size[1])
        size = pace.moving(1280, 720)
    assert (size == (1280, 720)) == whole
    assert 0.003 + each * size[0] * size[1] <= 1 / 30
    if not whole:  # the next larger size would take too long
        assert 0.003 + each * size[0] * size[1] > 1 / 30 * 0.5


@given(SIDES, SIDES, st.lists(st.tuples(st.integers(1, 10**7), st.floats(0, 10)), max_size=30))
def test_sizes_are_within_the_window_and_of_its_shape(width: int, height: int, took: list[tuple[int, float]]) -> None:
    pace = Pace()
    for pixels, seconds in took:
        pace.took(pixels, seconds)
    whole = pace.resting(width, height)
    small = pace.moving(width, height)
    assert 1 <= small[0] <= whole[0] <= min(width, LONGEST)
    assert 1 <= small[1] <= whole[1] <= min(height, LONGEST)
    assert small[0] >= whole[0] * SMALLEST - 1
    assert abs(small[0] * height - small[1] * width) <= max(width, height)


def test_where_size_hardly_matters_it_is_not_reduced_for_nothing() -> None:
    """30 ms however few pixels: no size is fast enough, and a third of the whole one costs but half as much again."""
    pace = Pace(target=0.02)
    for pixels in (50_000, 900_000) * 10:
        pace.took(pixels, 0.030 + 40e-9 * pixels)
    width, height = pace.moving(1280, 720)
    assert 40e-9 * width * height >= 0.008
    assert 40e-9 * width * height <= 0.015


def test_slow_pictures_make_small_ones_and_fast_ones_large_again() -> None:
    pace = Pace(target=0.02)
    for _ in range(20):
        pace.took(1280 * 720, 0.5)
    assert pace.moving(1280, 720)[0] < 640
    small = (256, 144)
    for _ in range(20):
        pace.took(small[0] * small[1], 0.0005)
    assert pace.moving(1280, 720) == (1280, 720)
