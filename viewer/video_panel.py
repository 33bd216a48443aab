"""The camera path as a video: frames drawn one at a time between everything else, kept, and sent to the browser."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recon.datasets.cameras import Cameras
from recon.datasets.errors import InputError
from recon.viewer.callbacks import told
from recon.viewer.look import Look
from recon.viewer.names import file_in
from recon.viewer.path_panel import PathPanel
from recon.viewer.subject import Subject
from recon.viewer.viewer import Viewer

if TYPE_CHECKING:
    import viser

WriteVideo = Callable[[Iterable[NDArray[np.uint8]], Path, float], None]  # frames, file, frames per second

SIZES = {"640x360": (640, 360), "1280x720": (1280, 720), "1920x1080": (1920, 1080), "720x1280": (720, 1280)}
RATES = {"15": 15.0, "24": 24.0, "30": 30.0, "60": 60.0}
LOOKED_AT = 6  # frames, in so many times so many places, that tell the range of depths of a path
CUT = 0.02  # share of the depths at either end that does not count


class VideoPanel:
    """Renders the path of a `PathPanel` as a browser sees the scene at that time."""

    def __init__(self, viewer: Viewer, path: PathPanel, write_video: WriteVideo) -> None:
        self._viewer, self._path, self._write = viewer, path, write_video
        self._lock = threading.Lock()  # of two quick clicks, the second cancels
        self._cancelled: threading.Event | None = None
        gui = viewer.server.gui
        with viewer.tab("Path"), gui.add_folder("Video"):
            self.size = gui.add_dropdown("Video size", tuple(SIZES), initial_value="1280x720")
            self.rate = gui.add_dropdown("Frames per second", tuple(RATES), initial_value="30")
            self.name = gui.add_text("Video name", "video")
            self.render = gui.add_button("Render", hint="As the View tab shows the scene: in colour, as depth, ...")
            self.progress: Any = gui.add_progress_bar(0.0, visible=False)
        self.render.on_click(told(viewer, self._clicked))

    def _clicked(self, event: Any) -> None:
        with self._lock:
            self._begin_or_cancel(event)

    def _begin_or_cancel(self, event: Any) -> None:
        if self._cancelled is not None:
            self._cancelled.set()
            return
        file = file_in(self._viewer.folder / "videos", self.name.value, ".mp4")
        tour = self._path.tour
        if not len(tour):
            raise InputError("There is no path yet: add a view.")
        rate = RATES[self.rate.value]
        cameras = tour.cameras(*SIZES[self.size.value], rate)
        self._cancelled = threading.Event()
        self.render.label = "Cancel"
        self.progress.value, self.progress.visible = 0.0, True
        arguments = (event.client, cameras, self._viewer.look(event.client), file, rate, self._cancelled)
        threading.Thread(target=self._make, args=arguments, name="video", daemon=True).start()

    def _make(
        self,
        client: viser.ClientHandle,
        cameras: Cameras,
        look: Look,
        file: Path,
        rate: float,
        cancelled: threading.Event,
    ) -> None:
        viewer = self._viewer
        try:
            self._write(self._frames(cameras, look, cancelled), file, rate)
            viewer.tell(client, f"{len(cameras)} frames, {file.stat().st_size / 1e6:.1f} MB: {file}")
            client.send_file_download(file.name, file.read_bytes())
        except CancelledError:
            viewer.tell(client, "The video was cancelled.")
        except Exception as error:  # whatever it was, the user is told, and all goes on
            viewer.tell(client, f"The video could not be made: {error}", error=True)
        finally:
            with self._lock:
                self._cancelled = None
                self.render.label, self.progress.visible = "Render", False

    def _frames(self, cameras: Cameras, look: Look, cancelled: threading.Event) -> Iterator[NDArray[np.uint8]]:
        subject = self._viewer.subject  # to the end, whatever is shown by then
        if look.mode == "depth" and look.depth_range is None:  # one for all frames, or else colours would flicker
            look = dataclasses.replace(look, depth_range=self._depth_range(subject, cameras, look))
        for number in range(len(cameras)):
            if cancelled.is_set():
                raise CancelledError
            yield self._viewer.run(functools.partial(subject.draw, cameras[number], look)).result()
            self.progress.value = 100 * (number + 1) / len(cameras)

    def _depth_range(self, subject: Subject, cameras: Cameras, look: Look) -> tuple[float, float]:
        """Nearest and farthest depth that the path shows, by points of it here and there."""
        numbers = np.unique(np.linspace(0, len(cameras) - 1, LOOKED_AT).round().astype(int)).tolist()
        places = (np.arange(LOOKED_AT) + 0.5) / LOOKED_AT
        depths: list[float] = []

        def look_at(camera: Cameras) -> None:
            position, forward = camera.positions[0].numpy(), camera.forward[0].numpy()
            for x in places * camera.width:
                for y in places * camera.height:
                    point = subject.pick(camera, float(x), float(y), look)
                    if point is not None:
                        depths.append(float((np.array(point) - position) @ forward))

        for number in numbers:
            self._viewer.run(functools.partial(look_at, cameras[number])).result()
        if not depths:
            return 1.0, 2.0
        near, far = np.quantile(depths, [CUT, 1 - CUT])
        return max(float(near), 1e-6), max(float(far), float(near) * 1.001, 2e-6)
