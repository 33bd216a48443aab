"""Niantic's .spz: known files, axes, versions, and headers that lie."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard

from recon.datasets.errors import InputError
from recon.export import load, spz
from splat_files import random_gaussians
from splat_tool import convert
from test_splat_formats import angles_between, as_theirs, assert_alike, scene_of

# Four splats of the same make in each of the files; their colours differ from version to version.
CORNERS = {
    "minimal-raw.spz": [[-1, 0, 1], [0, 0, 1], [-1, 0, 0], [0, 0, 0]],
    "minimal-v2.spz": [[-1, 0, 1], [0, 0, 1], [-1, 0, 0], [0, 0, 0]],
    "minimal-v3.spz": [[-1, 0, -1], [0, 0, -1], [-1, 0, 0], [0, 0, 0]],
    "minimal-v4.spz": [[-1, 0, -1], [0, 0, -1], [-1, 0, 0], [0, 0, 0]],
}


@pytest.mark.parametrize("name", CORNERS)
def test_known_bytes_give_known_splats(real_data: Callable[[str], Path], name: str) -> None:
    scene = load(real_data(f"splats/tiny/{name}"))
    assert scene.means.tolist() == CORNERS[name]
    torch.testing.assert_close(scene.log_scales.detach(), torch.full((4, 3), 123 / 16 - 10))
    torch.testing.assert_close(scene.opacities.detach(), torch.full((4,), 0xE6 / 255))
    assert angles_between(scene.quats.detach(), torch.tensor([[1.0, 0, 0, 0]] * 4)).max() < 1
    first = {"minimal-raw.spz": 0x55, "minimal-v2.spz": 0x55}.get(name, 0x69)
    assert scene.sh0[0, 0, 0].item() == pytest.approx((first / 255 - 0.5) / 0.15, rel=1e-5)


def test_axes_are_those_of_the_ply_with_the_same_splats(real_data: Callable[[str], Path]) -> None:
    ply = load(real_data("splats/tiny/test-splat.3-points-from-train.ply"))
    packed = load(real_data("splats/tiny/test-splat.3-points-from-train.spz"))
    assert (ply.means - packed.means).abs().max() < 1.3e-4
    assert (ply.log_scales - packed.log_scales).abs().max() < 0.032
    assert angles_between(ply.quats.detach(), packed.quats.detach()).max() < 3
    assert (ply.shN - packed.shN).abs().max() < 0.07


def test_a_large_scene_is_the_same_in_spz_and_in_compressed_ply(real_data: Callable[[str], Path]) -> None:
    one, other = load(real_data("splats/biker.spz")), load(real_data("splats/biker.compressed.ply"))
    assert len(one) == len(other) == 152_746
    assert (one.means - other.means).abs().max() < 1.3e-4
    seen = other.log_scales > -10  # what .spz has room for
    assert (one.log_scales - other.log_scales)[seen].abs().max() < 0.04
    assert (one.opacities - other.opacities).abs().max() < 1e-5
    assert (one.sh0 - other.sh0).abs().max() < 0.02
    assert angles_between(one.quats.detach(), other.quats.detach()).max() < 0.5


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("degree", [0, 1, 3])
def test_all_versions_hold_the_same(tmp_path: Path, version: int, degree: int) -> None:
    scene = scene_of(200, degree)
    spz.save(scene, tmp_path / "three.spz")
    spz.save(scene, tmp_path / "other.spz", version=version)
    three, other = load(tmp_path / "three.spz"), load(tmp_path / "other.spz")
    for name in ("means", "log_scales", "logit_opacities", "sh0", "shN"):
        assert torch.equal(getattr(three, name), getattr(other, name)), name
    assert angles_between(three.quats.detach(), other.quats.detach()).max() < (1.3 if version == 2 else 1e-3)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_the_library_of_the_format_reads_each_version_as_we_do(tmp_path: Path, version: int) -> None:
    path = tmp_path / "ours.spz"
    spz.save(scene_of(300, 3), path, version=version)
    assert_alike(load(path), as_theirs(path))


def test_small_scenes_are_finer_and_large_ones_still_fit(tmp_path: Path) -> None:
    for size, step in ((1e-3, 2**-18), (1.0, 2**-12), (5000.0, 2**-9)):
        scene = scene_of(50, 0)
        with torch.no_grad():
            scene.means.mul_(size).clamp_(-size, size)
            scene.log_scales.add_(np.log(size) if size < 1 else 0.0)
        spz.save(scene, tmp_path / "s.spz")
        assert (load(tmp_path / "s.spz").means - scene.means).abs().max() <= step
    with torch.no_grad():
        scene.means[3, 1] = 1e8
    with pytest.raises(InputError, match=r"s\.spz: a splat is 1e\+08 from the origin; \.spz has room for 8,388,607"):
        spz.save(scene, tmp_path / "s.spz")


def test_degree_four_is_cut_to_three() -> None:
    header = struct.pack("<4sIIBBBB", b"NGSP", 3, 1, 4, 12, 0, 0)
    body = bytes(9) + b"\x80" + b"\x80" * 3 + b"\x80" * 3 + bytes(4) + bytes(range(72))
    rows, _ = spz.decode(gzip.compress(header + body), "f")
    assert rows.shN.shape == (1, 15, 3)
    assert abs(float(rows.shN[0, 1, 0])) == (128 - 3) / 128  # the second coefficient, of red


def packed_v4(
    count: int, *, sizes: list[int] | None = None, streams: list[bytes] | None = None, toc: int = 32
) -> bytes:
    own = [9 * count, count, 3 * count, 3 * count, 4 * count] if sizes is None else sizes
    parts = [zstandard.compress(bytes(size)) for size in own] if streams is None else streams
    header = struct.pack("<4sIIBBBBI12x", b"NGSP", 4, count, 0, 12, 0, 5, toc)
    return header + b"".join(struct.pack("<QQ", len(p), s) for p, s in zip(parts, own, strict=True)) + b"".join(parts)


BOMB = zstandard.compress(bytes(1 << 26))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an .spz file"),
        (b"NGSP", "not an .spz file"),
        (b"PK\3\4" + bytes(40), "not an .spz file"),
        (gzip.compress(b"hello", mtime=0), "not an .spz file"),
        (b"\x1f\x8b" + b"\xff" * 40, "damaged"),
        (
            gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 1, 1, 0, 12, 0, 0), mtime=0),
            "version 1 of .spz is not known",
        ),
        (gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 3, 1, 5, 12, 0, 0), mtime=0), "SH degree 5"),
        (gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 3, 1, 0, 40, 0, 0), mtime=0), "40 bits of fraction"),
        (
            gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 3, 2**31, 0, 12, 0, 0), mtime=0),
            "announces 2,147,483,648 splats",
        ),
        (
            gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 3, 60_000, 3, 12, 0, 0), mtime=0),
            "truncated: 60,000 splats take",
        ),
        (packed_v4(2)[:-3], "truncated"),
        (packed_v4(2, toc=10**9), "its table of contents is at 1,000,000,000"),
        (packed_v4(2, toc=0), "its table of contents is at 0"),
        (packed_v4(2, sizes=[18, 2, 6, 6, 9]), "stream 4 has 9 bytes; such splats have 8"),
        (packed_v4(2, streams=[b"rubbish"] * 5), "damaged"),
        (packed_v4(60_000, streams=[zstandard.compress(b"x")] * 5), "truncated: 540,000 bytes are announced, 1 are"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.spz"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_more_is_decompressed_than_the_splats_need(tmp_path: Path) -> None:
    """Both compressions make a megabyte of a few bytes; the rest of such a stream is left alone."""
    path = tmp_path / "bomb.spz"
    sizes = [9, 1, 3, 3, 4]
    path.write_bytes(packed_v4(1, sizes=sizes, streams=[BOMB] * 5))
    assert len(load(path)) == 1
    packer = zlib.compressobj(wbits=31)
    header = struct.pack("<4sIIBBBB", b"NGSP", 3, 1, 0, 12, 0, 0)
    path.write_bytes(packer.compress(header + bytes(1 << 26)) + packer.flush())
    assert len(load(path)) == 1


@pytest.mark.parametrize("version", [3, 4])
def test_few_bytes_cannot_hold_many_splats(tmp_path: Path, version: int) -> None:
    sizes = [9_000_000, 1_000_000, 3_000_000, 3_000_000, 4_000_000]
    header = spz.HEADER.pack(spz.MAGIC, version, 1_000_000, 0, 12, 0, 5 if version == 4 else 0)
    if version == 4:
        packed = [zstandard.ZstdCompressor().compress(bytes(size)) for size in sizes]
        table = [spz.ENTRY.pack(len(small), size) for small, size in zip(packed, sizes, strict=True)]
        data = b"".join([header, struct.pack("<I12x", 32), *table, *packed])
    else:
        data = gzip.compress(header + bytes(sum(sizes)), 1)
    (tmp_path / "bomb.spz").write_bytes(data)
    with pytest.raises(InputError, match=r"announces 1,000,000 splats, and has [\d,]+ bytes"):
        load(tmp_path / "bomb.spz")


def test_a_file_of_splat_transform_has_the_axes_of_its_source(tmp_path: Path) -> None:
    from recon.export import ply

    scene = random_gaussians(50, 0)
    ply.save(scene, tmp_path / "scene.ply")
    theirs = load(convert(tmp_path / "scene.ply", tmp_path / "theirs.spz"))
    assert (theirs.means - scene.means).abs().max() < 1.3e-4
    assert angles_between(theirs.quats.detach(), scene.quats.detach()).max() < 0.5
