"""The layout of IDR and NeuS, as the latter's README describes it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import readers
from recon.datasets import load_scene, neus
from recon.datasets.images import save_image

K = np.array([[50.0, 0, 19.5], [0, 48, 14.5], [0, 0, 1]])
ROTATION = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # rows are right x, down -z, forward y
# The unit sphere, four times as large, about (10, 0, 0).
SCALE = np.array([[4.0, 0, 0, 10], [0, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1]])


def _world_mat(position: tuple[float, float, float]) -> np.ndarray:
    result = np.eye(4)
    result[:3] = -0.3 * K @ np.concatenate([ROTATION, -ROTATION @ np.array(position)[:, None]], axis=1)
    return result


def _arrays() -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for i, x in enumerate((14.0, 10.0)):
        arrays |= {f"world_mat_{i}": _world_mat((x, -20, 0)), f"scale_mat_{i}": SCALE, f"world_mat_inv_{i}": np.eye(4)}
    return arrays


def _capture(path: Path, change: Callable[[dict[str, Any]], object] = lambda arrays: None) -> Path:
    readers.photos(path / "image", ["000.png", "001.png"])
    for name in ("000.png", "001.png"):
        mask = torch.zeros(30, 40, 3)
        mask[:, 10:] = 1
        save_image(path / "mask" / name, mask)
    arrays = _arrays()
    change(arrays)
    np.savez(path / "cameras_sphere.npz", **arrays)
    return path


def test_cameras_are_in_the_frame_of_the_unit_sphere(tmp_path: Path) -> None:
    scene = load_scene(_capture(tmp_path), test_every=0)
    assert [view.name for view in scene.views] == ["000", "001"]
    camera = scene.views[0].camera
    assert camera.positions[0].tolist() == pytest.approx([1, -5, 0])
    assert camera.forward[0].tolist() == pytest.approx([0, 1, 0])
    assert camera.up[0].tolist() == pytest.approx([0, 0, 1])
    assert readers.pixel(scene.views[0], (2, 0, 1)) == pytest.approx([20 + 10, 15 - 9.6])
    assert np.allclose(scene.source_from_world.numpy(), SCALE)
    back = camera.transformed(scene.source_from_world)
    assert back.positions[0].tolist() == pytest.approx([14, -20, 0])
    mask = scene.views[0].mask
    assert mask is not None
    assert float(mask.load().mean()) == pytest.approx(0.75)


def test_without_masks_and_with_the_other_names(tmp_path: Path) -> None:
    _capture(tmp_path)
    for file in (tmp_path / "mask").iterdir():
        file.unlink()
    (tmp_path / "image").rename(tmp_path / "rgb")
    (tmp_path / "cameras_sphere.npz").rename(tmp_path / "cameras.npz")
    for path in (tmp_path, tmp_path / "cameras.npz"):
        scene = load_scene(path, test_every=0)
        assert len(scene.views) == 2
        assert scene.views[0].mask is None


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda arrays: arrays.update({key: value})


class Pickled:
    def __reduce__(self) -> tuple[Any, ...]:
        raise AssertionError("was pickled")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays: arrays.clear(), "has no world_mat_0"),
        (lambda arrays: arrays.pop("world_mat_1"), "has 1 cameras, but"),
        (lambda arrays: arrays.pop("world_mat_0"), "has no world_mat_0"),
        (lambda arrays: arrays.pop("scale_mat_1"), "has no scale_mat_1"),
        (_set("world_mat_2", np.eye(4)), "has no scale_mat_2"),
        (_set("world_mat_0", np.eye(3)), "world_mat_0 is an array [3, 3] of float64, not [4,4] of numbers"),
        (_set("world_mat_0", np.full((4, 4), "x")), "world_mat_0 is an array [4, 4] of <U1"),
        (_set("world_mat_0", np.zeros((100, 100))), "world_mat_0 is larger than a matrix"),
        (_set("world_mat_0", np.full((4, 4), np.nan)), "world_mat_0: projection matrix has values that are not finite"),
        (_set("world_mat_0", np.zeros((4, 4))), "world_mat_0: projection matrix is singular"),
        (_set("scale_mat_1", np.eye(4)), "scale_mat_1 is not the same as scale_mat_0"),
        (
            lambda arrays: arrays.update(scale_mat_0=np.zeros((4, 4)), scale_mat_1=np.zeros((4, 4))),
            "scale_mat_0 is not a",
        ),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    _capture(tmp_path, change)
    assert said in readers.refused(tmp_path, tmp_path / "cameras_sphere.npz")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    _capture(tmp_path)
    array = np.empty((), dtype=object)
    array[()] = {"world": 1}
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "cameras_sphere.npz", "w") as archive:
        archive.writestr("world_mat_0.npy", buffer.getvalue())
    assert "is not a .npz archive of arrays (Object arrays cannot be loaded" in readers.refused(tmp_path)


def test_photos_and_masks_that_do_not_fit_the_file(tmp_path: Path) -> None:
    _capture(tmp_path)
    (tmp_path / "mask" / "000.png").unlink()
    assert "has 2 cameras, but" in readers.refused(tmp_path)
    assert "has 1 masks" in readers.refused(tmp_path)
    (tmp_path / "image" / "000.png").unlink()
    assert "has 1 photos" in readers.refused(tmp_path)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _capture(tmp_path_factory.mktemp("neus"))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_damage_is_an_input_error_or_a_scene(capture: Path, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **_arrays())
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(len(content) // 2, 2 * len(content))) :]
    (capture / "cameras_sphere.npz").write_bytes(content)
    readers.read_or_refused(neus.load, capture)
