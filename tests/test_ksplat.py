"""GaussianSplats3D's .ksplat: known bytes, all three levels, several sections, and headers that lie."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.datasets.errors import InputError
from recon.export import export, load
from test_splat_formats import as_theirs, assert_alike, scene_of


def test_known_bytes_give_known_splats(real_data: Callable[[str], Path]) -> None:
    scene = load(real_data("splats/tiny/minimal.ksplat"))
    assert scene.means.tolist() == [[-1, 0, -1], [0, 0, -1], [-1, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(scene.scales.detach(), torch.full((4, 3), 0.1))
    torch.testing.assert_close(scene.opacities.detach(), torch.full((4,), 0xE6 / 255))


def section(level: int, degree: int, count: int, seed: int) -> tuple[bytes, bytes, dict[str, np.ndarray]]:
    """The header and the body of a section by the layout, one splat after the other, and what it holds."""
    generator = np.random.default_rng(seed)
    higher = [0, 3, 8][degree]
    centres = generator.normal(size=(3, 3)).astype("<f4")
    lengths = [2, count - 3]  # one full bucket of 1, then two others
    bucket_of = [0] + [1] * 2 + [2] * (count - 3)
    values = {
        "steps": generator.integers(0, 65535, (count, 3)),
        "means": generator.normal(size=(count, 3)).astype("<f4"),
        "scales": generator.uniform(0.01, 1, (count, 3)),
        "quats": generator.normal(size=(count, 4)),
        "rgba": generator.integers(1, 255, (count, 4)),
        "red": generator.uniform(-1, 1, (count, higher)),
        "green": generator.uniform(-1, 1, (count, higher)),
        "blue": generator.uniform(-1, 1, (count, higher)),
        "bytes": generator.integers(0, 256, (count, 3 * higher)),
    }
    number = "f" if level == 0 else "e"
    body = b"" if level == 0 else struct.pack("<2I", *lengths) + centres.tobytes()
    for i in range(count):
        body += struct.pack("<3f", *values["means"][i]) if level == 0 else struct.pack("<3H", *values["steps"][i])
        body += struct.pack(f"<7{number}", *values["scales"][i], *values["quats"][i])
        body += bytes(values["rgba"][i].tolist())
        bands = [
            values[channel][i, part] for part in (slice(0, 3), slice(3, 8)) for channel in ("red", "green", "blue")
        ]
        flat = [value for band in bands for value in band][: 3 * higher]
        body += bytes(values["bytes"][i].tolist()) if level == 2 else struct.pack(f"<{len(flat)}{number}", *flat)
    if level:
        values["means"] = (values["steps"] - 32767) * (5.0 / 2 / 32767) + centres[bucket_of]
    packed = level > 0
    header = struct.pack("<IIIIfHxx", count, count, 1, 3 * packed, 5.0, 12 * packed)
    header += struct.pack("<IIIIH", 32767, len(body), 1 * packed, 2 * packed, degree)
    return header.ljust(1024, b"\0"), body, values


def file_of(level: int, sections: list[tuple[bytes, bytes, dict[str, np.ndarray]]], count: int) -> bytes:
    header = struct.pack("<BBxxIIIIHxx", 0, 1, len(sections), len(sections), count, count, level)
    header += struct.pack("<5f", 0, 0, 0, -1.5, 1.5)
    return header.ljust(4096, b"\0") + b"".join(s[0] for s in sections) + b"".join(s[1] for s in sections)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_every_level_is_read(tmp_path: Path, level: int, degree: int) -> None:
    made = section(level, degree, 7, seed=degree)
    path = tmp_path / "s.ksplat"
    path.write_bytes(file_of(level, [made], 7))
    scene, values = load(path), made[2]
    close = 1e-6 if level == 0 else 2e-3
    np.testing.assert_allclose(scene.means.detach(), values["means"], atol=1e-5)
    np.testing.assert_allclose(scene.scales.detach(), values["scales"], rtol=close)
    np.testing.assert_allclose(scene.quats.detach(), values["quats"], atol=close)
    np.testing.assert_allclose(scene.opacities.detach(), values["rgba"][:, 3] / 255, atol=1e-5)
    assert scene.sh_degree == degree
    if degree and level < 2:
        np.testing.assert_allclose(scene.shN[:, :, 1].detach(), values["green"], atol=close)
    if degree and level == 2:
        # The first bytes are red's of degree 1, then green's; degree 2 begins at byte 9.
        np.testing.assert_allclose(scene.shN[:, 1, 0].detach(), values["bytes"][:, 1] / 255 * 3 - 1.5, atol=1e-5)
        np.testing.assert_allclose(scene.shN[:, 0, 1].detach(), values["bytes"][:, 3] / 255 * 3 - 1.5, atol=1e-5)
    assert_alike(scene, as_theirs(path))


def test_sections_are_joined(tmp_path: Path) -> None:
    sections = [section(1, 1, 7, seed=1), section(1, 0, 5, seed=2), section(1, 2, 4, seed=3)]
    path = tmp_path / "s.ksplat"
    path.write_bytes(file_of(1, sections, 16))
    scene = load(path)
    assert len(scene) == 16
    assert scene.sh_degree == 2
    assert scene.shN[7:12].abs().max() == 0
    assert scene.shN[:7, 3:].abs().max() == 0
    np.testing.assert_allclose(scene.shN[12:, :, 2].detach(), sections[2][2]["blue"], atol=2e-3)


def test_many_splats_in_one_place_fill_buckets(tmp_path: Path) -> None:
    scene = scene_of(1000, 0)
    with torch.no_grad():
        scene.means[:700] = scene.means[0] + 1e-3 * scene.means[:700]
    export(scene, tmp_path / "s.ksplat")
    full, partial = struct.unpack_from("<II", (tmp_path / "s.ksplat").read_bytes(), 4096 + 32)
    assert full == 2
    assert partial > 50
    assert_alike(load(tmp_path / "s.ksplat"), as_theirs(tmp_path / "s.ksplat"))
    with torch.no_grad():
        scene.means[:] = 3.5
    export(scene, tmp_path / "s.ksplat")
    torch.testing.assert_close(load(tmp_path / "s.ksplat").means.detach(), scene.means.detach(), rtol=0, atol=1e-4)


def patched(data: bytes, at: int, kind: str, value: float) -> bytes:
    field = struct.pack("<" + kind, value)
    return data[:at] + field + data[at + len(field) :]


@pytest.mark.parametrize(
    ("at", "kind", "value", "message"),
    [
        (0, "B", 1, "version 1.1 of .ksplat is not known"),
        (4, "I", 4_000_000_000, "truncated: announces 4,000,000,000 sections"),
        (16, "I", 8, "announces 8 splats; its sections hold 7"),
        (20, "H", 3, "compression level 3 is not known"),
        (4096, "I", 8, "8 splats where there is room for 7"),
        (4100, "I", 4_000_000_000, "section 0: truncated"),
        (4104, "I", 0, "its buckets hold fewer splats than the 7"),
        (4108, "I", 4_000_000_000, "section 0: truncated"),
        (4112, "f", np.inf, "means of Gaussian 0 has the value"),
        (4116, "H", 16, "buckets of 16 bytes are not 3 of 12"),
        (4128, "I", 4_000_000_000, "full and 2 other buckets"),
        (4132, "I", 1_000_000_000, "section 0: truncated"),
        (4136, "H", 3, "SH degree 3; 0 to 2 are known"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(
    tmp_path: Path, at: int, kind: str, value: float, message: str
) -> None:
    path = tmp_path / "s.ksplat"
    path.write_bytes(patched(file_of(1, [section(1, 1, 7, seed=0)], 7), at, kind, value) + bytes(20))
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_file_that_is_shorter_than_its_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.ksplat").write_bytes(bytes(100))
    with pytest.raises(InputError, match=r"not a \.ksplat file: 100 bytes are less than its header"):
        load(tmp_path / "s.ksplat")
