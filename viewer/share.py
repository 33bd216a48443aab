"""A scene as one page that needs no server: viser's client with the splats, the camera path and a card inside.

viser plays recordings of what its server would say; here one is written without a server. The page's own script
(share.html) moves the camera by the messages that a server would send (viser/_messages.py). A content security policy
keeps the page from asking anything of the network.
"""

from __future__ import annotations

import html
import importlib.resources
import io
import json
import math
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recon.datasets.cameras import Cameras
from recon.viewer.look import Colour, Vector
from recon.viewer.subject import Splats
from recon.viewer.tour import Tour

MOST = 300_000  # splats that phones draw, and that make a page of about 11 MB
RATE = 30.0  # poses of a camera path in the page for each second; it draws straight lines between them
MOST_POSES = 3000
LEVEL = 1e-3  # a camera whose horizon is tilted by less than this (sine) is held by the world's up direction

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob:; worker-src blob: data:; connect-src data:"
    " blob:; img-src data: blob:; style-src 'unsafe-inline'; font-src data:; base-uri 'none'; form-action 'none'"
)

ROW = np.dtype([("centre", "<f4", 3), ("unused", "<u4"), ("covariance", "<f2", 6), ("rgba", "u1", 4)])


def share_page(
    splats: Splats,
    start: Cameras,
    *,
    title: str,
    description: str = "",
    tour: Tour | None = None,
    up: Vector = (0.0, 0.0, 1.0),
    background: Colour = (0.0, 0.0, 0.0),
    made: date | None = None,
) -> str:
    """The page: a document of HTML that shows a scene wherever it is opened, also from a disk.

    Args:
        start: a batch of one, which the page begins at.
        title, description: plain text; lines of the description stay apart.
        tour: the page plays it, round and round, until the visitor takes over.
        up: direction that the visitor's camera is held by.
        made: the date that the page bears; today's if not given.
    """
    middle = np.median(splats.centres, axis=0) if len(splats.centres) else np.zeros(3)
    [first] = _poses(start, middle, up)
    day = date.today() if made is None else made
    parts = {
        "title": html.escape(title),
        "description": html.escape(description),
        "count": f"{len(splats.centres):,}",
        "date": f"{day.day} {day:%B %Y}",
        "ground": "#{:02x}{:02x}{:02x}".format(*_bytes(background).tolist()),
        "data": _script_json(
            {
                "start": first,
                "up": up,
                "path": None if tour is None else _poses(_sampled(tour), middle, up),
                "seconds": 0.0 if tour is None else tour.duration,
            }
        ),
    }
    template = importlib.resources.files("recon.viewer").joinpath("share.html").read_text("utf-8")
    ours = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)
    page = _recording(splats, first, background)
    head = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}" /><title>{parts["title"]}</title>'
    page = page.replace("<title>Viser</title>", head, 1)
    page = page.replace('content="Viser client"', f'content="{html.escape(description or title)}"', 1)
    body = page.rindex("</body>")
    return page[:body] + ours + page[body:]


def packed(splats: Splats) -> NDArray[np.uint32]:
    """The rows [N,8] in which viser's client takes splats."""
    rows = np.zeros(len(splats.centres), ROW)
    rows["centre"] = splats.centres
    most = np.finfo(np.float16).max
    rows["covariance"] = splats.covariances.reshape(-1, 9)[:, [0, 1, 2, 4, 5, 8]].clip(-most, most)
    rows["rgba"][:, :3] = _bytes(splats.rgbs)
    rows["rgba"][:, 3:] = _bytes(splats.opacities)
    return rows.view(np.uint32).reshape(-1, 8)


def _bytes(values: Any) -> NDArray[np.uint8]:
    return (np.asarray(values, np.float64).clip(0, 1) * 255).round().astype(np.uint8)


def _recording(splats: Splats, start: Sequence[float], background: Colour) -> str:
    """viser's page with a recording that puts the splats, the background and the camera there at once."""
    from PIL import Image
    from viser import _messages as messages
    from viser.infra import WebsockMessageHandler

    class Recorder(WebsockMessageHandler):
        def get_message_buffer(self) -> Any:
            raise NotImplementedError("what is said goes into the recording, and to nobody")

    pixel = io.BytesIO()
    Image.fromarray(_bytes(background).reshape(1, 1, 3)).save(pixel, format="PNG")
    position, target, held, fov = start[:3], start[3:6], start[6:9], start[9]
    distance = math.dist(position, target)
    dark = sum(background) < 1.5
    script: list[messages.Message] = [
        messages.ThemeConfigurationMessage(
            titlebar_content=None,
            control_layout="floating",
            control_width="medium",
            show_logo=False,
            show_share_button=False,
            dark_mode=dark,
            colors=None,
        ),
        messages.SetSceneNodeVisibilityMessage("/WorldAxes", False),
        messages.SetCameraUpDirectionMessage((held[0], held[1], held[2]), initial=True),
        messages.SetCameraPositionMessage((position[0], position[1], position[2]), initial=True),
        messages.SetCameraLookAtMessage((target[0], target[1], target[2]), initial=True),
        messages.SetCameraFovMessage(fov, initial=True),
        messages.SetCameraNearMessage(distance / 100, initial=True),
        messages.SetCameraFarMessage(distance * 1e4, initial=True),
        messages.BackgroundImageMessage("png", pixel.getvalue(), None),
        messages.GaussianSplatsMessage("/splats", messages.GaussianSplatsProps(packed(splats), 1.0)),
    ]
    recording = Recorder().get_message_serializer(lambda _: True)
    for message in script:
        recording._insert_message(message)
    return recording.as_html(dark_mode=dark)


def _sampled(tour: Tour) -> Cameras:
    """The poses that the page holds of a path, both ends included."""
    count = min(MOST_POSES, 1 + max(1, math.ceil(tour.duration * RATE)))
    times = torch.linspace(0, tour.duration, count, dtype=torch.float64)
    poses = tour.at(times, 2, 2)
    if tour.closed:  # the end is the beginning, exactly
        poses = Cameras.cat([poses[: count - 1], poses[0]])
    return poses


def _poses(cameras: Cameras, middle: NDArray[Any], up: Vector) -> list[list[float]]:
    """Numbers [10] for each camera: position, the point it looks at, the direction it is held by, fov (radians).

    Args:
        middle: [3] of the scene; as far ahead as that is lies the point around which a visitor turns a camera.
    """
    cameras = cameras.to("cpu", torch.float64)
    held = torch.tensor(up, dtype=torch.float64)
    held = held / held.norm()
    offsets = torch.from_numpy(middle).double() - cameras.positions
    ahead = (offsets * cameras.forward).sum(dim=-1).maximum(0.1 * offsets.norm(dim=-1)).clamp(min=1e-3)
    targets = cameras.positions + ahead[:, None] * cameras.forward
    # A level camera is held by the world's up direction, so that it stays level when a visitor turns it.
    tilt, along = (cameras.viewmats[:, 0, :3] @ held).abs(), (cameras.forward @ held).abs()
    level = (tilt < LEVEL) & (along < 0.99) & (cameras.up @ held > 0)
    above = torch.where(level[:, None], held, cameras.up)
    fovs = 2 * (cameras.height / 2 / cameras.Ks[:, 1, 1]).atan()
    rows = torch.cat([cameras.positions, targets, above, fovs[:, None]], dim=-1)
    return [[float(f"{value:.7g}") for value in row] for row in rows.tolist()]


def _script_json(values: Any) -> str:
    """JSON that can stand in a script element, whatever text is in it."""
    return json.dumps(values).replace("<", "\\u003c")
