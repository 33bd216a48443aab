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
from typing import Any

import torch

from recon.datasets import images, nerfstudio, transforms_json
from recon.datasets.cameras import OPENCV_FROM_OPENGL, simple_focal
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.datasets.point_cloud import write_points
from recon.datasets.scene import Scene, View
from recon.datasets.writing import PLAIN, Writing, write_photos


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
    return Scene(
        root.resolve().name,
        tuple(views),
        train,
        test,
        background=(1.0, 1.0, 1.0),
        up=torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64),
        exact_poses=transforms_json.read(root / "transforms_train.json").get("exact_poses") is not False,
    )


def save(scene: Scene, path: Path | str, how: Writing = PLAIN) -> None:
    """Write a scene as `path/transforms_train.json` and, with held-out views, _test and _val (the same), with their
    photos in `path/train` and `path/test`, in the frame of the capture it came from.

    Photos become PNGs, which readers look for. Points are written to `points3d.ply`, where 3DGS's training looks for
    them (or else writes random ones, so `load` passes over that file).

    Raises:
        InputError: the views do not share one centred camera with square pixels: all that the layout has room for.
            Masks and depth have no place in it; they are left out.
    """
    path = Path(path)
    width, focal = _shared_camera(scene, path)
    parts = [("train", scene.views[i]) for i in scene.train] + [("test", scene.views[i]) for i in scene.test]
    targets = [path / part / view.name.removeprefix(f"{part}/") for part, view in parts]
    photos = write_photos([view for _, view in parts], targets, how, kept=(".png",))
    frames: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for (part, view), photo in zip(parts, photos, strict=True):
        camera = view.camera.to(dtype=torch.float64).transformed(scene.source_from_world)
        frames[part].append(
            {
                "file_path": f"./{photo.relative_to(path).with_suffix('').as_posix()}",
                "transform_matrix": (camera.c2w[0] @ OPENCV_FROM_OPENGL).tolist(),
            }
        )
    if scene.points is not None:
        to_source = scene.source_from_world
        xyz = scene.points.xyz.double() @ to_source[:3, :3].T + to_source[:3, 3]
        write_points(path / "points3d.ply", replace(scene.points, xyz=xyz), torch.zeros_like(xyz))
    for name, part in (("train", "train"), ("test", "test"), ("val", "test")):
        if frames[part]:
            meta: dict[str, Any] = {"camera_angle_x": 2 * math.atan(width / 2 / focal)}
            if not scene.exact_poses:  # the layout is known for renderings
                meta["exact_poses"] = False
            with atomic_write(path / f"transforms_{name}.json") as target:
                target.write(json.dumps(meta | {"frames": frames[part]}, indent=1).encode())


def fits(scene: Scene) -> bool:
    """Whether the views share one centred camera with square pixels."""
    try:
        _shared_camera(scene, Path())
    except InputError:
        return False
    return True


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
