"""The Measure tab: lengths that are honest about their unit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from panels import Ball, ViewerClient, browsed, error_in
from recon.viewer.measure_panel import Measure, MeasurePanel, length_text
from serving import PATIENCE, wait_until

LARGER = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))


class Scale:
    """An editor that only knows the scale."""

    scale = 1.0
    selected = deleted = undoable = redoable = 0

    def set_scale(self, factor: float) -> None:
        self.scale = factor


@pytest.mark.parametrize(
    ("units", "metres_per_unit", "text"),
    [
        (1.23456, None, "1.23 units"),
        (12345.6, None, "12,346 units"),
        (0.001234, None, "0.00123 units"),
        (0.0, None, "0 units"),
        (0.0, 1.0, "0 mm"),
        (2.0, 0.5, "1.00 m"),
        (0.9996, 1.0, "1.00 m"),
        (0.99, 1.0, "99.0 cm"),
        (0.01, 1.0, "1.00 cm"),
        (0.0042, 1.0, "4.20 mm"),
        (123.4, 1.0, "123 m"),
        (1234.5, 1.0, "1.23 km"),
    ],
)
def test_lengths_are_said_in_three_digits(units: float, metres_per_unit: float | None, text: str) -> None:
    assert length_text(units, metres_per_unit) == text


@given(st.floats(1e-5, 1e6), st.floats(1e-3, 1e3))
def test_what_is_said_is_the_length_to_half_a_percent(units: float, metres_per_unit: float) -> None:
    number, _, unit = length_text(units, metres_per_unit).partition(" ")
    metres = float(number.replace(",", "")) * {"km": 1e3, "m": 1.0, "cm": 1e-2, "mm": 1e-3}[unit]
    assert metres == pytest.approx(units * metres_per_unit, rel=0.005)


def test_a_measure_has_a_length_and_a_middle() -> None:
    measure = Measure((1.0, 2.0, 3.0), (1.0, 5.0, 7.0))
    assert measure.length == 5.0
    assert measure.middle == (1.0, 3.5, 5.0)


def label(client: ViewerClient, text: str) -> None:
    client.wait(lambda m: m.kind == "LabelMessage" and m.values["props"]["text"] == text)


def test_two_points_are_a_measure_that_is_drawn_and_can_be_removed(tmp_path: Path) -> None:
    with browsed(Ball(), tmp_path, source_from_world=LARGER) as (viewer, client):
        panel = MeasurePanel(viewer)
        points = iter([(0.0, 0.0, 0.0), (0.0, 0.0, 1.5), (1.0, 0.0, 0.0), (2.0, 0.0, 0.0)])
        viewer.pick = lambda client, then, prompt: then(next(points))  # type: ignore[method-assign]
        client.press("Measure")
        label(client, "3.00 units")
        client.press("Measure")
        label(client, "2.00 units")
        assert panel.measures == [Measure((0, 0, 0), (0, 0, 1.5)), Measure((1, 0, 0), (2, 0, 0))]
        line = client.wait(lambda m: m.kind == "LineSegmentsMessage" and m.values["name"] == "/measures/1/line")
        assert line.values["props"]["thickness_units"] == "screen"
        wait_until(lambda: panel.chosen.value == "2: 2.00 units")
        client.set("Measured", "1: 3.00 units")
        wait_until(lambda: panel.chosen.value == "1: 3.00 units")
        client.set("Remove", "This")
        wait_until(lambda: panel.measures == [Measure((1, 0, 0), (2, 0, 0))])
        client.set("Remove", "All")
        wait_until(lambda: panel.measures == [])
        assert panel.set_scale.disabled  # there is no editor


def test_what_is_measured_sets_the_scale_in_units_of_the_capture(tmp_path: Path) -> None:
    editor = Scale()
    with browsed(Ball(), tmp_path, editor=editor, source_from_world=LARGER) as (viewer, client):
        panel = MeasurePanel(viewer)
        client.press("Set the scale by it")
        assert "Measure something first" in error_in(client)
        panel.add(Measure((0, 0, 0), (0, 0, 1.5)))  # 3 units of the capture
        panel.add(Measure((0, 0, 0), (3.0, 0, 0)))
        client.set("Measured", "1: 3.00 units")
        client.set("It is, m", 0.6)
        wait_until(lambda: panel.chosen.value == "1: 3.00 units" and panel.metres.value == 0.6)
        client.press("Set the scale by it")
        label(client, "60.0 cm")
        label(client, "1.20 m")
        assert editor.scale == pytest.approx(0.2)
        assert panel.state.content == "1 unit of the capture is 20.0 cm. Exports are in metres."
        editor.scale = 1.0  # undone, which the Edit tab tells the viewer
        viewer.refresh()
        assert panel.text(panel.measures[0]) == "3.00 units"
        assert "units of the capture" in panel.state.content
        viewer.run(lambda: viewer.show(Ball(), None, "other", torch.eye(4))).result(PATIENCE)
        assert panel.measures == []
        assert panel.set_scale.disabled
