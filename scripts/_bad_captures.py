"""Photos as they should not be taken, of the procedural scene: the cases of bad_captures.py and of the tests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from recon.datasets import synthetic
from recon.datasets.cameras import Cameras, intrinsics, look_at

Picture = NDArray[np.uint8]

SIZE = (480, 360)  # px
ROUND = 60  # photos that go all round, of which each case takes some
BLUR = 8  # px that the camera moves in a blurred photo


@functools.cache
def photo(number: int) -> Picture:
    """One of `ROUND` photos on a way round the scene."""
    cameras = synthetic._cameras(ROUND, *SIZE, np.random.default_rng(0))
    return synthetic._picture(synthetic._stage(), cameras[number], 2)


def blurred(picture: Picture, pixels: int = BLUR) -> Picture:
    """As if the camera moved sideways by so many pixels."""
    padded = np.pad(picture.astype(np.float32), ((0, 0), (pixels, 0), (0, 0)), mode="edge").cumsum(axis=1)
    return ((padded[:, pixels:] - padded[:, :-pixels]) / pixels).clip(0, 255).astype(np.uint8)


def poster(count: int) -> list[Picture]:
    """Another place: a red wall with a pattern, from several places."""
    rng = np.random.default_rng(5)
    wall = np.zeros((1000, 1000, 3))
    for cells in (10, 25, 50, 125, 250):
        noise = rng.integers(0, 256, (cells, cells, 3), np.uint8)
        wall += np.asarray(Image.fromarray(noise).resize((1000, 1000), Image.Resampling.NEAREST), np.float64)
    wall = wall / wall.max() * (255, 90, 60)
    plane = Image.fromarray(wall.astype(np.uint8))
    made = []
    for i in range(count):
        shift = 200 + 400 * i / max(count - 1, 1)
        lean = 0.0004 * (i - count / 2) / count
        matrix = (0.7, 0.02 * i / count, shift - 150, 0.01, 0.7, 150, lean, 0.0)
        made.append(np.asarray(plane.transform(SIZE, Image.Transform.PERSPECTIVE, matrix, Image.Resampling.BICUBIC)))
    return made


def bare(number: int) -> Picture:
    """A white wall, with a little light on one side and a little noise."""
    rng = np.random.default_rng(number)
    light = np.linspace(190, 215 + number, SIZE[0])[None, :, None] + np.linspace(0, 8, SIZE[1])[:, None, None]
    return (light + rng.normal(0, 0.8, (SIZE[1], SIZE[0], 3))).clip(0, 255).astype(np.uint8)


def turned(number: int) -> Picture:
    """From one place in the middle of the scene, a little farther round each time."""
    angle = np.radians(5.0 * number)
    eye = torch.tensor([[1.6, 1.6, 0.9]], dtype=torch.float64)
    ahead = torch.tensor([[-np.cos(angle), -np.sin(angle), -0.25]], dtype=torch.float64)
    c2w = look_at(eye, eye + ahead, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    camera = Cameras.from_c2w(c2w, intrinsics(450.0, 450.0, SIZE[0] / 2, SIZE[1] / 2), *SIZE)
    return synthetic._picture(synthetic._stage(), camera, 2)


def write(folder: Path, pictures: list[Picture]) -> Path:
    """As JPEGs photo_00, photo_01, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"photo_{i:02d}.jpg", quality=95)
    return folder


CASES: dict[str, Callable[[], list[Picture]]] = {
    "good": lambda: [photo(i) for i in range(20)],
    "blurred in the middle": lambda: [blurred(photo(i)) if 8 <= i < 13 else photo(i) for i in range(20)],
    "no overlap": lambda: [photo(i) for i in (*range(10), *range(28, 38))],
    "three photos": lambda: [photo(i) for i in range(3)],
    "one photo, repeated": lambda: [photo(0)] * 8,
    "a second scene mixed in": lambda: [*(photo(i) for i in range(14)), *poster(6)],
    "nothing but a white wall": lambda: [bare(i) for i in range(8)],
    "turned on the spot": lambda: [turned(i) for i in range(12)],
}
