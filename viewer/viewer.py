"""The viewer: a server for browsers that look at a scene, and what its panels share."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from recon.datasets.cameras import Cameras
from recon.datasets.errors import InputError
from recon.datasets.scene import Scene
from recon.viewer import channel, paths
from recon.viewer.browser import Browser, Comparison
from recon.viewer.guard import open_server
from recon.viewer.look import Box, Look, Vector
from recon.viewer.pointing import Pointing
from recon.viewer.poses import FOV, camera_of, fov_of, pose_of, wxyz_of
from recon.viewer.queue import RenderQueue
from recon.viewer.subject import Editor, Splats, Subject

if TYPE_CHECKING:
    import viser

log = logging.getLogger("recon")
T = TypeVar("T")

SPLATS = "/splats"  # the name of the scene's node in a browser
MOST_SPLATS = 300_000  # that a browser is sent
MOST_SPLATS_TRAINING = 60_000
SPLATS_EVERY, SPLATS_EVERY_TRAINING = 0.3, 5.0  # s; an edit is to be seen soon, and a training to get on
BACK = 0.2  # of the distance to the middle: so far behind the photos' cameras a browser begins


class Viewer:
    """Browsers that look at one subject.

    Whoever owns the scene serves `queue`: a training between its steps, or `queue.run`. Panels change shared settings
    here (`crop`), touch the scene through `run`, and call `refresh` after it has changed.

    Attributes:
        scene: the capture, normalised; None for a file of splats.
        source_from_world: [4,4] similarity to the coordinates in which files are written.
        folder: where files that are asked for from the page go, and nowhere else.
        comparison: photos beside the scene; None where there is no capture.
        version: counts up with every change of the scene.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        folder: Path,
        name: str,
        scene: Scene | None = None,
        editor: Editor | None = None,
        comparison: Comparison | None = None,
        source_from_world: Tensor | None = None,
        host: str = "127.0.0.1",
        port: int = 8080,
        token: str | None = None,
    ) -> None:
        self.subject, self.scene, self.editor, self.comparison = subject, scene, editor, comparison
        self.source_from_world = torch.eye(4) if source_from_world is None else source_from_world
        self.folder, self.name = folder, name
        self.queue = RenderQueue()
        self.version = 0
        self.at_end = contextlib.ExitStack()  # what panels have to let go of
        self.refresh_every = 0.5  # s between pictures for a camera at rest while the scene changes
        self.splats_every = SPLATS_EVERY  # s between splats for a browser that draws
        self.picture_seconds = 1 / 30  # that a picture may take while a camera moves
        self.most_splats = MOST_SPLATS
        self._crop: Box | None = None
        self._browsers: dict[int, Browser] = {}
        self._encoder = ThreadPoolExecutor(1, "pictures")
        self._on_browser: list[Callable[[Browser], None]] = []
        self._on_show: list[Callable[[], None]] = []
        self._on_change: list[Callable[[], None]] = []
        self._software: dict[int, bool] = {}  # of browsers, which say so before they are counted as connected
        self.fov = FOV  # that a browser begins with, radians
        self._up: Vector = (0.0, 0.0, 1.0)
        self._start: tuple[Vector, Vector]  # position, and what it looks at
        self._building = threading.RLock()

        # A browser may leave while something is being sent to it; that is nothing to be told of.
        warnings.filterwarnings("ignore", "Queued a .* on a closed connection", UserWarning)
        self._host, self._token = host, token
        self.server = open_server(host, port, token=token, label=name)
        self.server.gui.configure_theme(show_logo=False, show_share_button=False)
        # Nothing is lit by it, and a browser without a GPU stands still for seconds to prepare it.
        self.server.scene.configure_environment_map(None)
        self._tab_group = self.server.gui.add_tab_group()
        self._tabs: dict[str, viser.GuiTabHandle] = {"View": self._tab_group.add_tab("View")}  # it comes first
        self._set_start()
        channel.listen(self.server, "hello", self._hello)
        channel.listen(self.server, "shown", self._shown)
        channel.listen(self.server, "navigation", self._navigated)
        self._pointing = Pointing(self)
        self.pick, self.brush, self.on_key = self._pointing.pick, self._pointing.brush, self._pointing.on_key
        self.server.on_client_connect(self._connected)
        self.server.on_client_disconnect(self._disconnected)

    @property
    def port(self) -> int:
        return self.server.get_port()

    @property
    def address(self) -> str:
        """What to type into a browser, the token included where one is needed."""
        host = "localhost" if self._host in ("127.0.0.1", "::1") else self._host
        host = socket.gethostname() if host in ("0.0.0.0", "::") else host
        return f"http://{host}:{self.port}/" + (f"?token={self._token}" if self._token else "")

    def close(self) -> None:
        """Say good-bye to all browsers."""
        self.at_end.close()
        self.queue.close()
        self.server.stop()
        self._encoder.shutdown(wait=False, cancel_futures=True)

    def show(self, subject: Subject, editor: Editor | None, name: str, source_from_world: Tensor) -> None:
        """Look at something else, which has no photos."""
        self.subject, self.editor, self.comparison, self.scene = subject, editor, None, None
        self.source_from_world, self.name = source_from_world, name
        self._crop = None
        self.server.gui.set_panel_label(name)
        self._set_start()
        for then in self._on_show:
            then()
        for browser in self.browsers():
            self._pointing.stop(browser.client)
            browser.want(replace(browser.wishes, compare=None))
            browser.on_show()
        self.refresh()
        for browser in self.browsers():
            self.go_to_start(browser.client)

    # For the panels

    @contextlib.contextmanager
    def tab(self, name: str, icon: str | None = None) -> Iterator[None]:
        """While inside, elements of `server.gui` and of a client's gui land in the tab of this name."""
        with self._building:  # a tab remembers one place to return to, and browsers come at the same time
            if name not in self._tabs:
                self._tabs[name] = self._tab_group.add_tab(name, icon)  # type: ignore[arg-type]
            with self._tabs[name]:
                yield

    def run(self, job: Callable[[], T]) -> Future[T]:
        """Have a job done on the thread that renders, between pictures and steps."""
        future = self.queue.submit(job)
        future.add_done_callback(_log_failure)
        return future

    def refresh(self, client: viser.ClientHandle | None = None) -> None:
        """Draw anew: for one browser, or, since the scene has changed, for all."""
        if client is None:
            self.version += 1
            for then in self._on_change:
                then()
        for browser in self.browsers():
            if client is None or browser.client is client:
                browser.refresh()
        self.queue.wake()

    def changed(self) -> None:
        """The scene has changed as it does in every step of a training: to be shown when there is time for it."""
        self.version += 1

    def browsers(self) -> list[Browser]:
        return list(self._browsers.values())

    def movers(self, since: float) -> int:
        """How many browsers have moved since a time of `time.monotonic`; they share what can be drawn in a second."""
        return sum(browser.moved_at >= since for browser in self.browsers())

    def browser(self, client: viser.ClientHandle) -> Browser | None:
        return self.browser_of(client.client_id)

    def browser_of(self, client_id: int) -> Browser | None:
        return self._browsers.get(client_id)

    def on_show(self, then: Callable[[], None]) -> None:
        """Call `then`, on the thread that renders, whenever another scene is shown; what belonged to the last goes."""
        self._on_show.append(then)

    def on_change(self, then: Callable[[], None]) -> None:
        """Call `then` whenever somebody has changed the scene, or what is seen of it, for all."""
        self._on_change.append(then)

    def on_browser(self, then: Callable[[Browser], None]) -> None:
        """Call `then` for every browser that comes, and for those that are there."""
        self._on_browser.append(then)
        for browser in self.browsers():
            then(browser)

    def camera(self, client: viser.ClientHandle, width: int | None = None, height: int | None = None) -> Cameras:
        """What a browser looks through, for a picture of its window's size or another."""
        pose = pose_of(client)
        if pose is None:
            raise RuntimeError("this browser has not said yet from where it looks")
        return camera_of(pose, width or pose.width, height or pose.height)

    def look(self, client: viser.ClientHandle) -> Look:
        """How a browser sees the scene."""
        browser = self.browser(client)
        return Look(crop=self.crop) if browser is None else browser.look()

    @property
    def crop(self) -> Box | None:
        """Outside of it nothing is drawn, for nobody."""
        return self._crop

    @crop.setter
    def crop(self, crop: Box | None) -> None:
        self._crop = crop
        self.refresh()

    def go(self, client: viser.ClientHandle, camera: Cameras) -> None:
        """Bring a browser to a batch of one, looking at what is in the middle of that picture."""

        def find() -> Vector | None:
            return self.subject.pick(camera, camera.width / 2, camera.height / 2, self.look(client))

        def then(future: Future[Vector | None]) -> None:
            position, forward = camera.positions[0].double().numpy(), camera.forward[0].double().numpy()
            hit = None if future.cancelled() or future.exception() else future.result()
            self.place(client, camera, 1.0 if hit is None else float((np.array(hit) - position) @ forward))

        self.run(find).add_done_callback(then)

    def place(self, client: viser.ClientHandle, camera: Cameras, ahead: float = 1.0) -> None:
        """Put a browser at a batch of one, at once; it then turns about the point so far ahead."""
        position, forward = camera.positions[0].double().numpy(), camera.forward[0].double().numpy()
        with client.atomic():
            client.camera.up_direction = np.array(self.up, np.float64)
            client.camera.wxyz = wxyz_of(camera)
            client.camera.position = position
            client.camera.look_at = position + max(ahead, 0.05) * forward
            client.camera.fov = fov_of(camera)
        self._moved(client)

    @property
    def up(self) -> Vector:
        """Which way cameras are held upright."""
        return self._up

    @up.setter
    def up(self, up: Vector) -> None:
        self._up = self.server.initial_camera.up = up  # for those that come later, too
        self.server.scene.set_up_direction(up)
        for browser in self.browsers():
            browser.client.camera.up_direction = np.array(up)

    def tell(self, client: viser.ClientHandle | None, text: str, error: bool = False) -> None:
        """A notice in one browser, or in all."""
        for browser in self.browsers():
            if client is None or browser.client is client:
                browser.client.add_notification(
                    "Something is wrong" if error else self.name,
                    text,
                    color="red" if error else None,
                    auto_close_seconds=None if error else 6.0,
                )

    # For the browsers

    def add_splats(self, client: viser.ClientHandle, splats: Splats) -> None:
        client.scene.add_gaussian_splats(SPLATS, *splats)

    def remove_splats(self, client: viser.ClientHandle) -> None:
        client.scene.remove_by_name(SPLATS)

    def training(self, share: float) -> None:
        """Say that the scene changes, and that so much of the time is for looking at it."""
        self.most_splats, self.splats_every = MOST_SPLATS_TRAINING, SPLATS_EVERY_TRAINING
        self.picture_seconds = min(1 / 30, max(0.008, 0.06 * share))

    def trained(self) -> None:
        """Say that the scene no longer changes by itself."""
        self.most_splats, self.splats_every, self.picture_seconds = MOST_SPLATS, SPLATS_EVERY, 1 / 30
        self.refresh()

    def _set_start(self) -> None:
        """Where a browser begins: a little behind where photos were taken from, or above and beside the centre."""
        self.server.scene.set_up_direction(self.up)
        start = self.server.initial_camera
        self._start, self.fov = ((0.0, -2.2, 0.8), (0.0, 0.0, 0.0)), FOV
        if self.scene is not None:
            camera = paths.orbit(self.scene, 1)
            position, forward = camera.positions[0].numpy(), camera.forward[0].numpy()
            ahead = max(0.3, float(-position @ forward))  # the middle of a normalised capture is at 0
            look_at = position + ahead * forward
            position = position - BACK * ahead * forward
            self._start = tuple(position.tolist()), tuple(look_at.tolist())
            self.fov = fov_of(camera)
        start.fov = self.fov
        start.position, start.look_at = self._start
        start.up = self.up
        start.near = 0.01

    def go_to_start(self, client: viser.ClientHandle) -> None:
        """Bring a browser back to where it began."""
        position, look_at = self._start
        with client.atomic():
            client.camera.up_direction = np.array(self.up)
            client.camera.position = np.array(position)
            client.camera.look_at = np.array(look_at)
        self._moved(client)

    async def _connected(self, client: viser.ClientHandle) -> None:
        browser = Browser(self, client, self._encoder)
        browser.software = self._software.get(client.client_id, True)
        self._browsers[client.client_id] = browser

        async def moved(_: Any) -> None:  # on the server's own thread, at once
            self._moved(client)

        client.camera.on_update(moved)
        self.queue.add(browser)
        for then in self._on_browser:
            self.server._thread_executor.submit(then, browser).add_done_callback(_log_failure)

    async def _disconnected(self, client: viser.ClientHandle) -> None:
        browser = self._browsers.pop(client.client_id, None)
        self._pointing.forget(client)
        self._software.pop(client.client_id, None)
        if browser is not None:
            self.queue.remove(browser)

    def _moved(self, client: viser.ClientHandle) -> None:
        browser = self.browser(client)
        if browser is not None:
            browser.moved()
            self.queue.wake()

    # What pages say; `channel` has seen to it that the values are of the kind they should be

    def _hello(self, client_id: int, values: dict[str, Any]) -> None:
        self._software[client_id] = values["software"]
        browser = self._browsers.get(client_id)
        if browser is not None:
            browser.software = self._software[client_id]
            browser.refresh()
            self.queue.wake()

    def _shown(self, client_id: int, values: dict[str, Any]) -> None:
        browser = self._browsers.get(client_id)
        if browser is not None:
            browser.shown(values["number"])
            self.queue.wake()

    def _navigated(self, client_id: int, values: dict[str, Any]) -> None:
        browser = self._browsers.get(client_id)
        if browser is not None:
            told = self.server._thread_executor.submit(browser.on_navigation, values["mode"], values["speed"])
            told.add_done_callback(_log_failure)


def _log_failure(future: Future[Any]) -> None:
    """On the terminal, for what is a fault of ours; wrong input is told in the page, by who asked for the job."""
    error = None if future.cancelled() else future.exception()
    if error is not None and not isinstance(error, InputError):
        traceback = error if log.isEnabledFor(logging.DEBUG) else None
        log.warning("The viewer could not do what was asked for: %s", error, exc_info=traceback)
