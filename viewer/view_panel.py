"""The View tab of one browser: what is drawn, how, and by whom."""

from __future__ import annotations

import dataclasses
import math
import threading
from typing import Any

import numpy as np

from recon.viewer import channel
from recon.viewer.browser import Browser, Compare, Way, Wishes
from recon.viewer.callbacks import with_choice
from recon.viewer.look import ColourMap, Look, Mode, Vector
from recon.viewer.viewer import Viewer

MODES: dict[str, Mode] = {
    "Colour": "rgb",
    "Depth": "depth",
    "Normals": "normals",
    "Opacity": "alpha",
    "Ellipsoids": "ellipsoids",
    "Points": "points",
}
WAYS: dict[str, Way] = {"Automatic": "auto", "By recon": "server", "By this browser": "client"}
COLOUR_MAPS: tuple[ColourMap, ...] = ("viridis", "turbo", "inferno", "grey")
NAVIGATION = {"Orbit": "orbit", "First person": "first-person"}
UPS: dict[str, Vector] = {
    "+z": (0, 0, 1),
    "-z": (0, 0, -1),
    "+y": (0, 1, 0),
    "-y": (0, -1, 0),
    "+x": (1, 0, 0),
    "-x": (-1, 0, 0),
}
OFF = "Off"


class ViewPanel:
    """What one browser can ask for; others do not notice. One is made for each browser that comes."""

    def __init__(self, viewer: Viewer, browser: Browser) -> None:
        self._viewer, self._browser = viewer, browser
        self._lock = threading.RLock()  # setting an element's value calls us again
        self._hears = False  # while the page says how its user moves
        gui = browser.client.gui
        with viewer.tab("View"):
            self.mode = gui.add_dropdown("Show", tuple(MODES))
            self.way = gui.add_dropdown(
                "Drawn", tuple(WAYS), hint="By recon: all of it. By this browser: smoother where it has a GPU."
            )
            self.state = gui.add_markdown(browser.stated)
            with gui.add_folder("Picture", expand_by_default=False):
                self.resolution = gui.add_slider("Resolution", 0.25, 1.0, 0.05, 1.0)
                self.adaptive = gui.add_checkbox("Smaller while moving", True, hint="Where that is needed to follow.")
                self.size = gui.add_slider("Size of splats", 0.05, 3.0, 0.05, 1.0)
                degree = viewer.subject.sh_degree
                self.degree: Any = gui.add_slider("SH degree", 0, max(degree, 1), 1, degree, disabled=degree == 0)
                self.own_background = gui.add_checkbox("Other background", False)
                self.background = gui.add_rgb("Background", (128, 128, 128), disabled=True)
                self.near = gui.add_number("Near", 0.01, min=0.001, step=0.01)
                self.far = gui.add_number("Far", 1000.0, min=0.01, step=1.0)
            with gui.add_folder("Depth", expand_by_default=False):
                self.colour_map = gui.add_dropdown("Colours", COLOUR_MAPS)
                self.own_range = gui.add_checkbox("Fixed range", False)
                self.range = gui.add_vector2("From, to", (0.5, 3.0), min=(0.001, 0.001), step=0.05, disabled=True)
            self._add_comparison(gui)
            self._add_navigation(gui)
        picture: list[Any] = [self.resolution, self.adaptive, self.size, self.degree, self.own_background]
        picture += [self.background, self.near, self.far]
        for handle in (self.mode, self.way, *picture, self.colour_map, self.own_range, self.range):
            handle.on_update(self._changed)
        browser.on_stated, browser.on_show = self._state, self._begin
        browser.on_navigation = self._navigated
        self._navigate(None)
        self._changed(None)

    def _add_comparison(self, gui: Any) -> None:
        comparison = self._viewer.comparison
        self.beside: Any = None
        self.how: Any = None
        if comparison is None or not comparison.names:
            return
        with gui.add_folder("Beside a photo", expand_by_default=False) as self.beside:
            self.how = gui.add_dropdown("Compare", (OFF, "Wipe", "Error"))
            self.photo: Any = gui.add_dropdown("Photo", tuple(comparison.names))
            self.wipe: Any = gui.add_slider("Photo up to", 0.0, 1.0, 0.01, 0.5)
        for handle in (self.how, self.photo, self.wipe):
            handle.on_update(self._changed)

    def _add_navigation(self, gui: Any) -> None:
        viewer, client = self._viewer, self._browser.client
        with gui.add_folder("Moving"):
            self.navigation = gui.add_dropdown("Mode", tuple(NAVIGATION))
            self.speed = gui.add_slider("Speed", 0.05, 5.0, 0.05, 1.0)
            self.fov: Any = gui.add_slider("Field of view", 10.0, 120.0, 1.0, round(math.degrees(viewer.fov)))
            up = next((name for name, way in UPS.items() if way == viewer.up), None)
            self.up = gui.add_dropdown("Up", tuple(UPS), initial_value=up)
            buttons = gui.add_button_group("Go", ("Start", "Look at…", "Help"))
        self.navigation.on_update(self._navigate)
        self.speed.on_update(self._navigate)

        @self.fov.on_update
        def _(event: Any) -> None:
            client.camera.fov = math.radians(self.fov.value)

        @self.up.on_update
        def _(event: Any) -> None:
            viewer.up = UPS[self.up.value]
            self._navigate(event)

        def go(event: Any, where: str) -> None:
            del event
            if where == "Start":
                viewer.go_to_start(client)
            elif where == "Help":
                channel.call(client, "help")
            else:
                viewer.pick(client, self._look_at, "Click on what to look at.")

        buttons.on_click(with_choice(viewer, go))

    def _begin(self) -> None:
        """Something else is shown now, which has no photos, and its own harmonics."""
        if self.beside is not None:
            self.beside.visible, self.how = False, None
        degree = self._viewer.subject.sh_degree
        self.degree.max, self.degree.disabled = max(degree, 1), degree == 0
        self.degree.value = degree
        self.fov.value = round(math.degrees(self._viewer.fov))

    def _state(self, text: str) -> None:
        self.state.content = text

    def _look_at(self, point: Vector) -> None:
        self._browser.client.camera.look_at = np.array(point, np.float64)

    def _navigate(self, event: Any) -> None:
        del event
        if self._hears:
            return
        channel.call(
            self._browser.client,
            "navigation",
            mode=NAVIGATION[self.navigation.value],
            speed=self.speed.value,
            up=list(self._viewer.up),
        )

    def _navigated(self, mode: str, speed: float) -> None:
        """Show what was changed in the page, by keys, wheel or gamepad, without telling it to the page again."""
        self._hears = True
        try:
            self.navigation.value = next(name for name, value in NAVIGATION.items() if value == mode)
            self.speed.value = min(max(speed, self.speed.min), self.speed.max)
        finally:
            self._hears = False

    def _changed(self, event: Any) -> None:
        """All of what is wanted, from the elements; they are few."""
        del event
        with self._lock:  # or an older answer of theirs may come after a newer one
            self._browser.want(self._wanted())
        self._viewer.queue.wake()

    def _wanted(self) -> Wishes:
        self.background.disabled = not self.own_background.value
        self.range.disabled = not self.own_range.value
        near, far = self.range.value
        red, green, blue = self.background.value
        look = Look(
            mode=MODES[self.mode.value],
            background=(red / 255, green / 255, blue / 255) if self.own_background.value else None,
            sh_degree=int(self.degree.value),
            near=self.near.value,
            far=max(self.far.value, self.near.value * 1.001),
            size=self.size.value,
            colour_map=self.colour_map.value,
            depth_range=(near, max(far, near * 1.001)) if self.own_range.value else None,
        )
        compare = None
        how, comparison = self.how, self._viewer.comparison
        if how is not None and comparison is not None and how.value != OFF:
            index = comparison.names.index(self.photo.value)
            compare = Compare(index, "wipe" if how.value == "Wipe" else "error", self.wipe.value)
        return dataclasses.replace(
            self._browser.wishes,
            look=look,
            way=WAYS[self.way.value],
            resolution=self.resolution.value,
            adaptive=self.adaptive.value,
            compare=compare,
        )
