"""What fuzz_formats.py reads: the readers of splats, points and meshes, and small files for each.

A file is kept as the parts that are inside of it, and packed again after they were damaged: damage to the outside of a
zip or a gzip stream alone would hardly get past its checksums.
"""

from __future__ import annotations

import functools
import gzip
import io
import os
import struct
import unittest.mock
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
import zstandard

from _fuzz_damage import Parts, Sample
from recon import export, sh
from recon.datasets import colmap_files, point_cloud
from recon.export import spz, usd_reader
from recon.gaussians import Gaussians
from recon.meshes import Mesh
from recon.meshing import files as meshing

os.environ["PXR_WORK_THREAD_LIMIT"] = "1"  # as `usd` has it; other threads would not live on in forks


@dataclass(frozen=True)
class Reader:
    """`samples` are whole files in a folder to write to, and `read` reads one; it may raise `InputError` only."""

    read: Callable[[Path], object]
    samples: Callable[[Path], list[Sample]]


def scene_of(count: int, degree: int) -> Gaussians:
    """Splats of all kinds."""
    generator = torch.Generator().manual_seed(count + degree)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    higher = sh.num_coefficients(degree) - 1
    return Gaussians(
        normal(count, 3),
        normal(count, 4),
        normal(count, 3) - 2,
        normal(count),
        normal(count, 1, 3),
        normal(count, higher, 3) / 5,
    )


# ------------------------------------------------------------------------------------------ containers


def plain(name: str, data: bytes) -> Sample:
    return Sample(name, {name: data}, dict)


def gzipped(name: str, data: bytes) -> Sample:
    def pack(parts: Parts) -> Parts:
        return {name: gzip.compress(parts["inner"], 1, mtime=0)}

    return Sample(name, {"inner": gzip.decompress(data)}, pack, True)


def zipped(name: str, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> Sample:
    def pack(parts: Parts) -> Parts:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for member, content in parts.items():
                archive.writestr(member, content)
        return {name: out.getvalue()}

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return Sample(name, {member: archive.read(member) for member in archive.namelist()}, pack, True)


def of_gltf(name: str, data: bytes) -> Sample:
    def pack(parts: Parts) -> Parts:
        text, binary = parts["json"], parts["bin"]
        body = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
        return {name: struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body}

    size = int.from_bytes(data[12:16], "little")
    return Sample(name, {"json": data[20 : 20 + size], "bin": data[28 + size :]}, pack)


def of_streams(name: str, data: bytes) -> Sample:
    """An .spz of version 4: a header, a table of sizes, and so many streams."""
    streams, table = data[15], struct.unpack_from("<I", data, 16)[0]
    sizes = [struct.unpack_from("<QQ", data, table + 16 * i)[0] for i in range(streams)]
    starts = np.cumsum([table + 16 * streams, *sizes])
    unpack = zstandard.ZstdDecompressor().decompress
    inner = {str(i): unpack(data[starts[i] : starts[i + 1]]) for i in range(streams)}

    def pack(parts: Parts) -> Parts:
        packed = [zstandard.ZstdCompressor(1).compress(parts[str(i)]) for i in range(streams)]
        sizes = (struct.pack("<QQ", len(small), len(parts[str(i)])) for i, small in enumerate(packed))
        return {name: b"".join([parts["header"][: 1 << 12], *sizes, *packed])}

    return Sample(name, {"header": data[:table], **inner}, pack, True)


def folder(path: Path) -> Sample:
    """All files of a folder."""
    files = {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
    return Sample("folder/", files, lambda parts: {f"folder/{name}": data for name, data in parts.items()})


# ------------------------------------------------------------------------------------------ readers


def _written(kind: Callable[[str, bytes], Sample], suffix: str, folder_: Path) -> list[Sample]:
    """Scenes without and with harmonics, as they are exported."""
    samples = []
    for count, degree in ((40, 0), (5, 3)):
        path = folder_ / f"{count}{suffix}"
        export.export(scene_of(count, degree), path)
        samples.append(kind(path.name, path.read_bytes()))
    return samples


def _real(suffix: str) -> list[Sample]:
    """Tiny files of other programs, where there are any."""
    root = os.environ.get("RECON_DATA")
    return (
        [plain(file.name, file.read_bytes()) for file in Path(root, "splats/tiny").glob(f"*{suffix}")] if root else []
    )


def _plain(suffix: str) -> Callable[[Path], list[Sample]]:
    return lambda folder_: _written(plain, suffix, folder_) + _real(suffix)


def _text_ply(folder_: Path) -> list[Sample]:
    """Files of splats, and those of points in all encodings."""
    header = "ply\nformat {} 1.0\ncomment {}\nelement vertex 3\nproperty {} x\nproperty double y\nproperty float z\n"
    header += "property uchar red\nproperty uchar green\nproperty uchar blue\nelement face 1\n"
    header += "property list uchar int vertex_indices\nend_header\n"
    rows = [(1.5, 2.0, -3.0, 255, 0, 7), (0.0, 1e9, 2.0, 1, 2, 3), (4.0, 5.0, 6.0, 9, 9, 9)]
    text = header.format("ascii", "text", "float") + "".join(" ".join(map(str, row)) + "\n" for row in rows)
    samples = [plain("text.ply", (text + "3 0 1 2\n").encode())]
    for order, name in (("<", "little"), (">", "big")):
        body = b"".join(struct.pack(f"{order}fdfBBB", *row) for row in rows) + struct.pack(f"{order}B3i", 3, 0, 1, 2)
        samples.append(plain(f"{name}.ply", header.format(f"binary_{name}_endian", name, "float").encode() + body))
    return samples


def _spz(folder_: Path) -> list[Sample]:
    spz.save(scene_of(5, 3), folder_ / "v4.spz", version=4)
    v4 = (folder_ / "v4.spz").read_bytes()
    return [*_written(gzipped, ".spz", folder_), of_streams("v4.spz", v4), plain("v4.spz", v4), *_real(".spz")]


def _sog(folder_: Path) -> list[Sample]:
    export.export(scene_of(5, 1), folder_ / "folder" / "meta.json")
    return [*_written(zipped, ".sog", folder_), folder(folder_ / "folder"), *_written(plain, ".sog", folder_)]


def _streamed(folder_: Path) -> list[Sample]:
    export.export(scene_of(2000, 1), folder_ / "folder" / "lod-meta.json")
    return [folder(folder_ / "folder")]


def _glb(folder_: Path) -> list[Sample]:
    return [*_written(of_gltf, ".glb", folder_), *_written(of_gltf, ".spz.glb", folder_)]


def _forked(file: str, out: Path, most: int) -> bool:
    """As `usd._has_run`, but where OpenUSD is loaded already, which takes longest of all."""
    from pxr import Usd, UsdGeom, UsdVol  # noqa: F401

    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.environ["TMPDIR"] = str(out.parent)
        usd_reader.MEMORY += psutil.Process().memory_info().vms
        usd_reader.main(file, str(out), most)
        status = 0
    finally:
        os._exit(status)


def _read_usd(path: Path) -> None:
    with unittest.mock.patch("recon.export.usd._has_run", _forked):
        export.load(path)


def _usdz(folder_: Path) -> list[Sample]:
    stored = functools.partial(zipped, method=zipfile.ZIP_STORED)
    return [
        *_written(plain, ".usdz", folder_),
        *_written(stored, ".usdz", folder_),
        *_written(zipped, ".usdz", folder_),
    ]


def _meshes(folder_: Path) -> list[Sample]:
    """A tetrahedron with colours in each format; of .glb the inside is damaged, too."""
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    triangles = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    mesh = Mesh(corners, triangles, np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5]], np.float32))
    samples = []
    for suffix, kind in ((".obj", plain), (".stl", plain), (".mesh.ply", plain), (".mesh.glb", of_gltf)):
        path = folder_ / f"mesh{suffix}"
        meshing.save(mesh, path)
        samples.append(kind(path.name, path.read_bytes()))
    return samples


def _model(binary: bool) -> Callable[[Path], list[Sample]]:
    """A model of COLMAP: two cameras, two photos, three points."""

    def samples(folder_: Path) -> list[Sample]:
        import pycolmap

        model = pycolmap.Reconstruction()
        for i, kind in enumerate(("SIMPLE_RADIAL", "OPENCV"), start=1):
            camera = pycolmap.Camera.create_from_model_name(i, kind, 50.0, 40, 30)
            model.add_camera_with_trivial_rig(camera)
            points = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
            photo = pycolmap.Image(name=f"{i}.png", keypoints=points, camera_id=i, image_id=i)
            model.add_image_with_trivial_frame(photo, pycolmap.Rigid3d())
        for i in range(3):
            track = pycolmap.Track([pycolmap.TrackElement(1, i), pycolmap.TrackElement(2, i)])
            model.add_point3D(np.array([0.1 * i, 0.2, 3.0]), track, np.array([255, 0, i], np.uint8))
        (folder_ / "folder").mkdir()
        (model.write_binary if binary else model.write_text)(folder_ / "folder")
        whole = folder(folder_ / "folder")
        parts = {name: data for name, data in whole.parts.items() if name[0] in "cip"}  # no rigs and frames
        return [Sample(whole.name, parts, whole.pack)]

    return samples


def _read_model(folder_: Path) -> None:
    for stem, read in (
        ("cameras", colmap_files.read_cameras),
        ("images", colmap_files.read_images),
        ("points3D", colmap_files.read_points),
    ):
        file = colmap_files.find_file(folder_, stem)
        if file is not None:
            read(file)


READERS: dict[str, Reader] = {
    "ply": Reader(export.load, _plain(".ply")),
    "compressed.ply": Reader(export.load, lambda folder_: _written(plain, ".compressed.ply", folder_)),
    "spz": Reader(export.load, _spz),
    "sog": Reader(export.load, _sog),
    "lod-meta.json": Reader(export.load, _streamed),
    "splat": Reader(export.load, _plain(".splat")),
    "ksplat": Reader(export.load, _plain(".ksplat")),
    "glb": Reader(export.load, _glb),
    "usda": Reader(_read_usd, _plain(".usda")),
    "usdc": Reader(_read_usd, _plain(".usdc")),
    "usdz": Reader(_read_usd, _usdz),
    "mesh": Reader(meshing.load, _meshes),
    "points": Reader(point_cloud.read_points, _text_ply),
    "colmap.bin": Reader(_read_model, _model(binary=True)),
    "colmap.txt": Reader(_read_model, _model(binary=False)),
}
