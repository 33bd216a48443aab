"""glTF with KHR_gaussian_splatting, in one binary file: .glb, or .spz.glb with the splats packed as .spz in it.

Splats are points with attributes: everything in floats, so that only the rounding of opacities and scales, which are
stored as they are drawn, is lost. Packed (KHR_gaussian_splatting_compression_spz_2), what .spz loses is. +y is up and
+z forward (left, up, front), where .ply files have right, down, front: x and y are negated on the way. Nodes may
place, turn and scale splats; several primitives become one scene.

Specification: https://github.com/KhronosGroup/glTF, extensions/2.0/Khronos/KHR_gaussian_splatting. Shape letters as
in `rows`.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import sh
from recon.datasets.errors import InputError
from recon.datasets.fields import entry, listed, shown, whole
from recon.datasets.files import atomic_write
from recon.export import spz
from recon.export.rows import (
    Floats,
    Rows,
    check_count,
    evenly_placed,
    exponentials,
    joined,
    logarithms,
    logit,
    read_bytes,
    sigmoid,
    to_rgba,
    unit,
    wxyz,
    xyzw,
)
from recon.gaussians import Gaussians

log = logging.getLogger("recon")

SPLATS = "KHR_gaussian_splatting"
PACKED = "KHR_gaussian_splatting_compression_spz_2"
COLOUR_SPACE = "srgb_rec709_display"
SPZ_VERSION = 2  # that the extension is written for
AXES = (-1, -1, 1)  # to and from those of .ply
HEADER = struct.Struct("<4sII")  # magic, version, bytes of the file
CHUNK = struct.Struct("<I4s")  # bytes of the chunk, its kind
POINTS = 0
FLOAT, UBYTE = 5126, 5121
COMPONENTS = {5120: "i1", UBYTE: "u1", 5122: "<i2", 5123: "<u2", FLOAT: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
MOST_NODES = 10_000  # that are walked through
DEEPEST = 200
MOST_PARTS = 1_000  # places that show splats


def save(gaussians: Gaussians, path: Path | str) -> None:
    """Write all Gaussians, in their order, in floats."""
    path = Path(path)
    rows = Rows.of(gaussians, path).turned(AXES)
    degree = sh.degree_of(1 + rows.shN.shape[1])
    opacities = sigmoid(rows.logit_opacities.astype(np.float64))
    shown = to_rgba(rows.sh0, opacities)
    attributes: dict[str, NDArray] = {
        "POSITION": rows.means,
        "COLOR_0": shown,  # for programs that draw points
        f"{SPLATS}:ROTATION": xyzw(unit(rows.quats)),
        f"{SPLATS}:SCALE": exponentials(rows.log_scales, str(path)),
        f"{SPLATS}:OPACITY": opacities,
        **dict(zip(_sh_names(degree), _sh_columns(rows), strict=True)),
    }
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    parts, at = [], 0
    for name, values in attributes.items():
        data = np.ascontiguousarray(values, dtype="u1" if name == "COLOR_0" else "<f4")
        views.append({"buffer": 0, "byteOffset": at, "byteLength": data.nbytes, "target": 34962})
        accessor: dict[str, Any] = {"bufferView": len(accessors), "componentType": FLOAT}
        accessor |= {"count": len(data), "type": _kind(name)}
        if name == "COLOR_0":
            accessor |= {"componentType": UBYTE, "normalized": True}
        if name == "POSITION" and len(data):
            accessor |= {"min": data.min(axis=0).tolist(), "max": data.max(axis=0).tolist()}
        accessors.append(accessor)
        parts.append(data.tobytes())
        at += data.nbytes  # a multiple of 4
    document = _document({name: i for i, name in enumerate(attributes)}, {}, at)
    document |= {"bufferViews": views, "accessors": accessors}
    _write(path, document, b"".join(parts))


def save_packed(gaussians: Gaussians, path: Path | str) -> None:
    """Write all Gaussians as .spz inside of the .glb."""
    path = Path(path)
    rows = Rows.of(gaussians, path)
    data = spz.encode(rows, str(path), SPZ_VERSION, antialiased=gaussians.antialiased)
    names = ["POSITION", "COLOR_0", f"{SPLATS}:ROTATION", f"{SPLATS}:SCALE", f"{SPLATS}:OPACITY"]
    names += _sh_names(gaussians.sh_degree)
    # Accessors without data: what they will be once the .spz is unpacked.
    accessors = [{"componentType": FLOAT, "count": len(rows), "type": _kind(name)} for name in names]
    if len(rows):
        places = rows.turned(AXES).means
        accessors[0] |= {"min": places.min(axis=0).tolist(), "max": places.max(axis=0).tolist()}
    accessors[1] |= {"componentType": UBYTE, "normalized": True}
    document = _document({name: i for i, name in enumerate(names)}, {PACKED: {"bufferView": 0}}, len(data))
    views = [{"buffer": 0, "byteOffset": 0, "byteLength": len(data)}]
    document |= {"bufferViews": views, "accessors": accessors, "extensionsRequired": [SPLATS, PACKED]}
    _write(path, document, data)


def load(path: Path | str) -> Gaussians:
    """Read all splats of a .glb, packed or not; `InputError` says what is wrong with it, or that there are none."""
    path = Path(path)
    data = read_bytes(path)
    document, binary = _chunks(data, str(path))
    parts: list[Rows] = []
    count, of_blur = 0, set[bool]()
    for primitive, placed in _primitives(document, str(path)):
        rows, antialiased = _rows(document, binary, primitive, str(path))
        of_blur.add(antialiased)
        rows = rows.turned(AXES)
        count += len(rows)
        check_count(count, len(data), str(path))  # nodes may show the same splats over and over
        if len(parts) == MOST_PARTS:
            raise InputError(f"{path}: shows splats in more than {MOST_PARTS:,} places")
        if placed is not None:
            flip = torch.diag(torch.tensor([*AXES, 1], dtype=torch.float64))
            moved = rows.gaussians(str(path)).transformed(flip @ placed @ flip)
            rows = Rows.of(moved, path)
        parts.append(rows)
    if len(of_blur) > 1:
        log.warning("%s: some of its splats are to be drawn antialiased and others are not; all are", path)
    if not parts:
        raise InputError(f"{path}: holds no splats: no mesh in its scene has {SPLATS}")
    return joined(parts).gaussians(str(path), antialiased=any(of_blur))


def _kind(name: str) -> str:
    return "SCALAR" if name.endswith("OPACITY") else "VEC4" if name.endswith(("ROTATION", "COLOR_0")) else "VEC3"


def _sh_names(degree: int) -> list[str]:
    return [f"{SPLATS}:SH_DEGREE_{band}_COEF_{i}" for band in range(degree + 1) for i in range(2 * band + 1)]


def _sh_columns(rows: Rows) -> list[Floats]:
    """[N,3] of each coefficient."""
    return [rows.sh0, *(rows.shN[:, k] for k in range(rows.shN.shape[1]))]


def _document(attributes: dict[str, int], extensions: dict[str, Any], size: int) -> dict[str, Any]:
    """A glTF of one node with one mesh of splats, whose buffer has so many bytes."""
    splats: dict[str, Any] = {
        "kernel": "ellipse",
        "colorSpace": COLOUR_SPACE,
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    if extensions:
        splats["extensions"] = extensions
    primitive = {"attributes": attributes, "mode": POINTS, "extensions": {SPLATS: splats}}
    return {
        "asset": {"version": "2.0", "generator": "recon"},
        "extensionsUsed": [SPLATS, *extensions],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "buffers": [{"byteLength": size}],
    }


def _write(path: Path, document: dict[str, Any], binary: bytes) -> None:
    text = json.dumps(document, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 4) * 4)
    binary = binary.ljust(-(-len(binary) // 4) * 4, b"\0")
    with atomic_write(path) as file:
        file.write(HEADER.pack(b"glTF", 2, HEADER.size + 2 * CHUNK.size + len(text) + len(binary)))
        file.write(CHUNK.pack(len(text), b"JSON") + text)
        file.write(CHUNK.pack(len(binary), b"BIN\0"))
        file.write(binary)


def _chunks(data: bytes, where: str) -> tuple[Mapping[str, Any], bytes]:
    """The JSON and the binary part of a file."""
    if len(data) < HEADER.size + CHUNK.size or data[:4] != b"glTF":
        raise InputError(f"{where}: not a .glb file: it does not start with 'glTF'")
    _, version, _ = HEADER.unpack_from(data)
    if version != 2:
        raise InputError(f"{where}: version {version} of glTF is not known; 2 is")
    chunks: list[tuple[bytes, bytes]] = []
    at = HEADER.size
    while len(chunks) < 2 and at + CHUNK.size <= len(data):
        size, kind = CHUNK.unpack_from(data, at)
        at += CHUNK.size
        if size > len(data) - at:
            raise InputError(f"{where}: truncated: a chunk has {size:,} bytes, {len(data) - at:,} are there")
        chunks.append((kind, data[at : at + size]))
        at += size
    if chunks[0][0] != b"JSON":
        raise InputError(f"{where}: its first chunk is {chunks[0][0]!r}, not JSON")
    try:
        document = json.loads(chunks[0][1])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: its JSON cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{where}: its JSON is not an object")
    return document, chunks[1][1] if len(chunks) > 1 and chunks[1][0] == b"BIN\0" else b""


def _item(document: Mapping[str, Any], key: str, index: Any, where: str) -> Mapping[str, Any]:
    """One of a list of objects of the document, by its number."""
    items = entry(document, key, list, where)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(items):
        raise InputError(f"{where}: {key} {shown(index)}: there are {len(items)}")
    if not isinstance(items[index], dict):
        raise InputError(f"{where}: {key} {index} is not an object")
    return items[index]


def _primitives(document: Mapping[str, Any], where: str) -> Iterator[tuple[Mapping[str, Any], Tensor | None]]:
    """The primitives that are splats, with [4,4] where their nodes place them (None: where they are)."""
    scene = _item(document, "scenes", document.get("scene", 0), where)
    open_: list[tuple[Any, Tensor | None, int]] = [(n, None, 0) for n in reversed(entry(scene, "nodes", list, where))]
    walked = 0
    while open_:
        index, above, depth = open_.pop()  # the deepest first: a node that is its own child ends soon
        walked += 1
        if walked > MOST_NODES or depth > DEEPEST:
            raise InputError(f"{where}: more than {MOST_NODES:,} nodes, or some {DEEPEST} deep")
        node = _item(document, "nodes", index, where)
        placed = _placed(node, above, f"{where}: node {index}")
        children = entry({"children": [], **node}, "children", list, f"{where}: node {index}")
        open_ += [(child, placed, depth + 1) for child in reversed(children)]
        if node.get("mesh") is not None:
            mesh = _item(document, "meshes", node["mesh"], where)
            for primitive in entry(mesh, "primitives", list, where):
                extensions = primitive.get("extensions") if isinstance(primitive, dict) else None
                if isinstance(extensions, dict) and isinstance(extensions.get(SPLATS), dict):
                    yield primitive, placed


def _placed(node: Mapping[str, Any], above: Tensor | None, where: str) -> Tensor | None:
    """[4,4] the place of a node in the scene; `InputError` if it is not one that splats can be brought to."""
    if not any(key in node for key in ("matrix", "translation", "rotation", "scale")):
        return above
    if "matrix" in node:
        own = torch.tensor(listed(node["matrix"], 16, f"{where}: matrix"), dtype=torch.float64).reshape(4, 4).T
    else:
        from recon.raster.reference import rotations_from_quats

        x, y, z, w = listed(node.get("rotation", [0, 0, 0, 1]), 4, f"{where}: rotation")
        own = torch.eye(4, dtype=torch.float64)
        scale = torch.tensor(listed(node.get("scale", [1, 1, 1]), 3, f"{where}: scale"), dtype=torch.float64)
        turn = torch.tensor([[w, x, y, z]], dtype=torch.float64)
        own[:3, :3] = rotations_from_quats(turn)[0] * scale
        move = listed(node.get("translation", [0, 0, 0]), 3, f"{where}: translation")
        own[:3, 3] = torch.tensor(move, dtype=torch.float64)
    return evenly_placed(own if above is None else above @ own, where)


def _rows(document: Mapping[str, Any], binary: bytes, primitive: Mapping[str, Any], where: str) -> tuple[Rows, bool]:
    """The splats of a primitive, in the axes of glTF, and whether they are to be drawn antialiased."""
    splats = primitive["extensions"][SPLATS]
    if splats.get("colorSpace", COLOUR_SPACE) != COLOUR_SPACE:
        log.warning("%s: colours of the space %s are shown as if of sRGB", where, str(splats["colorSpace"])[:40])
    extensions = splats.get("extensions")
    packed = extensions.get(PACKED) if isinstance(extensions, dict) else None
    if packed is not None:
        data = _view(document, binary, packed.get("bufferView") if isinstance(packed, dict) else None, where)
        rows, antialiased = spz.decode(data, f"{where}: its .spz")
        return rows.turned(AXES), antialiased
    attributes = entry(primitive, "attributes", dict, where)

    def values(name: str) -> Floats:
        if name not in attributes:
            raise InputError(f"{where}: its splats have no {name}")
        return _accessor(document, binary, attributes[name], _kind(name), f"{where}: {name}")

    degrees = [d for d in range(1, sh.MAX_DEGREE + 1) if f"{SPLATS}:SH_DEGREE_{d}_COEF_0" in attributes]
    names = _sh_names(max(degrees, default=0))
    means = values("POSITION")
    columns = [values(f"{SPLATS}:{name}") for name in ("ROTATION", "SCALE", "OPACITY")]
    harmonics = [values(name) for name in names]
    for name, column in zip(["ROTATION", "SCALE", "OPACITY", *names], [*columns, *harmonics], strict=True):
        if len(column) != len(means):
            raise InputError(f"{where}: {name} of {len(column):,} splats, POSITION of {len(means):,}")
    higher = np.stack(harmonics[1:], axis=1) if len(harmonics) > 1 else np.zeros((len(means), 0, 3))
    rotations, scales, opacities = columns
    return Rows(means, wxyz(rotations), logarithms(scales), logit(opacities[:, 0]), harmonics[0], higher), False


def _view(document: Mapping[str, Any], binary: bytes, index: Any, where: str) -> bytes:
    """The bytes of a buffer view, which has to be in the file itself."""
    view = _item(document, "bufferViews", index, where)
    buffer = _item(document, "buffers", view.get("buffer"), where)
    if view["buffer"] != 0 or "uri" in buffer:
        raise InputError(f"{where}: buffer {view['buffer']} is not in the file; only its own is read")
    start = whole({"byteOffset": 0, **view}, "byteOffset", where)
    size = whole(view, "byteLength", where)
    if start < 0 or size < 0 or start + size > len(binary):
        raise InputError(f"{where}: truncated: a view ends at byte {start + size:,} of {len(binary):,}")
    return binary[start : start + size]


def _accessor(document: Mapping[str, Any], binary: bytes, index: Any, kind: str, where: str) -> Floats:
    """[count,components] the numbers of an accessor; normalised integers become floats."""
    accessor = _item(document, "accessors", index, where)
    component = COMPONENTS.get(whole(accessor, "componentType", where))
    if accessor.get("type") != kind or component is None or "sparse" in accessor:
        raise InputError(f"{where}: is not a plain {kind} of a known type")
    number = np.dtype(component)
    count, width = whole(accessor, "count", where), WIDTHS[kind]
    data = _view(document, binary, accessor.get("bufferView"), where)
    start = whole({"byteOffset": 0, **accessor}, "byteOffset", where)
    view = document["bufferViews"][accessor["bufferView"]]
    row = number.itemsize * width
    stride = whole({"byteStride": row, **view}, "byteStride", where)
    if count < 0 or start < 0 or stride < row or start + stride * (count - 1) + row > len(data):
        raise InputError(f"{where}: truncated: {count:,} values of {stride} bytes, {len(data):,} bytes are there")
    if count == 0:
        return np.zeros((0, width))
    values = np.ndarray((count, width), number, data, start, (stride, number.itemsize))
    if accessor.get("normalized") is True and number.kind in "iu":
        return np.maximum(values.astype(np.float32) / np.iinfo(number).max, -1)
    return values.astype(np.float32)
