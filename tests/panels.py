"""A viewer of a subject that is easy to know, and a browser in it, for the tests of panels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from recon.datasets.cameras import Cameras
from recon.viewer.look import Look, Vector
from recon.viewer.subject import Splats
from recon.viewer.viewer import Viewer
from serving import drawn, wait_until
from sources import SCRIPTS

if not SCRIPTS:
    pytest.skip("the client that speaks to the viewer is in scripts/", allow_module_level=True)

from _viewer_client import Received, ViewerClient

__all__ = ["Ball", "Received", "ViewerClient", "browsed", "error_in"]


class Ball:
    """A subject that is 3 away from wherever one looks; it notes what it was asked for."""

    count, sh_degree, background = 1, 0, (0.1, 0.2, 0.3)

    def __init__(self) -> None:
        self.drawn: list[tuple[Cameras, Look]] = []
        self.thread: set[int] = set()
        self.saved: list[tuple[Path, Look]] = []
        self.wait = 0.0

    def draw(self, camera: Cameras, look: Look) -> NDArray[np.uint8]:
        self.drawn.append((camera, look))
        self.thread.add(threading.get_ident())
        time.sleep(self.wait)
        return np.full((camera.height, camera.width, 3), 90, np.uint8)

    def pick(self, camera: Cameras, x: float, y: float, look: Look) -> Vector | None:
        x, y, z = (camera.positions[0] + 3 * camera.forward[0]).tolist()
        return (x, y, z)

    def splats(self, most: int, look: Look) -> Splats | None:
        one = np.ones((1, 3), np.float32)
        return Splats(one, np.eye(3, dtype=np.float32)[None], one, one[:, :1])

    def saver(self, look: Look) -> Callable[[Path], int]:
        def save(path: Path) -> int:
            self.saved.append((path, look))
            return path.write_bytes(b"splats")

        return save


@contextmanager
def browsed(subject: Ball, folder: Path, **options: Any) -> Iterator[tuple[Viewer, ViewerClient]]:
    """A viewer that a thread draws for, and a browser of 160x90 that looks at the middle of the world."""
    viewer = Viewer(subject, folder=folder, name="test", port=0, **options)
    with drawn(viewer), ViewerClient(viewer.port, 160, 90) as client:
        client.look((1, -2, 0.5), (0, 0, 0))
        wait_until(viewer.browsers, "a browser")
        yield viewer, client


def error_in(client: ViewerClient) -> str:
    found = client.wait(lambda m: m.kind == "NotificationShowMessage" and m.values["props"]["color"] == "red")
    return str(found.values["props"]["body"])
