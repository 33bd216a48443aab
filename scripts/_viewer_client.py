"""A browser without a picture: it speaks to the viewer as viser's page does, and counts what it is sent."""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
import viser
import zstandard
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from recon.viewer.viewer import Viewer

CAMERA = "ViewerCameraMessage"
PICTURE = "BackgroundImageMessage"
SPLATS = "GaussianSplatsMessage"


@dataclass
class Received:
    """A message that came, and when (`time.perf_counter`)."""

    kind: str
    values: dict[str, Any]
    at: float


@dataclass
class ViewerClient:
    """Connected while it is a context.

    Attributes:
        acknowledges: whether it says that pictures have come, as our page does.
        received: every message; their binary parts as bytes.
    """

    port: int
    width: int = 1280
    height: int = 720
    acknowledges: bool = True
    software: bool = True
    keep: Callable[[str], bool] = lambda kind: True
    received: list[Received] = field(default_factory=list)
    traffic: int = 0
    pictures: int = 0
    _uploads: int = 0

    def __enter__(self) -> Self:
        self._socket = connect(
            f"ws://127.0.0.1:{self.port}",
            origin=f"http://127.0.0.1:{self.port}",  # type: ignore[arg-type]
            subprotocols=[f"viser-v{viser.__version__}"],  # type: ignore[list-item]
            max_size=None,
            compression=None,
        )
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._reader.join(timeout=5)

    # What a page says

    def send(self, kind: str, **values: Any) -> None:
        self._socket.send(msgspec.msgpack.encode(values | {"type": kind}))

    def say(self, name: str, **values: Any) -> None:
        """What our own script sends."""
        self.send("PageMessage", name=name, values=values)

    def hello(self) -> None:
        self.say(
            "hello",
            renderer="none",
            software=self.software,
            touch=False,
            width=float(self.width),
            height=float(self.height),
            pixel_ratio=1.0,
        )

    def look(self, position: Any, look_at: Any, *, up: Any = (0.0, 0.0, 1.0), fov: float = math.radians(60)) -> float:
        """Look from somewhere at something; returns when that was said."""
        position, look_at, up = (np.asarray(value, np.float64) for value in (position, look_at, up))
        forward = (look_at - position) / np.linalg.norm(look_at - position)
        right = np.cross(forward, up)
        right /= np.linalg.norm(right)
        from scipy.spatial.transform import Rotation

        rotation = np.stack([right, np.cross(forward, right), forward], axis=1)
        said = time.perf_counter()
        self.send(
            CAMERA,
            wxyz=Rotation.from_matrix(rotation).as_quat(scalar_first=True).tolist(),
            position=position.tolist(),
            fov=fov,
            near=0.01,
            far=1000.0,
            image_height=self.height,
            image_width=self.width,
            look_at=look_at.tolist(),
            up_direction=up.tolist(),
        )
        return said

    def set(self, label: str, value: Any) -> None:
        """Change the element with this label, as its user would."""
        made = self.wait(lambda m: m.kind.startswith("Gui") and m.values.get("props", {}).get("label") == label)
        self.send("GuiUpdateMessage", uuid=made.values["uuid"], updates={"value": value})

    def press(self, label: str) -> None:
        self.set(label, True)

    def upload(self, label: str, name: str, content: bytes) -> None:
        """Give a file to the upload button with this label."""
        made = self.wait(lambda m: m.kind.startswith("Gui") and m.values.get("props", {}).get("label") == label)
        self._uploads += 1
        transfer = {"source_component_uuid": made.values["uuid"], "transfer_uuid": f"upload-{self._uploads}"}
        start = {"filename": name, "mime_type": "", "part_count": 1, "size_bytes": len(content)}
        self.send("FileTransferStartUpload", **transfer, **start)
        self.send("FileTransferPart", **transfer, part_index=0, content=content)

    # What it gets

    def wait(self, wanted: Callable[[Received], bool], seconds: float = 60.0) -> Received:
        """The first message, of those that came and come, that is wanted."""
        end, seen = time.monotonic() + seconds, 0
        with self._news:
            while True:
                for message in self.received[seen:]:
                    if wanted(message):
                        return message
                seen = len(self.received)
                if time.monotonic() > end:
                    raise TimeoutError(f"waited {seconds} s; got {sorted({m.kind for m in self.received})}")
                self._news.wait(0.1)

    def picture(self, since: float = 0.0, seconds: float = 60.0, whole: bool = False) -> NDArray[np.uint8]:
        """The first picture that came after `since`; with `whole`, the first of the window's size."""

        def wanted(message: Received) -> bool:
            if message.kind != PICTURE or message.at <= since or message.values["rgb_data"] is None:
                return False
            return not whole or decoded(message).shape[:2] == (self.height, self.width)

        return decoded(self.wait(wanted, seconds))

    def _read(self) -> None:
        unpack = zstandard.ZstdDecompressor()
        try:
            while True:
                raw = self._socket.recv()
                at = time.perf_counter()
                assert isinstance(raw, bytes)
                size, packed = (int.from_bytes(raw[i : i + 8], "little") for i in (0, 8))
                batch = msgspec.msgpack.decode(unpack.decompress(raw[16 : 16 + packed], max_output_size=size))
                numbers = []
                with self._news:
                    self.traffic += len(raw)
                    for values in batch["messages"]:
                        kind = values.pop("type")
                        if kind == PICTURE and values["format"] == "jpeg" and values["rgb_data"] is not None:
                            numbers.append(number_of(values["rgb_data"]))
                        if self.keep(kind):
                            self.received.append(Received(kind, values, at))
                    self.pictures += len(numbers)
                    self._news.notify_all()
                if numbers and self.acknowledges:
                    self.say("shown", number=numbers[-1], ms=0.0)
        except ConnectionClosed:
            pass


@contextmanager
def drawn(viewer: Viewer) -> Iterator[Viewer]:
    """A viewer that a thread draws for, which ends with it."""
    thread = threading.Thread(target=viewer.queue.run)
    thread.start()
    try:
        yield viewer
    finally:
        viewer.close()
        thread.join()


def decoded(message: Received) -> NDArray[np.uint8]:
    """The picture in a message."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(message.values["rgb_data"])))


def number_of(jpeg: bytes) -> int:
    """The number that the viewer gave a picture: it is in its comment."""
    from PIL import Image

    return int(Image.open(io.BytesIO(jpeg)).info["comment"])
