"""Lenses: a camera as a capture's files describe it, and the ideal pinhole that replaces it.

`SourceCamera` speaks COLMAP's language (model names and parameter order, see COLMAP's `src/colmap/sensor/models.h`);
every format translates into it, and pycolmap does the lens maths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recon.datasets.errors import InputError

if TYPE_CHECKING:
    import pycolmap

LARGEST_SIDE = 1_000_000  # px

# Models that are a pinhole once their distortion coefficients are zero. A fisheye with zero coefficients is not one.
_PERSPECTIVE = frozenset(
    {
        "SIMPLE_PINHOLE",
        "PINHOLE",
        "SIMPLE_RADIAL",
        "RADIAL",
        "OPENCV",
        "FULL_OPENCV",
        "SIMPLE_DIVISION",
        "DIVISION",
    }
)


@dataclass(frozen=True)
class SourceCamera:
    """A camera of a capture.

    Attributes:
        model: COLMAP's name, such as "PINHOLE" or "OPENCV".
        params: in COLMAP's order for that model; focal lengths and principal point in pixels of `width` x `height`.
        width, height: size in pixels of the image that the parameters describe; the file may be a rescaled one.
    """

    model: str
    params: tuple[float, ...]
    width: int
    height: int


def model_name(model_id: int) -> str | None:
    """The name of a camera model by its number in COLMAP's binary files; None for a number that is not known."""
    import pycolmap

    names = {int(model.value): name for name, model in pycolmap.CameraModelId.__members__.items() if name != "INVALID"}
    return names.get(model_id)


def parameter_count(model: str) -> int | None:
    """How many parameters a camera model has; None for a model that is not known."""
    import pycolmap

    if model not in pycolmap.CameraModelId.__members__ or model == "INVALID":
        return None
    return len(pycolmap.Camera.create_from_model_name(1, model, 1.0, 1, 1).params)


def check_camera(camera: SourceCamera, where: str) -> None:
    """Refuse a camera that cannot be used, with an `InputError` that starts with `where`."""
    if camera.width < 1 or camera.height < 1:
        raise InputError(f"{where}: camera size {camera.width}x{camera.height} is not positive")
    if max(camera.width, camera.height) > LARGEST_SIDE:
        raise InputError(f"{where}: camera size {camera.width:.3g}x{camera.height:.3g} is larger than any image")
    for value in camera.params:
        if not math.isfinite(value):
            raise InputError(f"{where}: {camera.model} camera parameters {_listed(camera.params)} are not finite")
    lens = _pycolmap_camera(camera, where)
    if not lens.focal_length_idxs():  # a panorama
        raise InputError(f"{where}: camera model {camera.model} cannot be turned into a pinhole")
    if lens.focal_length_x <= 0 or lens.focal_length_y <= 0:
        raise InputError(f"{where}: focal length {min(lens.focal_length_x, lens.focal_length_y):g} is not positive")


def is_pinhole(camera: SourceCamera) -> bool:
    """Whether the image is free of lens distortion as it is."""
    if camera.model not in _PERSPECTIVE:
        return False
    extra = _pycolmap_camera(camera).extra_params_idxs()
    return all(camera.params[i] == 0.0 for i in extra)


@lru_cache(maxsize=4096)
def undistorted(camera: SourceCamera) -> SourceCamera:
    """The PINHOLE camera whose image shows what `camera` saw, cropped so that (almost) all its pixels have data.

    The focal lengths stay; the size changes with the lens (COLMAP's `blank_pixels = 0`).
    """
    if is_pinhole(camera):
        lens = _pycolmap_camera(camera)
        fx, fy, cx, cy = lens.focal_length_x, lens.focal_length_y, lens.principal_point_x, lens.principal_point_y
        return SourceCamera("PINHOLE", (fx, fy, cx, cy), camera.width, camera.height)
    import pycolmap

    pinhole = pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(), _pycolmap_camera(camera))
    return SourceCamera("PINHOLE", tuple(float(p) for p in pinhole.params), pinhole.width, pinhole.height)


def sampling_grid(camera: SourceCamera, width: int, height: int) -> NDArray[np.float32]:
    """Where each pixel of the undistorted image lies in the distorted one.

    Args:
        camera: the distorted camera.
        width, height: size at which the undistorted image is sampled; any rescaling of `undistorted(camera)`'s.
    Returns:
        [height,width,2] positions (x, y) for `torch.nn.functional.grid_sample(align_corners=False)`: -1 and 1 are the
        outer edges of the distorted image, whatever its size in pixels. A pixel without data lies outside (at 2).
    """
    grid = np.empty((height, width, 2), dtype=np.float32)
    columns = np.arange(width) + 0.5
    rows_at_once = max(1, 2**18 // width)  # the float64 work arrays stay small
    for top in range(0, height, rows_at_once):
        rows = np.arange(top, min(top + rows_at_once, height)) + 0.5
        positions = np.stack(np.meshgrid(columns / width, rows / height), axis=-1).reshape(-1, 2)
        grid[top : top + len(rows)] = _distorted_positions(camera, positions).reshape(len(rows), width, 2)
    return grid


def mean_focal(camera: SourceCamera) -> float:
    """px, of both axes."""
    return float(_pycolmap_camera(camera).mean_focal_length())


def unprojected(camera: SourceCamera, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N,2] where the rays of pixel positions [N,2] meet the plane one before the camera, without the lens's bend; nan
    where there is no such ray."""
    return np.asarray(_pycolmap_camera(camera).cam_from_img(pixels), np.float64)


@lru_cache(maxsize=4096)
def has_blank_pixels(camera: SourceCamera) -> bool:
    """Whether the undistorted image has pixels that the distorted one does not cover. Its border tells."""
    if is_pinhole(camera):
        return False
    pinhole = undistorted(camera)
    columns = (np.arange(pinhole.width) + 0.5) / pinhole.width
    rows = (np.arange(pinhole.height) + 0.5) / pinhole.height
    ends = np.array([0.5 / pinhole.width, 1 - 0.5 / pinhole.width, 0.5 / pinhole.height, 1 - 0.5 / pinhole.height])
    border = np.concatenate(
        [
            np.stack([columns, np.full_like(columns, ends[2])], axis=-1),
            np.stack([columns, np.full_like(columns, ends[3])], axis=-1),
            np.stack([np.full_like(rows, ends[0]), rows], axis=-1),
            np.stack([np.full_like(rows, ends[1]), rows], axis=-1),
        ]
    )
    return not bool(inside(_distorted_positions(camera, border)).all())


def inside(grid: NDArray[np.floating]) -> NDArray[np.bool_]:
    """[...] whether positions [...,2] of a sampling grid lie in the image."""
    return (np.abs(grid) <= 1.0).all(axis=-1)


def _distorted_positions(camera: SourceCamera, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions [M,2] in the undistorted image (0..1 across it) to positions in the distorted one (-1..1)."""
    pinhole = undistorted(camera)
    pixels = positions * (pinhole.width, pinhole.height)
    rays = np.ones((len(pixels), 3))
    rays[:, :2] = (pixels - pinhole.params[2:]) / pinhole.params[:2]
    distorted = np.asarray(_pycolmap_camera(camera).img_from_cam(rays), np.float64)
    positions = 2.0 * distorted / (camera.width, camera.height) - 1.0
    positions[~np.isfinite(positions).all(axis=-1)] = 2.0
    return np.clip(positions, -2.0, 2.0)


def _pycolmap_camera(camera: SourceCamera, where: str = "camera") -> pycolmap.Camera:
    import pycolmap

    count = parameter_count(camera.model)
    if count is None:
        raise InputError(f"{where}: camera model {camera.model!r} is not known")
    if len(camera.params) != count:  # pycolmap itself would read beyond the end
        raise InputError(f"{where}: {camera.model} camera has {len(camera.params)} parameters, not {count}")
    params = np.asarray(camera.params, np.float64)
    return pycolmap.Camera(model=camera.model, width=camera.width, height=camera.height, params=params)


def _listed(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
