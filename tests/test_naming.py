"""Several photos in a line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon.datasets.naming import listing, short

NAMES = [f"img_{i:02d}.JPG" for i in range(40)]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ([], ""),
        ([3], "img_03"),
        ([4, 3], "img_03 and img_04"),
        ([3, 4, 5], "img_03 to img_05 (3 photos)"),
        ([9, 3, 4, 5, 12, 13], "img_03 to img_05 (3 photos), img_09, img_12 and img_13"),
    ],
)
def test_runs_are_named_by_their_ends(chosen: list[int], said: str) -> None:
    assert listing(NAMES, chosen) == said


def test_a_long_list_is_cut() -> None:
    assert listing(NAMES, range(0, 40, 2), most=2) == "img_00, img_02 and 18 more"


@given(st.sets(st.integers(0, 39)))
def test_no_photo_is_lost(chosen: set[int]) -> None:
    said = listing(NAMES, chosen, most=40)
    named: set[int] = set()
    for part in said.replace(" and ", ", ").split(", "):
        numbers = [int(word[4:6]) for word in part.split() if word.startswith("img_")]
        named |= set(range(numbers[0], numbers[-1] + 1)) if numbers else set()
    assert named == chosen


def test_only_suffixes_of_photos_go() -> None:
    assert short("a/b.c.jpeg") == "a/b.c"
    assert short("frame.000150") == "frame.000150"
