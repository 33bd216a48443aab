"""Captures in the layout of the NeRF-synthetic scenes: transforms_train.json, _val and _test, photos with alpha.

Each of the files is a small transforms.json (one `camera_angle_x`, camera-to-world matrices with OpenGL axes, paths
without suffix), so `nerfstudio.py` reads it. What this layout adds is the split, the white background on which its
papers composite the photos, and z as the up direction (Mildenhall et al. 2020).
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import torch

from recon.datasets import images, nerfstudio
from recon.datasets.cameras import OPENCV_FROM_OPENGL, simple_focal
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.datasets.scene import Scene, View


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A capture with transforms_train.json as a scene; views are called train/NAME and test/NAME.

    Trained on is "train"; held out is "test", or "val" where there is no "test", or else every `test_every`-th view.
    Photos keep their alpha channel, for the white background of the scene.

    Args:
        path: the capture's folder or its transforms_train.json.
        downscale: how many times smaller than the photos the views are to be.
    Raises:
        InputError: no transforms_train.json, or something in one of the files cannot be used.
    """
    path = Path(path)
    root = path.parent if path.suffix == ".json" else path
    views = _views(root, "train", downscale)
    train: tuple[int, ...] = tuple(range(len(views)))
    held_out = next((part for part in ("test", "val") if (root / f"transforms_{part}.json").is_file()), None)
    if held_out is None:
        train, test = images.split_every([view.name for view in views], test_every)
    else:
        tested = _views(root, held_out, downscale)
        views, train, test = _merged(views, tested)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    return Scene(root.resolve().name, tuple(views), train, test, background=(1.0, 1.0, 1.0), up=up, exact_poses=True)


def save(scene: Scene, path: Path | str) -> None:
    """Write a scene as `path/transforms_train.json` and, with held-out views, _test and _val (the same), with their
    photos in `path/train` and `path/test`, in the frame of the capture it came from.

    Raises:
        InputError: the views do not share one centred camera with square pixels: all that the layout has room for.
            Points, masks and depth have no place in it; they are left out.
    """
    path = Path(path)
    width, focal = _shared_camera(scene, path)
    for part, indices in (("train", scene.train), ("test", scene.test)):
        frames = []
        for view in (scene.views[i] for i in indices):
            photo = images.write_photo(view, path / part / view.name.removeprefix(f"{part}/"))
            camera = view.camera.to(dtype=torch.float64).transformed(scene.source_from_world)
            frames.append(
                {
                    "file_path": f"./{photo.relative_to(path).with_suffix('').as_posix()}",
                    "transform_matrix": (camera.c2w[0] @ OPENCV_FROM_OPENGL).tolist(),
                }
            )
        content = json.dumps({"camera_angle_x": 2 * math.atan(width / 2 / focal), "frames": frames}, indent=1)
        for name in ("test", "val") if part == "test" else ("train",):
            if frames:
                with atomic_write(path / f"transforms_{name}.json") as target:
                    target.write(content.encode())


def _views(root: Path, part: str, downscale: float) -> list[View]:
    read = nerfstudio.load(root / f"transforms_{part}.json", downscale=downscale, test_every=0)
    return [replace(view, name=f"{part}/{view.name}") for view in read.views]


def _merged(train: list[View], test: list[View]) -> tuple[list[View], tuple[int, ...], tuple[int, ...]]:
    """All views by name, and where each of the two groups has gone."""
    views = sorted([*train, *test], key=lambda view: view.name)
    place = {view.name: i for i, view in enumerate(views)}
    return views, tuple(place[view.name] for view in train), tuple(place[view.name] for view in test)


def _shared_camera(scene: Scene, path: Path) -> tuple[int, float]:
    """The width and focal length (px) of every view."""
    first = scene.views[0].camera
    focal = simple_focal(first)
    for view in scene.views:
        camera = view.camera
        same = (camera.width, camera.height) == (first.width, first.height)
        if focal is None or not same or not torch.allclose(camera.Ks, first.Ks, rtol=1e-6):
            raise InputError(
                f"{path}: view {view.name} does not fit into Blender's layout: one centred camera with square pixels"
            )
    assert focal is not None
    return first.width, focal
