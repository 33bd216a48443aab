"""Lens distortion: what is shown where afterwards, what has no data, and which cameras are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pycolmap
import pytest

import captures
from captures import message
from recon.datasets import cache, lens
from recon.datasets.errors import InputError
from recon.datasets.images import (
    SourceCamera,
    make_view,
)

LENSES = {
    "SIMPLE_RADIAL": (90.0, 60.0, 50.0, -0.12),
    "RADIAL": (90.0, 61.0, 48.0, 0.1, -0.05),
    "OPENCV": (90.0, 92.0, 61.0, 48.0, 0.08, -0.05, 0.004, -0.003),
    "FULL_OPENCV": (90.0, 92.0, 61.0, 48.0, 0.08, -0.05, 0.004, -0.003, 0.01, 0.02, -0.01, 0.003),
    "OPENCV_FISHEYE": (80.0, 81.0, 61.0, 48.0, 0.02, -0.01, 0.003, 0.001),
    "SIMPLE_FISHEYE": (80.0, 60.0, 50.0),
    "SIMPLE_RADIAL_FISHEYE": (80.0, 60.0, 50.0, 0.03),
    "THIN_PRISM_FISHEYE": (80.0, 81.0, 61.0, 48.0, 0.02, -0.01, 0.002, 0.001, 0.003, 0.001, 0.002, -0.001),
    "FOV": (90.0, 91.0, 60.0, 50.0, 0.6),
    "DIVISION": (90.0, 91.0, 60.0, 50.0, -0.1),
    "EUCM": (90.0, 91.0, 60.0, 50.0, 0.5, 1.1),
}


@pytest.mark.parametrize("model", LENSES)
@pytest.mark.parametrize("file_scale", [(1.0, 1.0), (0.5, 0.5)])
def test_an_undistorted_photo_shows_each_ray_where_the_pinhole_has_it(
    tmp_path: Path, model: str, file_scale: tuple[float, float]
) -> None:
    """The colours of the distorted photo are a smooth function of the ray; so they are after, with other rays."""
    camera = SourceCamera(model, LENSES[model], 120, 100)
    colmap = pycolmap.Camera(model=model, width=120, height=100, params=list(camera.params))
    width, height = round(120 * file_scale[0]), round(100 * file_scale[1])
    y, x = np.mgrid[0:height, 0:width] + 0.5
    rays = colmap.cam_from_img(np.stack([x * 120 / width, y * 100 / height], axis=-1).reshape(-1, 2))
    pixels = np.rint(_colour_of_rays(rays) * 65535).reshape(height, width, 3).astype(np.uint16)
    captures.write_png(tmp_path / "a.png", pixels)

    view = make_view("a", tmp_path / "a.png", camera, captures.viewmat())
    assert min(view.camera.width, view.camera.height) > 0.5 * min(width, height)
    K = view.camera.Ks[0].numpy()
    rows, columns = np.mgrid[0 : view.camera.height, 0 : view.camera.width] + 0.5
    expected = _colour_of_rays(np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1]], axis=-1))
    error = np.abs(view.load().numpy() - expected)
    if view.mask is not None:
        assert view.mask.load().mean() > 0.95
        error = error[view.mask.load()[..., 0].numpy() > 0]
    # Bilinear interpolation of the waves below; beside the border the nearest pixel stands in for what is not there.
    assert error.max() < 0.02
    assert error.mean() < 0.002


def _colour_of_rays(rays: np.ndarray) -> np.ndarray:
    x, y = rays[..., 0], rays[..., 1]
    return 0.5 + 0.4 * np.stack([np.sin(3 * x + y), np.sin(2 * y - x), np.cos(2 * x + 3 * y)], axis=-1)


@pytest.mark.parametrize("model", LENSES)
def test_the_border_tells_whether_pixels_are_blank(model: str) -> None:
    camera = SourceCamera(model, LENSES[model], 120, 100)
    size = lens.undistorted(camera)
    whole = lens.inside(lens.sampling_grid(camera, size.width, size.height)).all()
    assert lens.has_blank_pixels(camera) == (not whole)


def test_an_undistorted_real_photo_is_colmaps(real_data: Callable[[str], Path]) -> None:
    file = real_data("fox") / "images" / "0001.jpg"
    params = (1375.52, 1374.49, 554.558, 965.268, 0.0578421, -0.0805099, -0.000980296, 0.00015575)
    view = make_view("a", file, SourceCamera("OPENCV", params, 1080, 1920), captures.viewmat())
    bitmap = pycolmap.Bitmap.read(str(file), True)
    assert bitmap is not None
    expected, camera = pycolmap.undistort_image(
        pycolmap.UndistortCameraOptions(),
        bitmap,
        pycolmap.Camera(model="OPENCV", width=1080, height=1920, params=list(params)),
    )
    assert view.mask is None
    assert (view.camera.width, view.camera.height) == (camera.width, camera.height)
    K = view.camera.Ks[0]
    assert [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])] == pytest.approx(list(camera.params))
    # COLMAP rounds to 8 bits.
    assert np.abs(view.load().numpy() - expected.to_array() / 255).max() <= 0.5 / 255 + 1e-4


def test_zero_distortion_leaves_the_photo_untouched_but_a_fisheye_is_never_a_pinhole(tmp_path: Path) -> None:
    pixels = captures.noise(36, 40, 3)
    iio.imwrite(tmp_path / "a.png", pixels)
    straight = SourceCamera("OPENCV", (*captures.PINHOLE.params, 0.0, 0.0, 0.0, 0.0), 40, 36)
    view = make_view("a", tmp_path / "a.png", straight, captures.viewmat())
    np.testing.assert_allclose(view.load().numpy(), pixels / 255, atol=1e-7)
    fisheye = SourceCamera("OPENCV_FISHEYE", (*captures.PINHOLE.params, 0.0, 0.0, 0.0, 0.0), 40, 36)
    assert not lens.is_pinhole(fisheye)


@pytest.mark.parametrize(
    ("camera", "reason"),
    [
        (
            SourceCamera("PINHOLE", (math.nan, 50.0, 20.0, 20.0), 40, 36),
            r"parameters \(nan, 50, 20, 20\) are not finite",
        ),
        (SourceCamera("PINHOLE", (0.0, 50.0, 20.0, 20.0), 40, 36), "focal length 0 is not positive"),
        (SourceCamera("PINHOLE", (50.0, -3.0, 20.0, 20.0), 40, 36), "focal length -3 is not positive"),
        (SourceCamera("PINHOLE", (50.0, 20.0, 20.0), 40, 36), "PINHOLE camera has 3 parameters, not 4"),
        (SourceCamera("PINHOLE", (50.0, 50.0, 20.0, 20.0), 0, 36), "camera size 0x36 is not positive"),
        (SourceCamera("BOX", (50.0,), 40, 36), "camera model 'BOX' is not known"),
        (SourceCamera("EQUIRECTANGULAR", (40.0, 36.0), 40, 36), "EQUIRECTANGULAR cannot be turned into a pinhole"),
    ],
)
def test_unusable_cameras_are_refused(tmp_path: Path, camera: SourceCamera, reason: str) -> None:
    iio.imwrite(tmp_path / "a.png", captures.noise(36, 40, 3))
    with pytest.raises(InputError, match=f"a.png: .*{reason}") as error:
        make_view("a", tmp_path / "a.png", camera, captures.viewmat())
    message(error)


def test_pixels_that_the_lens_left_blank_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a pinhole that is wider than what the lens saw, the mask is exactly where rays fall inside the photo."""
    camera = SourceCamera("SIMPLE_RADIAL", LENSES["SIMPLE_RADIAL"], 120, 100)
    exact = lens.undistorted(camera)
    fx, fy, cx, cy = exact.params
    wide = SourceCamera("PINHOLE", (fx, fy, cx + 20, cy + 10), exact.width + 40, exact.height + 20)
    monkeypatch.setattr(lens, "undistorted", lambda _: wide)
    lens.has_blank_pixels.cache_clear()
    cache.images.clear()
    captures.write_png(tmp_path / "a.png", np.full((100, 120, 3), 255, np.uint8))
    view = make_view("a", tmp_path / "a.png", camera, captures.viewmat())
    monkeypatch.undo()
    lens.has_blank_pixels.cache_clear()
    assert view.mask is not None
    colmap = pycolmap.Camera(model=camera.model, width=120, height=100, params=list(camera.params))
    rows, columns = np.mgrid[0 : wide.height, 0 : wide.width] + 0.5
    rays = np.stack([(columns - cx - 20) / fx, (rows - cy - 10) / fy, np.ones_like(rows)], axis=-1)
    seen = colmap.img_from_cam(rays.reshape(-1, 3)).reshape(wide.height, wide.width, 2)
    inside = ((seen >= 0) & (seen <= (120, 100))).all(axis=-1)
    assert 0.5 < inside.mean() < 0.95
    monkeypatch.setattr(lens, "undistorted", lambda _: wide)
    np.testing.assert_array_equal(view.mask.load()[..., 0].numpy() > 0, inside)
