"""Which pixels count: masks in folders, alpha, colour keys and people."""

from __future__ import annotations

import json
import logging
import os
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import captures
from recon import cli, config, memory, runs
from recon.config import TrainConfig
from recon.datasets import load_scene, masks, people
from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.decode import decode, read_header
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage, SourceCamera, make_view
from recon.datasets.masked_points import usable_points
from recon.datasets.masks import Unlike, find_mask
from recon.datasets.scene import Points, Scene, StoredImage, View
from recon.options import Options

GREEN = (0, 255, 0)


def counts(view: View) -> NDArray[np.bool_]:
    assert view.mask is not None
    return view.mask.load()[..., 0].numpy() > 0


def write_masks(folder: Path, names: list[str]) -> None:
    """Each leaves out as many rows as its place in the list, and one."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        mask = np.full((36, 40), 255, np.uint8)
        mask[: i + 1] = 0
        iio.imwrite(folder / name, mask)


# ---- folders


@pytest.mark.parametrize("name", ["{}.png", "{}.png.png", "{}_mask.png", "{}.mask.png", "{}_mask.jpg", "{}.webp"])
def test_masks_are_found_by_their_usual_names(tmp_path: Path, name: str) -> None:
    captures.write_transforms(tmp_path / "capture")
    write_masks(tmp_path / "masks", [name.format(i) for i in range(4)])
    scene = load_scene(tmp_path / "capture", masks=[str(tmp_path / "masks")])
    for i, view in enumerate(scene.views):
        assert not counts(view)[: i + 1].any()
        assert counts(view)[i + 1 :].all()


def test_of_photos_in_folders_the_longer_path_counts(tmp_path: Path) -> None:
    for folder in ("left", "right"):
        write_masks(tmp_path / "masks" / folder, ["a.png"])
    write_masks(tmp_path / "masks", ["a.png", "b.png"])
    photo = tmp_path / "photos" / "left" / "a.jpg"
    assert find_mask(tmp_path / "masks", photo) == tmp_path / "masks" / "left" / "a.png"
    assert find_mask(tmp_path / "masks", tmp_path / "photos" / "b.jpg") == tmp_path / "masks" / "b.png"
    assert find_mask(tmp_path / "masks", tmp_path / "photos" / "c.jpg") is None


def test_a_photo_is_not_its_own_mask(tmp_path: Path) -> None:
    write_masks(tmp_path, ["a.png"])
    assert find_mask(tmp_path, tmp_path / "a.png") is None
    write_masks(tmp_path, ["a_mask.png"])
    assert find_mask(tmp_path, tmp_path / "a.png") == tmp_path / "a_mask.png"


def test_photos_without_a_mask_are_counted_and_none_at_all_is_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    captures.write_transforms(tmp_path / "capture")
    write_masks(tmp_path / "masks", ["other.png"])
    with pytest.raises(InputError, match="none here for any of the 4 photos, such as 0") as caught:
        load_scene(tmp_path / "capture", masks=[str(tmp_path / "masks")])
    assert str(tmp_path / "masks") in captures.message(caught)
    write_masks(tmp_path / "masks", ["2.png"])
    with caplog.at_level(logging.WARNING):
        scene = load_scene(tmp_path / "capture", masks=[str(tmp_path / "masks")])
    assert "none here for 3 of 4 photos" in caplog.text
    assert [view.mask is None for view in scene.views] == [True, True, False, True]


def test_all_masks_together_leave_what_each_of_them_leaves(tmp_path: Path) -> None:
    """Also the capture's own, and what the lens left without data."""
    captures.write_transforms(tmp_path / "capture", own={"fl_x": 50.0, "mask_path": "own.png"})
    own = np.full((36, 40), 255, np.uint8)
    own[:, 30:] = 0
    iio.imwrite(tmp_path / "capture" / "own.png", own)
    write_masks(tmp_path / "a", [f"{i}.png" for i in range(4)])
    write_masks(tmp_path / "b", [f"{3 - i}.png" for i in range(4)])
    scene = load_scene(tmp_path / "capture", masks=[str(tmp_path / "a"), str(tmp_path / "b")])
    for i, view in enumerate(scene.views):
        expected = np.zeros((36, 40), bool)
        expected[max(i + 1, 4 - i) :, :30] = True
        np.testing.assert_array_equal(counts(view), expected)


def test_a_mask_is_undistorted_with_its_photo(tmp_path: Path) -> None:
    """A disc that photo and mask show stays one."""
    pixels = np.zeros((72, 96, 3), np.uint8)
    y, x = np.mgrid[0:72, 0:96]
    pixels[np.hypot(x - 20, y - 15) < 12] = 255
    (tmp_path / "masks").mkdir()
    iio.imwrite(tmp_path / "a.png", pixels)
    iio.imwrite(tmp_path / "masks" / "a.png", pixels[..., 0])
    bent = SourceCamera("OPENCV", (80.0, 80.0, 48.0, 36.0, -0.25, 0.05, 0.0, 0.0), 96, 72)
    view = make_view("a", tmp_path / "a.png", bent, captures.viewmat())
    (masked,) = masks.FolderRule(tmp_path / "masks").apply([view])
    bright = view.load()[..., 0].numpy()
    assert counts(masked)[bright > 0.999].all()
    assert not counts(masked)[bright < 0.99].any()


# ---- alpha


def test_what_is_transparent_does_not_count_and_the_photo_is_opaque(tmp_path: Path) -> None:
    captures.write_transforms(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(3):  # the last photo has no alpha
        pixels = rng.integers(0, 256, (36, 40, 4), dtype=np.uint8)
        pixels[..., 3] = rng.choice([0, 100, 200, 255], (36, 40))
        iio.imwrite(tmp_path / "images" / f"{i}.png", pixels)
    assert load_scene(tmp_path).views[0].load().shape[2] == 4
    scene = load_scene(tmp_path, masks=["alpha"])
    for i, view in enumerate(scene.views):
        pixels = iio.imread(tmp_path / "images" / f"{i}.png")
        np.testing.assert_allclose(view.load().numpy(), pixels[..., :3] / 255, atol=1e-6)
        assert (view.mask is None) == (i == 3)
        if i < 3:
            np.testing.assert_array_equal(counts(view), pixels[..., 3] > 127)


def test_alpha_where_there_is_none_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="masks alpha: none of the 4 photos, such as 0, has any"):
        load_scene(captures.write_transforms(tmp_path), masks=["alpha"])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_a_header_tells_whether_there_is_alpha(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(captures.noise(10, 12, 4)).convert("RGB").convert(mode)
    if mode == "P":
        image.info["transparency"] = 3
    image.save(tmp_path / "a.png")
    assert read_header(tmp_path / "a.png").has_alpha == (decode(tmp_path / "a.png").shape[2] in (2, 4))


# ---- colour keys


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB under D50 of sRGB 0..1, by its formulas (IEC 61966-2-1; Bradford; CIE 15)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
    )
    t = linear @ to_xyz.T / [0.96422, 1.0, 0.82521]
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


@given(st.tuples(*[st.integers(0, 255)] * 3), st.tuples(*[st.integers(0, 255)] * 3), st.floats(5, 100))
@settings(deadline=None)
def test_a_key_is_as_far_as_the_eye_sees(
    key: tuple[int, int, int], seen: tuple[int, int, int], tolerance: float
) -> None:
    both = lab(np.array([key, seen]) / 255)
    distance = float(np.linalg.norm(both[0] - both[1]))
    pixels = np.full((20, 20, 3), seen, np.uint8)
    if abs(distance - tolerance) > 2:  # of rounding
        assert Unlike(key, tolerance)(pixels).all() == (distance > tolerance)


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "float", "alpha"])
def test_of_a_key_a_margin_goes_too(kind: str) -> None:
    pixels = np.full((500, 1000, 3), (200, 60, 60), np.uint8)
    pixels[:, 400:] = (20, 240, 30)
    stored: dict[str, NDArray[Any]] = {
        "8 bits": pixels,
        "16 bits": pixels.astype(np.uint16) * 257,
        "float": (pixels / 255).astype(np.float32),
        "alpha": np.dstack([pixels, np.full((500, 1000), 255, np.uint8)]),
    }
    found = Unlike(GREEN, 40)(stored[kind])
    assert found[:, :398].all()
    assert not found[:, 398:].any()


def test_a_key_leaves_out_its_colour_in_every_photo(tmp_path: Path) -> None:
    captures.write_transforms(tmp_path)
    for i in range(4):
        pixels = np.full((36, 40, 3), (180, 90, 70), np.uint8)
        pixels[:, : 10 + i] = GREEN
        iio.imwrite(tmp_path / "images" / f"{i}.png", pixels)
    for i, view in enumerate(load_scene(tmp_path, masks=["key:#00ff00:30"]).views):
        assert not counts(view)[:, : 11 + i].any()
        assert counts(view)[:, 11 + i :].all()


@pytest.mark.parametrize("text", ["key:", "key:green", "key:#0f0", "key:#00ff00:", "key:#00ff00:x", "key:#00ff00:-1"])
def test_a_key_that_is_none_is_named(text: str) -> None:
    with pytest.raises(InputError, match=f"masks {text}: a colour key is key:#rrggbb"):
        masks.parse([text])


def test_a_rule_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="masks nowhere: is neither a folder nor alpha, people or key:#rrggbb"):
        load_scene(captures.write_transforms(tmp_path), masks=["nowhere"])


# ---- people


@pytest.fixture
def no_segmenters(monkeypatch: pytest.MonkeyPatch) -> None:
    people._segmenter.cache_clear()
    for package in ("torchvision", "torchvision.models", "rembg"):
        monkeypatch.setitem(sys.modules, package, None)


def fake_torchvision(fail: bool = False) -> types.ModuleType:
    """One whose network sees people (the second of three classes) where pixels are red."""

    class Weights:
        meta: dict[str, Any] = {"categories": ["__background__", "person", "cat"]}  # noqa: RUF012

        @staticmethod
        def transforms() -> Callable[[torch.Tensor], torch.Tensor]:
            return lambda image: image.float() / 255

    class Network:
        def eval(self) -> Network:
            return self

        def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            red = images[:, 0] - images[:, 1]
            return {"out": torch.stack([torch.full_like(red, 0.5), red, -red], dim=1)}

    def network(weights: object) -> Network:
        if fail:
            raise OSError("no route\nto host")
        return Network()

    module = types.ModuleType("torchvision.models")
    module.segmentation = types.SimpleNamespace(  # type: ignore[attr-defined]
        DeepLabV3_MobileNet_V3_Large_Weights=types.SimpleNamespace(DEFAULT=Weights()),
        deeplabv3_mobilenet_v3_large=network,
    )
    return module


def fake_rembg() -> types.ModuleType:
    module = types.ModuleType("rembg")
    module.new_session = lambda name: name  # type: ignore[attr-defined]

    def remove(pixels: NDArray[np.uint8], session: str, only_mask: bool) -> NDArray[np.uint8]:
        assert (session, only_mask) == ("u2net_human_seg", True)
        return np.where(pixels[..., 0] > pixels[..., 1], 255, 0).astype(np.uint8)

    module.remove = remove  # type: ignore[attr-defined]
    return module


@pytest.mark.usefixtures("no_segmenters")
@pytest.mark.parametrize("package", ["torchvision", "rembg"])
def test_people_are_left_out_by_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    if package == "torchvision":
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.models", fake_torchvision())
    else:
        monkeypatch.setitem(sys.modules, "rembg", fake_rembg())
    captures.write_transforms(tmp_path)
    for i in range(4):
        pixels = np.full((36, 40, 3), (60, 200, 70), np.uint8)
        pixels[:, 20:30] = (250, 0, 0)
        iio.imwrite(tmp_path / "images" / f"{i}.png", pixels)
    view = load_scene(tmp_path, masks=["people"]).views[0]
    assert isinstance(view.mask, StoredImage)
    assert not counts(view)[:, 19:31].any()
    assert counts(view)[:, :19].all()
    assert counts(view)[:, 31:].all()
    assert view.mask.decoding_bytes * (os.cpu_count() or 1) > people.NETWORK // 2


@pytest.mark.usefixtures("no_segmenters")
def test_without_a_segmenter_a_line_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_scene(captures.write_transforms(tmp_path), masks=["people"])
    said = captures.message(caught)
    assert said == "masks people: needs a segmenter: install the package torchvision or rembg"


@pytest.mark.usefixtures("no_segmenters")
def test_a_segmenter_without_its_weights_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", fake_torchvision(fail=True))
    with pytest.raises(InputError, match="torchvision is installed, but cannot be used: no route to host"):
        load_scene(captures.write_transforms(tmp_path), masks=["people"])


def test_large_photos_are_reduced_to_look_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def segmenter(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        seen.append(pixels.shape)
        return np.zeros(pixels.shape[:2], bool)

    monkeypatch.setattr(people, "_segmenter", lambda package: segmenter)
    assert people.NoPeople("any")(captures.noise(600, 2048, 4)).shape == (300, 1024)
    assert seen == [(300, 1024, 3)]


# ---- points


@pytest.mark.parametrize("tracks", [True, False])
def test_points_that_only_masked_pixels_show_are_left_out(tracks: bool) -> None:
    """Of the points in front of a camera that looks along z, the left half of the picture shows those with x < 0."""
    K = intrinsics(50, 50, 20, 18)
    left_out, all_of_it = torch.ones(36, 40, 1), torch.ones(36, 40, 1)
    left_out[:, :20] = 0
    image = ArrayImage(torch.zeros(36, 40, 3))
    views = tuple(
        View(f"{i}", Cameras(torch.eye(4, dtype=torch.float64)[None], K, 40, 36), image, mask)
        for i, mask in enumerate([ArrayImage(left_out), ArrayImage(left_out), ArrayImage(all_of_it)])
    )
    x = torch.linspace(-0.95, 0.95, 20, dtype=torch.float64) * 0.4
    xyz = torch.stack([x, torch.zeros_like(x), torch.ones_like(x)], dim=-1)
    xyz[0, 2] = -1  # seen by none, so nothing is known of it
    seen = torch.tensor([(p, v) for p in range(20) for v in ((0, 2) if p == 3 else (0,))])
    points = Points(xyz, torch.zeros(20, 3), tracks=seen if tracks else None)
    scene = Scene("s", views, (0, 1, 2) if tracks else (0, 1), ())
    assert usable_points(scene) is None
    kept = usable_points(replace(scene, points=points))
    assert kept is not None
    expected = [0, 3, *range(10, 20)] if tracks else [0, *range(10, 20)]
    assert torch.equal(kept.xyz, xyz[expected])
    plain = replace(scene, points=points, views=tuple(replace(view, mask=None) for view in views))
    assert usable_points(plain) is points


# ---- the way from the command


def test_the_run_remembers_its_masks_and_counts_their_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capture = captures.write_transforms(tmp_path / "capture")
    write_masks(tmp_path / "masks", [f"{i}.png" for i in range(4)])
    monkeypatch.chdir(tmp_path)
    common = {"output": tmp_path / "runs", "steps": 5, "test_every": 2}
    cli.train(capture, masks=("masks", "key:#ffffff"), **common)  # type: ignore[arg-type]
    run = runs.find(tmp_path / "runs")
    assert run.config()["options"]["masks"] == [str(tmp_path / "masks"), "key:#ffffff"]
    before = run.summary_file.read_text()
    monkeypatch.chdir("/")
    cli.evaluate(run.path)
    assert json.loads(run.summary_file.read_text())["psnr"] == pytest.approx(json.loads(before)["psnr"], abs=1e-4)
    (tmp_path / "masks").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is neither a folder nor"):
        cli.evaluate(run.path)
    plain = memory.workload(load_scene(capture), TrainConfig(), on_gpu=False)
    masked = memory.workload(load_scene(capture, masks=["key:#ffffff"]), TrainConfig(), on_gpu=False)
    assert masked.photo_bytes - plain.photo_bytes == 3 * 36 * 40


def test_options_with_masks_survive_json() -> None:
    options = Options("x", masks=("alpha", "key:#00ff00"))
    values = json.loads(json.dumps({"scene": "x", "masks": list(options.masks)}))
    assert config.checked(Options, values, "file: ") == options
    assert options.changed() == ["--masks"]
    for wrong in ("alpha", [1], {"a": "b"}):
        with pytest.raises(InputError, match="file: masks cannot be"):
            config.checked(Options, {"scene": "x", "masks": wrong}, "file: ")
