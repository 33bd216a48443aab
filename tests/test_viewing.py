"""What the commands show: runs, files, captures; and a training that is looked at, which must not notice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from viser import GuiUploadButtonHandle

import tiny
from recon import config, export, session, viewing
from recon.datasets import synthetic
from recon.datasets.errors import InputError
from recon.live import LiveView
from recon.opening import initial_model
from recon.options import Address, Options
from recon.subject import SplatSubject
from recon.train import StepMetrics, TrainState, start, train
from recon.viewer.look import Look
from recon.viewer.viewer import Viewer
from recon.viewing import Shown
from serving import PATIENCE, drawn, wait_until
from sources import SCRIPTS

if not SCRIPTS:
    pytest.skip("the client that speaks to the viewer is in scripts/", allow_module_level=True)

from _viewer_client import Received, ViewerClient

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capture") / "scene"
    synthetic.write(synthetic.make(views=10, width=48, height=36), folder, "nerfstudio")
    return folder


@pytest.fixture(scope="module")
def run(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = Options(scene=str(capture), steps=20)
    return session.begin(options, tmp_path_factory.mktemp("runs"), CPU, session.Watch()).path


@contextmanager
def served(shown: Shown) -> Iterator[ViewerClient]:
    """A browser, of 96x72, on a viewer of its own."""
    with opened(shown) as (_, client):
        yield client


@contextmanager
def opened(shown: Shown) -> Iterator[tuple[Viewer, ViewerClient]]:
    viewer = viewing.make_viewer(shown, Address(port=0), edits=True)
    with drawn(viewer), ViewerClient(viewer.port, 96, 72) as client:
        yield viewer, client


def test_a_run_is_shown_with_its_photos_where_they_were_taken(run: Path) -> None:
    shown = viewing.open_source(run, CPU)
    assert shown.scene is not None
    assert shown.shots is not None
    assert len(shown.shots) == len(shown.scene.views) == 10
    assert shown.folder == run
    camera = shown.scene.views[0].camera
    picture = shown.subject.draw(camera, Look())
    with served(shown) as client:
        client.look(camera.positions[0], camera.positions[0] + camera.forward[0], up=camera.up[0], fov=1.0)
        seen = client.picture(whole=True)
    assert seen.shape == (72, 96, 3)
    # Another lens, but the same place: much the same colours.
    assert np.abs(seen.mean(axis=(0, 1)) - picture.mean(axis=(0, 1))).max() < 30


def test_a_run_whose_capture_is_gone_is_shown_without_photos(
    run: Path, capture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = capture.with_name("away")
    capture.rename(away)
    try:
        shown = viewing.open_source(run, CPU)
    finally:
        away.rename(capture)
    assert shown.scene is None
    assert shown.subject.count > 0
    assert "Shown without photos" in capsys.readouterr().out


def test_a_file_is_brought_to_the_middle_and_saved_where_it_was(tmp_path: Path) -> None:
    model = tiny.gaussians(300)
    with torch.no_grad():
        model.means.mul_(50).add_(torch.tensor([1000.0, 0.0, -70.0]))
    export.export(model, tmp_path / "far.ply")
    shown = viewing.open_source(tmp_path / "far.ply", CPU)
    splats = shown.subject.splats(300, Look())
    assert splats is not None
    assert np.abs(np.median(splats.centres, axis=0)).max() < 0.2
    assert 0.1 < np.median(np.linalg.norm(splats.centres, axis=1)) < 2
    shown.subject.saver(Look())(tmp_path / "again.ply")
    again = export.load(tmp_path / "again.ply")
    torch.testing.assert_close(again.means, model.means, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(again.log_scales, model.log_scales, atol=1e-4, rtol=1e-4)


def test_a_folder_of_images_of_splats_is_shown(tmp_path: Path) -> None:
    export.export(tiny.gaussians(30), tmp_path / "meta.json")
    assert viewing.open_source(tmp_path, CPU).subject.count == 30
    assert viewing.open_source(tmp_path / "meta.json", CPU).subject.count == 30


def test_a_capture_that_was_not_trained_is_shown_as_points(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = viewing.open_source(capture, CPU)
    assert shown.scene is not None
    assert shown.subject.count > 100
    assert "recon train" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nothing.ply", "nothing", "photo.png"])
def test_what_cannot_be_shown_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"no splats")
    with pytest.raises(InputError, match=name):
        viewing.open_source(tmp_path / name, CPU)


def test_a_file_that_is_dropped_is_shown_or_refused_in_a_line(run: Path, tmp_path: Path) -> None:
    export.export(tiny.gaussians(77), tmp_path / "other.ply")
    shown = viewing.open_source(run, CPU)
    with served(shown) as client:
        client.look((0, -2, 1), (0, 0, 0))
        client.picture()
        for name, content in (("photo.png", b"x"), ("broken.ply", b"ply\nno"), ("../../up.ply", b"p")):
            client.upload("Open file", name, content)
            told = client.wait(lambda m, name=name: told_of(m, name))  # type: ignore[misc]
            assert "/tmp" not in told.values["props"]["body"]
        client.upload("Open file", "other.ply", (tmp_path / "other.ply").read_bytes())
        client.wait(lambda m: m.kind == "SetGuiPanelLabelMessage" and m.values["label"] == "other.ply")


def test_nothing_is_left_of_what_was_shown_before(run: Path, tmp_path: Path) -> None:
    model = tiny.gaussians(77)
    export.export(model, tmp_path / "other.ply")
    with opened(viewing.open_source(run, CPU)) as (viewer, client):
        client.look((0, -2, 1), (0, 0, 0))
        wait_until(viewer.browsers)
        [browser] = viewer.browsers()
        client.set("Compare", "Wipe")
        client.set("Pyramids", "All")
        wait_until(lambda: browser.wishes.compare is not None)
        client.wait(lambda m: m.kind == "CameraFrustumMessage")
        viewer.pick(browser.client, lambda point: None, "Click.")
        client.upload("Open file", "other.ply", (tmp_path / "other.ply").read_bytes())
        wait_until(lambda: viewer.name == "other.ply" and not viewer._pointing._picks)
        wait_until(lambda: not any("/photos/" in name for name in viewer.server.scene._handle_from_node_name))
        said = len(client.received)
        client.set("Photo up to", 0.2)
        client.set("Size of splats", 0.5)
        client.picture(since=said)
        wait_until(lambda: browser.wishes.look.size == 0.5)
        assert browser.wishes.compare is None
        assert browser.wishes.look.sh_degree == model.sh_degree
        assert browser.client.camera.fov == pytest.approx(np.radians(60))
        handles = viewer.server.gui._gui_input_handle_from_uuid.values()
        assert not any(handle.value.content for handle in handles if isinstance(handle, GuiUploadButtonHandle))


def told_of(message: Received, name: str) -> bool:
    return message.kind == "NotificationShowMessage" and Path(name).name in message.values["props"]["body"]


def test_others_than_this_machine_need_a_token() -> None:
    assert [Address(host).token for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2")] == [None] * 4
    tokens = [Address(host).token for host in ("0.0.0.0", "192.168.1.7", "::", "example.org")]
    assert all(token is not None and len(token) >= 20 for token in tokens)
    assert len(set(tokens)) == 4


# Training


def begin(steps: int) -> TrainState:
    scene = tiny.scene()
    settings = config.for_steps(steps)
    return start(initial_model(scene, settings, CPU), settings, scene)


@contextmanager
def looked_at(state: TrainState, stopping: Callable[[], bool] = lambda: False) -> Iterator[LiveView]:
    scene = tiny.scene()
    subject = SplatSubject(state.gaussians)
    viewer = viewing.make_viewer(Shown(subject, "tiny", Path(), scene), Address(port=0), edits=False)
    live = LiveView(viewer, subject, state, scene, stopping)
    try:
        yield live
    finally:
        live.close()


def test_a_training_that_is_looked_at_has_the_result_of_one_that_is_not() -> None:
    alone, seen = begin(150), begin(150)
    train(alone, tiny.scene().train_views)
    with looked_at(seen) as live:
        stop = threading.Event()
        with ViewerClient(live.viewer.port, 200, 150) as client, ViewerClient(live.viewer.port, 64, 48) as other:

            def move() -> None:
                angle = 0.0
                while not stop.wait(0.01):
                    angle += 0.05
                    for one in (client, other):
                        one.look((3 * np.cos(angle), 3 * np.sin(angle), 1), (0, 0, 0))

            def slowly(state: TrainState, metrics: StepMetrics) -> None:
                if min(client.pictures, other.pictures) <= 3:
                    time.sleep(0.05)  # so that there is something to see

            mover = threading.Thread(target=move)
            mover.start()
            other.set("Show", "Depth")
            train(seen, tiny.scene().train_views, callbacks=[live, slowly])
            stop.set()
            mover.join()
            assert client.pictures > 3
            assert other.pictures > 3
    assert len(alone.model) != 60  # rows came and went meanwhile
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, seen.model.state_dict()[name]), name


def test_a_pause_waits_shows_and_does_not_count_as_training() -> None:
    state = begin(60)
    with looked_at(state) as live, ViewerClient(live.viewer.port, 64, 48) as client:
        client.look((3, 0, 1), (0, 0, 0))
        wait_until(live.viewer.browsers)  # until then, viser lets nobody press anything
        client.press("Pause")
        wait_until(lambda: live.panel.paused)
        taken: list[float] = []

        def work() -> None:
            began = time.perf_counter()
            train(state, tiny.scene().train_views, callbacks=[live])
            taken.append(time.perf_counter() - began)

        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: state.step == 1)
        for _ in range(2):  # the first may still be done in the share of the step
            live.viewer.run(lambda: time.sleep(0.3)).result(PATIENCE)
        assert state.step == 1
        said = client.look((0, 3, 1), (0, 0, 0))
        client.picture(since=said)
        client.press("Pause")
        thread.join(PATIENCE)
    assert state.step == 60
    assert state.paused >= 0.3
    assert 0 < state.seconds <= taken[0] - state.paused


def test_a_request_to_stop_ends_a_pause() -> None:
    state, asked = begin(60), threading.Event()

    def end(state: TrainState, metrics: StepMetrics) -> None:
        if asked.is_set():
            raise InterruptedError

    with looked_at(state, asked.is_set) as live:
        live.panel.paused = True
        threading.Timer(0.5, asked.set).start()
        with pytest.raises(InterruptedError):
            train(state, tiny.scene().train_views, callbacks=[live, end])
    assert state.step == 1


def test_scores_are_made_only_while_somebody_looks() -> None:
    state = begin(30)
    with looked_at(state) as live:
        train(state, tiny.scene().train_views, callbacks=[live])
        assert len(live.panel._curves["PSNR of held-out photos, dB"].data[0]) == 1  # the empty curve's zero
    state = begin(150)
    with looked_at(state) as live, ViewerClient(live.viewer.port, 64, 48) as client:
        client.look((3, 0, 1), (0, 0, 0))
        wait_until(live.viewer.browsers)
        train(state, tiny.scene().train_views, callbacks=[live])
        step, psnr = live.panel._curves["PSNR of held-out photos, dB"].data
        assert step[0] > 0
        assert 5 < psnr[0] < 60
