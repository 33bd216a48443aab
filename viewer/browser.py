"""One browser that looks: what it wants to see, and the pictures or the splats that it is sent."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from recon.viewer.look import Look
from recon.viewer.poses import Pose, camera_of, pose_of
from recon.viewer.quality import Pace
from recon.viewer.queue import NEVER

if TYPE_CHECKING:
    import viser

    from recon.viewer.viewer import Viewer

Way = Literal["auto", "server", "client"]

REST = 0.15  # s without a move after which the whole picture is made
AHEAD = 2  # pictures that may be under way to a browser
MOVING = 0.5  # s since its last move for which a browser counts as one that moves
RETRY = 5.0  # s after which splats that could not be made are tried again
STALLED = 2.0  # s after which a browser that confirms nothing is sent one more picture all the same
RATE = 2e6  # bytes/s of splats that a browser is sent at most while the scene changes
BYTES_PER_SPLAT = 32  # of viser's layout


class Comparison(Protocol):
    """Photos of the capture beside what the scene looks like from where they were taken."""

    @property
    def names(self) -> list[str]: ...

    def draw(
        self, index: int, width: int, height: int, how: Literal["wipe", "error"], share: float, look: Look
    ) -> NDArray[np.uint8]:
        """A picture [height,width,3]: left of `share` of the width the photo, or the error everywhere."""
        ...


@dataclass(frozen=True)
class Compare:
    """Which photo a browser compares, and how."""

    index: int
    how: Literal["wipe", "error"]
    share: float


@dataclass
class Wishes:
    """What a browser asked for."""

    look: Look = field(default_factory=Look)
    way: Way = "auto"
    resolution: float = 1.0  # of the window, at rest
    adaptive: bool = True  # pictures are smaller while the camera moves, where that is needed to follow it
    compare: Compare | None = None


class Browser:
    """A `Painter` for one browser. Its state is changed by assignments of whole values from any thread."""

    def __init__(self, viewer: Viewer, client: viser.ClientHandle, encoder: ThreadPoolExecutor) -> None:
        self.client = client
        self.wishes = Wishes()
        self.pace = Pace()
        self.software = True  # until the page says that a GPU draws it
        self.stated = ""  # what is being drawn while the camera rests, in words
        self.on_stated: Callable[[str], None] = lambda text: None
        self.on_show: Callable[[], None] = lambda: None  # another scene is shown
        self.on_navigation: Callable[[str, float], None] = lambda mode, speed: None
        self._viewer = viewer
        self._encoder = encoder
        self._encoding: Future[None] | None = None
        self._encode_seconds = 0.004
        self._moved = time.monotonic()
        self._pose: Pose | None = pose_of(client)
        self._drawn: tuple[int, bool] = (-1, False)  # of the scene's version, and whether it was the whole picture
        self._drawn_at = 0.0
        self._splats_of: tuple[int, Look] | None = None
        self._splats_next = 0.0
        self._stale = True
        self._sent = self._shown = 0
        self._said = ""

    # What the browser says

    def moved(self) -> None:
        """Its camera is elsewhere than it was."""
        pose = pose_of(self.client)
        if pose is None:
            return
        self._pose, self._moved, self._stale = pose, time.monotonic(), True

    @property
    def moved_at(self) -> float:
        """When its camera moved last, in seconds of `time.monotonic`."""
        return self._moved

    def shown(self, number: int) -> None:
        """It has so many pictures."""
        self._shown = max(self._shown, min(number, self._sent))

    def want(self, wishes: Wishes) -> None:
        self.wishes = wishes
        self.refresh()

    def refresh(self) -> None:
        """What it was sent is not what it should see."""
        self._stale = True

    # What it gets

    @property
    def way(self) -> Literal["server", "client"]:
        """How the scene is drawn for it. Only colours of splats can be drawn by a browser, and best by one on a GPU."""
        wishes = self.wishes
        if wishes.look.mode != "rgb" or wishes.compare is not None or not self._viewer.subject.count:
            return "server"
        if wishes.way == "auto":
            return "server" if self.software else "client"
        return wishes.way

    def due(self, now: float) -> float:
        if self._pose is None or (self._encoding is not None and not self._encoding.done()):
            return NEVER
        if self.way == "client":
            wanted = (self._viewer.version, self.look())
            return NEVER if wanted == self._splats_of else self._splats_next
        if self._sent - self._shown >= AHEAD and now - self._drawn_at < STALLED:
            return self._drawn_at + STALLED
        if self._stale:
            return now
        version, whole = self._drawn
        if not whole:
            return self._moved + REST
        if version != self._viewer.version:
            return self._drawn_at + self._viewer.refresh_every
        return NEVER

    def paint(self, now: float) -> float:
        return self._send_splats(now) if self.way == "client" else self._send_picture(now)

    def failed(self, error: Exception) -> None:
        now = time.monotonic()
        self._drawn, self._drawn_at = (self._viewer.version, True), now
        self._splats_next = now + RETRY
        text = f"The picture could not be made: {error}"
        if text != self._said:
            self._said = text
            self._viewer.tell(self.client, text, error=True)

    def look(self) -> Look:
        return replace(self.wishes.look, crop=self._viewer.crop)

    def _send_picture(self, now: float) -> float:
        pose, wishes = self._pose, self.wishes
        assert pose is not None
        self._stale = False
        if self._splats_of is not None:
            self._splats_of = None
            self._viewer.remove_splats(self.client)
        version = self._viewer.version
        moving = now - self._moved < REST and wishes.compare is None
        self.pace.target = self._viewer.picture_seconds / max(1, self._viewer.movers(now - MOVING))
        width, height = self.pace.resting(pose.width, pose.height, wishes.resolution)
        if moving and wishes.adaptive:
            fast = self.pace.moving(pose.width, pose.height)
            width, height = min(width, fast[0]), min(height, fast[1])
        began = time.perf_counter()
        compare, comparison = wishes.compare, self._viewer.comparison
        if compare is not None and comparison is not None:
            picture = comparison.draw(compare.index, width, height, compare.how, compare.share, self.look())
        else:
            picture = self._viewer.subject.draw(camera_of(pose, width, height), self.look())
        self.pace.took(width * height, time.perf_counter() - began + self._encode_seconds)
        whole = not moving or (width, height) == self.pace.resting(pose.width, pose.height, wishes.resolution)
        self._drawn, self._drawn_at = (version, whole), time.monotonic()
        self._sent += 1
        if whole:
            self._state(f"Drawn by recon, {width}x{height}")
        self._encoding = self._encoder.submit(self._encode, picture, 92 if whole else 80, self._sent)
        return self._encode_seconds

    def _encode(self, picture: NDArray[np.uint8], quality: int, number: int) -> None:
        from PIL import Image
        from viser._messages import BackgroundImageMessage

        began = time.perf_counter()
        packed = io.BytesIO()
        # With its number in it, since of pictures that wait for a slow connection viser sends the last one alone.
        Image.fromarray(picture).save(packed, format="JPEG", quality=quality, comment=str(number))
        if self._viewer.browser(self.client) is not self:  # left in the meantime
            return
        self._encode_seconds += 0.2 * (time.perf_counter() - began - self._encode_seconds)
        self.client._websock_connection.queue_message(BackgroundImageMessage("jpeg", packed.getvalue(), None))
        self.client.flush()
        self._viewer.queue.wake()

    def _send_splats(self, now: float) -> float:
        wanted = (self._viewer.version, self.look())
        subject, most = self._viewer.subject, self._viewer.most_splats
        splats = subject.splats(most, wanted[1])
        if splats is None:
            self.wishes = replace(self.wishes, way="server")
            return 0.0
        background = wanted[1].background or subject.background
        self.client.scene.set_background_image(np.full((1, 1, 3), 255 * np.array(background) + 0.5, np.uint8), "png")
        count = len(splats.centres)
        size = count * BYTES_PER_SPLAT
        self._viewer.add_splats(self.client, splats)
        self._splats_of, self._splats_next = wanted, now + max(self._viewer.splats_every, size / RATE)
        self._stale = False
        self._drawn = (-1, False)
        total = subject.count
        part = f"{count:,} splats" if count == total else f"the {count:,} of {total:,} splats that show most"
        self._state(f"Drawn by this browser: {part}, {size / 1e6:.1f} MB, without colour that depends on the direction")
        return 0.0

    def _state(self, text: str) -> None:
        if text != self.stated:
            self.stated = text
            self.on_stated(text)
