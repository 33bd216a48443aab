"""Our script in the viewer's page, in a real browser: moving, help, brush, files, and who is let in."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import viser
from numpy.typing import NDArray
from PIL import Image
from viser._messages import BackgroundImageMessage, RunJavascriptMessage

from recon.viewer import channel
from recon.viewer.guard import open_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

HOME = np.array([0.0, -3.0, 1.0])
TOKEN = "a-secret"
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
        for _ in range(200):
            if true():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"in 10 s not: {what}")

    def rest(self) -> None:
        """Wait until the camera moves no more."""
        before = None
        while before is None or not np.array_equal(before, np.append(self.position, self.forward)):
            before = np.append(self.position, self.forward)
            self.page.wait_for_timeout(200)

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

    def values(self, name: str) -> list[dict[str, Any]]:
        return [values for said, values in self.said if said == name]


def visit(server: viser.ViserServer, page: Page, query: str = "") -> Opened:
    opened = Opened(server, page)
    for name in channel.SHAPES:
        channel.listen(server, name, lambda number, values, name=name: opened.hear(number, name, values))  # type: ignore[misc]
    page.goto(f"http://127.0.0.1:{server.get_port()}/{query}")
    opened.wait(lambda: opened.values("hello"), "greeted")
    return opened


@pytest.fixture(scope="module")
def server() -> Iterator[viser.ViserServer]:
    opened = open_server("127.0.0.1", 0, label="A scene")
    opened.scene.add_box("/box", dimensions=(1.0, 1.0, 1.0), color=(200, 80, 80))
    opened.scene.add_label("/label", "here", position=(0.0, 0.0, 1.0))
    opened.initial_camera.position, opened.initial_camera.look_at = tuple(HOME), (0.0, 0.0, 0.0)
    yield opened
    opened.stop()


@pytest.fixture(scope="module")
def scene(server: viser.ViserServer, chromium: Browser) -> Iterator[Opened]:
    """One page for many tests: its first load takes seconds."""
    import browser

    with browser.watched(chromium) as page:
        yield visit(server, page)


@pytest.fixture
def view(scene: Opened) -> Opened:
    """The page as it was at first: orbit, one unit a second, at home."""
    scene.call("brush", radius=None)
    scene.call("navigation", mode="orbit", speed=1.0)
    scene.client.camera.position, scene.client.camera.look_at = HOME, np.zeros(3)
    scene.wait(lambda: np.allclose(scene.position, HOME) and np.allclose(scene.client.camera.look_at, 0), "at home")
    scene.rest()
    scene.said.clear()
    return scene


def test_the_page_greets_and_knows_that_it_draws_in_software(scene: Opened) -> None:
    greeting = scene.values("hello")[0]
    assert "SwiftShader" in greeting["renderer"]
    assert greeting["software"]
    assert not greeting["touch"]
    assert (greeting["width"], greeting["height"]) == (640, 400)
    assert scene.page.title() == "A scene"


@pytest.mark.parametrize(
    ("key", "way"),
    [
        ("w", [0, 3, -1]),
        ("s", [0, -3, 1]),
        ("d", [1, 0, 0]),
        ("a", [-1, 0, 0]),
        ("e", [0, 0, 1]),
        ("q", [0, 0, -1]),
    ],
)
def test_keys_move_the_camera_and_what_it_looks_at(view: Opened, key: str, way: list[float]) -> None:
    forward = view.forward
    moved = view.hold(key)
    np.testing.assert_allclose(moved / np.linalg.norm(moved), np.array(way) / np.linalg.norm(way), atol=1e-4)
    np.testing.assert_allclose(view.forward, forward, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(moved), 1, rtol=0.3)


def test_speed_is_what_the_server_says_and_shift_is_faster(view: Opened) -> None:
    for speed, keys, expected in ((1.0, "d", 1), (0.1, "a", 0.1), (0.1, "Shift d", 0.4)):
        view.call("navigation", speed=speed)
        np.testing.assert_allclose(np.linalg.norm(view.hold(*keys.split())), expected, rtol=0.3)


def test_keys_that_are_typed_into_a_field_are_not_moves(view: Opened) -> None:
    name = view.server.gui.add_text("Name", "")
    field = view.page.get_by_role("textbox")
    field.fill("")
    field.press_sequentially("wasd?f")
    view.wait(lambda: name.value == "wasd?f", "typed")
    view.rest()
    np.testing.assert_allclose(view.position, HOME, atol=1e-6)
    field.blur()
    name.remove()


def test_in_orbit_arrows_go_around_what_is_looked_at(view: Opened) -> None:
    view.hold("ArrowRight")
    assert view.position[0] > 0.1
    np.testing.assert_allclose(np.linalg.norm(view.position), np.linalg.norm(HOME), rtol=1e-4)
    np.testing.assert_allclose(view.client.camera.look_at, 0, atol=1e-4)
    np.testing.assert_allclose(view.position[2], HOME[2], atol=1e-4)
    view.hold("ArrowUp")
    assert view.position[2] > HOME[2] + 0.1


def test_in_orbit_drags_and_the_wheel_are_visers(view: Opened) -> None:
    view.drag(60, 0)
    assert np.linalg.norm(view.position - HOME) > 0.1
    np.testing.assert_allclose(np.linalg.norm(view.position), np.linalg.norm(HOME), rtol=1e-3)
    view.page.mouse.wheel(0, -100)
    view.rest()
    assert np.linalg.norm(view.position) < np.linalg.norm(HOME) - 0.05
    # Our own moves go on from there.
    before = view.position
    view.hold("e")
    np.testing.assert_allclose(view.position[:2], before[:2], atol=1e-4)
    assert view.position[2] > before[2]


def test_in_first_person_a_drag_looks_around_from_where_the_camera_is(view: Opened) -> None:
    view.page.keyboard.press("f")
    view.wait(lambda: view.values("mode") == [{"mode": "first-person"}], "told of the mode")
    forward = view.forward
    view.drag(80, 0)
    np.testing.assert_allclose(view.position, HOME, atol=1e-4)
    assert view.forward[0] > forward[0] + 0.1  # to the right
    np.testing.assert_allclose(view.forward[2], forward[2], atol=1e-4)
    view.drag(0, -2000)  # up, and no farther
    np.testing.assert_allclose(view.position, HOME, atol=1e-4)
    np.testing.assert_allclose(math.asin(view.forward[2]), math.radians(85), atol=1e-3)
    view.hold("ArrowDown")
    assert view.forward[2] < math.sin(math.radians(84))
    np.testing.assert_allclose(view.position, HOME, atol=1e-4)


def test_a_double_click_in_first_person_looks_without_dragging(view: Opened) -> None:
    view.call("navigation", mode="first-person")
    view.page.mouse.dblclick(X, Y)
    view.page.wait_for_function("document.pointerLockElement !== null")
    forward = view.forward
    view.page.mouse.move(X + 90, Y, steps=3)
    view.rest()
    assert view.forward[0] > forward[0] + 0.1
    np.testing.assert_allclose(view.position, HOME, atol=1e-4)
    view.page.keyboard.press("f")
    view.page.wait_for_function("document.pointerLockElement === null")


def test_fingers_look_and_walk_in_first_person(server: viser.ViserServer, chromium: Browser) -> None:
    import browser

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    with browser.watched(chromium, has_touch=True, is_mobile=True) as page:
        view = visit(server, page)
        assert view.values("hello")[0]["touch"]
        devtools = page.context.new_cdp_session(page)
        view.call("navigation", mode="first-person", speed=1.0)
        view.rest()
        position, forward = view.position, view.forward
        touch("touchStart", (X, 200))
        for step in range(1, 6):
            touch("touchMove", (X + 20 * step, 200))
        touch("touchEnd")
        view.rest()
        assert view.forward[0] < forward[0] - 0.1  # the scene goes with the finger
        np.testing.assert_allclose(view.position, position, atol=1e-4)

        forward = view.forward
        touch("touchStart", (X, 300), (X + 80, 300))
        for step in range(1, 6):
            touch("touchMove", (X, 300 - 20 * step), (X + 80, 300 - 20 * step))
        touch("touchEnd")
        view.rest()
        assert (view.position - position) @ forward > 0.1
        np.testing.assert_allclose(view.forward, forward, atol=1e-4)


def test_in_first_person_the_wheel_changes_the_speed(view: Opened) -> None:
    view.call("navigation", mode="first-person")
    slow = np.linalg.norm(view.hold("d"))
    view.page.mouse.move(X, Y)
    for _ in range(4):
        view.page.mouse.wheel(0, -200)
    view.rest()
    assert np.linalg.norm(view.hold("a")) > 2 * slow
    assert view.values("mode") == []  # the server need not be told what it asked for


def test_clicks_are_heard_in_either_mode_and_drags_are_not_clicks(view: Opened) -> None:
    clicks: list[tuple[float, float]] = []

    def clicked(event: viser.SceneClickEvent) -> None:
        clicks.append(event.screen_pos)

    view.client.scene.on_click()(clicked)
    for mode in ("orbit", "first-person"):
        view.call("navigation", mode=mode)
        clicks.clear()
        view.drag(50, 10)
        view.page.mouse.click(X, Y)
        view.wait(lambda: clicks, f"clicked in {mode}")
        np.testing.assert_allclose(clicks, [(X / 640, Y / 400)], atol=0.01)
    view.client.scene.remove_click_callback(clicked)


def test_reset_goes_back_to_the_first_view(view: Opened) -> None:
    view.hold("d")
    view.page.keyboard.press("r")
    view.wait(lambda: np.allclose(view.position, HOME, atol=1e-4), "at home")
    np.testing.assert_allclose(view.client.camera.look_at, 0, atol=1e-4)


PAD = """(pad) => {
    window.pad = {index: 0, connected: true, mapping: "standard", axes: [0, 0, 0, 0],
                  buttons: Array.from({length: 17}, () => ({pressed: false, value: 0}))};
    navigator.getGamepads = () => [null, window.pad];
    window.dispatchEvent(new Event("gamepadconnected"));
}"""


def test_a_gamepad_moves_and_looks(view: Opened) -> None:
    view.page.evaluate(PAD)
    view.page.evaluate("pad.axes = [0.1, 0.1, -0.1, 0.1]")  # sticks at rest
    view.page.wait_for_timeout(300)
    view.rest()
    np.testing.assert_allclose(view.position, HOME, atol=1e-6)

    view.page.evaluate("pad.buttons[1].pressed = true")  # B
    view.wait(lambda: view.values("mode") == [{"mode": "first-person"}], "first person")
    view.page.evaluate("pad.buttons[1].pressed = false; pad.axes = [0, -1, 0, 0]")
    view.wait(lambda: (view.position - HOME) @ view.forward > 0.3, "moved forward")
    view.page.evaluate("pad.axes = [0, 0, 0.8, 0]")
    forward = view.forward
    view.wait(lambda: view.forward[0] > forward[0] + 0.2, "looked to the right")
    view.page.evaluate("pad.axes = [0, 0, 0, 0]; pad.buttons[7].value = 1")
    view.wait(lambda: view.position[2] > 1.3, "went up")
    view.page.evaluate("pad.buttons[7].value = 0; pad.buttons[0].pressed = true")  # A
    view.wait(lambda: np.allclose(view.position, HOME, atol=1e-4), "at home")
    view.page.evaluate("pad.connected = false; delete navigator.getGamepads")


def test_help_opens_and_closes(view: Opened) -> None:
    sheet = view.page.get_by_role("dialog", name="Help")
    for opens in ("?", "button", "call"):
        assert not sheet.is_visible()
        if opens == "button":
            view.page.get_by_role("button", name="Help").click()
        elif opens == "call":
            view.call("help")
        else:
            view.page.keyboard.press("?")
        sheet.wait_for(state="visible")
        assert "first person" in sheet.inner_text()
        view.page.keyboard.press("Escape")
        sheet.wait_for(state="hidden")


def test_a_stroke_of_the_brush_arrives_and_moves_nothing(view: Opened) -> None:
    view.call("brush", radius=12)
    view.page.mouse.move(X, Y)
    view.page.mouse.down()
    view.page.mouse.move(X + 40, Y + 20, steps=4)
    stroke = view.page.locator("canvas.stroke")
    assert stroke.is_visible()
    painted = stroke.evaluate("c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v)")
    assert painted
    view.page.mouse.up()
    view.wait(lambda: view.values("brush"), "painted")
    (told,) = view.values("brush")
    assert told["points"][0] == [X, Y]
    assert told["points"][-1] == [X + 40, Y + 20]
    assert (told["width"], told["height"]) == (640, 400)
    assert not stroke.is_visible()
    np.testing.assert_allclose(view.position, HOME, atol=1e-6)

    view.page.keyboard.press("Escape")
    view.wait(lambda: view.values("brush")[1:] == [{"points": [], "width": 640, "height": 400}], "laid down")
    view.drag(60, 0)
    assert np.linalg.norm(view.position - HOME) > 0.1
    assert len(view.values("brush")) == 2


def test_keys_for_the_scene_reach_the_server(view: Opened) -> None:
    view.call("keys", keys=["b"])
    for key in ("Delete", "Control+z", "Control+Shift+z", "Control+y", "b"):
        view.page.keyboard.press(key)
    view.wait(lambda: len(view.values("key")) == 5, "keys")
    told = [values["key"] for values in view.values("key")]
    assert told == ["Delete", "Control+z", "Control+Shift+z", "Control+y", "b"]


DROP = """([name, count]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(count).map((_, i) => i % 251)], name));
    for (const type of ["dragover", "drop"])
        document.body.dispatchEvent(new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


@pytest.mark.parametrize("shared", [True, False])
def test_a_file_that_is_dropped_arrives(view: Opened, shared: bool) -> None:
    gui = view.server.gui if shared else view.client.gui
    with gui.add_tab_group().add_tab("Files"):
        button = gui.add_upload_button("Open file")
    view.page.get_by_role("button", name="Open file").wait_for()
    view.page.evaluate(DROP, ["scene.ply", 600_000])  # more than one part
    content = (np.arange(600_000) % 251).astype(np.uint8).tobytes()
    view.wait(lambda: button.value.content == content, "arrived")
    assert button.value.name == "scene.ply"
    button.remove()


def test_frames_are_acknowledged_by_their_numbers(view: Opened) -> None:
    def frame(number: int | None) -> BackgroundImageMessage:
        packed = io.BytesIO()
        comment = {} if number is None else {"comment": str(number)}
        Image.new("RGB", (32, 20)).save(packed, format="JPEG", **comment)
        return BackgroundImageMessage("jpeg", packed.getvalue(), None)

    for number in (1, None, 7):
        view.client._websock_connection.queue_message(frame(number))
        view.client.flush()
        view.page.wait_for_timeout(300)
    view.wait(lambda: len(view.values("shown")) == 2, "shown")
    assert [values["number"] for values in view.values("shown")] == [1, 7]
    view.client.scene.set_background_image(None)


def test_a_page_that_was_cut_off_connects_and_greets_again(view: Opened) -> None:
    view.server._websock_server.disconnect_all_clients()
    view.wait(lambda: view.values("hello"), "greeted again")
    view.rest()
    assert np.linalg.norm(view.hold("d")) > 0.1


def test_a_page_of_a_client_that_is_not_known_works_all_the_same(server: viser.ViserServer, tab: Page) -> None:
    """Where viser talks to its worker in another way than we know, moving is as viser has it."""
    tab.add_init_script(
        "delete window.Worker.prototype.constructor; window.setTimeout = ((old) => (f, ms, ...rest) =>"
        " old(f, ms === 15000 ? 0 : ms, ...rest))(window.setTimeout)"
    )
    warned: list[str] = []
    tab.on("console", lambda said: warned.append(said.text) if said.type == "warning" else None)
    before = set(server.get_clients())
    tab.goto(f"http://127.0.0.1:{server.get_port()}/")
    Opened(server, tab).wait(lambda: set(server.get_clients()) - before, "connected")
    assert any("recon: this version of viser is not known" in text for text in warned)


def test_with_a_token_only_its_address_opens_the_page(chromium: Browser) -> None:
    import browser

    server = open_server("127.0.0.1", 0, token=TOKEN)
    address = f"http://127.0.0.1:{server.get_port()}/"
    window = chromium.new_context(viewport=browser.SIZE)
    stranger = window.new_page()
    answer = stranger.goto(address)
    assert answer is not None
    assert answer.status == 403
    assert "token" in stranger.inner_text("body")
    window.close()

    with browser.watched(chromium) as page:
        logged: list[str] = []
        page.on("console", lambda said: logged.append(said.text))
        opened = visit(server, page, f"?token={TOKEN}")
        # Where cookies are refused, this is what lets the connection through.
        assert any(f"Connecting to: ws://127.0.0.1:{server.get_port()}?token={TOKEN}" in text for text in logged)
        opened.said.clear()
        page.reload()
        opened.wait(lambda: opened.values("hello"), "greeted again")
        # The cookie is enough, and no script can read it.
        opened.said.clear()
        page.goto(address)
        opened.wait(lambda: opened.values("hello"), "let in by the cookie")
        assert TOKEN not in page.evaluate("document.cookie")

    server.stop()
