"""What users point at: surfaces that they click on, strokes of a brush, and keys that do something to the scene."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from recon.viewer import channel
from recon.viewer.look import Brush, Vector

if TYPE_CHECKING:
    import viser

    from recon.viewer.viewer import Viewer


class Pointing:
    """Of all browsers of a viewer."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._keys: dict[str, Callable[[viser.ClientHandle], None]] = {}
        self._picks: dict[int, Callable[[Any], None]] = {}
        self._brushes: dict[int, tuple[float, Callable[[Brush], None]]] = {}  # radius, and who gets the strokes
        self._lock = threading.Lock()
        channel.listen(viewer.server, "key", self._key)
        channel.listen(viewer.server, "brush", self._brushed)

    def on_key(self, key: str, then: Callable[[viser.ClientHandle], None]) -> None:
        """Call `then` when a key such as "Delete" or "Control+z" is pressed over the picture."""
        self._keys[key] = then

    def pick(self, client: viser.ClientHandle, then: Callable[[Vector], None], prompt: str) -> None:
        """Let the user of a browser click on a surface; `then` gets the point. A second call replaces the first."""
        self._forget_pick(client)
        self._await(client, then)
        self._viewer.tell(client, prompt)

    def _await(self, client: viser.ClientHandle, then: Callable[[Vector], None]) -> None:
        """Have the next click find a point, and the one after it if that finds none, unless another pick was begun."""
        viewer = self._viewer
        shown = viewer.subject

        def clicked(event: viser.SceneClickEvent) -> None:
            if not self._forget_pick(client, clicked):  # a second click came before the first was dealt with
                return
            camera, look = viewer.camera(client), viewer.look(client)
            x, y = event.screen_pos[0] * camera.width, event.screen_pos[1] * camera.height

            def found(future: Future[Vector | None]) -> None:
                if future.cancelled() or viewer.subject is not shown:
                    return
                point = None if future.exception() is not None else future.result()
                if point is not None:
                    then(point)
                elif client.client_id not in self._picks:
                    viewer.tell(client, "There is no surface there: click again.")
                    self._await(client, then)

            viewer.run(lambda: shown.pick(camera, x, y, look)).add_done_callback(found)

        with self._lock:
            if viewer.browser(client) is None:  # left in the meantime
                return
            self._picks[client.client_id] = clicked
        client.scene.on_click()(clicked)

    def _forget_pick(self, client: viser.ClientHandle, only: Callable[[Any], None] | None = None) -> bool:
        """Wait for a click no longer; with `only`, if it is that one's. Returns whether it was waited for."""
        with self._lock:
            clicked = self._picks.get(client.client_id)
            if clicked is None or (only is not None and clicked is not only):
                return False
            del self._picks[client.client_id]
        client.scene.remove_click_callback(clicked)
        return True

    def brush(self, client: viser.ClientHandle, radius: float | None, then: Callable[[Brush], None]) -> None:
        """Turn a browser's brush on, `radius` in px of its window, or off (None); `then` gets every stroke."""
        if radius is None:
            self._brushes.pop(client.client_id, None)
        else:
            self._brushes[client.client_id] = radius, then
        channel.call(client, "brush", radius=radius)

    def forget(self, client: viser.ClientHandle) -> None:
        """A browser has left."""
        with self._lock:
            self._picks.pop(client.client_id, None)
            self._brushes.pop(client.client_id, None)

    def stop(self, client: viser.ClientHandle) -> None:
        """What a browser was to click on or to paint over is not shown any more."""
        self._forget_pick(client)
        if client.client_id in self._brushes:
            self._brushes.pop(client.client_id, None)
            channel.call(client, "brush", radius=None)

    def _key(self, client_id: int, values: dict[str, Any]) -> None:
        browser, then = self._viewer.browser_of(client_id), self._keys.get(values["key"])
        if browser is not None and then is not None:
            then(browser.client)

    def _brushed(self, client_id: int, values: dict[str, Any]) -> None:
        browser, brush = self._viewer.browser_of(client_id), self._brushes.get(client_id)
        width, height = round(values["width"]), round(values["height"])
        if browser is None or brush is None or min(width, height) < 1:
            return
        points = np.array(values["points"], np.float32).reshape(-1, 2)
        if len(points) == 0:  # laid down
            self._brushes.pop(client_id, None)
            return
        radius, then = brush
        then(Brush(self._viewer.camera(browser.client, width, height), points, radius))
