"""COLMAP's model files, binary and text, to plain records.

The formats are those of https://colmap.github.io/format.html. They are read here and not by pycolmap, which loads cut
or damaged files silently or never comes back from them; and which does not load points without images.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.datasets import lens
from recon.datasets.errors import InputError
from recon.datasets.lens import SourceCamera

# A point in points3D.bin, up to the length of its track; an observation in images.bin.
_POINT = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track_length", "<u8")])
_OBSERVATION = np.dtype([("xy", "<f8", 2), ("point_id", "<i8")])
_TRACK_ELEMENT_BYTES = 8


@dataclass(frozen=True)
class ModelImage:
    """A registered photo.

    Attributes:
        name: path relative to the folder of images, with "/".
        camera_id: key into the model's cameras.
        qvec, tvec: world to camera: rotation as a quaternion wxyz, translation.
        point_ids: [O] ids of the points found in the photo; -1 where a feature has no point.
    """

    name: str
    camera_id: int
    qvec: tuple[float, float, float, float]
    tvec: tuple[float, float, float]
    point_ids: NDArray[np.int64]


@dataclass(frozen=True)
class ModelPoints:
    """ids [P], xyz [P,3], rgb [P,3] uint8, error [P] px (negative: not known)."""

    ids: NDArray[np.int64]
    xyz: NDArray[np.float64]
    rgb: NDArray[np.uint8]
    error: NDArray[np.float64]


def find_file(folder: Path, stem: str) -> Path | None:
    """`stem`.bin or else `stem`.txt in a model's folder; None when there is neither."""
    for suffix in (".bin", ".txt"):
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return path
    return None


def read_cameras(path: Path) -> dict[int, SourceCamera]:
    """cameras.bin or cameras.txt: cameras by id. Raises `InputError` for a damaged file, as all of this module."""
    return _cameras_text(path) if path.suffix == ".txt" else _cameras_binary(path)


def read_images(path: Path) -> list[ModelImage]:
    """images.bin or images.txt, in the order of the file."""
    return _images_text(path) if path.suffix == ".txt" else _images_binary(path)


def read_points(path: Path) -> ModelPoints:
    """points3D.bin or points3D.txt, in the order of the file."""
    return _points_text(path) if path.suffix == ".txt" else _points_binary(path)


class _Reader:
    """A binary file in memory with a position; no read goes beyond the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        try:
            self.data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error

    def unpack(self, layout: str) -> tuple:
        return struct.unpack_from(layout, self.data, self.skip(struct.calcsize(layout)))

    def count(self) -> int:
        return self.unpack("<Q")[0]

    def array(self, dtype: np.dtype, count: int) -> NDArray:
        start = self.skip(dtype.itemsize * count)
        return np.frombuffer(self.data, dtype, count, start)

    def text(self) -> str:
        """A name that ends with a zero byte."""
        end = self.data.find(b"\0", self.position)
        start = self.skip((len(self.data) if end < 0 else end + 1) - self.position)
        if end < 0:
            raise self._truncated()
        try:
            return self.data[start:end].decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: the name at byte {start} is not text") from error

    def finish(self) -> None:
        left = len(self.data) - self.position
        if left:
            raise InputError(f"{self.path}: damaged: {left} bytes follow what its counts announce")

    def skip(self, size: int) -> int:
        """Move on by `size` bytes, which must be there; where they start."""
        start = self.position
        if size > len(self.data) - start:
            raise self._truncated()
        self.position += size
        return start

    def _truncated(self) -> InputError:
        return InputError(
            f"{self.path}: truncated or damaged: its {len(self.data)} bytes end in the middle of the data"
        )


def _cameras_binary(path: Path) -> dict[int, SourceCamera]:
    reader = _Reader(path)
    cameras = {}
    for _ in range(reader.count()):
        camera_id, model_id, width, height = reader.unpack("<IiQQ")
        model = lens.model_name(model_id)
        if model is None:
            raise InputError(f"{path}: camera {camera_id} has the model number {model_id}, which is not known")
        params = reader.unpack(f"<{lens.parameter_count(model)}d")
        cameras[camera_id] = SourceCamera(model, params, width, height)
    reader.finish()
    return cameras


def _images_binary(path: Path) -> list[ModelImage]:
    reader = _Reader(path)
    images = []
    for _ in range(reader.count()):
        _, *pose, camera_id = reader.unpack("<I7dI")
        name = reader.text()
        observations = reader.array(_OBSERVATION, reader.count())
        images.append(ModelImage(name, camera_id, tuple(pose[:4]), tuple(pose[4:]), observations["point_id"].copy()))
    reader.finish()
    return images


def _points_binary(path: Path) -> ModelPoints:
    reader = _Reader(path)
    starts = []
    for _ in range(reader.count()):
        starts.append(reader.position)
        reader.skip(_POINT.itemsize - 8)
        reader.skip(reader.count() * _TRACK_ELEMENT_BYTES)
    reader.finish()
    every_byte = np.array(starts, np.int64)[:, None] + np.arange(_POINT.itemsize)
    rows = np.frombuffer(reader.data, np.uint8)[every_byte].view(_POINT)[:, 0]
    return ModelPoints(rows["id"].astype(np.int64), rows["xyz"].copy(), rows["rgb"].copy(), rows["error"].copy())


class _Lines:
    """The numbered lines of a text file without its comments.

    The comments that COLMAP writes announce how many records follow, and its files end with a line break: by these
    signs a file that was cut is known. Files without such comments (written by hand) are taken as they are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as text: {error}") from error
        numbered = list(enumerate((line.strip() for line in text.split("\n")), start=1))
        comments = [line for _, line in numbered if line.startswith("#")]
        self.lines = [(number, line) for number, line in numbered if not line.startswith("#")]
        counts = re.findall(r"^# Number of \w+: (\d+)", "\n".join(comments), re.MULTILINE)
        self.announced = int(counts[0]) if counts else None
        by_colmap = any(" list with " in comment for comment in comments)
        in_comment = numbered[-1][1].startswith("#")
        if in_comment or (by_colmap and (self.announced is None or not text.endswith("\n"))):
            raise InputError(f"{path}: truncated: it ends in the middle of line {numbered[-1][0]}")

    def records(self) -> Iterator[tuple[int, list[str]]]:
        return ((number, line.split()) for number, line in self.lines if line)

    def check_count(self, found: int) -> None:
        if self.announced is not None and self.announced != found:
            raise InputError(f"{self.path}: truncated or damaged: it announces {self.announced} records, has {found}")

    def damaged(self, number: int, words: list[str]) -> InputError:
        return InputError(f"{self.path}: line {number} makes no sense: {' '.join(words)[:60]!r}")


def _cameras_text(path: Path) -> dict[int, SourceCamera]:
    lines = _Lines(path)
    cameras = {}
    for number, words in lines.records():
        try:
            camera_id, model, width, height = int(words[0]), words[1], int(words[2]), int(words[3])
            params = tuple(float(word) for word in words[4:])
        except (ValueError, IndexError, OverflowError):
            raise lines.damaged(number, words) from None
        count = lens.parameter_count(model)
        if count is None:
            raise InputError(f"{path}: camera {camera_id} has the model {model[:60]}, which is not known")
        if count != len(params):
            raise InputError(f"{path}: camera {camera_id}: {model} has {len(params)} parameters, not {count}")
        cameras[camera_id] = SourceCamera(model, params, width, height)
    lines.check_count(len(cameras))
    return cameras


def _images_text(path: Path) -> list[ModelImage]:
    """Two lines for each image; the second one, of observations, may be empty."""
    lines = _Lines(path)
    images = []
    rows = iter(lines.lines)
    for number, line in rows:
        if not line:
            continue
        words = line.split(maxsplit=9)
        observations_number, observations = next(rows, (number, None))
        if observations is None:
            raise InputError(f"{path}: truncated: the image of line {number} has no line of observations")
        triples = observations.split()
        try:
            int(words[0])
            pose = [float(word) for word in words[1:8]]
            image = ModelImage(
                words[9],
                int(words[8]),
                (pose[0], pose[1], pose[2], pose[3]),
                (pose[4], pose[5], pose[6]),
                np.array([int(word) for word in triples[2::3]], np.int64),
            )
        except (ValueError, IndexError, OverflowError):
            raise lines.damaged(number, words) from None
        if len(triples) % 3:
            raise lines.damaged(observations_number, triples)
        images.append(image)
    lines.check_count(len(images))
    return images


def _points_text(path: Path) -> ModelPoints:
    lines = _Lines(path)
    ids, values = [], []
    for number, words in lines.records():
        try:
            if len(words) % 2:
                raise ValueError("a track has pairs")
            ids.append(int(words[0]))
            row = [float(word) for word in words[1:8]]
            if len(row) != 7 or not all(0 <= value <= 255 for value in row[3:6]):
                raise ValueError("no point")
            values.append(row)
        except (ValueError, IndexError, OverflowError):
            raise lines.damaged(number, words) from None
    lines.check_count(len(ids))
    table = np.array(values, np.float64).reshape(-1, 7)
    return ModelPoints(np.array(ids, np.int64), table[:, :3], table[:, 3:6].astype(np.uint8), table[:, 6])
