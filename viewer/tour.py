"""A camera path as data: the views that it stops at, and how long it takes from each to the next.

The file of a path is a transforms.json of its frames, which any program renders that takes cameras, with the path
itself beside them under "tour". It is in the coordinates of the capture's own files, so that it fits every training.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from recon.datasets.cameras import OPENCV_FROM_OPENGL, Cameras, intrinsics, look_at
from recon.datasets.errors import InputError
from recon.datasets.fields import entry, needed, numbers, read_json
from recon.datasets.files import atomic_write
from recon.viewer import paths
from recon.viewer.look import Vector

MOST_STOPS = 500
LONGEST = 600.0  # seconds of a path
BRIEFEST = 0.01  # seconds from a stop to the next
FASTEST = 120.0  # frames per second
LARGEST_FILE = 64 << 20  # bytes: the longest path at 60 frames per second takes less
FARTHEST = 1e9  # units from the origin; positions beyond lose their digits
FOV = (1.0, 170.0)  # degrees

KEY = "tour"  # of the path in its file


@dataclass(frozen=True)
class Stop:
    """A view that a path passes through.

    Attributes:
        position: of the camera, world units.
        wxyz: quaternion of unit length, world from camera, OpenCV axes.
        fov: vertical field of view, degrees.
        seconds: from here to the next stop.
    """

    position: Vector
    wxyz: tuple[float, float, float, float]
    fov: float
    seconds: float = 2.0

    def __post_init__(self) -> None:
        if not all(abs(value) <= FARTHEST for value in self.position):
            raise ValueError(f"position {self.position}: not within {FARTHEST:g} of the origin")
        if not abs(math.hypot(*self.wxyz) - 1) < 1e-3:
            raise ValueError(f"wxyz {self.wxyz}: not of unit length")
        if not FOV[0] <= self.fov <= FOV[1]:
            raise ValueError(f"fov {self.fov:g}: not between {FOV[0]:g} and {FOV[1]:g} degrees")
        if not BRIEFEST <= self.seconds <= LONGEST:
            raise ValueError(f"seconds {self.seconds:g}: not between {BRIEFEST:g} and {LONGEST:g}")

    @staticmethod
    def of(camera: Cameras, seconds: float = 2.0) -> Stop:
        """What a batch of one looks at."""
        return _stops(camera[0], [seconds])[0]


@dataclass(frozen=True)
class Tour:
    """A path through stops in their order; operations on it give a new one.

    Attributes:
        closed: it goes on from the last stop to the first; else the `seconds` of the last one do not count.
        smoothness: 1: on through the stops; 0: straight on to each, and to rest there.
    """

    stops: tuple[Stop, ...] = ()
    closed: bool = False
    smoothness: float = 1.0

    def __post_init__(self) -> None:
        if len(self.stops) > MOST_STOPS:
            raise ValueError(f"{len(self.stops)} stops: more than {MOST_STOPS}")
        if not 0 <= self.smoothness <= 1:
            raise ValueError(f"smoothness {self.smoothness:g}: not between 0 and 1")
        if self.duration > LONGEST * (1 + 1e-9):
            raise ValueError(f"{self.duration:g} seconds: more than {LONGEST:g}")

    def __len__(self) -> int:
        return len(self.stops)

    @property
    def times(self) -> list[float]:
        """When the path is at each stop, seconds."""
        passed = [0.0]
        for stop in self.stops[:-1]:
            passed.append(passed[-1] + stop.seconds)
        return passed[: len(self.stops)]

    @property
    def duration(self) -> float:
        """Seconds."""
        if not self.stops:
            return 0.0
        return self.times[-1] + (self.stops[-1].seconds if self.closed else 0.0)

    def frames(self, fps: float) -> int:
        """How many frames the path has; at least one."""
        return max(1, round(self.duration * fps))

    def at(self, times: Sequence[float] | Tensor, width: int, height: int) -> Cameras:
        """Cameras [F] for pictures of a size at times [F]; a closed path goes round, others end where they end."""
        if not self.stops:
            raise ValueError("a path without stops")
        when = torch.as_tensor(times, dtype=torch.float64)
        if self.closed:
            when = when.remainder(self.duration)
        seconds = torch.tensor([stop.seconds for stop in self.stops], dtype=torch.float64)
        return paths.timed(
            _cameras(self.stops, width, height),
            seconds if self.closed else seconds[:-1],
            when,
            closed=self.closed,
            smoothness=self.smoothness,
        )

    def cameras(self, width: int, height: int, fps: float) -> Cameras:
        """All frames. An open path begins and ends at its ends; the last frame of a closed one leads to the first."""
        frames = self.frames(fps)
        steps = torch.arange(frames, dtype=torch.float64) / (frames if self.closed else max(1, frames - 1))
        return self.at(steps * self.duration, width, height)

    def add(self, stop: Stop) -> Self:
        return self.insert(len(self.stops), stop)

    def insert(self, index: int, stop: Stop) -> Self:
        """With a stop before the one of this number."""
        return dataclasses.replace(self, stops=(*self.stops[:index], stop, *self.stops[index:]))

    def replace(self, index: int, stop: Stop) -> Self:
        self._check(index)
        return dataclasses.replace(self, stops=(*self.stops[:index], stop, *self.stops[index + 1 :]))

    def remove(self, index: int) -> Self:
        self._check(index)
        return dataclasses.replace(self, stops=(*self.stops[:index], *self.stops[index + 1 :]))

    def move(self, index: int, by: int) -> Self:
        """With a stop so many places later, at most as the last, or earlier, at most as the first."""
        self._check(index)
        rest = self.remove(index)
        return rest.insert(min(max(index + by, 0), len(rest)), self.stops[index])

    def reverse(self) -> Self:
        """The same way back, in the same times."""
        ways = [stop.seconds for stop in self.stops]
        ways = ways[-2::-1] + ways[-1:]  # the last one leads from the last stop to the first, if closed
        stops = zip(reversed(self.stops), ways, strict=True)
        return dataclasses.replace(self, stops=tuple(dataclasses.replace(stop, seconds=way) for stop, way in stops))

    def retimed(self, seconds: float) -> Self:
        """The same path, so many seconds long."""
        if self.duration == 0:
            return self
        factor = seconds / self.duration
        last = len(self) - 1
        return dataclasses.replace(
            self,
            stops=tuple(
                stop if number == last and not self.closed else dataclasses.replace(stop, seconds=stop.seconds * factor)
                for number, stop in enumerate(self.stops)
            ),
        )

    def transformed(self, target_from_world: Tensor) -> Self:
        """The same path in a world moved by a similarity [4,4]."""
        if not self.stops:
            return self
        moved = _cameras(self.stops, 2, 2).transformed(target_from_world.double().cpu())
        return dataclasses.replace(self, stops=tuple(_stops(moved, [stop.seconds for stop in self.stops])))

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self.stops):
            raise IndexError(f"no stop {index} of {len(self.stops)}")


def through(cameras: Cameras, seconds: float, *, closed: bool = False) -> Tour:
    """A path through cameras that takes so many seconds altogether, the same from each to the next."""
    ways = len(cameras) if closed else max(1, len(cameras) - 1)
    return Tour(tuple(_stops(cameras, [seconds / ways] * len(cameras))), closed)


def orbit(source: paths.Source, seconds: float, *, stops: int = 12, up: Tensor | None = None) -> Tour:
    """The closed path of `paths.orbit`, as stops."""
    return through(paths.orbit(source, stops, up=up), seconds, closed=True)


def turn(camera: Cameras, centre: Tensor, seconds: float, *, up: Tensor, stops: int = 12) -> Tour:
    """A closed path round a point [3] that it always looks at, beginning at a batch of one, about the axis `up` [3]."""
    camera, up, centre = camera.to("cpu", torch.float64), up.double() / up.double().norm(), centre.double()
    offset = camera.positions[0] - centre
    along = (offset @ up) * up
    if float((offset - along).norm()) < 1e-3 * float(offset.norm()):
        raise ValueError("the camera is straight above what it would turn around")
    angles = torch.arange(stops, dtype=torch.float64)[:, None] * (2 * torch.pi / stops)
    eyes = centre + along + angles.cos() * (offset - along) + angles.sin() * torch.linalg.cross(up, offset - along)
    Ks = camera.Ks.expand(stops, 3, 3)
    c2w = look_at(eyes, centre.expand_as(eyes), up)
    return through(Cameras.from_c2w(c2w, Ks, camera.width, camera.height), seconds, closed=True)


def save(
    tour: Tour, path: Path | str, source_from_world: Tensor, *, width: int = 1280, height: int = 720, fps: float = 30
) -> None:
    """Write a path, in the coordinates that `source_from_world` [4,4] leads to.

    Args:
        width, height, fps: of the frames that other programs, and `recon render --cameras`, render it in.
    """
    if not 0 < fps <= FASTEST:
        raise ValueError(f"{fps:g} frames per second: not more than 0 and at most {FASTEST:g}")
    there = tour.transformed(source_from_world)
    frames = there.cameras(width, height, fps)
    poses = frames.c2w @ OPENCV_FROM_OPENGL
    values = {
        "camera_model": "PINHOLE",
        "w": width,
        "h": height,
        KEY: {
            "closed": there.closed,
            "smoothness": there.smoothness,
            "fps": fps,
            "stops": [
                {"position": stop.position, "wxyz": stop.wxyz, "fov": stop.fov, "seconds": stop.seconds}
                for stop in there.stops
            ],
        },
        "frames": [
            {"fl_x": float(K[0, 0]), "fl_y": float(K[1, 1]), "transform_matrix": pose.tolist()}
            for K, pose in zip(frames.Ks, poses, strict=True)
        ],
    }
    with atomic_write(path) as file:
        file.write(json.dumps(values).encode())


def load(path: Path | str, source_from_world: Tensor) -> Tour:
    """Read a path that `save` wrote, into the world that `source_from_world` [4,4] leads from.

    Raises:
        InputError: it cannot be read, is no path, or has a value that no path has.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if size > LARGEST_FILE:
        raise InputError(f"{path}: {size:,} bytes are more than a camera path has ({LARGEST_FILE:,})")
    return _checked(read_json(path), f"{path}", source_from_world)


def loads(content: bytes, name: str, source_from_world: Tensor) -> Tour:
    """As `load`, from what such a file holds; `name` is what errors call it."""
    if len(content) > LARGEST_FILE:
        raise InputError(f"{name}: {len(content):,} bytes are more than a camera path has ({LARGEST_FILE:,})")
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: is not JSON: {error}") from error
    return _checked(values, name, source_from_world)


def _checked(values: Any, where: str, source_from_world: Tensor) -> Tour:
    """The path in what a file holds, in the world."""
    tour = entry(values, KEY, dict, where)
    stops = entry(tour, "stops", list, f"{where}: {KEY}")
    closed = tour.get("closed", False)
    if not isinstance(closed, bool):
        raise InputError(f"{where}: {KEY}: closed {closed!r} is not true or false")
    smoothness = needed({"smoothness": 1.0} | tour, "smoothness", f"{where}: {KEY}")
    if not stops:
        raise InputError(f"{where}: {KEY}: has no stops")
    if len(stops) > MOST_STOPS:
        raise InputError(f"{where}: {KEY}: {len(stops)} stops are more than {MOST_STOPS}")
    loaded = [_stop(fields, f"{where}: stop {number}") for number, fields in enumerate(stops)]
    try:
        return Tour(tuple(loaded), closed, smoothness).transformed(torch.linalg.inv(source_from_world.double()))
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _stop(fields: Any, where: str) -> Stop:
    position = numbers(fields, "position", 3, where)
    wxyz = numbers(fields, "wxyz", 4, where)
    try:
        return Stop(
            (position[0], position[1], position[2]),
            (wxyz[0], wxyz[1], wxyz[2], wxyz[3]),
            needed(fields, "fov", where),
            needed(fields, "seconds", where),
        )
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _cameras(stops: Sequence[Stop], width: int, height: int) -> Cameras:
    """The stops as cameras for pictures of a size, float64."""
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(stops), 1, 1)
    c2w[:, :3, :3] = paths.rotations(torch.tensor([stop.wxyz for stop in stops], dtype=torch.float64))
    c2w[:, :3, 3] = torch.tensor([stop.position for stop in stops], dtype=torch.float64)
    focals = [height / 2 / math.tan(math.radians(stop.fov) / 2) for stop in stops]
    Ks = torch.cat([intrinsics(focal, focal, width / 2, height / 2) for focal in focals])
    return Cameras.from_c2w(c2w, Ks, width, height)


def _stops(cameras: Cameras, seconds: Sequence[float]) -> list[Stop]:
    cameras = cameras.to("cpu", torch.float64)
    quats = paths.quaternions(cameras.viewmats[:, :3, :3].transpose(1, 2)).tolist()
    fovs = (2 * (cameras.height / 2 / cameras.Ks[:, 1, 1]).atan()).rad2deg().clamp(*FOV).tolist()
    return [
        Stop((x, y, z), (quat[0], quat[1], quat[2], quat[3]), fov, way)
        for (x, y, z), quat, fov, way in zip(cameras.positions.tolist(), quats, fovs, seconds, strict=True)
    ]
