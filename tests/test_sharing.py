"""From a scene to its page: what goes in where nothing is said, and what is left out where there is too much."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from recon import sharing
from recon.datasets.errors import InputError
from recon.subject import SplatSubject
from recon.viewer import tour as tours
from recon.viewer.look import Box, Look, Vector
from recon.viewer.share import ROW
from shared_pages import data_in, recording_in


def subject(count: int = 60) -> SplatSubject:
    return SplatSubject(tiny.gaussians(count), background=(0.0, 1.0, 0.0))


def centres(text: str) -> np.ndarray:
    return np.frombuffer(recording_in(text)[1], ROW)["centre"]


def test_a_capture_is_turned_around_as_its_photos_were_taken() -> None:
    text = sharing.page_of(subject(), "cloud", tiny.scene())
    data = data_in(text)
    poses = torch.tensor(data["path"])
    assert data["seconds"] == pytest.approx(sharing.ORBIT)
    assert torch.allclose(poses[:, 2], torch.tensor(0.8), atol=0.02)
    assert torch.allclose(poses[:, :2].norm(dim=-1), torch.tensor(3.0), atol=0.05)
    assert data["start"] == pytest.approx(data["path"][0], abs=1e-5)
    assert "background: #00ff00" in text
    assert len(centres(text)) == 60


def test_a_file_without_photos_is_turned_around_and_a_given_path_is_taken() -> None:
    start = torch.tensor(data_in(sharing.page_of(subject(), "cloud"))["path"])
    assert torch.allclose(start[:, :3].norm(dim=-1), torch.tensor(2.377), atol=0.02)
    path = tours.through(tiny.ring(3), 7.0)
    data = data_in(sharing.page_of(subject(), "cloud", tiny.scene(), tour=path))
    assert data["seconds"] == pytest.approx(7.0)
    one = tours.Tour(path.stops[:1])
    data = data_in(sharing.page_of(subject(), "cloud", tour=one))
    assert data["path"] is None
    assert data["start"][:3] == pytest.approx(path.stops[0].position, abs=1e-5)


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0)])
def test_a_page_is_upright_as_the_viewer_was(up: Vector) -> None:
    splats = subject().splats(60, Look())
    data = data_in(sharing.page_from(splats, None, (0.0, 0.0, 0.0), "up", "", None, up))
    assert tuple(data["up"]) == up
    path = np.array(data["path"])
    np.testing.assert_allclose(path[:, :3] @ np.array(up), 0.9, atol=0.02)  # round the axis, above the middle
    np.testing.assert_allclose(path[:, 6:9], np.tile(up, (len(path), 1)), atol=1e-6)


def test_what_is_cropped_is_not_in_the_page_and_background_is_as_shown() -> None:
    look = Look(crop=Box((0.5, 0.0, 0.0), (1.0, 9.0, 9.0)), background=(0.0, 0.0, 1.0))
    text = sharing.page_of(subject(), "cloud", look=look)
    inside = centres(text)
    means = tiny.gaussians(60).means.detach().numpy()
    assert len(inside) == ((means[:, 0] >= 0) & (means[:, 0] <= 1)).sum()
    assert inside[:, 0].min() >= 0
    assert "background: #0000ff" in text
    with pytest.raises(InputError, match="no splat to share"):
        sharing.page_of(subject(), "cloud", look=Look(crop=Box((99.0, 0.0, 0.0), (1.0, 1.0, 1.0))))


def test_the_page_is_written_whole_and_its_size_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pages" / "cloud.html"
    sharing.write_page(out, subject(), "cloud", tiny.scene(), description="of <60>", most=25)
    said = capsys.readouterr().out
    assert "Wrote 25 splats of 60, those that show most" in said
    assert f"{out} ({out.stat().st_size / 1e6:.1f} MB)" in said
    text = out.read_text("utf-8")
    assert len(centres(text)) == 25
    assert re.search("of &lt;60&gt;", text)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        sharing.write_page(tmp_path / "file" / "x.html", subject(), "cloud")
