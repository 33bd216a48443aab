"""Small captures on disk for tests: photos of noise, cameras around the origin, points among them."""

from __future__ import annotations

import json
import math
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pycolmap
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets.cameras import OPENCV_FROM_OPENGL, look_at
from recon.datasets.errors import InputError
from recon.datasets.images import SourceCamera, make_view, split_every
from recon.datasets.scene import Points, Scene

PINHOLE = SourceCamera("PINHOLE", (50.0, 52.0, 19.0, 17.5), 40, 36)
EYES = [(1.0, -3.0, 0.7), (2.0, -2.0, 1.0), (3.0, 0.5, 0.4), (-1.0, 2.0, 0.9)]


def noise(height: int, width: int, channels: int, *, bits: int = 8, seed: int = 0) -> NDArray:
    kind = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 2**bits, (height, width, channels), dtype=kind)


def smooth(height: int, width: int, seed: int = 0) -> NDArray[np.float64]:
    """[H,W,3] 0..1, slowly varying."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(rng.uniform(0, 6) + x * rng.uniform(0.02, 0.2) + y * rng.uniform(0.02, 0.2)) for _ in range(3)]
    return 0.5 + 0.45 * np.stack(waves, axis=-1)


def viewmat(eye: tuple[float, float, float] = (1.0, -3.0, 0.7)) -> Tensor:
    """[4,4] of a camera at `eye` that looks at the origin, z up."""
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    c2w = look_at(torch.tensor([eye], dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64), up)
    return torch.linalg.inv(c2w[0])


def scene(folder: Path, count: int = 5, *, camera: SourceCamera = PINHOLE, suffix: str = ".png") -> Scene:
    """`count` photos in `folder`, and the scene that they and some coloured points with tracks make."""
    folder.mkdir(parents=True, exist_ok=True)
    views = []
    for i in range(count):
        angle = 2 * math.pi * i / count
        file = folder / f"photo_{i:02d}{suffix}"
        iio.imwrite(file, noise(camera.height, camera.width, 3, seed=i))
        pose = viewmat((3 * math.cos(angle), 3 * math.sin(angle), 0.5 + 0.1 * i))
        views.append(make_view(file.stem, file, camera, pose))
    rng = np.random.default_rng(7)
    points = Points(
        torch.from_numpy(rng.normal(size=(30, 3))),
        torch.from_numpy(rng.integers(0, 256, (30, 3)).astype(np.float32) / np.float32(255)),
        torch.from_numpy(rng.uniform(0, 2, 30)),
        torch.tensor([(p, v) for v in range(count) for p in range(v, 30, 3)]),
    )
    train, test = split_every([view.name for view in views])
    return Scene("tiny", tuple(views), train, test, points)


def opengl(eye: tuple[float, float, float]) -> list[list[float]]:
    return (torch.linalg.inv(viewmat(eye)) @ OPENCV_FROM_OPENGL).tolist()


def write_transforms(
    folder: Path, shared: dict[str, Any] | None = None, own: dict[str, Any] | None = None, **more: Any
) -> Path:
    """Write a capture of four photos, 40x36; `shared` fields stand beside the frames, `own` ones in each."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    frames = []
    for i, eye in enumerate(EYES):
        iio.imwrite(folder / "images" / f"{i}.png", noise(36, 40, 3, seed=i))
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": opengl(eye), **(own or {})})
    if shared is None and own is None:
        shared = {"fl_x": 50.0, "fl_y": 52.0, "cx": 19.0, "cy": 17.5, "w": 40, "h": 36}
    (folder / "transforms.json").write_text(json.dumps({**(shared or {}), **more, "frames": frames}))
    return folder


def edit_transforms(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "transforms.json"
    meta = json.loads(file.read_text())
    change(meta)
    file.write_text(json.dumps(meta))


def write_png(
    path: Path, pixels: NDArray, *, palette: bytes = b"", transparency: bytes = b"", exif: bytes = b""
) -> None:
    """A PNG of exactly this many channels and bits (16-bit colour is beyond Pillow), or one with a palette."""
    height, width, channels = pixels.shape
    colour_type = 3 if palette else {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    bits = 8 * pixels.dtype.itemsize

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
        + (chunk(b"PLTE", palette) if palette else b"")
        + (chunk(b"tRNS", transparency) if transparency else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + (chunk(b"eXIf", exif) if exif else b"")
        + chunk(b"IEND", b"")
    )


def write_tiff(path: Path, pixels: NDArray, *, orientation: int = 1) -> None:
    """An uncompressed TIFF, little endian, in one strip."""
    height, width, channels = pixels.shape
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    bits = 8 * pixels.dtype.itemsize
    entries = [  # (tag, type, count, value); type 3 is short, 4 is long
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, bits) if channels == 1 else (258, 3, channels, 8 + len(data)),
        (259, 3, 1, 1),
        (262, 3, 1, 1 if channels == 1 else 2),
        (273, 4, 1, 8),
        (274, 3, 1, orientation),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
    ]
    depths = struct.pack(f"<{channels}H", *[bits] * channels)
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    header = struct.pack("<2sHI", b"II", 42, 8 + len(data) + len(depths))
    path.write_bytes(header + data + depths + directory + struct.pack("<I", 0))


def pinhole(width: int, height: int) -> SourceCamera:
    return SourceCamera("PINHOLE", (60.0, 61.0, 0.45 * width, 0.55 * height), width, height)


def message(error: pytest.ExceptionInfo[InputError]) -> str:
    """What the user reads, which is one line."""
    text = str(error.value)
    assert "\n" not in text
    return text


def as_text(capture: Path) -> None:
    """Turn the model of a capture into text, by pycolmap."""
    model = capture / "sparse" / "0"
    pycolmap.Reconstruction(model).write_text(model)
    for file in model.glob("*.bin"):
        file.unlink()


def capturing(source: Path, scene: Path) -> subprocess.Popen[str]:
    """A process that captures, in the midst of it: features are being found."""
    process = subprocess.Popen(
        [sys.executable, "-m", "recon", "capture", str(source), "-o", str(scene), "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where tests run behind a shell, it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(scene.glob("work-*/features-*.db")) and time.monotonic() < deadline:
        time.sleep(0.05)
    return process
