"""PlayCanvas's compressed .ply: known files, gsplat's writer, and headers that lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recon.datasets.errors import InputError
from recon.datasets.ply import read_elements, read_vertices
from recon.export import export, load
from splat_files import write_ply, written_by_gsplat
from splat_tool import convert
from test_splat_formats import angles_between, assert_alike, matched, scene_of


def test_a_real_file_is_read_as_splat_transform_reads_it(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    path = real_data("splats/guitar.compressed.ply")
    scene = load(path)
    assert len(scene) == 90_854
    theirs = read_vertices(convert(path, tmp_path / "theirs.ply"))
    columns = {name: theirs[name] for name in theirs.dtype.names or ()}
    columns["opacity"] = columns["opacity"].clip(-13.8, 13.8)  # it has none at all and all of it as infinite
    assert_alike(scene, load(write_ply(tmp_path / "finite.ply", columns)))


@pytest.mark.parametrize("degree", [0, 3])
def test_a_file_of_gsplat_holds_the_scene(tmp_path: Path, degree: int) -> None:
    scene = scene_of(400, degree)
    values = scene.state_dict()
    written = written_by_gsplat(scene, "ply_compressed", tmp_path / "theirs.ply")
    rows = matched(load(written), scene)
    assert (rows["means"] - values["means"]).abs().max() < 4e-3
    assert (rows["log_scales"] - values["log_scales"]).abs().max() < 6e-3
    assert angles_between(rows["quats"], values["quats"]).max() < 0.3
    assert (rows["sh0"] - values["sh0"]).abs().max() < 0.03
    if degree:
        assert (rows["shN"] - values["shN"]).abs().max() < 0.04


def test_neighbours_share_a_chunk_so_that_bounds_are_tight(tmp_path: Path) -> None:
    export(scene_of(5000, 0), tmp_path / "s.compressed.ply")
    chunks = read_elements(tmp_path / "s.compressed.ply", ["vertex", "chunk"])["chunk"]
    assert len(chunks) == 20
    extents = np.stack([chunks[f"max_{a}"] - chunks[f"min_{a}"] for a in "xyz"], axis=1)
    assert np.median(extents) < 3.5  # of a scene 7 wide


def rewritten(tmp_path: Path, old: bytes, new: bytes, count: int = 3, degree: int = 1) -> Path:
    path = tmp_path / "s.compressed.ply"
    export(scene_of(count, degree), path)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    return path


def test_files_without_bounds_of_colours_are_read(tmp_path: Path) -> None:
    """As they were first: colours are shares of 0..1 themselves."""
    path = tmp_path / "s.compressed.ply"
    export(scene_of(3, 0), path)
    header, body = path.read_bytes().split(b"end_header\n", 1)
    for name in ("min_r", "min_g", "min_b", "max_r", "max_g", "max_b"):
        header = header.replace(b"property float " + name.encode() + b"\n", b"")
    path.write_bytes(header + b"end_header\n" + body[:48] + body[72:])
    words = np.frombuffer(body[72:], "<u4").reshape(3, 4)[:, 3]
    expected = ((words >> 24) / 255 - 0.5) / 0.28209479177387814
    np.testing.assert_allclose(load(path).sh0[:, 0, 0].detach(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"element vertex 3", b"element vertex 300", "truncated"),
        (b"element vertex 3", b"element vertex 999999999999999", "truncated"),
        (b"element chunk 1", b"element chunk 0", "0 chunks for 3 splats"),
        (b"element chunk 1", b"element lumps 1", "has no min_x"),
        (b"element sh 3", b"element sh 2", "2 rows of sh for 3 splats"),
        (b"uint packed_scale", b"uint packed_scalE", "its element vertex has no packed_scale of type u4"),
        (b"uint packed_color", b"float packed_color", "its element vertex has no packed_color of type u4"),
        (b"property uchar f_rest_8\n", b"", "8 f_rest fields belong to no SH degree"),
        (b"f_rest_8", b"f_rest_9", "has no f_rest_8"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    path = rewritten(tmp_path, old, new)
    with pytest.raises(InputError) as caught:
        load(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_bounds_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.compressed.ply"
    export(scene_of(3, 0), path)
    header, body = path.read_bytes().split(b"end_header\n", 1)
    path.write_bytes(header + b"end_header\n" + np.array(np.inf, "<f4").tobytes() + body[4:])
    with pytest.raises(InputError, match="means of Gaussian 0 has the value"):
        load(path)
