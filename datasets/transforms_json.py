"""What a transforms.json says, in the dialects of nerfstudio and of instant-ngp: its fields, checked.

One JSON object with camera-to-world matrices (OpenGL axes) under "frames" and intrinsics either beside them or in each
frame: fl_x fl_y cx cy w h, or camera_angle_x (radians), with k1..k6 p1 p2 and camera_model or is_fisheye. See
https://docs.nerf.studio/quickstart/data_conventions.html and instant-ngp's src/nerf_loader.cu.

Errors are `InputError`s that start with `where`: the file, and the frame if it is about one.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon.datasets.cameras import OPENCV_FROM_OPENGL, similarity_scale
from recon.datasets.errors import InputError
from recon.datasets.fields import number, read_json
from recon.datasets.lens import SourceCamera

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


def read(file: Path) -> dict[str, Any]:
    """The whole object, with at least one frame."""
    meta = read_json(file)
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise InputError(f"{file}: has no list of frames")
    return meta


def declared_size(fields: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """The image size (w, h) in pixels; None where the file does not say."""
    width, height = number(fields, "w", where), number(fields, "h", where)
    return None if width is None or height is None else (round(width), round(height))


def camera(own: Mapping[str, Any], shared: Mapping[str, Any], size: tuple[int, int], where: str) -> SourceCamera:
    """A frame's camera, from fields of its `own`, which come before the `shared` ones; `size` is (w, h) in pixels."""
    fields = ChainMap(dict(own), dict(shared))
    width, height = size
    # A frame's own focal length, in whatever form, comes before one that is shared.
    focal_x = focal_y = None
    for level in (own, shared):
        if focal_x is None and focal_y is None:
            focal_x, focal_y = _focal(level, "x", width, where), _focal(level, "y", height, where)
    fx = focal_y if focal_x is None else focal_x
    fy = focal_x if focal_y is None else focal_y
    if fx is None or fy is None:
        raise InputError(f"{where}: has no focal length (fl_x or camera_angle_x)")
    cx, cy = number(fields, "cx", where), number(fields, "cy", where)
    centre = (width / 2 if cx is None else cx, height / 2 if cy is None else cy)

    model = str(fields.get("camera_model") or "").upper()
    if model not in _PERSPECTIVE_MODELS and model != "OPENCV_FISHEYE":
        raise InputError(f"{where}: camera_model {model} is not supported")
    if "ftheta_p0" in fields:
        raise InputError(f"{where}: f-theta lenses (ftheta_p0) are not supported")
    fisheye = model == "OPENCV_FISHEYE" or bool(fields.get("is_fisheye"))
    lens = tuple(number(fields, key, where) or 0.0 for key in (_FISHEYE_KEYS if fisheye else _PERSPECTIVE_KEYS))
    params = (fx, fy, *centre, *lens)
    if fisheye:
        return SourceCamera("OPENCV_FISHEYE", params, *size)
    if any(lens[4:]):
        return SourceCamera("FULL_OPENCV", params, *size)
    return SourceCamera("OPENCV", params[:8], *size) if any(lens) else SourceCamera("PINHOLE", params[:4], *size)


def _focal(fields: Mapping[str, Any], axis: str, side: float, where: str) -> float | None:
    """Focal length in pixels along an axis: fl_x (px), camera_angle_x (radians) or x_fov (degrees)."""
    focal = number(fields, f"fl_{axis}", where)
    if focal is not None:
        return focal
    angle = number(fields, f"camera_angle_{axis}", where)
    if angle is None:
        degrees = number(fields, f"{axis}_fov", where)
        angle = None if degrees is None else math.radians(degrees)
    if angle is None:
        return None
    if not 0 < angle < math.pi:
        raise InputError(f"{where}: field of view {angle:g} is not between 0 and pi")
    return side / 2 / math.tan(angle / 2)


def depth_scale(fields: Mapping[str, Any], where: str) -> float:
    """World units per unit of the depth files: nerfstudio's key, or instant-ngp's, or millimetres."""
    for key in ("depth_unit_scale_factor", "integer_depth_scale"):
        value = number(fields, key, where)
        if value is not None:
            return value
    return DEPTH_SCALE


def viewmat(fields: Mapping[str, Any], where: str) -> Tensor:
    """[4,4] float64 world to camera (OpenCV axes) from a frame's `transform_matrix`, camera to world with OpenGL's."""
    c2w = matrix(fields.get("transform_matrix"), f"{where}: transform_matrix")
    return torch.linalg.inv(c2w @ OPENCV_FROM_OPENGL)


def world_from_source(meta: Mapping[str, Any], where: str) -> Tensor:
    """[4,4] the similarity that was applied to the capture's own frame before the file was written."""
    transform = torch.eye(4, dtype=torch.float64)
    if meta.get("applied_transform") is not None:
        transform = matrix(meta["applied_transform"], f"{where}: applied_transform")
    scale = number(meta, "applied_scale", where)
    if scale is not None:
        transform[:3] *= scale
    linear = transform[:3, :3] / similarity_scale(transform).clamp(min=1e-300)
    if torch.linalg.det(linear) <= 0 or (linear @ linear.T - torch.eye(3, dtype=torch.float64)).abs().max() > 1e-3:
        raise InputError(f"{where}: applied_transform is not a rotation, a scale and a translation")
    return transform


def matrix(value: Any, where: str) -> Tensor:
    """[4,4] float64 from nested lists of 3 or 4 rows; not singular."""
    rows = _tensor(value)
    if rows.shape not in ((3, 4), (4, 4)):
        raise InputError(f"{where} is not a matrix of 4x4 numbers")
    if not torch.isfinite(rows).all():
        listed = "; ".join(" ".join(f"{element:g}" for element in row) for row in rows.tolist())
        raise InputError(f"{where} has values that are not finite: [{listed}]")
    result = torch.eye(4, dtype=torch.float64)
    result[: len(rows)] = rows
    if abs(float(torch.linalg.det(result))) < 1e-30:
        raise InputError(f"{where} is singular: {value}")
    return result


def direction(value: Any, where: str) -> Tensor:
    """[3] float64 of unit length."""
    vector = _tensor(value)
    if vector.shape != (3,) or not (torch.isfinite(vector).all() and vector.norm() > 0):
        raise InputError(f"{where} {value!r} is not a direction")
    return vector / vector.norm()


def _tensor(value: Any) -> Tensor:
    """float64 of nested lists of numbers; empty for anything else."""
    try:
        return torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return torch.empty(0, dtype=torch.float64)
