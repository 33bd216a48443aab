"""The page that needs no server: what is in it, what is not, and what nobody can put there."""

from __future__ import annotations

import math
import re
from datetime import date
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from recon.datasets.cameras import Cameras
from recon.viewer import tour
from recon.viewer.share import packed, share_page
from shared_pages import Elements, data_in, recording_in, splats_of

EVIL = '</script><script>alert("x")</script> & <img src=http://a.b/c.png>'


def page(**options: Any) -> str:
    return share_page(splats_of(tiny.gaussians(50)), tiny.ring(4)[0], **{"title": "A cloud", **options})


def test_what_is_written_on_the_page_is_text_and_never_code() -> None:
    text = page(title=EVIL, description=f"{EVIL}\nsecond line", made=date(2026, 3, 7))
    elements = Elements(text)
    assert [shown.strip() for _, shown in elements.of("title")] == [EVIL]
    [(_, summary)] = elements.of("summary")
    assert summary.strip() == EVIL
    shown = [paragraph.strip() for _, paragraph in elements.of("p")]
    assert shown == [f"{EVIL}\nsecond line", "50 splats · 7 March 2026"]
    assert elements.of("img") == []
    assert len(elements.of("script")) == len(Elements(page()).of("script"))


def test_the_page_asks_nobody_for_anything() -> None:
    text = page(tour=tour.through(tiny.ring(6), 3.0, closed=True), description="Nothing else.")
    assert set(re.findall(r"(?:https?|wss?)://[^\s\"'<>)]*", text)) <= {"http://www.w3.org/2000/svg"}
    elements = Elements(text)
    assert elements.of("link") == [] or all(str(link["href"]).startswith("data:") for link, _ in elements.of("link"))
    assert all("src" not in attributes for _, attributes, _ in elements.found)
    [policy] = [m["content"] for m, _ in elements.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert not re.search(r"https?|\*|'self'", policy)
    assert text.index("Content-Security-Policy") < text.index("<script")


def test_the_splats_are_in_it_as_viser_packs_them() -> None:
    viser = pytest.importorskip("viser")
    splats = splats_of(tiny.gaussians(50))
    server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
    try:
        node = server.scene.add_gaussian_splats("/splats", *splats)
        ours, theirs = packed(splats).view(np.uint8), node.buffer.view(np.uint8)
    finally:
        server.stop()
    assert (ours[:, :28] == theirs[:, :28]).all()
    assert np.abs(ours[:, 28:].astype(int) - theirs[:, 28:]).max() <= 1  # viser cuts where we round
    messages, binary = recording_in(page())
    [message] = [m for m in messages if m["type"] == "GaussianSplatsMessage"]
    assert message["props"]["buffer"] == {"__binary_index": 0, "dtype": "<u4"}
    assert binary == packed(splats).tobytes()


def test_splats_too_large_for_half_precision_stay_finite() -> None:
    splats = splats_of(tiny.gaussians(3))
    rows = packed(splats._replace(covariances=splats.covariances * 1e9))
    assert np.isfinite(rows[:, 4:7].copy().view(np.float16)).all()


def test_the_page_begins_at_the_camera_over_the_background() -> None:
    camera = tiny.ring(4)[1]
    text = share_page(splats_of(tiny.gaussians(50)), camera, title="x", background=(1.0, 0.5, 0.0))
    messages = {message["type"]: message for message in recording_in(text)[0]}
    assert messages["SetCameraPositionMessage"]["position"] == pytest.approx(camera.positions[0].tolist())
    assert messages["SetCameraUpDirectionMessage"]["position"] == [0, 0, 1]
    ahead = torch.tensor(messages["SetCameraLookAtMessage"]["look_at"]).double() - camera.positions[0]
    assert float(ahead @ camera.forward[0] / ahead.norm()) == pytest.approx(1)
    assert float(ahead.norm()) == pytest.approx(
        float(camera.positions[0].norm()), abs=0.2
    )  # the cloud is at the origin
    fov = messages["SetCameraFovMessage"]["fov"]
    assert math.tan(fov / 2) == pytest.approx(camera.height / 2 / float(camera.Ks[0, 1, 1]))
    assert all(messages[f"SetCamera{name}Message"]["initial"] for name in ("Position", "LookAt", "UpDirection", "Fov"))
    assert "background: #ff8000" in text
    assert data_in(text)["path"] is None


@pytest.mark.parametrize("closed", [False, True])
def test_the_path_in_the_page_is_that_of_the_tour(closed: bool) -> None:
    path = tour.through(tiny.ring(6), 3.0, closed=closed)
    data = data_in(page(tour=path))
    assert data["seconds"] == pytest.approx(3.0)
    poses = torch.tensor(data["path"]).double()
    cameras = path.at(torch.linspace(0, 3, len(poses), dtype=torch.float64)[:-1], 64, 48)
    assert torch.allclose(poses[:-1, :3], cameras.positions, atol=1e-5)
    ahead = poses[:-1, 3:6] - poses[:-1, :3]
    assert torch.allclose(ahead / ahead.norm(dim=-1, keepdim=True), cameras.forward, atol=1e-5)
    assert torch.allclose(poses[-1, :3], path.at([0.0 if closed else 3.0], 8, 8).positions[0], atol=1e-5)
    # What is drawn between two poses is a straight line: it may not stray from the path.
    times = (torch.arange(len(poses) - 1) + 0.5) * 3 / (len(poses) - 1)
    between = path.at(times, 8, 8).positions
    assert float(((poses[1:, :3] + poses[:-1, :3]) / 2 - between).norm(dim=-1).max()) < 0.01


def test_tilted_cameras_are_held_as_they_are_and_level_ones_by_the_world() -> None:
    level = tiny.ring(4)[0]
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])
    tilted = Cameras(turn @ level.viewmats, level.Ks, level.width, level.height)
    for camera, held in ((level, [0.0, 0.0, 1.0]), (tilted, tilted.up[0].tolist())):
        start = data_in(share_page(splats_of(tiny.gaussians(9)), camera, title="x"))["start"]
        assert start[6:9] == pytest.approx(held, abs=1e-6)


def test_a_scene_of_no_splats_is_a_page_too() -> None:
    empty = splats_of(tiny.gaussians(3))
    text = share_page(type(empty)(*(values[:0] for values in empty)), tiny.ring(4)[0], title="nothing")
    assert "0 splats" in text
