"""Splats in glTF: the document that is written, files of other makes, and documents that lie."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recon.datasets.errors import InputError
from recon.export import export, load
from recon.gaussians import Gaussians
from splat_tool import validated
from test_splat_formats import angles_between, assert_alike, scene_of

SPLATS = "KHR_gaussian_splatting"
PACKED = "KHR_gaussian_splatting_compression_spz_2"


def parts_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON and the binary chunk, by the layout of a .glb."""
    magic, version, total, size, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, total, kind) == (b"glTF", 2, len(data), b"JSON")
    assert size % 4 == 0
    length, binary = struct.unpack_from("<I4s", data, 20 + size)
    assert binary == b"BIN\0"
    assert length % 4 == 0
    assert 28 + size + length == total
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def written(document: dict[str, Any], binary: bytes, path: Path) -> Path:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary += bytes(-len(binary) % 4)
    head = struct.pack("<4sIII4s", b"glTF", 2, 28 + len(text) + len(binary), len(text), b"JSON")
    path.write_bytes(head + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary)
    return path


def opened(tmp_path: Path, scene: Gaussians, name: str = "scene.glb") -> tuple[dict[str, Any], bytes]:
    export(scene, tmp_path / name)
    return parts_of((tmp_path / name).read_bytes())


def test_the_document_is_what_the_specification_asks_for(tmp_path: Path) -> None:
    scene = scene_of(5, 2)
    document, binary = opened(tmp_path, scene)
    assert document["asset"]["version"] == "2.0"
    assert document["extensionsUsed"] == [SPLATS]
    (primitive,) = document["meshes"][0]["primitives"]
    assert primitive["mode"] == 0
    assert primitive["extensions"][SPLATS]["kernel"] == "ellipse"
    assert primitive["extensions"][SPLATS]["colorSpace"] == "srgb_rec709_display"
    names = [f"{SPLATS}:SH_DEGREE_{d}_COEF_{i}" for d in range(3) for i in range(2 * d + 1)]
    names += ["POSITION", "COLOR_0", *(f"{SPLATS}:{name}" for name in ("ROTATION", "SCALE", "OPACITY"))]
    assert sorted(primitive["attributes"]) == sorted(names)

    def values(name: str) -> np.ndarray:
        accessor = document["accessors"][primitive["attributes"][name]]
        view = document["bufferViews"][accessor["bufferView"]]
        kind = {5126: "<f4", 5121: "u1"}[accessor["componentType"]]
        data = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        return np.frombuffer(data, kind).reshape(accessor["count"], -1)

    means = scene.means.detach().numpy()
    np.testing.assert_array_equal(values("POSITION"), means * [-1, -1, 1])  # left, up, front of right, down, front
    accessor = document["accessors"][primitive["attributes"]["POSITION"]]
    np.testing.assert_array_equal(accessor["min"], (means * [-1, -1, 1]).min(axis=0))
    np.testing.assert_allclose(values(f"{SPLATS}:SCALE"), scene.scales.detach(), rtol=1e-6)
    np.testing.assert_allclose(values(f"{SPLATS}:OPACITY")[:, 0], scene.opacities.detach(), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(values(f"{SPLATS}:ROTATION"), axis=1), 1, rtol=1e-6)
    # Of degree 1 the functions are -y, z and -x: those of the axes that are negated change sign.
    np.testing.assert_array_equal(values(f"{SPLATS}:SH_DEGREE_1_COEF_0"), -scene.shN[:, 0].detach().numpy())
    np.testing.assert_array_equal(values(f"{SPLATS}:SH_DEGREE_1_COEF_1"), scene.shN[:, 1].detach().numpy())
    np.testing.assert_allclose(values("COLOR_0")[:, 3] / 255, scene.opacities.detach(), atol=0.5 / 255)


def test_the_packed_document_requires_its_extension(tmp_path: Path) -> None:
    document, binary = opened(tmp_path, scene_of(5, 1), "scene.spz.glb")
    assert document["extensionsRequired"] == [SPLATS, PACKED]
    (primitive,) = document["meshes"][0]["primitives"]
    assert primitive["extensions"][SPLATS]["extensions"] == {PACKED: {"bufferView": 0}}
    assert all("bufferView" not in accessor and accessor["count"] == 5 for accessor in document["accessors"])
    (tmp_path / "inner.spz").write_bytes(binary[: document["bufferViews"][0]["byteLength"]])
    assert_alike(load(tmp_path / "inner.spz"), load(tmp_path / "scene.spz.glb"))


def turn(degrees: float) -> list[float]:
    """About y, as glTF writes it."""
    return [0, math.sin(math.radians(degrees) / 2), 0, math.cos(math.radians(degrees) / 2)]


def test_nodes_place_turn_and_scale_splats(tmp_path: Path) -> None:
    scene = scene_of(20, 2)
    document, binary = opened(tmp_path, scene)
    document["nodes"] = [
        {"children": [1], "translation": [1, 2, 3], "rotation": turn(90)},
        {"mesh": 0, "scale": [2, 2, 2], "translation": [0, 0, 5]},
    ]
    loaded = load(written(document, binary, tmp_path / "placed.glb"))
    # In glTF's axes: twice as large, 5 along z, a quarter turn about y (z to x), then moved.
    x, y, z = scene.means.detach().numpy().T * [[-1], [-1], [1]]
    expected = np.stack([1 + 2 * z + 5, 2 + 2 * y, 3 - 2 * x], axis=1) * [-1, -1, 1]
    np.testing.assert_allclose(loaded.means.detach(), expected, atol=1e-5)
    torch.testing.assert_close(loaded.log_scales, scene.log_scales + math.log(2))
    matrix = np.array([[0, 0, 2, 6], [0, 2, 0, 2], [-2, 0, 0, 3], [0, 0, 0, 1]], float)
    document["nodes"] = [{"mesh": 0, "matrix": matrix.T.ravel().tolist()}]
    again = load(written(document, binary, tmp_path / "matrix.glb"))
    torch.testing.assert_close(again.means, loaded.means, rtol=0, atol=1e-5)
    torch.testing.assert_close(again.shN, loaded.shN, rtol=0, atol=1e-5)
    assert angles_between(again.quats.detach(), loaded.quats.detach()).max() < 0.1


def test_all_primitives_become_one_scene(tmp_path: Path) -> None:
    scene = scene_of(6, 1)
    document, binary = opened(tmp_path, scene)
    primitive = document["meshes"][0]["primitives"][0]
    flat = {"attributes": {k: v for k, v in primitive["attributes"].items() if "DEGREE_1" not in k}}
    document["meshes"][0]["primitives"] += [primitive | flat, {"attributes": {"POSITION": 0}, "mode": 0}]
    loaded = load(written(document, binary, tmp_path / "two.glb"))
    assert len(loaded) == 12
    torch.testing.assert_close(loaded.shN[:6], scene.shN)
    assert loaded.shN[6:].abs().max() == 0


def test_quantised_and_interleaved_attributes_are_read(tmp_path: Path) -> None:
    count = 4
    row = np.dtype([("p", "<f4", 3), ("q", "i1", 4), ("s", "<i2", 3), ("pad", "u1", 2), ("o", "u1"), ("pad2", "u1", 3)])
    table = np.zeros(count, row)
    table["p"] = np.arange(12).reshape(4, 3)
    table["q"] = [0, 0, 0, 127]
    table["s"] = [[3, 4, 5]]
    table["o"] = [0, 51, 102, 255]
    colours = np.arange(12, dtype="<f4").reshape(4, 3)
    stride = row.itemsize

    def accessor(view: int, offset: int, kind: str, component: int, normalized: bool = False) -> dict[str, Any]:
        fields = {"bufferView": view, "byteOffset": offset, "type": kind, "componentType": component, "count": count}
        return fields | ({"normalized": True} if normalized else {})

    names = ["POSITION", *(f"{SPLATS}:{n}" for n in ("ROTATION", "SCALE", "OPACITY", "SH_DEGREE_0_COEF_0"))]
    document = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {n: i for i, n in enumerate(names)}, "extensions": {SPLATS: {}}}]}],
        "accessors": [
            accessor(0, 0, "VEC3", 5126),
            accessor(0, 12, "VEC4", 5120, True),
            accessor(0, 16, "VEC3", 5122),
            accessor(0, 24, "SCALAR", 5121, True),
            accessor(1, 0, "VEC3", 5126),
        ],
        "bufferViews": [
            {"buffer": 0, "byteLength": stride * count, "byteStride": stride},
            {"buffer": 0, "byteOffset": stride * count, "byteLength": 48},
        ],
        "buffers": [{"byteLength": stride * count + 48}],
    }
    scene = load(written(document, table.tobytes() + colours.tobytes(), tmp_path / "quantised.glb"))
    np.testing.assert_allclose(scene.means[1].detach(), [-3, -4, 5])
    np.testing.assert_allclose(scene.scales[3].detach(), [3, 4, 5], rtol=1e-6)
    np.testing.assert_allclose(scene.opacities.detach(), [0, 0.2, 0.4, 1], atol=1e-5)
    np.testing.assert_allclose(scene.sh0[2, 0].detach(), [6, 7, 8])
    assert angles_between(scene.quats.detach(), torch.tensor([[1.0, 0, 0, 0]] * 4)).max() < 0.1


def changed(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        inner: Any = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


ATTRIBUTES = ("meshes", 0, "primitives", 0, "attributes")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("scene", value=4), "scenes 4: there are 1"),
        (changed("scenes", 0, "nodes", value=7), "nodes is not a list"),
        (changed("scenes", 0, "nodes", value=[0, 1]), "nodes 1: there are 1"),
        (changed("scenes", 0, "nodes", value=[]), "holds no splats"),
        (changed("nodes", 0, "children", value=[0]), "more than 10,000 nodes, or some 200 deep"),
        (changed("nodes", 0, "children", value=[0, 0]), "more than 10,000 nodes, or some 200 deep"),
        (changed("nodes", 0, "scale", value=[1, 2, 1]), "stretches them unevenly"),
        (changed("nodes", 0, "scale", value=[-1, -1, -1]), "mirrors splats"),
        (changed("nodes", 0, "scale", value=[0, 0, 0]), "to nothing"),
        (changed("nodes", 0, "matrix", value=[1, 2]), "matrix is not 16 numbers"),
        (changed(*ATTRIBUTES, f"{SPLATS}:SCALE", value=99), "accessors 99: there are"),
        (changed(*ATTRIBUTES, f"{SPLATS}:SH_DEGREE_2_COEF_0", value=0), "have no KHR_gaussian_splatting:SH_DEGREE_2"),
        (changed("meshes", 0, "primitives", 0, "attributes", value={}), "its splats have no POSITION"),
        (changed("accessors", 0, "count", value=10**15), "truncated: 1,000,000,000,000,000 values"),
        (changed("accessors", 0, "count", value=1.5), "count 1.5 is not a whole number"),
        (changed("accessors", 0, "count", value=3), "of 5 splats, POSITION of 3"),
        (changed("accessors", 0, "byteOffset", value=-4), "truncated"),
        (changed("accessors", 0, "type", value="MAT4"), "is not a plain VEC3"),
        (changed("accessors", 0, "componentType", value=[1]), "componentType [1] is not a finite number"),
        (changed("accessors", 0, "sparse", value={}), "is not a plain VEC3"),
        (changed("bufferViews", 0, "byteLength", value=10**12), "a view ends at byte 1,000,000,000,000"),
        (changed("bufferViews", 0, "byteStride", value=1), "truncated: 5 values of 1 bytes"),
        (changed("buffers", 0, "uri", value="/etc/passwd"), "buffer 0 is not in the file"),
        (changed("meshes", 0, "primitives", value=3), "primitives is not a list"),
    ],
)
def test_what_is_wrong_with_a_document_is_said_in_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    document, binary = opened(tmp_path, scene_of(5, 1))
    change(document)
    path = written(document, binary, tmp_path / "bad.glb")
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_splats_shown_too_often_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document, binary = opened(tmp_path, scene_of(50, 0))
    document["scenes"][0]["nodes"] = [0] * 50
    path = written(document, binary, tmp_path / "many.glb")
    assert len(load(path)) == 2500
    monkeypatch.setattr("recon.export.rows.MOST_SPLATS", 1000)
    with pytest.raises(InputError, match=r"many\.glb: announces 1,050 splats"):
        load(path)
    document["scenes"][0]["nodes"] = [0] * 2000
    monkeypatch.setattr("recon.export.rows.MOST_SPLATS", 10**9)
    monkeypatch.setattr("recon.export.glb.MOST_PARTS", 10)
    with pytest.raises(InputError, match="shows splats in more than 10 places"):
        load(written(document, binary, path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a .glb file"),
        (struct.pack("<4sII", b"glTF", 1, 20) + bytes(20), "version 1 of glTF"),
        (struct.pack("<4sIII4s", b"glTF", 2, 20, 10**9, b"JSON"), "truncated: a chunk has 1,000,000,000 bytes"),
        (struct.pack("<4sIII4s", b"glTF", 2, 24, 4, b"BIN\0") + b"{}  ", "not JSON"),
        (struct.pack("<4sIII4s", b"glTF", 2, 24, 4, b"JSON") + b"{{{{", "its JSON cannot be read"),
        (struct.pack("<4sIII4s", b"glTF", 2, 24, 4, b"JSON") + b"[]  ", "its JSON is not an object"),
        (struct.pack("<4sIII4s", b"glTF", 2, 24, 4, b"JSON") + b"{}  ", "has no scenes"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "bad.glb").write_bytes(data)
    with pytest.raises(InputError) as caught:
        load(tmp_path / "bad.glb")
    assert message in str(caught.value)


@pytest.mark.parametrize("count", [1, 300])
@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize("suffix", [".glb", ".spz.glb"])
def test_khronoss_validator_finds_no_error(tmp_path: Path, suffix: str, degree: int, count: int) -> None:
    path = tmp_path / f"scene{suffix}"
    export(scene_of(count, degree), path)
    # It does not know the extension yet, and so neither the names that this gives to attributes.
    unknown = ("MESH_PRIMITIVE_INVALID_ATTRIBUTE", "/attributes/KHR_gaussian_splatting:")
    wrong = [message for message in validated(path) if message["severity"] < 2]
    assert [m for m in wrong if m["code"] != unknown[0] or unknown[1] not in m["pointer"]] == []


def test_khronoss_validator_finds_errors_where_there_are_some(tmp_path: Path) -> None:
    document, binary = opened(tmp_path, scene_of(5, 0))
    document["accessors"][0]["count"] = 500
    said = validated(written(document, binary, tmp_path / "bad.glb"))
    assert "ACCESSOR_TOO_LONG" in {message["code"] for message in said if message["severity"] == 0}
