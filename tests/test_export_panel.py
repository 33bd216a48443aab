"""What the File tab makes: files are made where they belong, sent to who asked, and nowhere else."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from panels import Ball, ViewerClient, browsed, error_in
from recon.viewer.export_panel import ExportPanel
from recon.viewer.look import Box, Colour, Look, Vector
from recon.viewer.subject import Splats
from recon.viewer.tour import Tour, through
from serving import wait_until
from tiny import ring


def sent(client: ViewerClient) -> tuple[str, bytes]:
    """The file that the browser was given."""
    start = client.wait(lambda m: m.kind == "FileTransferStartDownload").values
    client.wait(lambda m: m.kind == "FileTransferPart")
    parts = [m.values for m in client.received if m.kind == "FileTransferPart"]
    content = b"".join(part["content"] for part in parts)
    assert len(content) == start["size_bytes"]
    return start["filename"], content


def test_a_scene_is_exported_as_it_is_seen(tmp_path: Path) -> None:
    subject = Ball()
    with browsed(subject, tmp_path) as (viewer, client):
        viewer.crop = Box((0, 0, 0), (1, 1, 1))
        panel = ExportPanel(viewer, (".ply", ".spz"))
        client.set("Format", ".spz")
        client.set("File name", "my scene")
        wait_until(lambda: (panel.format.value, panel.name.value) == (".spz", "my scene"))
        client.press("Export")
        assert sent(client) == ("my scene.spz", b"splats")
        [(file, look)] = subject.saved
        assert file == tmp_path / "exports" / "my scene.spz"
        assert look.crop == Box((0, 0, 0), (1, 1, 1))
        told = client.wait(lambda m: m.kind == "NotificationShowMessage").values["props"]["body"]
        assert told == f"0.0 kB: {file}"


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/b", ""])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    subject = Ball()
    with browsed(subject, tmp_path / "run") as (viewer, client):
        panel = ExportPanel(viewer, (".ply",))
        client.set("File name", name)
        wait_until(lambda: panel.name.value == name)
        client.press("Export")
        assert "is no name for a file here" in error_in(client)
    assert subject.saved == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_format_that_there_is_not_is_refused(tmp_path: Path) -> None:
    subject = Ball()
    with browsed(subject, tmp_path) as (viewer, client):
        panel = ExportPanel(viewer, (".ply",))
        panel.format.value = "/../../evil.ply"
        client.press("Export")
        assert "is no format" in error_in(client)
    assert subject.saved == []


def test_a_snapshot_has_the_size_asked_for_and_shows_what_the_browser_sees(tmp_path: Path) -> None:
    from PIL import Image

    subject = Ball()
    with browsed(subject, tmp_path) as (viewer, client):
        panel = ExportPanel(viewer, (".ply",))
        client.set("Width, height", [320, 180])
        wait_until(lambda: tuple(panel.size.value) == (320, 180))
        client.press("Snapshot")
        name, content = sent(client)
        [file] = (tmp_path / "snapshots").glob("*.png")
        assert (file.name, file.read_bytes()) == (name, content)
        assert (np.asarray(Image.open(io.BytesIO(content))) == 90).all()
        assert Image.open(file).size == (320, 180)
        [camera] = [camera for camera, _ in subject.drawn if camera.width == 320]
        assert camera.positions[0].tolist() == pytest.approx([1, -2, 0.5])


def test_a_page_is_made_of_the_path_and_the_words_that_are_there(tmp_path: Path) -> None:
    asked: list[tuple[Splats, Tour | None, Colour, str, str, Vector]] = []

    def make(*arguments: object) -> str:
        asked.append(arguments)  # type: ignore[arg-type]
        return "<html>ä</html>"

    path = through(ring(3), 3.0)
    with browsed(Ball(), tmp_path) as (viewer, client):
        panel = ExportPanel(viewer, (".ply",), make, lambda: path)
        client.set("Title", "A <ball>")
        client.set("Description", "round")
        wait_until(lambda: (panel.title.value, panel.description.value) == ("A <ball>", "round"))
        viewer.up = (0.0, 1.0, 0.0)
        client.press("Make the page")
        assert sent(client) == ("scene.html", "<html>ä</html>".encode())
        assert asked[0][5] == (0.0, 1.0, 0.0)
        [(splats, tour, background, title, description, _)] = asked
        assert (len(splats.centres), tour, title, description) == (1, path, "A <ball>", "round")
        assert background == Ball.background
        assert (tmp_path / "pages" / "scene.html").is_file()


def test_what_fails_is_told_and_the_next_file_is_made(tmp_path: Path) -> None:
    subject = Ball()
    with browsed(subject, tmp_path) as (viewer, client):
        ExportPanel(viewer, (".ply",))
        (tmp_path / "exports").write_text("in the way")
        client.press("Export")
        assert "exports" in error_in(client)
        (tmp_path / "exports").unlink()
        client.press("Export")
        assert sent(client)[0] == "scene.ply"


def test_a_file_is_written_while_others_look(tmp_path: Path) -> None:
    class Slow(Ball):
        go_on = threading.Event()

        def saver(self, look: Look) -> Callable[[Path], int]:
            def save(path: Path) -> int:
                assert self.go_on.wait(20)
                return path.write_bytes(b"splats")

            return save

    subject = Slow()
    with browsed(subject, tmp_path) as (viewer, client):
        panel = ExportPanel(viewer, (".ply",))
        client.press("Export")
        wait_until(panel._busy.locked)
        said = client.look((2, -2, 0.5), (0, 0, 0))
        client.picture(since=said)
        subject.go_on.set()
        assert sent(client) == ("scene.ply", b"splats")
