"""Photos to views: decoding, EXIF, sizes, lens distortion, masks, depth, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pycolmap
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import captures
from recon.datasets import cache, lens
from recon.datasets.cache import ByteCache
from recon.datasets.decode import decode
from recon.datasets.errors import InputError
from recon.datasets.images import (
    SourceCamera,
    area_resize,
    choose_image_folder,
    image_size,
    make_view,
    save_image,
    split_every,
    view_names,
    write_photo,
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


def pinhole(width: int, height: int) -> SourceCamera:
    return SourceCamera("PINHOLE", (60.0, 61.0, 0.45 * width, 0.55 * height), width, height)


def message(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# ---- decoding


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_every_kind_of_png_comes_with_all_its_bits(tmp_path: Path, channels: int, bits: int) -> None:
    pixels = captures.noise(20, 24, channels, bits=bits)
    captures.write_png(tmp_path / "a.png", pixels)
    view = make_view("a", tmp_path / "a.png", pinhole(24, 20), captures.viewmat())
    expected = pixels / (2**bits - 1)
    if channels <= 2:
        expected = np.concatenate([expected[..., :1]] * 3 + [expected[..., 1:]], axis=-1)
    assert view.load().dtype == torch.float32
    np.testing.assert_allclose(view.load().numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("transparency", [b"", bytes([0, 100, 255])])
def test_palettes_are_looked_up(tmp_path: Path, transparency: bytes) -> None:
    colours = np.array([[10, 20, 30], [200, 100, 0], [255, 255, 255], [1, 2, 3]], np.uint8)
    indices = np.random.default_rng(0).integers(0, 4, (20, 24, 1), dtype=np.uint8)
    captures.write_png(tmp_path / "a.png", indices, palette=colours.tobytes(), transparency=transparency)
    pixels = decode(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels[..., :3], colours[indices[..., 0]])
    if transparency:
        np.testing.assert_array_equal(pixels[..., 3], np.array([*transparency, 255])[indices[..., 0]])
    assert pixels.shape[2] == (4 if transparency else 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_of_8_and_16_bits(tmp_path: Path, channels: int, bits: int) -> None:
    pixels = captures.noise(20, 24, channels, bits=bits)
    captures.write_tiff(tmp_path / "a.tif", pixels)
    np.testing.assert_array_equal(decode(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize(("suffix", "options"), [(".jpg", {"quality": 95}), (".webp", {"quality": 95})])
def test_lossy_formats_decode_close_to_the_original(tmp_path: Path, suffix: str, options: dict) -> None:
    pixels = np.rint(captures.smooth(48, 40) * 255).astype(np.uint8)
    file = tmp_path / f"a{suffix}"
    iio.imwrite(file, pixels, plugin="pillow", **options)
    view = make_view("a", file, pinhole(40, 48), captures.viewmat())
    assert np.abs(view.load().numpy() - pixels / 255).mean() < 0.02


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr"])
def test_rarer_colour_modes(tmp_path: Path, mode: str) -> None:
    pixels = np.rint(captures.smooth(48, 40) * 255).astype(np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "a.tif")
    expected = np.asarray(image.convert("L" if mode == "1" else "RGB")).reshape(48, 40, -1)
    np.testing.assert_allclose(decode(tmp_path / "a.tif").astype(int), expected.astype(int), atol=1)


def _encoded(kind: str, path: Path) -> bytes:
    if kind == "png16":
        captures.write_png(path, captures.noise(40, 40, 3, bits=16))
    elif kind == "tiff":
        captures.write_tiff(path, captures.noise(40, 40, 3))
    else:
        iio.imwrite(path, captures.noise(40, 40, 3), plugin="pillow")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("kind", "suffix"), [("png", "png"), ("png16", "png"), ("jpeg", "jpg"), ("webp", "webp"), ("tiff", "tif")]
)
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path: Path, kind: str, suffix: str) -> None:
    file = tmp_path / f"photo.{suffix}"
    whole = _encoded(kind, file)
    for share in (0.0, 0.005, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        file.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match=re.escape(str(file))) as error:
            make_view("a", file, pinhole(40, 40), captures.viewmat()).load()
        message(error)


@given(st.binary(max_size=300), st.sampled_from(["png", "jpg", "webp", "tif", "npy"]))
@settings(deadline=None, max_examples=60)
def test_garbage_is_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    file = tmp_path_factory.mktemp("garbage") / f"a.{suffix}"
    file.write_bytes(data)
    with pytest.raises(InputError, match=re.escape(str(file))) as error:
        decode(file)
    message(error)


def test_images_without_pixels_or_files_are_refused(tmp_path: Path) -> None:
    missing, empty, folder = tmp_path / "missing.png", tmp_path / "empty.png", tmp_path / "folder.png"
    empty.touch()
    folder.mkdir()
    no_pixels = tmp_path / "zero.npy"
    np.save(no_pixels, np.zeros((0, 5)))
    for file, reason in [
        (missing, "there is no such image"),
        (empty, "cannot be read as an image"),
        (folder, "cannot be read as an image"),
        (no_pixels, "image size 5x0 is not positive"),
    ]:
        with pytest.raises(InputError, match=f"{re.escape(str(file))}: {reason}") as error:
            image_size(file)
        message(error)


def test_png_of_width_zero_is_refused(tmp_path: Path) -> None:
    captures.write_png(tmp_path / "a.png", np.zeros((5, 0, 3), np.uint8))
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "a.png"))) as error:
        make_view("a", tmp_path / "a.png", pinhole(40, 40), captures.viewmat())
    message(error)


# ---- EXIF


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_come_upright_and_the_camera_is_of_what_is_shown(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(captures.noise(30, 24, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
    height, width = expected.shape[:2]
    assert image_size(tmp_path / "a.png") == (width, height)
    view = make_view("a", tmp_path / "a.png", pinhole(width, height), captures.viewmat())
    np.testing.assert_allclose(view.load().numpy(), expected / 255, atol=1e-7)
    assert torch.equal(view.camera.viewmats[0], captures.viewmat()) or torch.allclose(
        view.camera.viewmats[0], captures.viewmat(), atol=1e-12
    )


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("downscale", [1, 2])
def test_a_camera_of_the_stored_pixels_turns_with_the_photo(tmp_path: Path, orientation: int, downscale: int) -> None:
    """A dot is painted where the stored camera sees a point; it must be there in the upright view as well."""
    camera, pose = pinhole(60, 48), captures.viewmat()
    point = torch.tensor([[0.2, 0.1, 0.3]], dtype=torch.float64)
    x, y = (pose[:3, :3] @ point[0] + pose[:3, 3])[:2] / (pose[:3, :3] @ point[0] + pose[:3, 3])[2]
    column, row = 60 * x + 27, 61 * y + 26.4
    pixels = np.zeros((48, 60, 3), np.uint8)
    rows, columns = np.mgrid[0:48, 0:60] + 0.5
    distance = np.hypot(columns - float(column), rows - float(row))
    pixels[...] = np.rint(255 * np.exp(-((distance / 4) ** 2)))[..., None]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)

    view = make_view("a", tmp_path / "a.png", camera, pose, stored_pixels=True, downscale=downscale)
    image = view.load()[..., 0].double()
    assert image.shape == (view.camera.height, view.camera.width)
    assert (view.camera.width > view.camera.height) == (orientation == 3)
    grid = torch.stack(
        torch.meshgrid(torch.arange(image.shape[1]) + 0.5, torch.arange(image.shape[0]) + 0.5, indexing="xy"), dim=-1
    )
    centroid = (grid * image[..., None]).sum(dim=(0, 1)) / image.sum()
    position, _ = view.camera.project(point)
    assert torch.allclose(position[0, 0], centroid, atol=0.05)
    assert torch.allclose(view.camera.positions[0], torch.linalg.inv(pose)[:3, 3], atol=1e-12)


# ---- sizes


def test_intrinsics_follow_a_smaller_copy_for_each_axis(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.png", captures.noise(478, 269, 3))
    camera = SourceCamera("PINHOLE", (1400.0, 1410.0, 540.0, 955.0), 1076, 1914)
    view = make_view("a", tmp_path / "a.png", camera, captures.viewmat(), downscale=4)
    assert (view.camera.width, view.camera.height) == (269, 478)
    K = view.camera.Ks[0]
    expected = [1400 * 269 / 1076, 1410 * 478 / 1914, 540 * 269 / 1076, 955 * 478 / 1914]
    assert [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])] == pytest.approx(expected, abs=1e-9)
    # Asked for the originals, the copy is what there is; it is not enlarged.
    assert make_view("a", tmp_path / "a.png", camera, captures.viewmat()).camera.width == 269
    # Asked for half of it, it is halved.
    assert make_view("a", tmp_path / "a.png", camera, captures.viewmat(), downscale=8).camera.height == 239


def test_a_size_that_is_no_rescaling_is_refused_with_both_sizes(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.png", captures.noise(50, 40, 3))
    with pytest.raises(InputError, match=r"a\.png: image is 40x50, its camera is for 40x40") as error:
        make_view("a", tmp_path / "a.png", pinhole(40, 40), captures.viewmat())
    message(error)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.integers(0, 5), st.data())
@settings(deadline=None, max_examples=80)
def test_reduction_is_the_mean_over_the_area(
    rows: int, columns: int, channels: int, seed: int, data: st.DataObject
) -> None:
    """Pillow's BOX filter in float is the same mean, computed by others."""
    height, width = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    image = np.random.default_rng(seed).random((rows, columns, channels), dtype=np.float32)
    reduced = area_resize(image, width, height)
    assert reduced.shape == (height, width, channels)
    assert reduced.mean(dtype=np.float64) == pytest.approx(image.mean(dtype=np.float64), abs=1e-6)
    for channel in range(channels):
        expected = _box_mean(image[..., channel], width, height)
        np.testing.assert_allclose(reduced[..., channel], expected, atol=2e-6)


def _box_mean(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """The mean over each new pixel's area, as weights of overlaps."""

    def weights(old: int, new: int) -> np.ndarray:
        edges = np.linspace(0, old, new + 1)
        low, high = np.arange(old), np.arange(1, old + 1)
        overlap = np.minimum(high[None], edges[1:, None]) - np.maximum(low[None], edges[:-1, None])
        return np.clip(overlap, 0, None) * new / old

    return weights(image.shape[0], height) @ image.astype(np.float64) @ weights(image.shape[1], width).T


@pytest.mark.parametrize("downscale", [1, 2, 3, 4, 2.5])
def test_downscale_is_a_box_mean_and_intrinsics_follow(tmp_path: Path, downscale: float) -> None:
    pixels = captures.noise(90, 121, 3)
    captures.write_png(tmp_path / "a.png", pixels)
    camera = pinhole(121, 90)
    view = make_view("a", tmp_path / "a.png", camera, captures.viewmat(), downscale=downscale)
    width, height = round(121 / downscale), round(90 / downscale)
    assert (view.camera.width, view.camera.height) == (width, height)
    for channel in range(3):
        expected = _box_mean(pixels[..., channel] / 255, width, height)
        np.testing.assert_allclose(view.load()[..., channel].numpy(), expected, atol=1e-5)
    full = make_view("a", tmp_path / "a.png", camera, captures.viewmat()).camera
    points = torch.randn(20, 3, dtype=torch.float64) * 0.3
    scale = torch.tensor([width / 121, height / 90])
    assert torch.allclose(view.camera.project(points)[0], full.project(points)[0] * scale, atol=1e-9)


def test_transparent_pixels_do_not_lend_their_colour(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:, ::2] = (255, 0, 0, 255)
    pixels[:, 1::2] = (0, 255, 0, 0)  # green, but not there
    captures.write_png(tmp_path / "a.png", pixels)
    image = make_view("a", tmp_path / "a.png", pinhole(32, 32), captures.viewmat(), downscale=2).load()
    assert torch.allclose(image, torch.tensor([1.0, 0.0, 0.0, 0.5]), atol=1e-4)


@pytest.mark.parametrize("downscale", [0, 0.5, -1, math.nan, math.inf, 5, 1000])
def test_a_downscale_out_of_range_is_named(tmp_path: Path, downscale: float) -> None:
    iio.imwrite(tmp_path / "a.png", captures.noise(64, 60, 3))
    with pytest.raises(InputError, match=rf"a\.png: downscale {downscale:g} (is not|leaves)") as error:
        make_view("a", tmp_path / "a.png", pinhole(60, 64), captures.viewmat(), downscale=downscale)
    message(error)


# ---- lenses


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


@pytest.mark.parametrize("damage", ["nan", "inf", "stretched", "mirrored", "projective"])
def test_poses_that_are_not_rigid_are_refused(tmp_path: Path, damage: str) -> None:
    iio.imwrite(tmp_path / "a.png", captures.noise(36, 40, 3))
    pose = captures.viewmat()
    if damage in ("nan", "inf"):
        pose[1, 3] = float(damage)
    elif damage == "stretched":
        pose[:3, :3] *= 1.1
    elif damage == "mirrored":
        pose[0] *= -1
    else:
        pose[3, 0] = 1
    reason = "not finite" if damage in ("nan", "inf") else "not a rotation and a translation"
    with pytest.raises(InputError, match=f"frame 3: pose .*{reason}") as error:
        make_view("a", tmp_path / "a.png", captures.PINHOLE, pose, where="poses.txt: frame 3")
    message(error)


def test_a_rounded_rotation_is_made_exact_about_the_camera_centre(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.png", captures.noise(36, 40, 3))
    pose = captures.viewmat().round(decimals=3)
    camera = make_view("a", tmp_path / "a.png", captures.PINHOLE, pose).camera
    rotation = camera.viewmats[0, :3, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-14)
    assert torch.allclose(camera.positions[0], torch.linalg.inv(pose)[:3, 3], atol=1e-12)


# ---- masks and depth


def test_masks_are_binary_and_a_pixel_counts_only_if_all_of_it_does(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.png", captures.noise(64, 60, 3))
    mask = np.full((64, 60), 255, np.uint8)
    mask[10, 20] = 0
    iio.imwrite(tmp_path / "m.png", mask)
    view = make_view(
        "a", tmp_path / "a.png", pinhole(60, 64), captures.viewmat(), downscale=2, mask_path=tmp_path / "m.png"
    )
    assert view.mask is not None
    loaded = view.mask.load()
    expected = torch.ones(32, 30, 1)
    expected[5, 10] = 0
    assert torch.equal(loaded, expected)


def test_a_mask_of_another_size_and_with_alpha_covers_the_photo(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.png", captures.noise(64, 60, 3))
    mask = np.full((32, 30, 4), 255, np.uint8)
    mask[:16, :, 3] = 0
    iio.imwrite(tmp_path / "m.png", mask)
    view = make_view("a", tmp_path / "a.png", pinhole(60, 64), captures.viewmat(), mask_path=tmp_path / "m.png")
    assert view.mask is not None
    loaded = view.mask.load()
    assert loaded.shape == (64, 60, 1)
    assert not loaded[:32].any()
    assert loaded[32:].all()


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


def test_depth_is_scaled_and_never_mixed(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.png", captures.noise(64, 60, 3))
    depth = np.random.default_rng(0).choice(np.array([0, 1000, 5000], np.uint16), (64, 60))
    iio.imwrite(tmp_path / "d.png", depth)
    view = make_view(
        "a", tmp_path / "a.png", pinhole(60, 64), captures.viewmat(),
        downscale=2, depth_path=tmp_path / "d.png", depth_scale=1e-3,
    )  # fmt: skip
    assert view.depth is not None
    assert view.depth.load().shape == (32, 30, 1)
    assert set(view.depth.load().unique().tolist()) == {0.0, 1.0, 5.0}


def test_depth_from_an_array_of_another_size_with_holes(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.png", captures.noise(64, 60, 3))
    depth = np.full((16, 15), 2.5, np.float32)
    depth[0, 0], depth[0, 1], depth[0, 2] = np.nan, np.inf, -1
    np.save(tmp_path / "d.npy", depth)
    view = make_view("a", tmp_path / "a.png", pinhole(60, 64), captures.viewmat(), depth_path=tmp_path / "d.npy")
    assert view.depth is not None
    loaded = view.depth.load()
    assert not loaded[:4, :12].any()
    assert (loaded[4:] == 2.5).all()


# ---- the cache


def test_the_cache_keeps_to_its_bound_and_drops_the_least_recently_used() -> None:
    held = ByteCache(limit=1000)
    made = []

    def get(key: int, size: int = 300) -> np.ndarray:
        def make() -> np.ndarray:
            made.append(key)
            return np.full(size, key, np.uint8)

        return held.get(key, make)

    for key in (1, 2, 3):
        get(key)
    get(1)
    get(4)  # 2 goes
    assert held.held_bytes == 900
    assert made == [1, 2, 3, 4]
    get(1)
    assert made == [1, 2, 3, 4]
    get(2)
    assert made == [1, 2, 3, 4, 2]
    get(5, 2000)  # too large to keep, and nothing has to go for it
    assert held.held_bytes == 900
    held.limit = 500
    assert held.held_bytes == 300
    with pytest.raises(ValueError, match="read-only"):
        get(2)[0] = 1


def test_the_cache_bears_many_threads() -> None:
    held = ByteCache(limit=5000)
    with ThreadPoolExecutor(8) as pool:
        keys = [i * 7919 % 40 for i in range(4000)]
        results = list(pool.map(lambda key: held.get(key, lambda: np.full(100 + key, key, np.uint8)), keys))
    assert all(len(result) == 100 + key and (result == key).all() for key, result in zip(keys, results, strict=True))
    assert 0 < held.held_bytes <= 5000


def test_loading_twice_is_equal_and_hands_out_copies(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.png", captures.noise(36, 40, 3))
    view = make_view("a", tmp_path / "a.png", captures.PINHOLE, captures.viewmat())
    first = view.load()
    first_copy = first.clone()
    first.zero_()
    assert torch.equal(view.load(), first_copy)


def test_a_file_that_was_replaced_is_not_served_from_the_cache(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    for value in (10, 200):
        iio.imwrite(file, np.full((36, 40, 3), value, np.uint8))
        file.touch()
        image = make_view("a", file, captures.PINHOLE, captures.viewmat()).load()
        assert torch.allclose(image, torch.tensor(value / 255), atol=1e-6)


# ---- names, folders, splits


@given(st.lists(st.text("abc01", min_size=1, max_size=3), unique=True, max_size=30), st.integers(2, 9))
def test_every_nth_by_name_is_held_out(names: list[str], every: int) -> None:
    train, test = split_every(names, every)
    assert sorted(train + test) == list(range(len(names)))
    ordered = sorted(names)
    if len(names) > 1:
        assert sorted(names[i] for i in test) == [name for i, name in enumerate(ordered) if i % every == 0]
        assert train
    else:
        assert test == ()


def test_no_split_and_bad_splits() -> None:
    assert split_every(["b", "a"], 0) == ((0, 1), ())
    assert split_every(["b", "a"]) == ((0,), (1,))
    assert split_every(["a"]) == ((0,), ())
    for every in (1, -3):
        with pytest.raises(InputError, match=f"test_every {every} "):
            split_every(["a", "b"], every)


@pytest.mark.parametrize(
    ("folders", "downscale", "expected"),
    [
        (["images", "images_2", "images_4"], 1, "images"),
        (["images", "images_2", "images_4"], 4, "images_4"),
        (["images", "images_2", "images_4"], 8, "images_4"),
        (["images", "images_2", "images_4"], 6, "images_2"),
        (["images", "images_2", "images_4"], 3, "images"),
        (["images_2", "images_4"], 3, "images_2"),
        (["images_2", "images_4"], 1, "images_2"),
        (["images_x", "images_0"], 1, None),
        ([], 1, None),
    ],
)
def test_the_folder_for_a_downscale(tmp_path: Path, folders: list[str], downscale: int, expected: str | None) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
    chosen = choose_image_folder(tmp_path / "images", downscale)
    assert chosen == (None if expected is None else tmp_path / expected)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["images/a.jpg", "images/b.png"], ["a", "b"]),
        (["images/x/a.jpg", "images/y/a.jpg"], ["x/a", "y/a"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["train/r_0", "train/r_1.5"], ["r_0", "r_1.5"]),
        (["only.jpg"], ["only"]),
        ([], []),
    ],
)
def test_names_of_views(paths: list[str], names: list[str]) -> None:
    assert view_names(paths) == names


@pytest.mark.parametrize(
    ("suffix", "bits", "channels"), [(".png", 8, 3), (".png", 8, 4), (".png", 16, 1), (".png", 8, 1)]
)
def test_what_is_saved_comes_back(tmp_path: Path, suffix: str, bits: int, channels: int) -> None:
    peak = 2**bits - 1
    image = torch.from_numpy(captures.noise(20, 24, channels, bits=bits) / peak).float()
    save_image(tmp_path / f"a{suffix}", image, bits=bits)
    np.testing.assert_allclose(decode(tmp_path / f"a{suffix}") / peak, image.numpy(), atol=1e-6)


def test_a_photo_that_needs_nothing_is_copied_as_it_is(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.jpg", captures.noise(36, 40, 3))
    view = make_view("a", tmp_path / "a.jpg", captures.PINHOLE, captures.viewmat())
    copy = write_photo(view, tmp_path / "out" / "v1.0")
    assert copy == tmp_path / "out" / "v1.0.jpg"
    assert copy.read_bytes() == (tmp_path / "a.jpg").read_bytes()
    smaller = make_view("a", tmp_path / "a.jpg", captures.PINHOLE, captures.viewmat(), downscale=2)
    written = write_photo(replace(smaller, name="b"), tmp_path / "out" / "b")
    assert written.suffix == ".png"
    np.testing.assert_allclose(decode(written) / 255, smaller.load().numpy(), atol=0.5 / 255 + 1e-6)
