import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon import pace


def test_levels_follow_one_another():
    seen = [pace.level((step + 0.5) / 100, 0.4) for step in range(100)]
    assert seen == [4] * 15 + [2] * 25 + [1] * 60
    assert {pace.level(step / 100, 0.0) for step in range(100)} == {1}


@given(st.floats(0, 1), st.integers(50, 400))
def test_the_clock_leads_along_the_same_schedule_as_the_steps(coarse, steps):
    """Steps that take what is assumed of them: after each, time and steps tell the same progress."""
    cost = {4: pace.QUARTER_COST, 2: pace.HALF_COST, 1: 1.0}
    times = [cost[pace.level((step + 0.5) / steps, coarse)] for step in range(steps)]
    spent = 0.0
    for step, taken in enumerate(times):
        spent += taken
        assert pace.progress_at(spent / sum(times), coarse) == pytest.approx((step + 1) / steps, abs=3 / steps)
    assert sum(times) / steps == pytest.approx(pace.mean_cost(coarse), abs=3 / steps)


@given(st.floats(0, 1))
def test_the_clock_starts_at_nothing_and_ends_with_all(coarse):
    assert pace.progress_at(0.0, coarse) == 0.0
    assert pace.progress_at(1.0, coarse) == 1.0
