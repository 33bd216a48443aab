"""The curve from linear light to what is shown, and captures that are trained through it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import captures
from exr_files import write_rgb
from recon import checkpoint, cli, memory, runs
from recon.config import TrainConfig
from recon.datasets import convert, load_scene
from recon.datasets.decode import decode, save_image
from recon.datasets.errors import InputError
from recon.datasets.images import ColourFile, make_view
from recon.datasets.point_cloud import write_points
from recon.datasets.scene import Points
from recon.datasets.tone import Tone, from_srgb, to_srgb
from recon.render import render_one

LUMINANCE = [0.2126, 0.7152, 0.0722]


def shown(light: NDArray, exposure: float) -> NDArray:
    """The curve, once more: Reinhard's, then sRGB's."""
    x = np.asarray(light, np.float64) * exposure
    y = x / (1 + x)
    return np.where(y <= 0.0031308, 12.92 * y, 1.055 * y ** (1 / 2.4) - 0.055)


# ---- the curve


@given(st.floats(1e-3, 1e3), st.floats(0, 1e4))
def test_the_curve_is_the_stated_one_and_can_be_undone(exposure: float, light: float) -> None:
    tone = Tone(exposure)
    seen = tone.shown(np.array([light], np.float32))
    assert seen == pytest.approx(shown(np.array([light]), exposure), abs=1e-6)
    if light * exposure < 1000:
        back = float(tone.linear(seen)[0])
        assert back == pytest.approx(light, rel=1e-3 * (1 + light * exposure), abs=1e-6 / exposure)


def test_the_curve_rises_from_black_to_white_whatever_the_light() -> None:
    seen = Tone(2.0).shown(np.array([-1, 0, *np.logspace(-6, 4, 300), np.inf], np.float32))
    assert seen[0] == seen[1] == 0
    assert (np.diff(seen[1:-1]) > 0).all()
    assert 0.999 < seen[-1] <= 1
    assert np.isfinite(Tone(2.0).linear(np.array([-1.0, 0.0, 1.0, 2.0]))).all()


@given(st.floats(0, 1))
def test_srgb_is_its_own_inverse(value: float) -> None:
    assert float(from_srgb(to_srgb(np.array(value)))) == pytest.approx(value, abs=1e-6)


def test_srgb_is_the_standards() -> None:
    np.testing.assert_allclose(
        to_srgb(np.array([0.0, 0.002, 0.18, 0.5, 1.0])), [0, 0.02584, 0.46135, 0.73536, 1], atol=1e-4
    )


# ---- captures


def exr_capture(folder: Path, scale: float = 1.0) -> Path:
    """Photos of light that goes on beyond 1."""
    captures.write_transforms(folder)
    for i in range(4):
        (folder / "images" / f"{i}.png").unlink()
        write_rgb(folder / "images" / f"{i}.exr", (scale * 4 * captures.smooth(36, 40, i) ** 3).astype(np.float32))
    captures.edit_transforms(
        folder, lambda meta: [f.update(file_path=f["file_path"].replace("png", "exr")) for f in meta["frames"]]
    )
    return folder


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_the_median_light_becomes_middle_grey(tmp_path: Path, scale: float) -> None:
    scene = load_scene(exr_capture(tmp_path, scale))
    assert scene.tone is not None
    light = [decode(tmp_path / "images" / f"{i}.exr") for i in range(4)]
    medians = [np.median(pixels[::4, ::4] @ LUMINANCE) for pixels in light]
    assert scene.tone.exposure == pytest.approx(0.18 / np.median(medians), rel=1e-5)
    for view, pixels in zip(scene.views, light, strict=True):
        np.testing.assert_allclose(view.load().numpy(), shown(pixels, scene.tone.exposure), atol=1e-5)


def test_photos_are_reduced_in_linear_light(tmp_path: Path) -> None:
    scene = load_scene(exr_capture(tmp_path), downscale=2)
    assert scene.tone is not None
    light = decode(tmp_path / "images" / "1.exr").reshape(18, 2, 20, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(scene.views[1].load().numpy(), shown(light, scene.tone.exposure), atol=1e-5)


def test_light_too_bright_for_the_file_is_white_and_none_at_all_is_wrong(tmp_path: Path) -> None:
    pixels = np.ones((36, 40, 3), np.float32)
    pixels[3, 4] = np.inf
    write_rgb(tmp_path / "a.exr", pixels)
    view = make_view("a", tmp_path / "a.exr", captures.PINHOLE, captures.viewmat(), downscale=2)
    assert isinstance(view.image, ColourFile)
    seen = replace(view.image, tone=Tone(1.0))
    assert torch.allclose(seen.load()[1, 2], torch.ones(3), atol=1e-4)
    assert torch.allclose(seen.load()[5, 5], torch.tensor(float(shown(np.array(1.0), 1.0))), atol=1e-4)
    pixels[0, 0] = np.nan
    write_rgb(tmp_path / "b.exr", pixels)
    with pytest.raises(InputError, match=r"b\.exr: has pixels that are not finite"):
        make_view("b", tmp_path / "b.exr", captures.PINHOLE, captures.viewmat()).load()


def sixteen_bits(folder: Path) -> Path:
    captures.write_transforms(folder)
    for i in range(4):
        pixels = np.rint(captures.smooth(36, 40, i) ** 3 * 65535).astype(np.uint16)
        captures.write_png(folder / "images" / f"{i}.png", pixels)
    return folder


def test_sixteen_bits_are_kept_as_they_are_and_are_light_where_that_is_said(tmp_path: Path) -> None:
    capture = sixteen_bits(tmp_path)
    stored = decode(capture / "images" / "2.png")
    assert stored.dtype == np.uint16
    plain = load_scene(capture)
    assert plain.tone is None
    np.testing.assert_array_equal(np.rint(plain.views[2].load().numpy() * 65535), stored)
    light = load_scene(capture, linear=True)
    assert light.tone is not None
    np.testing.assert_allclose(light.views[2].load().numpy(), shown(stored / 65535, light.tone.exposure), atol=2e-5)
    assert load_scene(captures.write_transforms(tmp_path / "usual"), linear=True).tone is None


def test_the_memory_of_deep_photos_is_counted(tmp_path: Path) -> None:
    for capture in (exr_capture(tmp_path / "a"), sixteen_bits(tmp_path / "b")):
        scene = load_scene(capture)
        work = memory.workload(scene, TrainConfig(), on_gpu=False)
        assert work.photo_bytes == 3 * 36 * 40 * 3 * 2
        image = scene.views[0].image
        assert isinstance(image, ColourFile)
        assert image.pixel_bytes == image.pixels().nbytes


def test_masks_of_light_are_found_in_what_is_shown(tmp_path: Path) -> None:
    exr_capture(tmp_path)
    pixels = np.full((36, 40, 3), (0.9, 0.2, 0.2), np.float32)
    pixels[:, :20] = (0.02, 0.6, 0.02)  # sRGB's (39, 203, 39)
    for i in range(4):
        write_rgb(tmp_path / "images" / f"{i}.exr", pixels)
    mask = load_scene(tmp_path, masks=["key:#27cb27:10"]).views[0].mask
    assert mask is not None
    assert torch.equal(mask.load()[..., 0], (torch.arange(40) > 20).float().expand(36, 40))


# ---- the way from the command


def test_a_capture_of_light_is_trained_and_rendered_as_light(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture = exr_capture(tmp_path / "capture", 20.0)
    cli.train(capture, output=tmp_path / "runs", steps=5, test_every=2, poses="keep")
    said = capsys.readouterr().out
    run = runs.find(tmp_path / "runs")
    exposure = json.loads(run.config_file.read_text())["tone"]["exposure"]
    assert f"linear light, seen through a tone curve at an exposure of {exposure:.3g}" in said
    for format in ("png", "png16", "exr"):
        cli.render(run.path, tmp_path / format, path="held-out", format=format)  # type: ignore[arg-type]
    state = checkpoint.load(run.checkpoints()[0])
    scene = load_scene(capture, test_every=2)
    camera = scene.test_views[1].camera.transformed(state.source_from_world.inverse())
    with torch.no_grad():
        expected = render_one(state.model, camera).rgb[0].clamp(0, 65534 / 65535).double().numpy()
    eight, sixteen = (decode(tmp_path / format / "00001.png") for format in ("png", "png16"))
    light = decode(tmp_path / "exr" / "00001.exr")
    assert (eight.dtype, sixteen.dtype, light.dtype) == (np.uint8, np.uint16, np.float32)
    np.testing.assert_allclose(eight / 255, expected, atol=0.51 / 255)
    np.testing.assert_allclose(sixteen / 65535, expected, atol=0.51 / 65535 + 1e-6)
    np.testing.assert_allclose(shown(light, exposure), expected, atol=1e-5)


def test_an_exr_of_a_usual_capture_holds_the_light_that_screens_give_off(tmp_path: Path) -> None:
    cli.train(captures.write_transforms(tmp_path / "capture"), output=tmp_path / "runs", steps=5)
    for format in ("png16", "exr"):
        cli.render(tmp_path / "runs", tmp_path / format, frames=1, format=format)  # type: ignore[arg-type]
    seen = decode(tmp_path / "png16" / "00000.png") / 65535
    np.testing.assert_allclose(to_srgb(decode(tmp_path / "exr" / "00000.exr")), seen, atol=1e-4)


@pytest.mark.parametrize(("out", "mode"), [("video.mp4", "rgb"), ("folder", "depth")])
def test_what_has_no_light_is_refused(tmp_path: Path, out: str, mode: str) -> None:
    cli.train(captures.write_transforms(tmp_path / "capture"), output=tmp_path / "runs", steps=1)
    with pytest.raises(InputError, match=f"--format exr: is for colours in a folder; not for {out} with --mode {mode}"):
        cli.render(tmp_path / "runs", tmp_path / out, mode=mode, format="exr")  # type: ignore[arg-type]


def test_light_is_converted_as_it_is_seen(tmp_path: Path) -> None:
    capture = exr_capture(tmp_path / "capture")
    captures.edit_transforms(capture, lambda meta: meta.update(ply_file_path="points.ply"))
    xyz = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.2
    write_points(capture / "points.ply", Points(xyz, torch.zeros(40, 3)))
    done = convert.convert(capture, tmp_path / "out", "nerfstudio")
    points = load_scene(tmp_path / "out").points
    assert points is not None
    assert (points.rgb.amax(dim=-1) > 0.05).all()  # as the photos, of which no pixel is black
    assert any("tone curve" in remark for remark in done.remarks)
    for view, other in zip(load_scene(capture).views, load_scene(tmp_path / "out").views, strict=True):
        assert torch.allclose(view.load(), other.load(), atol=0.51 / 255)


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bits_in_colour_are_written(tmp_path: Path, channels: int) -> None:
    image = torch.rand(20, 30, channels)
    save_image(tmp_path / "a.png", image, bits=16)
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), np.rint(image.double().numpy() * 65535))
