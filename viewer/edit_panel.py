"""The Edit tab: select splats by shapes in the scene, a brush or what they are like, and delete them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from recon.viewer.callbacks import with_choice
from recon.viewer.crop_panel import CropPanel
from recon.viewer.gizmos import BoxGizmo, SphereGizmo
from recon.viewer.look import Fainter, Farther, Floaters, How, Larger, Shape, Sphere, Vector
from recon.viewer.subject import Editor
from recon.viewer.viewer import Viewer

OFF, BOX, SPHERE, BRUSH, FAINT, LARGE, FAR, FLOATERS = TOOLS = (
    "Off",
    "Box",
    "Sphere",
    "Brush",
    "Faint splats",
    "Large splats",
    "Far splats",
    "Floaters",
)
KEYS = {"Delete": "Delete", "Control+z": "Undo", "Control+Shift+z": "Redo", "Control+y": "Redo"}
HOWS: dict[str, How] = {"Add": "add", "Subtract": "subtract", "Replace": "replace"}
ORANGE = (255, 140, 20)


class EditPanel:
    """What is selected, deleted and cropped is the same for all browsers, and so is this tab.

    While a tool is in hand, what it would select is shown as if it were selected.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._asked = False  # a preview is under way that will see the newest values
        self._shown = False  # a preview is what is seen
        self._lock = threading.RLock()
        gui, scene = viewer.server.gui, viewer.server.scene
        self._box, self._ball = BoxGizmo(scene, "/edit/box", ORANGE), SphereGizmo(scene, "/edit/sphere", ORANGE)
        with viewer.tab("Edit"):
            self.state = gui.add_markdown("")
            self.tool: Any = gui.add_dropdown("Select by", TOOLS)
            self.size: Any = gui.add_vector3("Size", (0.5, 0.5, 0.5), min=(0.001,) * 3, step=0.01)
            self.radius: Any = gui.add_slider("Radius", 0.01, 3.0, 0.01, 0.3)
            self.brush_radius: Any = gui.add_slider("Radius, px", 2, 200, 1, 25)
            self.opacity: Any = gui.add_slider("Opacity below", 0.0, 1.0, 0.01, 0.05)
            self.scale: Any = gui.add_slider("Size above", 0.005, 1.0, 0.005, 0.1)
            self.distance: Any = gui.add_slider("Distance above", 0.1, 20.0, 0.1, 3.0)
            self.strength: Any = gui.add_slider("Strength", 0.0, 1.0, 0.02, 0.5)
            self.centre = gui.add_button("Pick the centre", hint="Click on a surface; or drag the arrows.")
            self.paint = gui.add_button("Paint")
            self.how: Any = gui.add_dropdown("To the selection", tuple(HOWS))
            self.select = gui.add_button("Select")
            self.selection: Any = gui.add_button_group("Selection", ("Invert", "Clear"))
            self.delete = gui.add_button("Delete", color="red", hint="What is orange; the key Delete does the same.")
            self.steps: Any = gui.add_button_group("Steps", ("Undo", "Redo"), hint="Ctrl+Z, Ctrl+Shift+Z")
        self._of_tool: dict[str, list[Any]] = {
            BOX: [self.size, self.centre],
            SPHERE: [self.radius, self.centre],
            BRUSH: [self.brush_radius, self.paint],
            FAINT: [self.opacity],
            LARGE: [self.scale],
            FAR: [self.distance, self.centre],
            FLOATERS: [self.strength],
        }
        self._listen()
        self.crop = CropPanel(viewer, self._cropped)
        self._show_tool()
        viewer.on_show(self._begin)
        viewer.run(self._report)

    @property
    def _editor(self) -> Editor:
        editor = self._viewer.editor
        assert editor is not None, "what is shown cannot be edited"
        return editor

    # What the elements do

    def _listen(self) -> None:
        values = (self.size, self.radius, self.opacity, self.scale, self.distance, self.strength, self.how)
        for handle in values:
            handle.on_update(self._preview)
        self.brush_radius.on_update(self._resize_brush)
        self._box.on_move(self._preview)
        self._ball.on_move(self._preview)
        self.tool.on_update(self._take_tool)
        self.centre.on_click(self._pick_centre)
        self.paint.on_click(lambda event: self._take_brush(event.client, self.brush_radius.value))
        jobs: dict[str, Callable[[], object]] = {
            "Invert": lambda: self._editor.invert(self._viewer.crop),
            "Clear": lambda: self._editor.clear(),
            "Undo": lambda: self._editor.undo(),
            "Redo": lambda: self._editor.redo(),
            "Delete": self._delete,
        }
        self.select.on_click(lambda _: self._edit(self._select))
        self.delete.on_click(lambda _: self._edit(jobs["Delete"]))
        for group in (self.selection, self.steps):
            group.on_click(with_choice(self._viewer, lambda _, label: self._edit(jobs[label])))
        for key, job in KEYS.items():
            self._viewer.on_key(key, functools.partial(self._pressed, jobs[job]))

    def _pressed(self, job: Callable[[], object], client: Any) -> None:
        del client
        self._edit(job)

    def _pick_centre(self, event: Any) -> None:
        self._viewer.pick(event.client, self._put, "Click on the centre.")

    def _take_tool(self, event: Any) -> None:
        if self.tool.value == FLOATERS:
            self.state.content = "Looking for floaters…"  # which takes seconds for a million splats
        if event.client is not None:
            self._take_brush(event.client, self.brush_radius.value if self.tool.value == BRUSH else None)
        self._preview(event)

    def _resize_brush(self, event: Any) -> None:
        if event.client is not None and self.tool.value == BRUSH:
            self._take_brush(event.client, self.brush_radius.value)

    def _take_brush(self, client: Any, radius: float | None) -> None:
        self._viewer.brush(client, radius, lambda stroke: self._edit(lambda: self._select(stroke)))

    def _cropped(self) -> None:
        if self._shown:
            self._preview(None)

    def _put(self, point: Vector) -> None:
        """Move the shape of the tool in hand to a point."""
        for gizmo in (self._box, self._ball):
            gizmo.centre = point
        self._preview(None)

    def _show_tool(self) -> None:
        tool = self.tool.value
        of_tool = self._of_tool.get(tool, [])
        for handles in self._of_tool.values():
            for handle in handles:
                handle.visible = handle in of_tool
        self.how.visible = tool != OFF
        self.select.visible = tool not in (OFF, BRUSH)
        self._box.visible = tool == BOX
        self._ball.visible = tool in (SPHERE, FAR)
        self._box.size = self.size.value
        self._ball.radius = self.distance.value if tool == FAR else self.radius.value

    def shape(self) -> Shape | None:
        """What the tool in hand means now; None for the brush, which means nothing before it is used."""
        match self.tool.value:
            case "Box":
                return self._box.box
            case "Sphere":
                return Sphere(self._ball.centre, self.radius.value)
            case "Faint splats":
                return Fainter(self.opacity.value)
            case "Large splats":
                return Larger(self.scale.value)
            case "Far splats":
                return Farther(self._ball.centre, self.distance.value)
            case "Floaters":
                return Floaters(self.strength.value)
        return None

    # Jobs of the thread that renders

    def _begin(self) -> None:
        """Something else is shown now, which nobody has touched."""
        self.tool.value, self._shown = OFF, False
        self._report()

    def _edit(self, job: Callable[[], object]) -> None:
        def edit() -> None:
            job()
            self._shown = False
            self._report()
            self._viewer.refresh()

        self._viewer.run(edit)

    def _select(self, shape: Shape | None = None) -> None:
        shape = shape or self.shape()
        if shape is not None:
            self._editor.select(shape, HOWS[self.how.value], self._viewer.crop)

    def _delete(self) -> None:
        if self._shown:  # what is orange is meant
            self._select()
        self._editor.delete()

    def _preview(self, event: Any) -> None:
        del event
        with self._lock:  # or what an older choice shows may come after what a newer one does
            self._show_tool()
            if self._asked:
                return
            self._asked = True
        self._viewer.run(self._preview_now)

    def _preview_now(self) -> None:
        with self._lock:
            self._asked = False
        shape, had = self.shape(), self._shown
        count = self._editor.preview(shape, HOWS[self.how.value], self._viewer.crop)
        self._shown = shape is not None
        self._report(count if self._shown else None)
        if had or self._shown:
            self._viewer.refresh()

    def _report(self, previewed: int | None = None) -> None:
        editor, total = self._editor, self._viewer.subject.count
        text = f"{editor.selected:,} of {total:,} splats selected."
        if previewed is not None:
            text = f"{text} *Select* makes that **{previewed:,}**."
        if editor.deleted:
            text = f"{text} {editor.deleted:,} deleted."
        self.state.content = text
