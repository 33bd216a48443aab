"""The crop box: outside of it nothing is drawn, selected or saved."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from recon.viewer.gizmos import BoxGizmo
from recon.viewer.look import Box, Look
from recon.viewer.viewer import Viewer

BLUE = (60, 130, 220)
SAMPLE = 20_000  # splats that tell how large the scene is
OUTSIDE = 0.02  # the share of them, at each side, that its box leaves out


class CropPanel:
    """One box for all browsers, in the Edit tab."""

    def __init__(self, viewer: Viewer, then: Callable[[], None] = lambda: None) -> None:
        """
        Args:
            then: called after the box has changed.
        """
        self._viewer, self._then = viewer, then
        self._lock = threading.RLock()
        self._gizmo = BoxGizmo(viewer.server.scene, "/edit/crop", BLUE)
        gui = viewer.server.gui
        with viewer.tab("Edit"), gui.add_folder("Crop", expand_by_default=False):
            self.on: Any = gui.add_checkbox("Only what is in a box", False, hint="Also in files that are saved.")
            self.size: Any = gui.add_vector3("Size of the box", (2.0, 2.0, 2.0), min=(0.001,) * 3, step=0.01)
            self.shown: Any = gui.add_checkbox("Show the box", True)
            self.fit = gui.add_button("Fit to the scene")
        for handle in (self.on, self.size, self.shown):
            handle.on_update(self._changed)
        self._gizmo.on_move(self._changed)
        self.fit.on_click(self._ask_to_fit)
        viewer.on_show(self._begin)

    def _changed(self, event: Any) -> None:
        del event
        with self._lock:  # or an older answer of the elements may come after a newer one
            self._gizmo.size = self.size.value
            self._gizmo.visible = self.on.value and self.shown.value
            wanted = self._gizmo.box if self.on.value else None
            changed = wanted != self._viewer.crop
            if changed:
                self._viewer.crop = wanted
        if changed:
            self._then()

    def _ask_to_fit(self, event: Any) -> None:
        del event
        self._viewer.run(self._fit)

    # Jobs of the thread that renders

    def _begin(self) -> None:
        """Something else is shown now."""
        self.on.value = False

    def _fit(self) -> None:
        """Put the box around nearly all of the scene."""
        splats = self._viewer.subject.splats(SAMPLE, Look())
        if splats is None or len(splats.centres) == 0:
            return
        low, high = np.quantile(splats.centres, [OUTSIDE, 1 - OUTSIDE], axis=0)
        centre, size = ((low + high) / 2).tolist(), np.maximum(1.2 * (high - low), 0.01).tolist()
        self._gizmo.place(Box((centre[0], centre[1], centre[2]), (size[0], size[1], size[2])))
        self.size.value = tuple(size)
        self._changed(None)
