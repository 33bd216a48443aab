"""Photos to views: EXIF, sizes, poses, masks, depth and the split."""

from __future__ import annotations

import math
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import captures
from captures import message, pinhole
from recon.datasets.decode import decode
from recon.datasets.errors import InputError
from recon.datasets.images import (
    SourceCamera,
    area_resize,
    image_size,
    make_view,
    split_every,
)

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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".prefixed.png", ".tif"])
def test_every_format_and_depth_comes_upright(tmp_path: Path, suffix: str, bits: int, orientation: int) -> None:
    file = tmp_path / f"a{suffix}"
    stored = captures.noise(30, 24, 3, bits=bits)
    if suffix == ".tif":
        captures.write_tiff(file, stored, orientation=orientation)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        # The standard wants the block without its prefix; some programs write it all the same.
        block = exif.tobytes()
        captures.write_png(file, stored, exif=block if "prefixed" in suffix else block.removeprefix(b"Exif\0\0"))
    # Where a stored pixel is shown, from the meaning of the tag: which side its first row and its first column are on.
    transposed = stored.swapaxes(0, 1) if orientation >= 5 else stored
    expected = {
        1: transposed, 2: transposed[:, ::-1], 3: transposed[::-1, ::-1], 4: transposed[::-1],
        5: transposed, 6: transposed[:, ::-1], 7: transposed[::-1, ::-1], 8: transposed[::-1],
    }[orientation]  # fmt: skip
    np.testing.assert_array_equal(decode(file), expected)
    np.testing.assert_array_equal(decode(file, upright=False), stored)
    assert image_size(file) == (expected.shape[1], expected.shape[0])


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


# ---- poses


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


# ---- loading and writing


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


# ---- the split


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


def test_views_of_one_place_are_held_out_together() -> None:
    names = ["b1", "a0", "a1", "b0", "c0", "d0"]
    places = [1, 0, 0, 1, 2, 3]
    assert split_every(names, 2, places) == ((0, 3, 5), (1, 2, 4))
    assert split_every(names, 3, places) == ((0, 3, 4), (1, 2, 5))
    assert split_every(["a", "b"], 2, [5, 5]) == ((0, 1), ())


def test_no_split_and_bad_splits() -> None:
    assert split_every(["b", "a"], 0) == ((0, 1), ())
    assert split_every(["b", "a"]) == ((0,), (1,))
    assert split_every(["a"]) == ((0,), ())
    for every in (1, -3):
        with pytest.raises(InputError, match=f"test_every {every} "):
            split_every(["a", "b"], every)
