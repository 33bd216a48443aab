"""The viewer as browsers find it: pictures of what their camera sees, whoever else looks, stalls or leaves."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from recon.datasets.cameras import Cameras
from recon.viewer.browser import AHEAD, STALLED, Browser
from recon.viewer.look import Look, Vector
from recon.viewer.subject import Splats
from recon.viewer.view_panel import ViewPanel
from recon.viewer.viewer import Viewer
from serving import PATIENCE, drawn, wait_until
from sources import SCRIPTS

if not SCRIPTS:
    pytest.skip("the client that speaks to the viewer is in scripts/", allow_module_level=True)

from _viewer_client import CAMERA, PICTURE, SPLATS, Received, ViewerClient


class Plain:
    """A subject whose pictures have one colour, that of where the camera stands; it notes who asked for what."""

    count, sh_degree, background = 1000, 3, (0.0, 0.0, 0.0)

    def __init__(self) -> None:
        self.drawn: list[tuple[Cameras, Look]] = []
        self.error: Exception | None = None
        self.seconds = 0.0
        self.thread: int | None = None

    def draw(self, camera: Cameras, look: Look) -> NDArray[np.uint8]:
        self.drawn.append((camera, look))
        self.thread = threading.get_ident()
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        colour = (camera.positions[0].numpy() * 20 + 128).clip(0, 255).round().astype(np.uint8)
        return np.broadcast_to(colour, (camera.height, camera.width, 3)).copy()

    def pick(self, camera: Cameras, x: float, y: float, look: Look) -> Vector | None:
        return (1.0, 2.0, 3.0)

    def splats(self, most: int, look: Look) -> Splats | None:
        count = min(most, self.count)
        ones = np.ones((count, 3), np.float32)
        return Splats(ones, np.tile(np.eye(3, dtype=np.float32), (count, 1, 1)), ones, ones[:, :1])

    def saver(self, look: Look) -> Callable[[Path], int]:
        raise NotImplementedError


@contextmanager
def shown(subject: Plain, folder: Path) -> Iterator[Viewer]:
    """A viewer that a thread draws for."""
    viewer = Viewer(subject, folder=folder, name="test", port=0)

    def add_panel(browser: Browser) -> None:
        ViewPanel(viewer, browser)

    viewer.on_browser(add_panel)
    with drawn(viewer):
        yield viewer


def colour_at(position: tuple[float, float, float]) -> Callable[[Received], bool]:
    """Whether a message is a picture from there."""
    from _viewer_client import decoded

    wanted = np.array(position) * 20 + 128

    def is_it(message: Received) -> bool:
        if message.kind != PICTURE or message.values["rgb_data"] is None:
            return False
        return bool(np.abs(decoded(message).mean(axis=(0, 1)) - wanted).max() < 3)

    return is_it


def test_a_browser_gets_the_picture_of_its_camera_first_small_then_whole(tmp_path: Path) -> None:
    subject = Plain()
    with shown(subject, tmp_path) as viewer, ViewerClient(viewer.port, 320, 180) as client:
        client.look((1, -2, 0.5), (0, 0, 0))
        client.wait(colour_at((1, -2, 0.5)))
        assert client.picture(whole=True).shape == (180, 320, 3)

        def quiet() -> bool:
            before = client.pictures
            time.sleep(0.4)
            return client.pictures == before

        wait_until(quiet, "nothing changes, so nothing is sent")
        client.look((-1, 2, 0.5), (0, 0, 0))
        client.wait(colour_at((-1, 2, 0.5)))
    camera = subject.drawn[-1][0]
    np.testing.assert_allclose(camera.positions[0], (-1, 2, 0.5), atol=1e-9)
    forward = -np.array((-1, 2, 0.5)) / np.linalg.norm((-1, 2, 0.5))
    np.testing.assert_allclose(camera.forward[0], forward, atol=1e-9)
    assert (camera.width, camera.height) == (320, 180)
    np.testing.assert_allclose(camera.Ks[0, 1, 1], 90 / np.tan(np.radians(30)))


def test_everything_is_drawn_by_the_one_thread(tmp_path: Path) -> None:
    subject = Plain()
    with shown(subject, tmp_path) as viewer, ViewerClient(viewer.port) as client:
        client.look((1, 0, 0), (0, 0, 0))
        client.picture()
        assert viewer.run(threading.get_ident).result(PATIENCE) == subject.thread


def test_settings_are_each_browsers_own(tmp_path: Path) -> None:
    subject = Plain()
    with shown(subject, tmp_path) as viewer, ViewerClient(viewer.port) as one, ViewerClient(viewer.port) as other:
        one.look((1, 0, 0), (0, 0, 0))
        other.look((0, 1, 0), (0, 0, 0))
        one.picture(), other.picture()
        one.set("Show", "Depth")
        one.set("SH degree", 1)
        one.set("Size of splats", 0.5)

        def looks(x: float) -> Look:
            return next(look for camera, look in reversed(subject.drawn) if abs(camera.positions[0, 0] - x) < 1e-6)

        wait_until(lambda: looks(1.0).mode == "depth" and looks(1.0).size == 0.5)
        assert looks(1.0).sh_degree == 1
        other.look((0, 1, 0.1), (0, 0, 0))
        other.wait(colour_at((0, 1, 0.1)))
        wait_until(lambda: looks(0.0) == Look(sh_degree=3, far=1000.0))


def test_the_panel_shows_how_the_user_moves_and_does_not_say_it_back(tmp_path: Path) -> None:
    with shown(Plain(), tmp_path) as viewer, ViewerClient(viewer.port) as client:
        client.look((1, 0, 0), (0, 0, 0))
        client.wait(lambda m: m.kind == "RunJavascriptMessage")  # the panel is there, and has said its own
        client.say("navigation", mode="first-person", speed=2.5)
        for value in ("First person", 2.5):
            client.wait(lambda m, value=value: m.values.get("updates") == {"value": value})  # type: ignore[misc]
        client.set("Speed", 3.0)
        client.wait(lambda m: '"speed": 3.0' in m.values.get("source", ""))
        assert not any('"speed": 2.5' in m.values.get("source", "") for m in client.received)


def test_an_error_while_drawing_is_told_once_and_the_next_picture_comes(tmp_path: Path) -> None:
    subject = Plain()
    subject.error = RuntimeError("out of paint")
    with shown(subject, tmp_path) as viewer, ViewerClient(viewer.port) as client:
        client.look((1, 0, 0), (0, 0, 0))
        notice = client.wait(lambda m: m.kind == "NotificationShowMessage")
        assert notice.values["props"]["body"] == "The picture could not be made: out of paint"
        for x in (1.1, 1.2):
            client.look((x, 0, 0), (0, 0, 0))
            wait_until(lambda: len(subject.drawn) > 1)
        subject.error = None
        client.look((2, 0, 0), (0, 0, 0))
        client.wait(colour_at((2, 0, 0)))
        assert sum(m.kind == "NotificationShowMessage" for m in client.received) == 1


def test_a_browser_that_confirms_nothing_gets_few_pictures_and_takes_none_from_others(tmp_path: Path) -> None:
    with (
        shown(Plain(), tmp_path) as viewer,
        ViewerClient(viewer.port, acknowledges=False) as stalled,
        ViewerClient(viewer.port) as other,
    ):
        began, steps = time.monotonic(), itertools.count()

        def moved() -> bool:
            step = next(steps) % 100
            for client in (stalled, other):
                client.look((step * 0.05, 1, 1), (0, 0, 0))
            return other.pictures >= 15

        wait_until(moved, "pictures of one that confirms them")
        assert stalled.pictures <= AHEAD + (time.monotonic() - began) / STALLED
        other.look((-3, 1, 1), (0, 0, 0))
        other.wait(colour_at((-3, 1, 1)))


def test_ten_browsers_are_all_served_and_leave_nothing_behind(tmp_path: Path) -> None:
    subject = Plain()
    subject.seconds = 0.005
    with shown(subject, tmp_path) as viewer:
        clients = [ViewerClient(viewer.port, 320, 180).__enter__() for _ in range(10)]
        steps = itertools.count()

        def moved() -> bool:
            height = 1 + next(steps) % 20 * 0.01
            for number, client in enumerate(clients):
                client.look((number * 0.3, height, 1), (0, 0, 0))
            return min(client.pictures for client in clients) >= 3

        wait_until(moved, "some pictures for each")
        for number, client in enumerate(clients):
            client.look((number * 0.3, 2, 1), (0, 0, 0))
        for number, client in enumerate(clients):
            client.wait(colour_at((number * 0.3, 2, 1)))
        for client in clients:
            client.__exit__(None, None, None)
        wait_until(lambda: not viewer.browsers())
        with ViewerClient(viewer.port) as late:
            late.look((5, 0, 0), (0, 0, 0))
            late.wait(colour_at((5, 0, 0)))


def test_a_browser_on_a_gpu_draws_splats_itself_and_others_get_pictures(tmp_path: Path) -> None:
    subject = Plain()
    with shown(subject, tmp_path) as viewer, ViewerClient(viewer.port, software=False) as client:
        viewer.most_splats = 100
        client.look((1, 0, 0), (0, 0, 0))
        client.hello()
        sent = client.wait(lambda m: m.kind == SPLATS)
        assert sent.values["props"]["buffer"]["__binary_index"] == 0
        wait_until(lambda: "the 100 of 1,000 splats" in viewer.browsers()[0].stated)
        client.set("Drawn", "By recon")
        since = time.perf_counter()
        client.picture(since=since)
        client.wait(lambda m: m.kind == "RemoveSceneNodeMessage" and m.at > since)
        client.set("Drawn", "By this browser")
        wait_until(lambda: viewer.browsers()[0].way == "client")
        client.set("Show", "Normals")  # no browser can
        wait_until(lambda: viewer.browsers()[0].way == "server")


def test_nonsense_for_a_camera_is_not_looked_through(tmp_path: Path) -> None:
    with shown(Plain(), tmp_path) as viewer, ViewerClient(viewer.port) as client:
        client.look((1, 0, 0), (0, 0, 0))
        client.picture()
        for broken in ({"fov": 0.0}, {"image_width": 0}, {"position": (float("nan"), 0, 0)}, {"wxyz": (0, 0, 0, 0)}):
            values = {
                "wxyz": (1.0, 0.0, 0.0, 0.0),
                "position": (0.0, 0.0, 0.0),
                "fov": 1.0,
                "near": 0.01,
                "far": 1000.0,
                "image_height": 720,
                "image_width": 1280,
                "look_at": (0.0, 0.0, 1.0),
                "up_direction": (0.0, 0.0, 1.0),
            }
            client.send(CAMERA, **(values | broken))
        client.look((3, 0, 0), (0, 0, 0))
        client.wait(colour_at((3, 0, 0)))
        assert not any(m.kind == "NotificationShowMessage" for m in client.received)


def test_a_click_gives_the_point_of_the_surface(tmp_path: Path) -> None:
    class Holed(Plain):
        picked = 0

        def pick(self, camera: Cameras, x: float, y: float, look: Look) -> Vector | None:
            self.picked += 1
            return super().pick(camera, x, y, look) if self.picked == 2 else None

    subject = Holed()
    with shown(subject, tmp_path) as viewer, ViewerClient(viewer.port) as client:
        client.look((1, 0, 0), (0, 0, 0))
        client.picture()
        points: list[Vector] = []
        viewer.pick(viewer.browsers()[0].client, points.append, "Click.")
        client.wait(lambda m: m.kind == "ScenePointerEnableMessage" and m.values["modifiers"] != [])
        click = {
            "event_type": "click",
            "ray_origin": (0.0, 0.0, 0.0),
            "ray_direction": (0.0, 0.0, 1.0),
            "screen_pos": ((0.5, 0.5),),
            "modifier": None,
        }
        client.send("ScenePointerMessage", **click)
        client.wait(lambda m: m.kind == "NotificationShowMessage" and "click again" in m.values["props"]["body"])
        wait_until(lambda: viewer._pointing._picks)
        for _ in range(2):  # the second is no pick any more
            client.send("ScenePointerMessage", **click)
        wait_until(lambda: points == [(1.0, 2.0, 3.0)])
        client.look((2, 0, 0), (0, 0, 0))
        client.wait(colour_at((2, 0, 0)))  # so the second click has been dealt with
        assert points == [(1.0, 2.0, 3.0)]
        assert subject.picked == 2


def test_splats_that_cannot_be_made_are_not_tried_all_the_time(tmp_path: Path) -> None:
    class Broken(Plain):
        tries = 0

        def splats(self, most: int, look: Look) -> Splats | None:
            self.tries += 1
            raise RuntimeError("no memory")

    subject = Broken()
    with shown(subject, tmp_path) as viewer, ViewerClient(viewer.port) as client:
        client.look((1, 0, 0), (0, 0, 0))
        client.set("Drawn", "By this browser")
        client.wait(lambda m: m.kind == "NotificationShowMessage" and "no memory" in m.values["props"]["body"])
        time.sleep(0.3)
        assert subject.tries == 1


def test_who_comes_later_has_the_direction_that_is_up(tmp_path: Path) -> None:
    with shown(Plain(), tmp_path) as viewer, ViewerClient(viewer.port) as client:
        client.look((1, 0, 0), (0, 0, 0))
        client.set("Up", "-y")
        wait_until(lambda: viewer.up == (0, -1, 0))
        with ViewerClient(viewer.port) as other:
            held = other.wait(lambda m: m.kind == "SetCameraUpDirectionMessage" and m.values["initial"])
            assert tuple(held.values["position"]) == (0, -1, 0)
            other.look((1, 0, 0), (0, 0, 0))
            shown_as = other.wait(lambda m: m.kind == "GuiDropdownMessage" and m.values["props"]["label"] == "Up")
            assert shown_as.values["value"] == "-y"
