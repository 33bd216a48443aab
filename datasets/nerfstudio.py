"""Captures with a transforms.json, in the dialects of nerfstudio and of instant-ngp.

One JSON object with camera-to-world matrices (OpenGL axes) under "frames" and intrinsics either beside them or in each
frame: fl_x fl_y cx cy w h, or camera_angle_x (radians), with k1..k6 p1 p2 and camera_model or is_fisheye. See
https://docs.nerf.studio/quickstart/data_conventions.html and instant-ngp's src/nerf_loader.cu.
"""

from __future__ import annotations

import json
import logging
import math
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon.datasets import colmap, images, lens
from recon.datasets.cameras import OPENCV_FROM_OPENGL, Cameras, intrinsics, similarity_scale
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.datasets.images import SourceCamera
from recon.datasets.ply import read_vertices
from recon.datasets.scene import Points, Scene

# Depth files hold thousandths of the world's unit (millimetres) unless the capture says otherwise, as in nerfstudio.
DEPTH_SCALE = 1e-3

_PERSPECTIVE_KEYS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")  # FULL_OPENCV's order, which is OpenCV's
_FISHEYE_KEYS = ("k1", "k2", "k3", "k4")
# Of these the coefficients that are there decide; files often say OPENCV without any, or PINHOLE with some.
_PERSPECTIVE_MODELS = (
    "",
    "PERSPECTIVE",
    "SIMPLE_PINHOLE",
    "PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "FULL_OPENCV",
)

log = logging.getLogger("recon")


@dataclass(frozen=True)
class _Frame:
    """An entry of "frames" that has its photo."""

    fields: Mapping[str, Any]  # what it lacks is found in the fields that all frames share
    path: str  # of the photo, as written but with "/"
    file: Path
    original: Path  # the file before a folder of smaller copies was chosen; it need not be there


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A capture with a transforms.json as a scene, in the coordinate frame of that file.

    The file's `applied_transform` and `applied_scale` become `source_from_world`, which leads back to the frame before
    them. Of nerfstudio's lists, the photos of `test_filenames` (or else `val_filenames`) are held out, and where there
    are `train_filenames`, they alone are trained on.

    Args:
        path: the capture's folder or the .json file itself.
        downscale: how many times smaller than declared the views are to be; folders such as images_4 are used.
        test_every: every how many photos one is held out, unless the file has its own split.
    Raises:
        InputError: no or an unusable file, no photos, a frame without a proper camera.
    """
    path = Path(path)
    file = path / "transforms.json" if path.is_dir() else path
    meta = _read(file)
    frames = _find_photos(file, meta, downscale)
    named = zip(images.view_names([frame.path for frame in frames]), frames, strict=True)
    by_name = sorted(named, key=lambda pair: pair[0])
    views = []
    for name, frame in by_name:
        where = f"{file}: frame {frame.path}"
        depth = _text(frame.fields, "depth_file_path", where) or _text(frame.fields, "depth_path", where)
        mask = _text(frame.fields, "mask_path", where)
        view = images.make_view(
            name,
            frame.file,
            _camera(frame, meta, where),
            viewmat_from_opengl(frame.fields.get("transform_matrix"), where),
            downscale=downscale,
            mask_path=file.parent / mask if mask else None,
            depth_path=file.parent / depth if depth else None,
            depth_scale=_depth_scale(frame.fields, where),
            where=where,
        )
        views.append(view)
    split = _split(file, meta, [frame.path for _, frame in by_name])
    train, test = split or images.split_every([view.name for view in views], test_every)
    source_from_world = torch.linalg.inv(_world_from_source(meta, f"{file}"))
    up = meta.get("up")
    return Scene(
        file.resolve().parent.name,
        tuple(views),
        train,
        test,
        points=_points(file, meta),
        source_from_world=source_from_world,
        up=None if up is None else _unit(up, f"{file}: up"),
    )


def load_cameras(path: Path | str) -> Cameras:
    """The cameras of a transforms.json, in its order, whether or not there are photos: a path to render along.

    They are in the frame that `source_from_world` of `load`'s scene leads to. Each frame needs its size (w, h), all the
    same; a lens with distortion is replaced by the pinhole that `load` replaces it by. float64.

    Raises:
        InputError: no or an unusable file, a frame without a proper camera or size, different sizes.
    """
    path = Path(path)
    file = path / "transforms.json" if path.is_dir() else path
    meta = _read(file)
    cameras: list[Cameras] = []
    for number, own in enumerate(meta["frames"]):
        where = f"{file}: frame {number}"
        fields = ChainMap(own, meta)
        if _number(fields, "w", where) is None or _number(fields, "h", where) is None:
            raise InputError(f"{where}: has no image size (w and h)")
        source = _camera(_Frame(fields, "", file, file), meta, where)
        lens.check_camera(source, where)
        pinhole = lens.undistorted(source)
        viewmat = images.checked_pose(viewmat_from_opengl(fields.get("transform_matrix"), where), where)
        camera = Cameras(viewmat[None], intrinsics(*pinhole.params), pinhole.width, pinhole.height)
        if cameras and (camera.width, camera.height) != (cameras[0].width, cameras[0].height):
            raise InputError(
                f"{where}: is {camera.width}x{camera.height}, those before it {cameras[0].width}x{cameras[0].height}"
            )
        cameras.append(camera)
    return Cameras.cat(cameras).transformed(torch.linalg.inv(_world_from_source(meta, f"{file}")))


def save(scene: Scene, path: Path | str) -> None:
    """Write a scene as `path/transforms.json` with `images`, `masks`, `depths` and `sparse_pc.ply`, in its own world.

    `source_from_world` is written as `applied_transform` and `applied_scale`. Photos are copied where the file is what
    the view shows, otherwise written as .png with 8 bits; depths are .npy files in thousandths of the world's unit.
    """
    path = Path(path)
    frames: list[dict[str, Any]] = []
    for view in scene.views:
        camera = view.camera.to(dtype=torch.float64)
        K = camera.Ks[0].tolist()
        photo = images.write_photo(view, path / "images" / view.name).relative_to(path)
        frame = {
            "file_path": photo.as_posix(),
            "transform_matrix": (camera.c2w[0] @ OPENCV_FROM_OPENGL).tolist(),
            "fl_x": K[0][0],
            "fl_y": K[1][1],
            "cx": K[0][2],
            "cy": K[1][2],
            "w": camera.width,
            "h": camera.height,
        }
        if view.mask is not None:
            frame["mask_path"] = f"masks/{view.name}.png"
            images.save_image(path / frame["mask_path"], view.mask.load())
        if view.depth is not None:
            frame["depth_file_path"] = f"depths/{view.name}.npy"
            with atomic_write(path / frame["depth_file_path"]) as target:
                np.save(target, (view.depth.load()[..., 0] / DEPTH_SCALE).numpy())
        frames.append(frame)
    world_from_source = torch.linalg.inv(scene.source_from_world)
    scale = float(similarity_scale(world_from_source))
    meta: dict[str, Any] = {"camera_model": "PINHOLE", "depth_unit_scale_factor": DEPTH_SCALE}
    if not torch.equal(world_from_source, torch.eye(4, dtype=torch.float64)):
        meta |= {"applied_transform": (world_from_source[:3] / scale).tolist(), "applied_scale": scale}
    if scene.up is not None:
        meta["up"] = scene.up.tolist()
    for key, indices in (("train", scene.train), ("val", scene.test), ("test", scene.test)):
        meta[f"{key}_filenames"] = [frames[i]["file_path"] for i in indices]
    if scene.points is not None:
        meta["ply_file_path"] = "sparse_pc.ply"
        _write_points(path / "sparse_pc.ply", scene.points)
    with atomic_write(path / "transforms.json") as target:
        target.write(json.dumps(meta | {"frames": frames}, indent=1).encode())


def viewmat_from_opengl(matrix: Any, where: str) -> Tensor:
    """[4,4] float64 world to camera (OpenCV axes) from a camera-to-world matrix in JSON with OpenGL's (3x4 or 4x4)."""
    return torch.linalg.inv(_matrix(matrix, f"{where}: transform_matrix") @ OPENCV_FROM_OPENGL)


def _read(file: Path) -> dict[str, Any]:
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # not JSON, or not text
        raise InputError(f"{file}: is not JSON: {error}") from error
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise InputError(f"{file}: has no list of frames")
    return meta


def _find_photos(file: Path, meta: Mapping[str, Any], downscale: float) -> list[_Frame]:
    """The frames whose photo is there; a warning says how many are not."""
    chosen: dict[Path, Path] = {}  # folder as written -> folder to read
    found, missing = [], []
    for number, fields in enumerate(meta["frames"]):
        written = _text(fields, "file_path", f"{file}: frame {number}")
        if written is None:
            raise InputError(f"{file}: frame {number} has no file_path")
        path = PurePosixPath(written.replace("\\", "/")).as_posix()
        original = file.parent / path
        folder = original.parent
        if folder not in chosen:
            # Photos beside the .json file have no folder of their own, so none with smaller copies.
            smaller = None if folder == file.parent else images.choose_image_folder(folder, downscale)
            chosen[folder] = smaller or folder
        photo = images.find_image(chosen[folder] / original.name) or images.find_image(original)
        if photo is None:
            missing.append(path)
        else:
            found.append(_Frame(ChainMap(fields, dict(meta)), path, photo, original))
    if not found:
        raise InputError(f"{file}: none of its {len(missing)} photos is there, such as {missing[0]}")
    if missing:
        log.warning("%s: %d of %d photos are not there and are left out", file, len(missing), len(meta["frames"]))
    return found


def _camera(frame: _Frame, meta: Mapping[str, Any], where: str) -> SourceCamera:
    fields = frame.fields
    width, height = _number(fields, "w", where), _number(fields, "h", where)
    if width is None or height is None:
        width, height = images.image_size(images.find_image(frame.original) or frame.file)
    # A frame's own focal length, in whatever form, comes before one that is shared.
    own = fields.maps[0] if isinstance(fields, ChainMap) else fields
    focal_x = focal_y = None
    for level in (own, meta):
        if focal_x is None and focal_y is None:
            focal_x, focal_y = _focal(level, "x", width, where), _focal(level, "y", height, where)
    fx = focal_y if focal_x is None else focal_x
    fy = focal_x if focal_y is None else focal_y
    if fx is None or fy is None:
        raise InputError(f"{where}: has no focal length (fl_x or camera_angle_x)")
    cx, cy = _number(fields, "cx", where), _number(fields, "cy", where)
    centre = (width / 2 if cx is None else cx, height / 2 if cy is None else cy)

    model = str(fields.get("camera_model") or "").upper()
    if model not in _PERSPECTIVE_MODELS and model != "OPENCV_FISHEYE":
        raise InputError(f"{where}: camera_model {model} is not supported")
    if "ftheta_p0" in fields:
        raise InputError(f"{where}: f-theta lenses (ftheta_p0) are not supported")
    fisheye = model == "OPENCV_FISHEYE" or bool(fields.get("is_fisheye"))
    lens = tuple(_number(fields, key, where) or 0.0 for key in (_FISHEYE_KEYS if fisheye else _PERSPECTIVE_KEYS))
    params = (fx, fy, *centre, *lens)
    size = (round(width), round(height))
    if fisheye:
        return SourceCamera("OPENCV_FISHEYE", params, *size)
    if any(lens[4:]):
        return SourceCamera("FULL_OPENCV", params, *size)
    return SourceCamera("OPENCV", params[:8], *size) if any(lens) else SourceCamera("PINHOLE", params[:4], *size)


def _focal(fields: Mapping[str, Any], axis: str, side: float, where: str) -> float | None:
    """Focal length in pixels along an axis: fl_x (px), camera_angle_x (radians) or x_fov (degrees)."""
    focal = _number(fields, f"fl_{axis}", where)
    if focal is not None:
        return focal
    angle = _number(fields, f"camera_angle_{axis}", where)
    if angle is None:
        degrees = _number(fields, f"{axis}_fov", where)
        angle = None if degrees is None else math.radians(degrees)
    if angle is None:
        return None
    if not 0 < angle < math.pi:
        raise InputError(f"{where}: field of view {angle:g} is not between 0 and pi")
    return side / 2 / math.tan(angle / 2)


def _depth_scale(fields: Mapping[str, Any], where: str) -> float:
    """World units per unit of the depth files: nerfstudio's key, or instant-ngp's, or millimetres."""
    for key in ("depth_unit_scale_factor", "integer_depth_scale"):
        value = _number(fields, key, where)
        if value is not None:
            return value
    return DEPTH_SCALE


def _split(file: Path, meta: Mapping[str, Any], paths: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The file's own (train, test) indices; None where it has no lists, or lists that leave nothing to train on."""
    lists = {}
    for part in ("train", "val", "test"):
        names = meta.get(f"{part}_filenames")
        if names is not None:
            if not isinstance(names, list):
                raise InputError(f"{file}: {part}_filenames is not a list")
            lists[part] = {PurePosixPath(str(name).replace("\\", "/")).as_posix() for name in names}
    if not lists:
        return None
    held_out = lists.get("test") or lists.get("val") or set()
    test = tuple(i for i, path in enumerate(paths) if path in held_out)
    to_train = lists["train"] if "train" in lists else set(paths) - lists.get("val", set())
    train = tuple(i for i, path in enumerate(paths) if path in to_train - held_out)
    if not train:
        log.warning("%s: its lists of files leave nothing to train on that is not for testing; not used", file)
        return None
    return train, test


def _world_from_source(meta: Mapping[str, Any], where: str) -> Tensor:
    """[4,4] the similarity that was applied to the capture's own frame before the file was written."""
    transform = torch.eye(4, dtype=torch.float64)
    if meta.get("applied_transform") is not None:
        transform = _matrix(meta["applied_transform"], f"{where}: applied_transform")
    scale = _number(meta, "applied_scale", where)
    if scale is not None:
        transform[:3] *= scale
    linear = transform[:3, :3] / similarity_scale(transform).clamp(min=1e-300)
    if torch.linalg.det(linear) <= 0 or (linear @ linear.T - torch.eye(3, dtype=torch.float64)).abs().max() > 1e-3:
        raise InputError(f"{where}: applied_transform is not a rotation, a scale and a translation")
    return transform


def _points(file: Path, meta: Mapping[str, Any]) -> Points | None:
    """The points of `ply_file_path`, or those of the COLMAP model that nerfstudio keeps beside its photos."""
    name = _text(meta, "ply_file_path", f"{file}")
    if name is not None:
        ply = file.parent / name
        if not ply.is_file():
            log.warning("%s: the points %s are not there", file, name)
            return None
        return _ply_points(ply)
    model = file.parent / "colmap" / "sparse" / "0"
    if meta.get("applied_transform") is None or colmap.find_file(model, "points3D") is None:
        return None
    points = colmap.read_points(model)
    moved = _world_from_source(meta, f"{file}")
    return Points(points.xyz @ moved[:3, :3].T + moved[:3, 3], points.rgb) if points else None


def _ply_points(file: Path) -> Points | None:
    vertices = read_vertices(file)
    fields = vertices.dtype.names or ()
    if not {"x", "y", "z"} <= set(fields):
        raise InputError(f"{file}: its vertices have no x, y, z")
    xyz = torch.from_numpy(np.stack([vertices[axis].astype(np.float64) for axis in "xyz"], axis=-1))
    rgb = torch.full(xyz.shape, 0.5)
    if {"red", "green", "blue"} <= set(fields):
        colours = np.stack([vertices[channel] for channel in ("red", "green", "blue")], axis=-1)
        peak = np.iinfo(colours.dtype).max if colours.dtype.kind in "iu" else 1
        rgb = torch.from_numpy(colours.astype(np.float32) / np.float32(peak))
    keep = torch.isfinite(xyz).all(dim=-1)
    return Points(xyz, rgb).select(keep) if keep.any() else None


def _write_points(file: Path, points: Points) -> None:
    fields = [(axis, "<f4") for axis in "xyz"] + [(channel, "u1") for channel in ("red", "green", "blue")]
    rows = np.empty(len(points), np.dtype(fields))
    for i, axis in enumerate("xyz"):
        rows[axis] = points.xyz[:, i].numpy()
    colours = (points.rgb.double().clamp(0, 1) * 255).round().numpy()
    for i, channel in enumerate(("red", "green", "blue")):
        rows[channel] = colours[:, i]
    names = {"<f4": "float", "u1": "uchar"}
    properties = "".join(f"property {names[kind]} {name}\n" for name, kind in fields)
    with atomic_write(file) as target:
        target.write(
            f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{properties}end_header\n".encode()
        )
        target.write(rows.tobytes())


def _number(fields: Mapping[str, Any], key: str, where: str) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where}: {key} {value!r} is not a finite number")
    return float(value)


def _text(fields: Mapping[str, Any], key: str, where: str) -> str | None:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: {key} {value!r} is not text")
    return value or None


def _matrix(value: Any, where: str) -> Tensor:
    """[4,4] float64 from nested lists of 3 or 4 rows."""
    try:
        matrix = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        matrix = torch.empty(0)
    if matrix.shape not in ((3, 4), (4, 4)):
        raise InputError(f"{where} is not a matrix of 4x4 numbers")
    if not torch.isfinite(matrix).all():
        raise InputError(f"{where} has values that are not finite: {value}")
    result = torch.eye(4, dtype=torch.float64)
    result[: len(matrix)] = matrix
    if abs(float(torch.linalg.det(result))) < 1e-30:
        raise InputError(f"{where} is singular: {value}")
    return result


def _unit(value: Any, where: str) -> Tensor:
    """[3] float64 of unit length."""
    try:
        vector = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        vector = torch.empty(0)
    if vector.shape != (3,) or not (torch.isfinite(vector).all() and vector.norm() > 0):
        raise InputError(f"{where} {value!r} is not a direction")
    return vector / vector.norm()
