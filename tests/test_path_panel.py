"""The Path tab, used as a browser uses it: views become a path, that is kept, played and rendered."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from panels import Ball, Received, ViewerClient, browsed, error_in
from recon.viewer import tour as tours
from recon.viewer.look import Look
from recon.viewer.path_panel import PathPanel
from recon.viewer.tour import Tour
from recon.viewer.video_panel import VideoPanel
from recon.viewer.viewer import Viewer
from serving import PATIENCE, wait_until
from tiny import ring

LARGER = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0]))


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Viewer, PathPanel, ViewerClient]]:
    """A viewer with a Path tab, and a browser in it."""
    with browsed(Ball(), folder, source_from_world=LARGER) as (viewer, client):
        yield viewer, PathPanel(viewer), client


def shown(panel: PathPanel, condition: Callable[[], bool]) -> None:
    """Wait until something is so, and all of it is shown: what is changed earlier may be changed back by that."""
    wait_until(condition)
    with panel._lock:
        pass


def add_three(panel: PathPanel, client: ViewerClient, viewer: Viewer) -> None:
    def add(number: int) -> None:
        client.look((number, -2, 0.5), (0, 0, 0))
        wait_until(lambda: abs(viewer.browsers()[0].client.camera.position[0] - number) < 1e-6)
        client.press("Add this view")
        shown(panel, lambda: len(panel.tour) == number)

    for number in (1, 2, 3):
        add(number)


def xs(panel: PathPanel) -> list[float]:
    return [round(stop.position[0], 3) for stop in panel.tour.stops]


def test_views_become_stops_that_can_be_edited(tmp_path: Path) -> None:
    with opened(tmp_path) as (viewer, panel, client):
        add_three(panel, client, viewer)
        assert xs(panel) == [1, 2, 3]
        assert panel.tour.stops[0].fov == pytest.approx(60)
        assert (panel.duration.value, panel.stop.value) == (4.0, "3")
        client.set("Its place", "Earlier")
        shown(panel, lambda: xs(panel) == [1, 3, 2])
        shown(panel, lambda: panel.stop.value == "2")
        client.set("To the next, s", 5.0)
        shown(panel, lambda: panel.tour.duration == 7.0)
        client.set("Altogether, s", 14.0)
        shown(panel, lambda: panel.tour.duration == pytest.approx(14.0))
        assert panel.tour.stops[1].seconds == pytest.approx(10.0)
        client.set("Closed loop", True)
        shown(panel, lambda: panel.tour.closed)
        client.set("Smoothness", 0.5)
        shown(panel, lambda: panel.tour.smoothness == 0.5)
        client.set("Whole path", "Reverse")
        shown(panel, lambda: xs(panel) == [2, 3, 1])
        client.look((7, -2, 0.5), (0, 0, 0))
        wait_until(lambda: viewer.browsers()[0].client.camera.position[0] == 7)
        client.set("This stop", "Replace")
        shown(panel, lambda: xs(panel) == [2, 7, 1])
        client.set("This stop", "Remove")
        shown(panel, lambda: xs(panel) == [2, 1])
        client.set("Whole path", "Clear")
        shown(panel, lambda: len(panel.tour) == 0)
        shown(panel, lambda: panel.stop.value == "–")
        client.set("This stop", "Remove")  # nothing there, nothing happens
        client.set("Whole path", "Orbit")
        shown(panel, lambda: len(panel.tour) > 5)
        shown(panel, lambda: panel.tour.closed)


def test_two_quick_clicks_are_two_different_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    move = PathPanel._move

    def counted(self: PathPanel, event: Any, where: str) -> None:
        move(self, event, where)
        asked.append(where)

    monkeypatch.setattr(PathPanel, "_move", counted)
    with opened(tmp_path) as (viewer, panel, client):
        add_three(panel, client, viewer)
        client.set("Stop", "2")
        wait_until(lambda: panel.stop.value == "2")
        with panel._lock:
            client.set("Its place", "Earlier")
            client.set("Its place", "Later")
            wait_until(lambda: panel.stop_move.value == "Later")
        wait_until(lambda: len(asked) == 2)
        assert sorted(asked) == ["Earlier", "Later"]
        assert xs(panel) == [1, 2, 3]


def test_going_to_a_stop_brings_the_browser_there(tmp_path: Path) -> None:
    with opened(tmp_path) as (viewer, panel, client):
        add_three(panel, client, viewer)
        client.set("Stop", "1")
        wait_until(lambda: panel.stop.value == "1")
        client.set("This stop", "Go")
        client.wait(lambda m: m.kind == "SetCameraPositionMessage" and abs(m.values["position"][0] - 1) < 1e-6)
        looked = client.wait(lambda m: m.kind == "SetCameraLookAtMessage" and not m.values["initial"])
        assert len(looked.values["look_at"]) == 3


def test_playing_moves_the_browser_in_time_until_the_end_or_until_it_is_stopped(tmp_path: Path) -> None:
    def positions(client: ViewerClient) -> list[float]:
        moves = [m for m in client.received if m.kind == "SetCameraPositionMessage" and not m.values["initial"]]
        return [m.values["position"][0] for m in moves]

    with opened(tmp_path) as (viewer, panel, client):
        client.press("Play")
        assert error_in(client) == "a path needs two stops"
        add_three(panel, client, viewer)
        panel.tour = panel.tour.retimed(1.0)
        client.press("Play")
        wait_until(lambda: len(positions(client)) > 5 and positions(client)[-1] == pytest.approx(3.0))
        seen = positions(client)
        assert seen == sorted(seen)
        wait_until(lambda: panel.play.label == "Play")
        panel.tour = panel.tour.retimed(300)
        client.press("Play")
        wait_until(lambda: panel.play.label == "Stop")
        since = told(viewer, client)
        client.set("Closed loop", True)
        wait_until(lambda: panel.tour.closed)
        with panel._lock:
            pass
        told(viewer, client)
        assert lines(client, since) == []  # nothing before the rider
        client.press("Play")
        wait_until(lambda: panel.play.label == "Play")
        wait_until(lambda: lines(client, since))


def told(viewer: Viewer, client: ViewerClient) -> int:
    """How much the client has heard, once that is all that the viewer has said."""
    count = sum(m.kind == "SetGuiPanelLabelMessage" for m in list(client.received))
    viewer.server.gui.set_panel_label(f"Told {count}")
    wait_until(lambda: sum(m.kind == "SetGuiPanelLabelMessage" for m in list(client.received)) > count)
    return len(client.received)


def lines(client: ViewerClient, since: int) -> list[Received]:
    return [message for message in client.received[since:] if message.kind == "LineSegmentsMessage"]


def test_the_path_is_drawn_in_the_scene_when_that_is_wanted(tmp_path: Path) -> None:
    with opened(tmp_path) as (viewer, panel, client):
        add_three(panel, client, viewer)
        line = client.wait(lambda m: m.kind == "LineSegmentsMessage")
        assert line.values["name"] == "/path/line"
        for number in (1, 2, 3):
            client.wait(named(f"/path/{number}"))
        removed = len([m for m in client.received if m.kind == "RemoveSceneNodeMessage"])
        client.set("Show in the scene", False)
        wait_until(lambda: len([m for m in client.received if m.kind == "RemoveSceneNodeMessage"]) > removed)


def test_paths_are_kept_in_the_folder_in_the_captures_coordinates(tmp_path: Path) -> None:
    with opened(tmp_path) as (viewer, panel, client):
        add_three(panel, client, viewer)
        client.set("Name", "my path")
        client.set("Keep", "Save")
        file = tmp_path / "paths" / "my path.json"
        wait_until(file.exists)
        assert json.loads(file.read_text())["tour"]["stops"][2]["position"][0] == pytest.approx(9.0)
        before = panel.tour
        panel.tour = Tour()
        client.set("Saved", "my path")
        client.press("Load")
        wait_until(lambda: len(panel.tour) == 3)
        assert xs(panel) == [1, 2, 3]
        client.set("Keep", "Download")
        client.wait(lambda m: m.kind == "FileTransferStartDownload" and m.values["filename"] == "my path.json")
        assert tours.load(file, LARGER).duration == before.duration


def test_another_scene_has_no_path_yet_and_its_own_coordinates(tmp_path: Path) -> None:
    with opened(tmp_path) as (viewer, panel, client):
        add_three(panel, client, viewer)
        client.set("Keep", "Save")
        wait_until((tmp_path / "paths" / "path.json").exists)
        viewer.run(lambda: viewer.show(Ball(), None, "other", torch.eye(4))).result(PATIENCE)
        assert len(panel.tour) == 0
        client.press("Load")
        wait_until(lambda: xs(panel) == [3, 6, 9])


def test_a_slider_that_is_drawn_fast_ends_where_it_was_let_go(tmp_path: Path) -> None:
    with opened(tmp_path) as (viewer, panel, client):
        add_three(panel, client, viewer)
        client.wait(lambda m: m.values.get("props", {}).get("label") == "Smoothness")
        updates = len([m for m in client.received if m.kind == "GuiUpdateMessage"])
        for number in range(30):
            client.set("Smoothness", number / 30)
        client.set("Smoothness", 0.35)
        wait_until(lambda: panel.tour.smoothness == 0.35)
        assert panel.smoothness.value == 0.35
        sent_back = [m.values for m in client.received if m.kind == "GuiUpdateMessage"][updates:]
        assert [values for values in sent_back if values["uuid"] == panel.smoothness._impl.uuid] == []


def test_a_value_that_no_path_has_is_told_and_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as (viewer, panel, client):
        add_three(panel, client, viewer)
        before = panel.tour
        client.set("Altogether, s", 0.0)
        assert "seconds 0: not between" in error_in(client)
        wait_until(lambda: panel.duration.value == 4.0)
        assert panel.tour == before


@pytest.mark.parametrize("name", ["../evil", "", "a/b", "..", "C:\\x", "nul", ".hidden", "x" * 100])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    with opened(folder) as (viewer, panel, client):
        add_three(panel, client, viewer)
        client.set("Name", name)
        client.set("Keep", "Save")
        assert "is no name for a file here" in error_in(client)
    assert list(tmp_path.rglob("*.json")) == []


def test_an_uploaded_path_is_checked(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, panel, client):

        def uploaded(content: bytes) -> Any:
            file = type("File", (), {"name": "sent.json", "content": content})
            target = type("Target", (), {"value": file})
            [browser] = panel._viewer.browsers()
            return type("Event", (), {"target": target, "client": browser.client})

        upload = panel._safely(panel._uploaded)
        upload(uploaded(b'{"tour": {"stops": [{"position": "here"}]}}'))
        assert "sent.json: stop 0: position is not a list" in error_in(client)
        tours.save(tours.through(ring(4), 3.0), tmp_path / "a.json", LARGER, fps=1)
        upload(uploaded((tmp_path / "a.json").read_bytes()))
        assert len(panel.tour) == 4


def frames_to(written: list[tuple[Path, float, int]]) -> Callable[[Iterable[NDArray[np.uint8]], Path, float], None]:
    """Writes no video, but notes what it would have been."""

    def write(frames: Iterable[NDArray[np.uint8]], path: Path, fps: float) -> None:
        count = sum(1 for _ in frames)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
        written.append((path, fps, count))

    return write


def named(name: str) -> Callable[[Received], bool]:
    return lambda message: message.kind == "CameraFrustumMessage" and message.values["name"] == name


def sent(message: Received) -> bool:
    return message.kind == "FileTransferStartDownload"


def test_a_video_is_drawn_by_the_thread_of_the_scene_kept_and_sent(tmp_path: Path) -> None:
    written: list[tuple[Path, float, int]] = []
    with opened(tmp_path) as (viewer, panel, client):
        video = VideoPanel(viewer, panel, frames_to(written))
        subject = viewer.subject
        assert isinstance(subject, Ball)
        client.press("Render")
        assert error_in(client) == "There is no path yet: add a view."
        add_three(panel, client, viewer)
        client.set("Video size", "640x360")
        client.set("Frames per second", "15")
        wait_until(lambda: (video.size.value, video.rate.value) == ("640x360", "15"))
        client.press("Render")
        assert client.wait(sent).values["filename"] == "video.mp4"
        assert written == [(tmp_path / "videos" / "video.mp4", 15.0, 60)]
        frames = [camera for camera, _ in subject.drawn if camera.width == 640]
        expected = panel.tour.cameras(640, 360, 15)
        assert torch.allclose(torch.cat([camera.viewmats for camera in frames]), expected.viewmats)
        assert subject.thread == {viewer.run(threading.get_ident).result(PATIENCE)}
        wait_until(lambda: video.render.label == "Render" and not video.progress.visible)


def test_depth_has_one_range_for_all_frames(tmp_path: Path) -> None:
    with opened(tmp_path) as (viewer, panel, client):
        add_three(panel, client, viewer)
        video = VideoPanel(viewer, panel, frames_to([]))
        near, far = video._depth_range(viewer.subject, panel.tour.cameras(64, 36, 5), Look("depth"))
        assert (near, far) == (pytest.approx(3.0), pytest.approx(3.003))


def test_a_video_can_be_cancelled_and_one_that_fails_is_told_of(tmp_path: Path) -> None:
    written: list[tuple[Path, float, int]] = []
    with opened(tmp_path) as (viewer, panel, client):
        video = VideoPanel(viewer, panel, frames_to(written))
        subject = viewer.subject
        assert isinstance(subject, Ball)
        add_three(panel, client, viewer)
        subject.wait = 0.05
        client.press("Render")
        wait_until(lambda: video.render.label == "Cancel" and video.progress.value > 0)
        client.press("Render")
        told = client.wait(lambda m: m.kind == "NotificationShowMessage" and "cancelled" in m.values["props"]["body"])
        assert told.kind
        assert written == []
        wait_until(lambda: video.render.label == "Render")
        subject.wait = 0.0

        def fail(frames: Iterable[Any], path: Path, fps: float) -> None:
            raise OSError("disk full")

        video._write = fail
        client.press("Render")
        assert error_in(client) == "The video could not be made: disk full"
        client.look((4, -2, 0.5), (0, 0, 0))
        assert client.picture().shape[2] == 3
