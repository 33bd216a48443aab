"""Moving in the viewer's page, in a real browser: keys, mouse, fingers and gamepad."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
import viser

from visited import HOME, Opened, X, Y, box_scene, visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


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
    view.page.get_by_text("Name", exact=True).wait_for()  # until then, viser shows a field of its own
    view.page.wait_for_timeout(500)
    field = view.page.get_by_role("textbox")
    field.fill("")
    field.press_sequentially("wasd?f")
    view.wait(lambda: name.value == "wasd?f", "typed")
    view.rest()
    np.testing.assert_allclose(view.position, HOME, atol=1e-6)
    field.blur()
    name.remove()


def test_arrows_move_the_slider_that_has_the_focus_and_not_the_camera(view: Opened) -> None:
    slider = view.server.gui.add_slider("Slider", 0, 10, 1, 5)
    view.page.get_by_role("slider").first.focus()
    view.page.keyboard.press("ArrowRight", delay=300)
    view.wait(lambda: slider.value > 5, "slid")
    view.rest()
    np.testing.assert_allclose(view.position, HOME, atol=1e-6)
    slider.remove()


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
    view.wait(lambda: view.values("navigation") == [{"mode": "first-person", "speed": 1}], "told of the mode")
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
    import _chromium as browser

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
    assert view.values("navigation")[-1]["speed"] > 2


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


def test_straight_down_there_is_still_a_right_and_a_forward(view: Opened) -> None:
    view.client.camera.position, view.client.camera.look_at = np.array([0.0, 0.0, 3.0]), np.zeros(3)
    view.wait(lambda: np.allclose(view.position, [0, 0, 3], atol=1e-3), "above")
    view.rest()
    right = view.hold("d")
    np.testing.assert_allclose(np.linalg.norm(right), 1, rtol=0.3)
    np.testing.assert_allclose(right[2], 0, atol=1e-2)
    view.call("navigation", mode="first-person")
    view.hold("ArrowUp")
    assert view.forward[2] > -0.99
    np.testing.assert_allclose(
        np.cross(view.forward, [0, 0, 1]) @ right, np.linalg.norm(right) * np.hypot(*view.forward[:2]), rtol=1e-2
    )


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
    view.wait(lambda: view.values("navigation") == [{"mode": "first-person", "speed": 1}], "first person")
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
