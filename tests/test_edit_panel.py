"""The Edit tab on a real server, whose elements a browser that has no picture sets, and real splats."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from recon.subject import SplatSubject
from recon.viewer.edit_panel import EditPanel
from recon.viewer.gizmos import EDGES
from recon.viewer.look import Box, Fainter, Farther, Floaters, Larger, Look, Shape, Sphere
from recon.viewer.viewer import Viewer
from serving import PATIENCE, drawn, wait_until
from sources import SCRIPTS

if not SCRIPTS:
    pytest.skip("the client that speaks to the viewer is in scripts/", allow_module_level=True)

from _viewer_client import PICTURE, ViewerClient, decoded

COUNT = 400


@dataclass
class Desk:
    """A panel, the browser in which it is seen, and the splats; their like is asked what a shape means."""

    viewer: Viewer
    panel: EditPanel
    client: ViewerClient
    subject: SplatSubject

    def state(self) -> tuple[int, int]:
        """How many are selected and deleted, once all that was asked for is done."""
        return self.viewer.run(lambda: (self.subject.selected, self.subject.deleted)).result(PATIENCE)

    def wait(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, "what the panel should show")

    def calls(self) -> list[str]:
        """What the page was told to do with its brush."""
        sources = [m.values["source"] for m in list(self.client.received) if m.kind == "RunJavascriptMessage"]
        return [source.removeprefix("window.recon?.") for source in sources if "brush" in source]

    def says(self, text: str) -> None:
        self.wait(lambda: text in self.panel.state.content)


def meant(shape: Shape, crop: Box | None = None) -> int:
    return SplatSubject(tiny.gaussians(COUNT)).select(shape, crop=crop)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    subject = SplatSubject(tiny.gaussians(COUNT))
    viewer = Viewer(subject, folder=tmp_path, name="test", editor=subject, port=0)
    panel = EditPanel(viewer)
    with drawn(viewer), ViewerClient(viewer.port, 160, 120) as client:
        client.look((3, 0, 0.8), (0, 0, 0))
        client.picture()
        yield Desk(viewer, panel, client, subject)


def test_every_tool_selects_what_it_shows(desk: Desk) -> None:
    tools: list[tuple[str, dict[str, Any], Shape]] = [
        ("Box", {"Size": [0.8, 0.9, 1.0]}, Box((0.0, 0.0, 0.0), (0.8, 0.9, 1.0))),
        ("Sphere", {"Radius": 0.6}, Sphere((0.0, 0.0, 0.0), 0.6)),
        ("Faint splats", {"Opacity below": 0.6}, Fainter(0.6)),
        ("Large splats", {"Size above": 0.2}, Larger(0.2)),
        ("Far splats", {"Distance above": 0.9}, Farther((0.0, 0.0, 0.0), 0.9)),
        ("Floaters", {"Strength": 0.9}, Floaters(0.9)),
    ]
    desk.client.set("To the selection", "Replace")
    for tool, values, shape in tools:
        desk.client.set("Select by", tool)
        for label, value in values.items():
            desk.client.set(label, value)
        count = meant(shape)
        assert 0 < count < COUNT
        desk.says(f"makes that **{count:,}**")
        desk.client.press("Select")
        desk.says(f"{count:,} of {COUNT:,} splats selected.")
        assert desk.state() == (count, 0)
        visible = [name for name, handles in desk.panel._of_tool.items() if handles[0].visible]
        assert visible == [tool]


def test_a_preview_is_seen_and_changes_nothing(desk: Desk) -> None:
    before = desk.client.picture(whole=True).astype(int)

    def change() -> float:
        """How much the newest picture differs from the first."""
        pictures = [message for message in desk.client.received if message.kind == PICTURE]
        return float(np.abs(decoded(pictures[-1]) - before).mean())

    desk.client.set("Select by", "Faint splats")
    desk.client.set("Opacity below", 0.9)
    desk.says(f"makes that **{meant(Fainter(0.9)):,}**")
    desk.wait(lambda: change() > 3)
    assert desk.state() == (0, 0)
    assert desk.subject.undoable == 0
    desk.client.set("Select by", "Off")
    desk.says(f"0 of {COUNT} splats selected.")
    desk.wait(lambda: change() < 1)


def test_delete_takes_what_is_orange_and_steps_go_back_and_forth(desk: Desk) -> None:
    count = meant(Fainter(0.5))
    desk.client.set("Select by", "Faint splats")
    desk.client.set("Opacity below", 0.5)
    desk.says(f"makes that **{count:,}**")
    desk.client.press("Delete")
    desk.wait(lambda: desk.state() == (0, count))
    desk.says(f"{count:,} deleted.")
    desk.client.set("Select by", "Off")
    desk.client.set("Steps", "Undo")
    desk.wait(lambda: desk.state() == (count, 0))
    desk.client.say("key", key="Control+z")
    desk.wait(lambda: desk.state() == (0, 0))
    desk.client.say("key", key="Control+Shift+z")
    desk.wait(lambda: desk.state() == (count, 0))
    desk.client.set("Selection", "Invert")
    desk.wait(lambda: desk.state() == (COUNT - count, 0))
    desk.client.say("key", key="Delete")
    desk.wait(lambda: desk.state() == (0, COUNT - count))
    desk.says(f"0 of {count:,} splats selected. {COUNT - count:,} deleted.")
    desk.client.set("Steps", "Undo")
    desk.wait(lambda: desk.state() == (COUNT - count, 0))
    desk.client.set("Selection", "Clear")
    desk.wait(lambda: desk.state() == (0, 0))


def test_a_brush_adds_stroke_by_stroke(desk: Desk) -> None:
    desk.client.set("Select by", "Brush")
    desk.wait(lambda: desk.calls()[-1:] == ['brush({"radius": 25})'])
    desk.client.say("brush", points=[[40.0, 60.0], [60.0, 60.0]], width=160.0, height=120.0)
    desk.wait(lambda: desk.state()[0] > 0)
    first = desk.state()[0]
    desk.client.say("brush", points=[[100.0, 60.0]], width=160.0, height=120.0)
    desk.wait(lambda: desk.state()[0] > first)
    assert desk.state()[0] < COUNT
    desk.client.say("key", key="Control+z")
    desk.wait(lambda: desk.state()[0] == first)
    desk.client.set("Select by", "Off")
    desk.wait(lambda: desk.calls()[-1] == 'brush({"radius": null})')


def test_the_brush_is_as_wide_as_the_slider_says(desk: Desk) -> None:
    def called(radius: float | None) -> None:
        source = f"window.recon?.brush({json.dumps({'radius': radius})})"
        desk.client.wait(lambda m: m.kind == "RunJavascriptMessage" and m.values["source"] == source)

    desk.client.set("Select by", "Brush")
    called(25)
    desk.client.set("Radius, px", 60)
    called(60)
    other = SplatSubject(tiny.gaussians(COUNT))
    desk.viewer.run(lambda: desk.viewer.show(other, other, "other", torch.eye(4))).result(10)
    called(None)


def test_a_shape_goes_where_the_user_puts_it(desk: Desk) -> None:
    desk.client.set("Select by", "Sphere")
    desk.says("makes that")
    desk.panel._put((0.3, 0.2, 0.1))
    count = meant(Sphere((0.3, 0.2, 0.1), 0.3))
    desk.says(f"makes that **{count:,}**")
    desk.client.send(
        "TransformControlsUpdateMessage", name="/edit/sphere", wxyz=[1.0, 0.0, 0.0, 0.0], position=[0.0, -0.2, 0.0]
    )
    count = meant(Sphere((0.0, -0.2, 0.0), 0.3))
    desk.says(f"makes that **{count:,}**")
    assert desk.panel.shape() == Sphere((0.0, -0.2, 0.0), 0.3)


def test_the_crop_box_is_everybody_s_and_bounds_what_is_selected(desk: Desk) -> None:
    assert desk.viewer.crop is None
    desk.client.set("Only what is in a box", True)
    desk.client.set("Size of the box", [0.7, 0.8, 0.9])
    box = Box((0.0, 0.0, 0.0), (0.7, 0.8, 0.9))
    desk.wait(lambda: desk.viewer.crop == box)
    desk.client.set("Select by", "Faint splats")
    desk.client.set("Opacity below", 0.7)
    count = meant(Fainter(0.7), box)
    assert 0 < count < meant(Fainter(0.7))
    desk.says(f"makes that **{count:,}**")
    desk.client.press("Fit to the scene")
    desk.wait(lambda: desk.viewer.crop not in (None, box))
    fitted = desk.viewer.crop
    assert fitted is not None
    inside = SplatSubject(tiny.gaussians(COUNT)).splats(COUNT, Look(crop=fitted))
    assert 0.9 * COUNT < len(inside.centres) < COUNT
    desk.client.set("Only what is in a box", False)
    desk.wait(lambda: desk.viewer.crop is None)


def test_another_scene_is_edited_from_the_beginning(desk: Desk) -> None:
    desk.client.set("Only what is in a box", True)
    desk.client.set("Select by", "Faint splats")
    desk.client.set("Opacity below", 0.9)
    desk.client.press("Select")
    desk.wait(lambda: desk.viewer.crop is not None and desk.subject.undoable == 1)
    other = SplatSubject(tiny.gaussians(77, seed=1))
    desk.viewer.run(lambda: desk.viewer.show(other, other, "other", torch.eye(4, dtype=torch.float64)))
    desk.says("0 of 77 splats selected.")
    desk.wait(lambda: desk.viewer.crop is None and desk.panel.tool.value == "Off" and not desk.panel.crop.on.value)
    desk.client.set("Selection", "Invert")
    desk.says("77 of 77 splats selected.")
    desk.client.say("key", key="Delete")
    desk.says("77 deleted.")
    assert desk.state() == (desk.subject.selected, 0)


def test_a_box_has_twelve_edges_of_its_length() -> None:
    assert EDGES.shape == (12, 2, 3)
    assert np.allclose(np.linalg.norm(EDGES[:, 0] - EDGES[:, 1], axis=1), 1)
    assert len({tuple(corner) for edge in EDGES.tolist() for corner in edge}) == 8
