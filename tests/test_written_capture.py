"""One capture with cameras in general positions, written in each format by a few lines that share nothing with the
loaders: the cameras come back, and the points project to the same pixels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from recon.datasets import load_scene
from recon.datasets.images import save_image
from small_scene import assert_same_cameras, small_scene

WIDTH, HEIGHT, FOCAL = 48, 36, 50.0  # those of small_scene, whose cameras are centred
NAMES = [f"photo_{i}" for i in range(5)]
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
Matrices = list[NDArray[np.float64]]


def _words(*values: Any) -> str:
    return " ".join(repr(float(v)) for part in values for v in np.ravel(part))


def openmvg(path: Path, w2c: Matrices) -> None:
    lens = {
        "width": WIDTH,
        "height": HEIGHT,
        "focal_length": FOCAL,
        "principal_point": [WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5],
    }
    views = [{"filename": f"{name}.png", "id_intrinsic": 0, "id_pose": i} for i, name in enumerate(NAMES)]
    poses = [{"rotation": m[:3, :3].tolist(), "center": np.linalg.inv(m)[:3, 3].tolist()} for m in w2c]
    meta = {
        "root_path": "",
        "views": [{"key": i, "value": {"ptr_wrapper": {"id": i + 1, "data": v}}} for i, v in enumerate(views)],
        "intrinsics": [{"key": 0, "value": {"polymorphic_name": "pinhole", "ptr_wrapper": {"id": 99, "data": lens}}}],
        "extrinsics": [{"key": i, "value": pose} for i, pose in enumerate(poses)],
    }
    (path / "sfm_data.json").write_text(json.dumps(meta))


def opensfm(path: Path, w2c: Matrices) -> None:
    shots = {
        f"{name}.png": {
            "camera": "one",
            "rotation": Rotation.from_matrix(m[:3, :3]).as_rotvec().tolist(),
            "translation": m[:3, 3].tolist(),
        }
        for name, m in zip(NAMES, w2c, strict=True)
    }
    cameras = {"one": {"projection_type": "perspective", "width": WIDTH, "height": HEIGHT, "focal": FOCAL / WIDTH}}
    (path / "reconstruction.json").write_text(json.dumps([{"cameras": cameras, "shots": shots}]))


def metashape(path: Path, w2c: Matrices) -> None:
    """In a component that is half as large, turned and moved."""
    turn, shift = Rotation.from_euler("xyz", [0.3, -0.4, 0.5]).as_matrix(), np.array([1.0, 2.0, 3.0])
    local = np.eye(4)
    local[:3, :3], local[:3, 3] = turn.T / 2, -turn.T / 2 @ shift
    cameras = ""
    for name, m in zip(NAMES, w2c, strict=True):
        moved = local @ np.linalg.inv(m)
        moved[:3, :3] *= 2
        cameras += (
            f'<camera sensor_id="0" component_id="0" label="{name}"><transform>{_words(moved)}</transform></camera>'
        )
    (path / "cameras.xml").write_text(
        f'<document><chunk><sensors><sensor id="0" type="frame"><resolution width="{WIDTH}" height="{HEIGHT}"/>'
        f"<calibration><f>{FOCAL}</f></calibration></sensor></sensors><components><component id='0'><transform>"
        f"<rotation>{_words(turn)}</rotation><translation>{_words(shift)}</translation><scale>2</scale>"
        f"</transform></component></components><cameras>{cameras}</cameras></chunk></document>"
    )


def realitycapture(path: Path, w2c: Matrices) -> None:
    lines = ["#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2"]
    for name, m in zip(NAMES, w2c, strict=True):
        c2w = np.linalg.inv(m) @ OPENGL
        yaw, pitch, roll = Rotation.from_matrix(c2w[:3, :3]).as_euler("ZXY", degrees=True)
        values = [*c2w[:3, 3], -yaw, pitch, roll, FOCAL / WIDTH * 36, *[0.0] * 8]
        lines.append(",".join([f"{name}.png", *(repr(float(v)) for v in values)]))
    (path / "cameras.csv").write_text("\n".join(lines))


def cameras_json(path: Path, w2c: Matrices) -> None:
    entries = []
    for i, (name, m) in enumerate(zip(NAMES, w2c, strict=True)):
        c2w = np.linalg.inv(m)
        pose = {"position": c2w[:3, 3].tolist(), "rotation": c2w[:3, :3].tolist()}
        entries.append({"id": i, "img_name": name, "width": WIDTH, "height": HEIGHT, "fx": FOCAL, "fy": FOCAL, **pose})
    (path / "cameras.json").write_text(json.dumps(entries))


def neus(path: Path, w2c: Matrices) -> None:
    (path / "images").rename(path / "image")
    arrays: dict[str, Any] = {}
    for i, m in enumerate(w2c):
        world = np.eye(4)
        world[:3] = (K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]) @ m[:3]
        arrays |= {f"world_mat_{i}": world, f"scale_mat_{i}": np.eye(4)}
    np.savez(path / "cameras_sphere.npz", **arrays)


def middlebury(path: Path, w2c: Matrices) -> None:
    lines = [f"{name}.png {_words(K, m[:3, :3], m[:3, 3])}" for name, m in zip(NAMES, w2c, strict=True)]
    (path / "capture_par.txt").write_text("\n".join([str(len(lines)), *lines]))


def strecha(path: Path, w2c: Matrices) -> None:
    for name, m in zip(NAMES, w2c, strict=True):
        c2w = np.linalg.inv(m)
        text = _words(K, [0, 0, 0], c2w[:3, :3], c2w[:3, 3], [WIDTH, HEIGHT])
        (path / f"{name}.png.camera").write_text(text)


def polycam(path: Path, w2c: Matrices) -> None:
    (path / "keyframes" / "cameras").mkdir(parents=True)
    (path / "images").rename(path / "keyframes" / "images")
    for name, m in zip(NAMES, w2c, strict=True):
        c2w = np.linalg.inv(m) @ OPENGL
        fields = {f"t_{i}{j}": c2w[i, j] for i in range(3) for j in range(4)}
        fields |= {"fx": FOCAL, "fy": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "width": WIDTH, "height": HEIGHT}
        (path / "keyframes" / "cameras" / f"{name}.json").write_text(json.dumps(fields))


def record3d(path: Path, w2c: Matrices) -> None:
    (path / "images").rename(path / "rgb")
    for i, name in enumerate(NAMES):
        (path / "rgb" / f"{name}.png").rename(path / "rgb" / f"{i}.png")
    poses = []
    for m in w2c:
        c2w = np.linalg.inv(m) @ OPENGL
        poses.append([*Rotation.from_matrix(c2w[:3, :3]).as_quat().tolist(), *c2w[:3, 3].tolist()])
    meta = {"w": WIDTH, "h": HEIGHT, "K": K.T.ravel().tolist(), "poses": poses}
    (path / "metadata.json").write_text(json.dumps(meta))


def rgbd(path: Path, w2c: Matrices) -> None:
    for name, m in zip(NAMES, w2c, strict=True):
        (path / "images" / f"{name}.png").rename(path / f"{name}.color.png")
        (path / f"{name}.pose.txt").write_text(_words(np.linalg.inv(m)))
    (path / "camera-intrinsics.txt").write_text(_words(K))


WRITERS = [
    openmvg,
    opensfm,
    metashape,
    realitycapture,
    cameras_json,
    neus,
    middlebury,
    strecha,
    polycam,
    record3d,
    rgbd,
]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_the_cameras_come_back(tmp_path: Path, write: Callable[[Path, Matrices], None]) -> None:
    expected = small_scene()
    assert [view.name for view in expected.views] == NAMES
    for view in expected.views:
        save_image(tmp_path / "images" / f"{view.name}.png", view.load())
    write(tmp_path, [view.camera.viewmats[0].numpy() for view in expected.views])
    scene = load_scene(tmp_path)
    assert (scene.train, scene.test) == (expected.train, expected.test)
    assert expected.points is not None
    for view, other in zip(scene.views, expected.views, strict=True):
        assert torch.allclose(view.load(), other.load(), atol=1e-6)
        pixels, depth = view.camera.project(expected.points.xyz)
        wanted, wanted_depth = other.camera.project(expected.points.xyz)
        assert torch.allclose(pixels, wanted, rtol=0, atol=1e-6)
        assert torch.allclose(depth, wanted_depth, rtol=0, atol=1e-9)
    if write not in (record3d, rgbd):  # whose photos have names of their own
        assert_same_cameras(scene, expected)
