"""The Photos tab: where the photos were taken, each as a small pyramid that brings one there."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.datasets.scene import Scene, View
from recon.viewer.poses import fov_of, wxyz_of
from recon.viewer.viewer import Viewer

MOST = 200  # pyramids; of more photos, as many evenly spread
THUMBNAIL = 96  # px
TRAIN, TEST = (60, 130, 220), (235, 140, 40)
SPLITS = ("All", "Trained on", "Held out", "None")


class CamerasPanel:
    """Pyramids for the photos of `viewer.scene`, shared by all browsers."""

    def __init__(self, viewer: Viewer, scene: Scene) -> None:
        self._viewer, self._scene = viewer, scene
        test = set(scene.test)
        every = -(-len(scene.views) // MOST)
        shown = [i for i in range(len(scene.views)) if i % every == 0 or (i in test and every < 8)]
        gui = viewer.server.gui
        with viewer.tab("Photos"):
            self.split = gui.add_dropdown("Show", SPLITS)
            self.size = gui.add_slider("Size", 0.02, 0.5, 0.01, 0.08)
            self.photo: Any = gui.add_dropdown("Photo", tuple(view.name for view in scene.views))
            self.go = gui.add_button("Go there")
            gui.add_markdown("Click on a pyramid to see what its photo shows. Blue: trained on. Orange: held out.")
        self._frusta: dict[int, Any] = {i: self._frustum(i, i in test) for i in shown}
        self.split.on_update(self._show)
        self.size.on_update(self._show)

        @self.go.on_click
        def _(event: Any) -> None:
            view = next(view for view in scene.views if view.name == self.photo.value)
            viewer.go(event.client, view.camera)

        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._load_thumbnails, name="thumbnails", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

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
        )

        @frustum.on_click
        def _(event: Any) -> None:
            self.photo.value = view.name
            self._viewer.go(event.client, view.camera)

        return frustum

    def _show(self, event: Any) -> None:
        del event
        test = set(self._scene.test)
        for index, frustum in self._frusta.items():
            wanted = {"All": True, "None": False, "Held out": index in test, "Trained on": index not in test}
            frustum.visible = wanted[self.split.value]
            frustum.scale = self.size.value

    def _load_thumbnails(self) -> None:
        for index, frustum in self._frusta.items():
            if self._stop.is_set():
                return
            try:
                frustum.image = thumbnail(self._scene.views[index])
            except Exception:  # a picture that cannot be read is told of where it is needed
                continue
            self._stop.wait(0.02)  # the cores have better things to do


def thumbnail(view: View) -> NDArray[np.uint8]:
    """The photo of a view [h,w,3], no side longer than `THUMBNAIL`."""
    from PIL import Image

    pixels = (view.load()[..., :3].clamp(0, 1) * 255).byte().numpy()
    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(picture)
