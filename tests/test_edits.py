"""Selecting, deleting and scaling splats, and the way back."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.edits import Edits

COUNT = 13  # not a multiple of 8, which bits are packed by

masks = st.lists(st.booleans(), min_size=COUNT, max_size=COUNT).map(np.array)
changes = st.one_of(
    masks.map(lambda rows: ("select", rows)),
    st.just(("delete",)),
    st.floats(0.01, 100).map(lambda factor: ("set_scale", factor)),
)


def state(edits: Edits) -> tuple[list[bool], list[bool], float]:
    return edits.selected.tolist(), edits.deleted.tolist(), edits.scale


def apply(edits: Edits, change: tuple) -> None:
    getattr(edits, change[0])(*change[1:])


@settings(deadline=None)
@given(st.lists(changes, max_size=12))
def test_any_edits_undone_are_the_beginning_and_done_again_the_end(sequence: list[tuple]) -> None:
    edits = Edits(COUNT)
    states = [state(edits)]
    for change in sequence:
        apply(edits, change)
        if state(edits) != states[-1]:  # what changes nothing is no step
            states.append(state(edits))
        assert edits.undoable == len(states) - 1
        assert not (edits.selected & edits.deleted).any()
    for expected in reversed(states[:-1]):
        assert edits.undo()
        assert state(edits) == expected
    assert not edits.undo()
    assert edits.redoable == len(states) - 1
    for expected in states[1:]:
        assert edits.redo()
        assert state(edits) == expected
    assert not edits.redo()


@settings(deadline=None)
@given(st.lists(changes, min_size=1, max_size=6), st.integers(0, 5), masks)
def test_an_edit_after_undoing_ends_what_could_be_redone(sequence: list[tuple], back: int, rows: np.ndarray) -> None:
    edits = Edits(COUNT)
    for change in sequence:
        apply(edits, change)
    for _ in range(back):
        edits.undo()
    before, redoable = state(edits), edits.redoable
    edits.select(rows)
    assert edits.redoable == (redoable if state(edits) == before else 0)


def test_a_deletion_taken_back_is_selected_again() -> None:
    edits = Edits(4)
    edits.select(np.array([True, False, True, False]))
    assert edits.delete() == 2
    assert state(edits) == ([False] * 4, [True, False, True, False], 1.0)
    edits.select(np.ones(4, bool))
    assert edits.selected.tolist() == [False, True, False, True]  # not those that are gone
    edits.undo()
    edits.undo()
    assert state(edits) == ([True, False, True, False], [False] * 4, 1.0)
    assert Edits(4).delete() == 0


def test_no_state_has_the_number_of_another() -> None:
    edits, seen = Edits(3), set()
    for step in range(4):
        edits.select(np.arange(3) == step % 2)
        seen.add(edits.version)
    edits.undo()
    edits.undo()
    edits.redo()
    assert edits.version not in seen


def test_the_oldest_steps_are_forgotten_when_memory_is_full() -> None:
    edits = Edits(800, max_bytes=1000)  # a step takes 200
    for step in range(20):
        edits.select(np.arange(800) == step)
    assert edits.undoable == 5
    while edits.undo():
        pass
    assert np.flatnonzero(edits.selected).tolist() == [14]
    tight = Edits(800, max_bytes=1)
    tight.select(np.ones(800, bool))
    assert tight.undoable == 1  # the last step can always be taken back
