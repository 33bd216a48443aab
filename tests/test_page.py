"""Our script in the viewer's page, in a real browser: help, brush, files, pictures, and who is let in."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
import viser
from PIL import Image
from viser._messages import BackgroundImageMessage

from recon.viewer.guard import open_server
from visited import HOME, Opened, X, Y, box_scene, visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


TOKEN = "a-secret"


@pytest.fixture(scope="module")
def server() -> Iterator[viser.ViserServer]:
    opened = box_scene()
    yield opened
    opened.stop()


@pytest.fixture(scope="module")
def scene(server: viser.ViserServer, chromium: Browser) -> Iterator[Opened]:
    """One page for many tests: its first load takes seconds."""
    import _chromium as browser

    with browser.watched(chromium) as page:
        yield visit(server, page)


@pytest.fixture
def view(scene: Opened) -> Opened:
    """The page as it was at first."""
    scene.begin_anew()
    return scene


def test_the_page_greets_and_knows_that_it_draws_in_software(scene: Opened) -> None:
    greeting = scene.values("hello")[0]
    assert "SwiftShader" in greeting["renderer"]
    assert greeting["software"]
    assert not greeting["touch"]
    assert (greeting["width"], greeting["height"]) == (640, 400)
    assert scene.page.title() == "A scene"


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
    tabs = gui.add_tab_group()
    shown, files = tabs.add_tab("Shown"), tabs.add_tab("Files")
    with files:
        button = gui.add_upload_button("Open file")  # where nobody sees it
    with shown:
        gui.add_markdown("Comes last")
    view.page.get_by_text("Comes last").wait_for()
    view.page.evaluate(DROP, ["scene.ply", 6_000_000])  # more parts than are sent at once
    content = (np.arange(6_000_000) % 251).astype(np.uint8).tobytes()
    view.wait(lambda: button.value.content == content, "arrived")
    assert button.value.name == "scene.ply"
    tabs.remove()


def test_frames_are_acknowledged_by_their_numbers(view: Opened) -> None:
    def frame(number: int | None) -> BackgroundImageMessage:
        packed = io.BytesIO()
        comment = {} if number is None else {"comment": str(number)}
        Image.new("RGB", (32, 20)).save(packed, format="JPEG", **comment)
        return BackgroundImageMessage("jpeg", packed.getvalue(), None)

    def numbers() -> list[int]:
        return [values["number"] for values in view.values("shown")]

    for number, shown in ((1, [1]), (None, [1]), (7, [1, 7])):
        view.client._websock_connection.queue_message(frame(number))
        view.client.flush()
        view.page.wait_for_timeout(100)
        view.wait(lambda shown=shown: numbers() == shown, "shown")  # type: ignore[misc]
    view.client.scene.set_background_image(None)


def test_a_page_that_was_cut_off_connects_and_greets_again(view: Opened) -> None:
    view.server._websock_server.disconnect_all_clients()
    view.wait(lambda: view.values("hello"), "greeted again")
    view.rest()
    assert np.linalg.norm(view.hold("d")) > 0.1


def test_where_visers_worker_is_not_known_its_page_works_all_the_same(server: viser.ViserServer, tab: Page) -> None:
    tab.add_init_script("""
        const native = window.Worker, later = window.setTimeout;
        Object.defineProperty(window, "Worker", {get: () => native, set: () => {}});
        window.setTimeout = (call, ms, ...rest) => later(call, ms === 15000 ? 0 : ms, ...rest);
    """)
    warned: list[str] = []
    tab.on("console", lambda said: warned.append(said.text) if said.type == "warning" else None)
    before = set(server.get_clients())
    tab.goto(f"http://127.0.0.1:{server.get_port()}/")
    opened = Opened(server, tab)
    opened.wait(lambda: set(server.get_clients()) - before, "connected")
    assert any("recon: this version of viser is not known" in text for text in warned)
    opened.number = max(server.get_clients())
    position = opened.position
    tab.keyboard.press("d", delay=300)
    opened.wait(lambda: np.linalg.norm(opened.position - position) > 0.05, "moved as viser has it")


def test_with_a_token_only_its_address_opens_the_page(chromium: Browser) -> None:
    import _chromium as browser

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
