"""A page of the viewer in a browser, for tests: what is done in it, and what the server hears of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import viser
from numpy.typing import NDArray
from viser._messages import RunJavascriptMessage

from recon.viewer import channel
from recon.viewer.guard import open_server
from serving import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOME = np.array([0.0, -3.0, 1.0])
X, Y = 160, 280  # px; a place of the canvas that nothing lies over

HOLD = """(keys) => new Promise((done) => {
    const press = (type, key) => document.body.dispatchEvent(new KeyboardEvent(type, {
        key, code: key.length === 1 ? `Key${key.toUpperCase()}` : key === "Shift" ? "ShiftLeft" : key,
        bubbles: true, cancelable: true,
    }));
    let count = 0, seconds = 0, last = performance.now();
    for (const key of keys) press("keydown", key);
    requestAnimationFrame(function frame(now) {
        seconds += Math.min(0.1, Math.max(0, now - last) / 1000);
        last = now;
        if (++count < 20) return requestAnimationFrame(frame);
        for (const key of keys) press("keyup", key);
        done(seconds);
    });
})"""  # for 20 repaints; the seconds that these take, as the page counts them: none is long, however busy the machine

REPAINTS = """() => new Promise((done) => {
    let count = 0;
    requestAnimationFrame(function frame() { ++count < 6 ? requestAnimationFrame(frame) : done(); });
})"""


@dataclass
class Opened:
    """A page, and the server that it is connected to."""

    server: viser.ViserServer
    page: Page
    said: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    number: int = -1  # of the client that the page is
    calls: int = 0

    def hear(self, number: int, name: str, values: dict[str, Any]) -> None:
        if name == "hello" and self.number not in self.server.get_clients():
            self.number = number
        if number == self.number:
            self.said.append((name, values))

    @property
    def client(self) -> viser.ClientHandle:
        return self.server.get_clients()[self.number]

    @property
    def position(self) -> NDArray[np.float64]:
        return self.client.camera.position.copy()

    @property
    def forward(self) -> NDArray[np.float64]:
        way = self.client.camera.look_at - self.client.camera.position
        return way / np.linalg.norm(way)

    def wait(self, true: Callable[[], Any], what: str) -> None:
        wait_until(true, what, lambda: self.page.wait_for_timeout(20))

    def rest(self) -> None:
        """Wait until the camera moves no more, for some repaints: of a busy machine they take longer."""
        before = None
        while before is None or not np.array_equal(before, np.append(self.position, self.forward)):
            before = np.append(self.position, self.forward)
            self.page.evaluate(REPAINTS)
            self.page.wait_for_timeout(50)

    def hold(self, *keys: str) -> NDArray[np.float64]:
        """How far the camera goes in a second while keys are held."""
        before = self.position
        seconds = self.page.evaluate(HOLD, keys)
        self.rest()
        return (self.position - before) / seconds

    def drag(self, dx: float, dy: float) -> None:
        self.page.mouse.move(X, Y)
        self.page.mouse.down()
        self.page.mouse.move(X + dx, Y + dy, steps=5)
        self.page.mouse.up()
        self.rest()

    def call(self, function: str, **values: Any) -> None:
        """Have the page do something, and wait until it has."""
        self.calls += 1
        channel.call(self.client, function, **values)
        done = RunJavascriptMessage(f"window.calls = {self.calls}")
        self.client._websock_connection.queue_message(done)
        self.page.wait_for_function(f"window.calls === {self.calls}")

    def begin_anew(self) -> None:
        """Orbit, one unit a second, at home, and nothing said yet."""
        self.call("brush", radius=None)
        self.call("navigation", mode="orbit", speed=1.0)
        self.client.camera.position, self.client.camera.look_at = HOME, np.zeros(3)
        self.wait(lambda: np.allclose(self.position, HOME) and np.allclose(self.client.camera.look_at, 0), "at home")
        self.rest()
        self.said.clear()

    def values(self, name: str) -> list[dict[str, Any]]:
        return [values for said, values in self.said if said == name]


def visit(server: viser.ViserServer, page: Page, query: str = "") -> Opened:
    opened = Opened(server, page)
    for name in channel.SHAPES:
        channel.listen(server, name, lambda number, values, name=name: opened.hear(number, name, values))  # type: ignore[misc]
    page.goto(f"http://127.0.0.1:{server.get_port()}/{query}")
    opened.wait(lambda: opened.values("hello"), "greeted")
    return opened


def box_scene() -> viser.ViserServer:
    """A server of a box at the origin, seen from HOME."""
    server = open_server("127.0.0.1", 0, label="A scene")
    server.scene.configure_environment_map(None)  # which takes seconds without a GPU
    server.scene.add_box("/box", dimensions=(1.0, 1.0, 1.0), color=(200, 80, 80))
    server.scene.add_label("/label", "here", position=(0.0, 0.0, 1.0))
    server.initial_camera.position, server.initial_camera.look_at = tuple(HOME), (0.0, 0.0, 0.0)
    return server
