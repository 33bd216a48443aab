"""The Photos tab: where the photos were taken, each as a small pyramid that brings one there."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.datasets.scene import Scene, View
from recon.viewer.poses import fov_of, pose_of, wxyz_of
from recon.viewer.viewer import Viewer

MOST = 200  # pyramids; of more photos, as many evenly spread
THUMBNAIL = 96  # px
TRAIN, TEST = (60, 130, 220), (235, 140, 40)
SPLITS = ("None", "All", "Trained on", "Held out")  # none at first: they are in the way of what they show


class CamerasPanel:
    """Pyramids for the photos of `viewer.scene`, shared by all browsers."""

    def __init__(self, viewer: Viewer, scene: Scene) -> None:
        self._viewer, self._scene = viewer, scene
        test = set(scene.test)
        every = -(-len(scene.views) // MOST)
        shown = [i for i in range(len(scene.views)) if i % every == 0 or (i in test and every < 8)]
        gui = viewer.server.gui
        with viewer.tab("Photos"):
            self.split = gui.add_dropdown("Pyramids", SPLITS)
            self.size = gui.add_slider("Size", 0.02, 0.5, 0.01, 0.08)
            self.photo: Any = gui.add_dropdown("Photo", tuple(view.name for view in scene.views))
            self.go = gui.add_button("Go there")
            self.note = gui.add_markdown(
                "Click on a pyramid to go where its photo was taken. Blue: trained on. Orange: held out."
            )
        self._frusta: dict[int, Any] = {i: self._frustum(i, i in test) for i in shown}
        self._places = np.stack([scene.views[i].camera.positions[0].double().numpy() for i in shown])
        self._test = np.array([i in test for i in shown])
        self.split.on_update(self._show)
        self.size.on_update(self._show)

        @self.go.on_click
        def _(event: Any) -> None:
            view = next(view for view in scene.views if view.name == self.photo.value)
            viewer.go(event.client, view.camera)

        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="photos", daemon=True)
        self._thread.start()
        viewer.at_end.callback(self._end)
        viewer.on_show(self._leave)

    def _end(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _leave(self) -> None:
        """Something else is shown now, which has no photos."""
        self._end()
        for frustum in self._frusta.values():
            frustum.remove()
        self._frusta.clear()
        for handle in (self.split, self.size, self.photo, self.go):
            handle.disabled = True
        self.note.content = "There are no photos of what is shown."

    def _frustum(self, index: int, test: bool) -> Any:
        view = self._scene.views[index]
        frustum = self._viewer.server.scene.add_camera_frustum(
            f"/photos/{index}",
            fov=fov_of(view.camera),
            aspect=view.camera.width / view.camera.height,
            scale=self.size.value,
            thickness=1.5,
            thickness_units="screen",
            color=TEST if test else TRAIN,
            wxyz=wxyz_of(view.camera),
            position=view.camera.positions[0].double().numpy(),
            cast_shadow=False,
            receive_shadow=False,
            visible=False,
        )

        @frustum.on_click
        def _(event: Any) -> None:
            self.photo.value = view.name
            self._viewer.go(event.client, view.camera)

        return frustum

    def _show(self, event: Any) -> None:
        del event
        for frustum in self._frusta.values():
            frustum.scale = self.size.value

    def _wanted(self) -> NDArray[np.bool_]:
        """Which pyramids [P] are shown: those of the split, but none that a browser looks from within."""
        every = np.ones_like(self._test)
        of_split = {"None": ~every, "All": every, "Held out": self._test, "Trained on": ~self._test}
        shown = of_split[self.split.value].copy()
        for browser in self._viewer.browsers():
            pose = pose_of(browser.client)
            if pose is not None:
                shown &= np.linalg.norm(self._places - pose.position, axis=1) > 2 * self.size.value
        return shown

    def _keep(self) -> None:
        """Load the thumbnails, one after the other; hide and show the pyramids as browsers move."""
        unread = list(self._frusta.items())
        while not self._stop.wait(0.02 if unread else 0.1):
            for frustum, shown in zip(self._frusta.values(), self._wanted().tolist(), strict=True):
                if frustum.visible != shown:
                    frustum.visible = shown
            if unread:
                index, frustum = unread.pop(0)
                # A picture that cannot be read is told of where it is needed.
                with contextlib.suppress(Exception):
                    frustum.image = thumbnail(self._scene.views[index])


def thumbnail(view: View) -> NDArray[np.uint8]:
    """The photo of a view [h,w,3], no side longer than `THUMBNAIL`."""
    from PIL import Image

    pixels = (view.load()[..., :3].clamp(0, 1) * 255).byte().numpy()
    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(picture)
