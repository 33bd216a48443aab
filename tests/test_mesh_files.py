"""Meshes as files: what is written is read again, by us and by others."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

import balls
from recon.datasets.errors import InputError
from recon.meshes import Mesh
from recon.meshing import files, open3d
from splat_tool import validated

SUFFIXES = list(files.SAVERS)


def textured() -> Mesh:
    ball = balls.mesh(2)
    generator = np.random.default_rng(0)
    uvs = generator.random((len(ball.faces), 3, 2)).astype(np.float32)
    texture = generator.integers(0, 256, (8, 16, 3), np.uint8)
    return Mesh(ball.vertices, ball.faces, ball.colors, uvs, texture)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_triangles_and_colours_come_back(tmp_path: Path, suffix: str) -> None:
    ball = balls.mesh(3)
    written = files.save(ball, tmp_path / f"my scene{suffix}")
    assert written == [tmp_path / f"my scene{suffix}"]
    assert list(tmp_path.iterdir()) == written
    loaded = files.load(written[0])
    assert np.abs(loaded.vertices[loaded.faces] - ball.vertices[ball.faces]).max() < 1e-6
    if suffix in files.LOSSES:
        assert loaded.colors is None
    else:
        assert ball.colors is not None
        assert loaded.colors is not None
        # glTF has linear light in 8 bits, which is coarser where it is dark.
        off = 0.02 if suffix == ".mesh.glb" else 0.003
        assert np.abs(loaded.colors[loaded.faces] - ball.colors[ball.faces]).max() < off


@pytest.mark.parametrize("suffix", files.TEXTURED)
def test_a_texture_comes_back(tmp_path: Path, suffix: str) -> None:
    mesh = textured()
    written = files.save(mesh, tmp_path / f"my scene{suffix}")
    names = {".obj": {"my scene.obj", "my scene.mtl", "my scene.png"}, ".mesh.glb": {"my scene.mesh.glb"}}
    assert {path.name for path in written} == names[suffix] == {path.name for path in tmp_path.iterdir()}
    loaded = files.load(written[0])
    assert mesh.uvs is not None
    assert mesh.texture is not None
    assert loaded.uvs is not None
    assert loaded.texture is not None
    assert np.abs(loaded.uvs - mesh.uvs).max() < 1e-6
    assert np.array_equal(loaded.texture, mesh.texture)
    assert np.abs(loaded.vertices[loaded.faces] - mesh.vertices[mesh.faces]).max() < 1e-6


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_open3d_reads_the_same(tmp_path: Path, suffix: str) -> None:
    library = pytest.importorskip("open3d", reason="Open3D cannot be loaded", exc_type=ImportError)
    ball = balls.mesh(3)
    (path,) = files.save(ball, tmp_path / f"scene{suffix}")
    found = library.io.read_triangle_mesh(str(path))
    vertices, faces = np.asarray(found.vertices), np.asarray(found.triangles)
    assert np.abs(vertices[faces] - ball.vertices[ball.faces]).max() < 1e-6
    assert found.has_vertex_colors() == (suffix not in files.LOSSES)
    if suffix in (".obj", ".mesh.ply"):
        assert ball.colors is not None
        assert np.abs(np.asarray(found.vertex_colors)[faces] - ball.colors[ball.faces]).max() < 0.003


def test_gltf_shows_colours_without_light_and_as_light(tmp_path: Path) -> None:
    grey = Mesh(balls.mesh(1).vertices, balls.mesh(1).faces, np.full((42, 3), 0.5, np.float32))
    (path,) = files.save(grey, tmp_path / "scene.mesh.glb")
    made = trimesh.load(path)
    assert isinstance(made, trimesh.Scene)
    (geometry,) = made.geometry.values()
    assert geometry.visual.vertex_attributes["color"][0, :3].tolist() == [55, 55, 55]  # 0.214 of 255
    assert b"KHR_materials_unlit" in path.read_bytes()


@pytest.mark.parametrize("mesh", [balls.mesh(2), textured()], ids=["colours", "texture"])
def test_khronoss_validator_finds_nothing_wrong(tmp_path: Path, mesh: Mesh) -> None:
    (path,) = files.save(mesh, tmp_path / "scene.mesh.glb")
    assert [message for message in validated(path) if message["severity"] < 2] == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_parts_are_one_file(tmp_path: Path, suffix: str) -> None:
    parts = [balls.mesh(1), balls.mesh(1, middle=(5, 0, 0)), balls.mesh(1, middle=(0, 5, 0))]
    written = files.save_parts(parts, tmp_path / f"parts{suffix}")
    loaded = files.load(written[0])
    assert len(loaded.faces) == 3 * 80
    pieces = trimesh.Trimesh(loaded.vertices, loaded.faces).split()
    assert sorted(np.round(piece.centroid, 3).tolist() for piece in pieces) == [[0, 0, 0], [0, 5, 0], [5, 0, 0]]
    if suffix == ".mesh.glb":
        made = trimesh.load(written[0])
        assert isinstance(made, trimesh.Scene)
        assert len(made.geometry) == 3
    if suffix == ".obj":
        assert written[0].read_text().count("\no part_") + written[0].read_text().startswith("o part_") == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.obj", b"", "a.obj: "),
        ("a.obj", b"v 1 2\nf 1 2 3\n", "a.obj: "),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 9\nend_header\n1", "a.ply: "),
        ("a.glb", b"glTF" + bytes(40), "a.glb: "),
        ("a.stl", bytes(90), "a.stl: "),
    ],
)
def test_what_is_no_mesh_is_said_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        files.load(tmp_path / name)
    assert "\n" not in str(error.value)


def test_what_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.obj: no such file"):
        files.load(tmp_path / "a.obj")
    with pytest.raises(InputError, match=r"a\.fbx: no .*format has the suffix"):
        files.load(tmp_path / "a.fbx")
    (tmp_path / "folder.obj").mkdir()
    with pytest.raises(InputError, match=r"folder\.obj: cannot be written"):
        files.save(balls.mesh(1), tmp_path / "folder.obj")


def test_why_open3d_cannot_be_loaded_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(InputError, match=r"surfaces need Open3D .*pip install recon3d\[mesh\]"):
        open3d.library()
    (tmp_path / "open3d").mkdir()
    (tmp_path / "open3d" / "__init__.py").write_text("raise ImportError('libusb-1.0.so.0: cannot open it')")
    monkeypatch.delitem(sys.modules, "open3d")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"cannot be loaded here \(libusb-1\.0\.so\.0: .*sudo apt install libusb"):
        open3d.library()
