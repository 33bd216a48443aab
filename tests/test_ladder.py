"""What is tried when too few photos have a pose, with a mapper that does what the test says."""

from __future__ import annotations

from pathlib import Path

import pytest

from recon.datasets import ladder
from recon.datasets.ladder import ENOUGH, RUNGS, Found, Rung


class Fake:
    """Finds so many poses (and points, and models) on each rung; so many pairs match."""

    def __init__(self, found: list[tuple[int, int, int]], matched: list[int] | None = None) -> None:
        self.found, self.matched = found, matched or [9] * len(found)
        self.mapped: list[Rung] = []
        self.rungs: list[Rung] = []

    def match(self, rung: Rung) -> int:
        self.rungs.append(rung)
        return self.matched[len(self.rungs) - 1]

    def map(self, rung: Rung) -> Found:
        self.mapped.append(rung)
        number = len(self.rungs) - 1
        return Found(*self.found[number], Path(f"model-{number}"))


def climb(fake: Fake, count: int = 10) -> tuple[ladder.Climbed, list[str]]:
    said: list[str] = []
    return ladder.climb(count, fake, said.append, RUNGS[: len(fake.found)]), said


def test_nothing_more_is_tried_once_enough_have_poses() -> None:
    fake = Fake([(8, 100, 1), (10, 100, 1)])
    climbed, said = climb(fake)
    assert len(fake.rungs) == 1
    assert climbed.best == Found(8, 100, 1, Path("model-0"))
    assert said == []  # the report says it all


def test_the_next_rung_is_tried_and_said() -> None:
    fake = Fake([(7, 100, 2), (9, 50, 1), (10, 100, 1)])
    climbed, said = climb(fake)
    assert climbed.best is not None
    assert climbed.best.registered == 9
    assert len(said) == len(climbed.done) == 2
    assert "7 of 10 photos have poses, in the largest of 2 parts that do not join" in said[0]
    assert "9 of 10" in said[1]


@pytest.mark.parametrize(("found", "best"), [([(5, 9, 1), (3, 99, 1)], 0), ([(5, 9, 1), (5, 10, 1)], 1)])
def test_the_best_is_kept_though_none_is_enough(found: list[tuple[int, int, int]], best: int) -> None:
    climbed, _ = climb(Fake(found))
    assert climbed.best is not None
    assert climbed.best.model == Path(f"model-{best}")


def test_no_mapper_runs_where_nothing_matches() -> None:
    fake = Fake([(0, 0, 0)] * len(RUNGS), [0, 1] * len(RUNGS))
    climbed, said = climb(fake)
    assert fake.mapped == []
    assert len(fake.rungs) == len(RUNGS)
    assert climbed.best is None
    assert climbed.matched == 0
    assert "1 pair of photos match" in said[1]
    assert said[0].startswith("Tried photo by photo: no pairs of photos match.")


def test_parts_that_were_joined_are_told_though_the_first_rung_is_enough() -> None:
    class Joining(Fake):
        def map(self, rung: Rung) -> Found:
            return Found(10, 100, 1, Path("model"), joined=2)

    climbed, said = climb(Joining([(0, 0, 0)]))
    assert climbed.best is not None
    assert said == ["Tried photo by photo: 10 of 10 photos have poses, 3 parts joined by the photos that they share."]


def test_a_model_of_nothing_is_not_a_model() -> None:
    climbed, _ = climb(Fake([(0, 0, 0)]))
    assert climbed.best is None
    assert climbed.matched == 9


def test_the_rungs_differ_and_begin_with_the_usual() -> None:
    assert len(set(RUNGS)) == len(RUNGS)
    assert not RUNGS[0].relaxed
    assert RUNGS[0].mapper == "incremental"
    assert {rung.mapper for rung in RUNGS} == {"incremental", "global"}
    assert max(rung.features.size for rung in RUNGS) > RUNGS[0].features.size
    assert 0 < ENOUGH < 1
