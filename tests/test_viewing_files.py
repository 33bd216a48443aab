"""Files made from the page of a run: they are real ones, in the run's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from panels import Received, ViewerClient
from recon import export, viewing
from recon.options import Address
from recon.subject import SplatSubject
from recon.viewer import tour as tours
from recon.viewing import Shown
from serving import drawn, wait_until
from shared_pages import data_in

MOVED = torch.tensor([[0.0, -2.0, 0.0, 5.0], [2.0, 0.0, 0.0, 1.0], [0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 1.0]]).double()


def sent(suffix: str) -> Callable[[Received], bool]:
    return lambda m: m.kind == "FileTransferStartDownload" and m.values["filename"].endswith(suffix)


def test_a_run_is_filmed_exported_and_shared_into_its_folder(tmp_path: Path) -> None:
    import imageio.v3 as iio

    model = tiny.gaussians(60)
    subject = SplatSubject(model, background=(0.0, 0.0, 1.0), source_from_world=MOVED)
    shown = Shown(subject, "cloud", tmp_path, tiny.scene(), source_from_world=MOVED)
    viewer = viewing.make_viewer(shown, Address(port=0), edits=True)
    with drawn(viewer), ViewerClient(viewer.port, 96, 72) as client:
        client.look((3, 0, 1), (0, 0, 0))
        client.picture()
        client.set("Whole path", "Orbit")
        client.set("Keep", "Save")
        client.wait(lambda m: m.kind == "NotificationShowMessage" and "Saved" in m.values["props"]["body"])
        path = tours.load(tmp_path / "paths" / "path.json", MOVED)
        client.set("Altogether, s", 0.4)
        client.set("Video size", "640x360")
        client.wait(lambda m: m.kind == "CameraFrustumMessage" and m.values["name"] == "/path/12")
        client.press("Render")
        client.wait(sent(".mp4"))
        client.press("Export")
        client.wait(sent("scene.ply"))
        client.press("Make the page")
        client.wait(sent(".html"))
        client.press("Snapshot")
        client.wait(sent(".png"))
        wait_until(lambda: len(viewer.browsers()) == 1)
    assert path.duration == pytest.approx(12.0)
    assert np.asarray(iio.imread(tmp_path / "videos" / "video.mp4")).shape == (12, 360, 640, 3)
    [file] = (tmp_path / "exports").iterdir()
    assert len(export.load(file)) == 60
    page = (tmp_path / "pages" / "scene.html").read_text("utf-8")
    assert data_in(page)["seconds"] == pytest.approx(0.4)
    assert "background: #0000ff" in page
    [picture] = (tmp_path / "snapshots").iterdir()
    assert iio.imread(picture).shape == (1080, 1920, 3)


def test_the_command_writes_the_page_of_a_file_along_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export.export(tiny.gaussians(40), tmp_path / "cloud.ply")
    tours.save(tours.through(tiny.ring(4), 3.0), tmp_path / "path.json", torch.eye(4), fps=1)
    out = tmp_path / "cloud.html"
    viewing.share(
        tmp_path / "cloud.ply", out, torch.device("cpu"), camera_path=tmp_path / "path.json", description="round"
    )
    assert "Wrote 40 splats" in capsys.readouterr().out
    data = data_in(out.read_text("utf-8"))
    assert data["seconds"] == pytest.approx(3.0)
    shown = viewing.open_source(tmp_path / "cloud.ply", torch.device("cpu"))
    first = tours.load(tmp_path / "path.json", shown.source_from_world).stops[0]
    assert data["start"][:3] == pytest.approx(first.position, abs=1e-4)
