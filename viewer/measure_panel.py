"""The Measure tab: distances between points of surfaces, and what they are in metres."""

from __future__ import annotations

import functools
import math
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from recon.datasets.cameras import similarity_scale
from recon.viewer.callbacks import chosen_in, told, with_choice
from recon.viewer.look import Vector
from recon.viewer.viewer import Viewer

if TYPE_CHECKING:
    import viser

NODE = "/measures"  # in the scene
NONE = "–"  # in a list that has nothing
COLOUR = (90, 220, 160)
DOT = 0.006  # world units
LONGEST = 1e6  # metres that something may be


class Measure(NamedTuple):
    """A distance between two points of the world."""

    start: Vector
    end: Vector

    @property
    def length(self) -> float:
        """World units."""
        return math.dist(self.start, self.end)

    @property
    def middle(self) -> Vector:
        x, y, z = ((a + b) / 2 for a, b in zip(self.start, self.end, strict=True))
        return x, y, z


def length_text(units: float, metres_per_unit: float | None) -> str:
    """A length for people, three digits of it: in metric units, or, where nobody has said how long one is, in the
    capture's own."""
    if metres_per_unit is None:
        return f"{_digits(units)} units"
    metres = units * metres_per_unit
    for name, metres_each in (("km", 1000.0), ("m", 1.0), ("cm", 0.01)):
        if metres >= metres_each * (1 - 5e-4):
            return f"{_digits(metres / metres_each)} {name}"
    return f"{_digits(metres * 1000)} mm"


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value <= 0:
        return "0"
    value = value if value >= 1000 else float(f"{value:.3g}")  # 9.996 is 10.0, not 10.00
    return f"{value:,.{min(max(0, 2 - math.floor(math.log10(value))), 9)}f}"


class MeasurePanel:
    """Measures that all browsers share; `measures` are they."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._lock = threading.RLock()  # points come from the thread that renders, clicks from others
        self._scale: float | None = None  # that was set here; metres are those of this scale alone
        self._shown: float | None = None  # metres per unit that the texts are of
        self.measures: list[Measure] = []
        gui = viewer.server.gui
        with viewer.tab("Measure"):
            self.begin = gui.add_button("Measure", hint="Click on two points of the scene.")
            self.chosen: Any = gui.add_dropdown("Measured", (NONE,))
            self.remove = gui.add_button_group("Remove", ("This", "All"))
            self.metres: Any = gui.add_number("It is, m", 1.0, min=0.0, max=LONGEST, step=0.01)
            self.set_scale = gui.add_button("Set the scale by it", disabled=viewer.editor is None)
            self.state = gui.add_markdown("")
        self.begin.on_click(told(viewer, lambda event: self._pick(event.client)))
        self.remove.on_click(with_choice(viewer, self._remove))
        self.set_scale.on_click(told(viewer, self._set_scale))
        self.chosen.on_update(told(viewer, lambda _: self.show()))
        viewer.on_show(self._forget)
        viewer.on_change(self._check)
        self.show()

    @property
    def metres_per_unit(self) -> float | None:
        """How long a unit of the capture is; None where nobody has said so, or that was undone."""
        editor = self._viewer.editor
        if editor is None or self._scale is None or not math.isclose(editor.scale, self._scale, rel_tol=1e-9):
            return None
        return self._scale

    def text(self, measure: Measure) -> str:
        return length_text(self._units(measure), self.metres_per_unit)

    def _units(self, measure: Measure) -> float:
        """A length in units of the capture's files."""
        return measure.length * float(similarity_scale(self._viewer.source_from_world))

    def add(self, measure: Measure) -> None:
        with self._lock:
            self.measures.append(measure)
            self._list(len(self.measures) - 1)

    def show(self) -> None:
        """Draw all measures anew."""
        with self._lock:
            chosen, self._shown = self._chosen(), self.metres_per_unit
            self.state.content = (
                "Lengths are in units of the capture's own files."
                if self.metres_per_unit is None
                else f"1 unit of the capture is {length_text(1.0, self.metres_per_unit)}. Exports are in metres."
            )
            scene = self._viewer.server.scene
            scene.remove_by_name(NODE)
            for number, measure in enumerate(self.measures):
                colour = (255, 220, 80) if number == chosen else COLOUR
                ends = np.array([measure], np.float32)
                node = f"{NODE}/{number}"
                scene.add_line_segments(f"{node}/line", ends, colour, thickness=2.5, thickness_units="screen")
                for name, point in (("start", measure.start), ("end", measure.end)):
                    scene.add_icosphere(
                        f"{node}/{name}", DOT, colour, subdivisions=2, position=point, cast_shadow=False
                    )
                scene.add_label(f"{node}/label", self.text(measure), position=measure.middle, anchor="bottom-center")

    def _chosen(self) -> int:
        """The number of the measure that is chosen in the list; -1 where there is none."""
        return chosen_in(self.chosen) if self.measures else -1

    def _list(self, chosen: int) -> None:
        names = tuple(f"{number}: {self.text(measure)}" for number, measure in enumerate(self.measures, 1))
        self.chosen.options = names or (NONE,)
        if names:
            self.chosen.value = names[min(max(chosen, 0), len(names) - 1)]
        self.show()

    def _pick(self, client: viser.ClientHandle) -> None:
        def first(start: Vector) -> None:
            self._viewer.pick(client, lambda end: self.add(Measure(start, end)), "Click on the second point.")

        self._viewer.pick(client, first, "Click on the first point.")

    def _remove(self, event: Any, which: str) -> None:
        del event
        with self._lock:
            chosen = self._chosen()
            if which == "All":
                self.measures.clear()
            elif chosen >= 0:
                del self.measures[chosen]
            self._list(chosen)

    def _check(self) -> None:
        """The scale may have been undone, or done again."""
        if self.metres_per_unit != self._shown:
            with self._lock:
                self._list(self._chosen())

    def _forget(self) -> None:
        with self._lock:
            self.measures.clear()
            self._scale = None
            self.set_scale.disabled = self._viewer.editor is None
            self._list(-1)

    def _set_scale(self, event: Any) -> None:
        editor, chosen, metres, client = self._viewer.editor, self._chosen(), self.metres.value, event.client
        length = self._units(self.measures[chosen]) if chosen >= 0 else 0.0
        if editor is None or not 0 < metres <= LONGEST or length <= 0:
            raise ValueError("Measure something first, and say how long it is, in metres.")
        scale = metres / length

        def then(future: Future[None]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is not None:
                self._viewer.tell(client, f"The scale could not be set: {error}", error=True)
                return
            with self._lock:
                self._scale = scale
                self._list(chosen)

        self._viewer.run(functools.partial(editor.set_scale, scale)).add_done_callback(then)
