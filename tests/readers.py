"""What the tests of the loaders share: photos, the cameras that come out, and refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from recon.datasets import load_scene
from recon.datasets.errors import InputError
from recon.datasets.images import SourceCamera, save_image
from recon.datasets.scene import Scene, View


def photos(folder: Path, names: Sequence[str], width: int = 40, height: int = 30) -> None:
    """Photos of one grey each, a tenth brighter from one to the next."""
    for i, name in enumerate(names):
        save_image(folder / name, torch.full((height, width, 3), i / 10))


def view(scene: Scene, name: str) -> View:
    return next(view for view in scene.views if view.name == name)


def pixel(view: View, point: Sequence[float]) -> list[float]:
    """Where a point of the world is in the image, px."""
    pixels, depth = view.camera.project(torch.tensor([point], dtype=torch.float64))
    assert float(depth) > 0
    return pixels[0, 0].tolist()


def lens(view: View) -> SourceCamera:
    """The lens that is removed when the photo is loaded."""
    camera = view.image.warp.camera  # type: ignore[attr-defined]
    assert camera is not None
    return camera


def assert_lens(camera: SourceCamera, formula: Callable[[NDArray, NDArray], tuple[NDArray, NDArray]]) -> None:
    """A lens maps directions (x, y, 1) to the pixels that the format's own formula says."""
    x, y = (part.ravel() for part in np.meshgrid(np.linspace(-0.3, 0.3, 7), np.linspace(-0.2, 0.2, 5)))
    model = pycolmap.Camera(model=camera.model, width=camera.width, height=camera.height, params=camera.params)
    pixels = model.img_from_cam(np.stack([x, y, np.ones_like(x)], axis=-1))
    assert np.allclose(np.asarray(pixels), np.stack(formula(x, y), axis=-1), rtol=0, atol=1e-6)


def refused(path: Path, named: Path | None = None) -> str:
    """The one line with which a capture is refused; it names the file."""
    with pytest.raises(InputError) as caught:
        load_scene(path, test_every=0)
    said = str(caught.value)
    assert "\n" not in said
    assert str(named or path) in said
    return said


def read_or_refused(load: Callable[[Path], Scene], path: Path, names: Path | None = None) -> Scene | None:
    """A damaged capture is a scene all the same, or refused (None) in one line that has `names` (the path itself)."""
    try:
        scene = load(path)
    except InputError as error:
        said = str(error)
        assert "\n" not in said
        assert str(names or path) in said
        return None
    assert all(torch.isfinite(view.camera.viewmats).all() for view in scene.views)
    return scene


def damaged(meta: Any, data: st.DataObject) -> Any:
    """What a file in JSON holds, with some value somewhere in it replaced by something else."""
    whole = [copy.deepcopy(meta)]
    parent: Any = whole
    key: Any = 0
    while isinstance(parent[key], dict | list) and parent[key] and data.draw(st.integers(0, 4)):
        parent = parent[key]
        key = data.draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else range(len(parent))))
    parent[key] = data.draw(st.sampled_from([None, -1, 0.5, float("nan"), 1e300, 10**400, "x", [], {}, [[]], True]))
    return whole[0]
