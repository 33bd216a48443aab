"""PlayCanvas's SOG: known files, folders and zips, the first version, and files that lie."""

from __future__ import annotations

import io
import json
import math
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from recon import loading, runs
from recon.datasets.errors import InputError
from recon.export import bytes_of, export, is_splats, load, planes
from splat_files import assert_same
from splat_tool import convert
from test_splat_formats import as_theirs, assert_alike, scene_of


@pytest.mark.parametrize("name", ["playbot-sog-v2/3_0", "playbot-sog-v2/5_0", "logo-sog-v1"])
def test_real_folders_are_read_as_splat_transform_reads_them(
    real_data: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = real_data(f"splats/{name}")
    scene = load(folder)
    meta = json.loads((folder / "meta.json").read_text())
    assert len(scene) == meta.get("count", meta["means"].get("shape", [0])[0])
    assert_alike(scene, load(convert(folder / "meta.json", tmp_path / "theirs.ply")))


def test_the_folder_its_meta_json_and_the_zip_are_the_same(tmp_path: Path) -> None:
    scene = scene_of(300, 2)
    export(scene, tmp_path / "scene.sog")
    export(scene, tmp_path / "folder" / "meta.json")
    zipped = load(tmp_path / "scene.sog")
    assert_same(load(tmp_path / "folder" / "meta.json"), zipped)
    assert_same(load(tmp_path / "folder"), zipped)
    assert_same(loading.load_with_frame(tmp_path / "folder")[0], zipped)
    assert bytes_of(tmp_path / "folder" / "meta.json") == sum(f.stat().st_size for f in (tmp_path / "folder").iterdir())
    assert_alike(zipped, as_theirs(tmp_path / "folder" / "meta.json"))


def test_a_folder_is_not_taken_for_one_by_the_name_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"name": "something else"}')
    assert not is_splats(tmp_path)
    with pytest.raises(InputError, match="not a run"):
        loading.load(tmp_path)
    run = runs.create(tmp_path / "runs", "scene", "splats", {"options": {}})
    assert not is_splats(run.path)


def first_version(folder: Path, count: int = 5) -> dict[str, Any]:
    """A folder of the first version with an SH palette of degree 1, by the layout; its values are the bytes' own."""

    def image(name: str, pixels: np.ndarray) -> str:
        (folder / name).write_bytes(planes.encode(np.ascontiguousarray(pixels, dtype=np.uint8)))
        return name

    generator = np.random.default_rng(0)
    rows = {name: generator.integers(0, 256, (1, count, 4)) for name in ("l", "u", "s", "c")}
    quats = generator.integers(0, 256, (1, count, 4))
    quats[..., 3] = [252, 253, 254, 255, 17]
    labels = np.zeros((1, count, 4))
    labels[..., 0] = [0, 63, 64, 65, 127]
    palette = generator.integers(0, 256, (2, 192, 4))
    for pixels in (rows["l"], rows["u"], rows["s"], labels, palette):
        pixels[..., 3] = 255
    meta = {
        "means": {
            "shape": [count, 3],
            "mins": [-1, -2, -3],
            "maxs": [1, 2, 3],
            "files": [image("l.webp", rows["l"]), image("u.webp", rows["u"])],
        },
        "scales": {"shape": [count, 3], "mins": [-9, -8, -7], "maxs": [0, 1, 2], "files": [image("s.webp", rows["s"])]},
        "quats": {"shape": [count, 4], "encoding": "quaternion_packed", "files": [image("q.webp", quats)]},
        "sh0": {
            "shape": [count, 1, 4],
            "mins": [-2, -2, -2, -4],
            "maxs": [2, 2, 2, 4],
            "files": [image("c.webp", rows["c"])],
        },
        "shN": {
            "shape": [count, 3],
            "mins": -0.5,
            "maxs": 0.5,
            "files": [image("p.webp", palette), image("n.webp", labels)],
        },
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    return {"meta": meta, "palette": palette, "labels": labels, **rows}


def test_the_first_version_with_harmonics(tmp_path: Path) -> None:
    made = first_version(tmp_path)
    scene = load(tmp_path)
    assert scene.sh_degree == 1
    assert scene.log_scales[2, 1].item() == pytest.approx(-8 + 9 * made["s"][0, 2, 1] / 255, rel=1e-5)
    assert scene.logit_opacities[4].item() == pytest.approx(-4 + 8 * made["c"][0, 4, 3] / 255, abs=1e-5)
    logarithm = -3 + 6 * (made["l"][0, 1, 2] + 256 * made["u"][0, 1, 2]) / 65535
    assert scene.means[1, 2].item() == pytest.approx(np.sign(logarithm) * np.expm1(abs(logarithm)), rel=1e-4)
    entry = made["palette"][1, 3 * (65 - 64) : 3 * (65 - 64) + 3, :3]  # 64 entries in a row, 3 pixels each
    np.testing.assert_allclose(scene.shN[3].detach(), entry / 255 - 0.5, atol=1e-6)
    assert scene.quats[4].tolist() == [1, 0, 0, 0]  # a tag that says nothing
    assert_alike(scene, as_theirs(tmp_path / "meta.json"))


def rezipped(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target


def with_meta(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        meta = json.loads(files["meta.json"])
        for key, value in changes.items():
            part, _, field = key.partition("__")
            if field:
                meta[part][field] = value
            else:
                meta[part] = value
        files["meta.json"] = json.dumps(meta).encode()

    return change


def image_of(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGBA", (width, height)).save(out, "WEBP", lossless=True)
    return out.getvalue()


def huge_webp() -> bytes:
    """An image that announces 16384x16384 pixels, a gigabyte, in 30 bytes."""
    head = b"VP8L" + (9).to_bytes(4, "little") + b"\x2f" + (0x3FFF | 0x3FFF << 14).to_bytes(4, "little")
    return b"RIFF" + (len(head) + 4).to_bytes(4, "little") + b"WEBP" + head + bytes(4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_meta(version=3), "version 3 of SOG is not known"),
        (with_meta(version="2"), "version '2' of SOG is not known"),
        (with_meta(count=10**12), "announces 1,000,000,000,000 splats"),
        (with_meta(count=-1), "announces -1 splats"),
        (with_meta(count=300), "means_l.webp: 4x2 pixels for 300 splats"),
        (with_meta(means__mins=[0, 0]), "mins is not 3 numbers"),
        (with_meta(means__mins=[0, 0, float("nan")]), "mins is not 3 finite numbers"),
        (with_meta(means__maxs=[1e200] * 3), "means of Gaussian 0 has the value inf"),
        (with_meta(means__files=["means_l.webp"]), "None is not the name of an image"),
        (with_meta(means__files=["../../etc/passwd", "means_u.webp"]), "'../../etc/passwd' is not the name"),
        (with_meta(means__files=["..\\x.webp", "means_u.webp"]), "is not the name of an image"),
        (with_meta(means__files=["nothing.webp", "means_u.webp"]), "holds no 'nothing.webp'"),
        (with_meta(scales__codebook=[1.0]), "scales: code"),
        (with_meta(scales__codebook=None), "has no codebook"),
        (with_meta(shN__bands=3), "of no SH degree that it says"),
        (with_meta(shN=7), "shN is not a object"),
        (lambda files: files.update({"shN_labels.webp": image_of(4, 2)[:25]}), "not an image that can be read"),
        (lambda files: files.update({"shN_centroids.webp": image_of(100, 1)}), "a palette 100 pixels wide"),
        (lambda files: files.update({"quats.webp": huge_webp()}), "16384x16384 pixels are more than"),
        (lambda files: files.update({"sh0.webp": b"GIF89a" + bytes(100)}), "not an image that can be read"),
        (lambda files: files.update({"meta.json": b"[]"}), "version None of SOG"),
        (lambda files: files.update({"meta.json": b"{" * 100_000}), "meta.json is not JSON"),
        (lambda files: files.update({"meta.json": bytes(1 << 27)}), "more than the 1,048,576 bytes that are taken"),
        (lambda files: files.pop("meta.json"), "holds no 'meta.json'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(
    tmp_path: Path, change: Callable[[dict[str, bytes]], Any], message: str
) -> None:
    export(scene_of(5, 1), tmp_path / "good.sog")
    path = rezipped(tmp_path / "good.sog", tmp_path / "bad.sog", change)
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_too_large_files_is_refused(tmp_path: Path) -> None:
    export(scene_of(5, 0), tmp_path / "meta.json")
    with (tmp_path / "quats.webp").open("r+b") as file:
        file.truncate(1 << 29)
    with pytest.raises(InputError, match=r"quats\.webp: 536,870,912 bytes are more than"):
        load(tmp_path)


def test_pixels_survive_whatever_their_alpha() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 12, 4), dtype=np.uint8)
    pixels[0, :, 3] = 0
    assert np.array_equal(planes.decode(planes.encode(pixels), "x"), pixels)


def test_of_many_splats_view_dependent_colour_is_shared(tmp_path: Path) -> None:
    scene = scene_of(4000, 1)
    export(scene, tmp_path / "scene.sog")
    loaded = load(tmp_path / "scene.sog")
    assert len(torch.unique(loaded.shN.reshape(4000, -1), dim=0)) <= 2000
    before, after = scene.shN.detach().var(), loaded.shN.detach().var()
    assert 0.8 * before < after < before * 1.01


def test_positions_are_within_a_share_of_what_splats_are_thick(tmp_path: Path) -> None:
    scene = scene_of(2000, 0)
    with torch.no_grad():
        scene.log_scales.sub_(2)
        scene.means.mul_(10)
    export(scene, tmp_path / "scene.sog")
    loaded = load(tmp_path / "scene.sog")
    nearest = torch.cdist(scene.means, loaded.means).argmin(dim=1)
    off = (loaded.means[nearest] - scene.means).abs()
    thickness = scene.scales.amin(dim=1, keepdim=True)
    finest = 1.1 * (2 * math.log1p(float(scene.means.abs().max())) / 65535) * (1 + scene.means.abs())
    assert (off <= torch.maximum(0.14 * thickness, finest)).all()
    assert (off > finest).any()  # bits were spared


def test_labels_come_in_the_order_in_which_splats_need_them(tmp_path: Path) -> None:
    export(scene_of(3000, 1), tmp_path / "meta.json")
    meta = json.loads((tmp_path / "meta.json").read_text())
    with Image.open(tmp_path / meta["shN"]["files"][1]) as image:
        pixels = np.asarray(image.convert("RGBA")).reshape(-1, 4)[:3000].astype(int)
    labels = pixels[:, 0] + 256 * pixels[:, 1]
    first = np.unique(labels, return_index=True)[1]
    assert (np.diff(first) > 0).all()
    assert labels.max() == len(first) - 1 == meta["shN"]["count"] - 1


def test_a_zip_of_a_kind_that_is_not_known_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scene.sog"
    export(scene_of(3, 0), path)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 192  # the version of the format that is needed to unpack
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"scene\.sog: not a \.sog file: zip file version 19"):
        load(path)


def test_what_a_document_says_is_not_repeated_at_length(tmp_path: Path) -> None:
    path = tmp_path / "scene.sog"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta.json", json.dumps({"version": {"x" * 100_000: 1}}))
    with pytest.raises(InputError) as caught:
        load(path)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_few_bytes_cannot_hold_many_splats(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    export(scene_of(3, 0), path)
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | {"count": 10_000_000}))
    with pytest.raises(InputError, match=r"announces 10,000,000 splats, and has [\d,]+ bytes"):
        load(path)
