"""From the command to a file with a mesh: where it lies, what is said, what is refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import balls
from recon import cli, export, surfacing
from recon.datasets.errors import InputError
from recon.meshes import Mesh
from recon.meshing import closed, files, sights
from recon.meshing.surface import Wishes
from recon.parts import Parts, Place


@pytest.fixture
def splats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a ball of splats, seen by few and small pictures."""
    pytest.importorskip("open3d", reason="Open3D cannot be loaded", exc_type=ImportError)
    monkeypatch.setattr(sights, "AROUND", 12)
    monkeypatch.setattr(sights, "PICTURE", 64)
    export.export(balls.splats(), tmp_path / "ball.ply")
    return tmp_path / "ball.ply"


def made(source: Path, name: str = "out.mesh.ply", **options: Any) -> Mesh:
    out = source.parent / name
    surfacing.export_to(source, out, **options)
    return files.load(out)


def test_splats_of_a_ball_become_a_ball(splats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mesh = made(splats)
    assert np.abs(balls.radii(mesh) - 1).max() < 0.06
    assert np.abs(balls.radii(mesh) - 1).mean() < 0.02
    assert balls.outwards(mesh) > 0.999
    assert mesh.colors is not None
    assert np.abs(mesh.colors - balls.colours(mesh.vertices)).mean() < 0.03
    said = capsys.readouterr().out
    assert re.search(r"12 depth maps, 64x64, in [\d.]+ s \([\d.]+ a second\), 0\.00 GB", said)
    assert re.search(r"Voxels of 0\.0\d+, 0\.\d\d GB for their grid\n", said)
    size = (splats.parent / "out.mesh.ply").stat().st_size
    written = f"Wrote {len(mesh.vertices):,} vertices, {len(mesh.faces):,} triangles: {splats.parent / 'out.mesh.ply'}"
    assert f"{written} ({size / 1e6:.1f} MB)" in said


@pytest.mark.parametrize(("suffix", "frame"), [(".obj", "capture"), (".mesh.glb", "capture"), (".mesh.glb", "y-up")])
def test_a_mesh_lies_where_the_splats_of_the_same_export_lie(splats: Path, suffix: str, frame: Any) -> None:
    """In the bytes of the files, which other programs see."""
    place = Place(frame, scale=2.0, rotate=(10, 20, 30), translate=(1, 2, 3))
    mesh = made(splats, f"out{suffix}", place=place)
    arguments: dict[str, Any] = {"frame": frame, "scale": 2.0, "rotate": (10, 20, 30), "translate": (1, 2, 3)}
    name = "splats.glb" if suffix == ".mesh.glb" else "splats.ply"
    cli.export(splats, splats.parent / name, **arguments)
    means = export.load(splats.parent / name).means.detach().numpy()
    if suffix == ".mesh.glb":
        means = means * (-1, -1, 1)  # which our reader undoes
    middle = means.mean(axis=0)
    assert np.abs(mesh.vertices.mean(axis=0) - middle).max() < 0.03
    assert np.abs(balls.radii(mesh, tuple(middle)) / 2 - 1).max() < 0.06
    if mesh.colors is not None:  # each colour is at one place of the ball alone, so this is its turn, too
        from scipy.spatial import cKDTree

        away = cKDTree(means).query(mesh.vertices)[1]
        there = balls.colours(balls.splats().means.detach().numpy()[away])
        assert np.abs(there - mesh.colors).mean() < 0.03


def test_parts_and_a_box_are_of_the_file(splats: Path) -> None:
    mesh = made(splats, place=Place(scale=10.0), parts=Parts(crop=(-20, -20, 0, 20, 20, 20)))
    assert mesh.vertices[:, 2].min() >= 0
    assert mesh.vertices[:, 2].max() == pytest.approx(10, abs=0.5)
    with pytest.raises(InputError, match="nothing of 3,000 Gaussians is left"):
        made(splats, parts=Parts(crop=(5, 5, 5, 6, 6, 6)))


def test_a_voxel_is_in_units_of_the_file(splats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(splats, place=Place(scale=10.0), wishes=Wishes(voxel=1.5))
    assert "Voxels of 1.5, " in capsys.readouterr().out


def test_what_the_memory_does_not_allow_is_said(
    splats: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surfacing, "_free", lambda: 3_000_000)
    made(splats, wishes=Wishes(voxel=0.02))
    assert "those of 0.02 do not fit into the memory that is free" in capsys.readouterr().out


def test_by_the_command_closed_and_with_convex_parts(splats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("coacd", reason="CoACD is not installed")
    out = splats.parent / "scene.obj"
    cli.export(splats, out, watertight=True, triangles=400, collision=True)
    mesh = files.load(out)
    assert len(mesh.faces) <= 400
    assert closed.is_watertight(mesh)
    parts = files.load(splats.parent / "scene.collision.obj")
    assert np.abs(balls.radii(parts) - 1).max() < 0.15
    assert re.search(r"Wrote \d+ convex parts: .*scene\.collision\.obj", capsys.readouterr().out)


def test_colours_that_are_lost_are_said(splats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert made(splats, "out.stl").colors is None
    assert "Lost in .stl: colours." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"voxel": 0.0}, "--voxel 0: must be more than 0"),
        ({"triangles": 3}, "--triangles 3: must be at least 4"),
        ({"components": 0}, "--components 0: must be at least 1"),
        ({"smooth": -1}, "--smooth -1: not between 0 and 1000"),
    ],
)
def test_what_cannot_be_is_said_by_the_name_of_the_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Wishes(**options)


def test_wishes_for_a_mesh_are_of_meshes_alone(tmp_path: Path) -> None:
    export.export(balls.splats(20), tmp_path / "a.ply")
    with pytest.raises(InputError, match=r"--watertight: is for meshes, \.mesh\.glb, .*; not for b\.spz"):
        cli.export(tmp_path / "a.ply", tmp_path / "b.spz", watertight=True)
    with pytest.raises(InputError, match=r"--triangles: is for meshes"):
        cli.export(tmp_path / "a.ply", tmp_path / "b.html", triangles=10)
    assert not (tmp_path / "b.spz").exists()


def test_without_open3d_a_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export.export(balls.splats(20), tmp_path / "a.ply")
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(InputError, match=r"install it with: pip install recon3d\[mesh\]"):
        cli.export(tmp_path / "a.ply", tmp_path / "b.obj")


def test_a_scene_of_any_kind_is_seen_where_its_photos_were_taken() -> None:
    with pytest.raises(InputError, match="runs/ball: its capture is not there"):
        surfacing.sights_of(Path("runs/ball"), balls.Ball(), None)


def test_a_texture_needs_photos_and_room(splats: Path) -> None:
    with pytest.raises(InputError, match=r"--texture: \.obj and \.mesh\.glb have room for one; a\.stl has not"):
        cli.export(splats, splats.parent / "a.stl", texture=True)
    with pytest.raises(InputError, match=r"ball\.ply: has no photos to make a texture of"):
        cli.export(splats, splats.parent / "a.obj", texture=True)


def test_a_scene_without_a_surface_is_said(splats: Path) -> None:
    faint = balls.splats(200).to("cpu")
    with torch.no_grad():
        faint.logit_opacities.fill_(-4.0)
    export.export(faint, splats.parent / "faint.ply")
    with pytest.raises(InputError, match="no camera sees a surface in this scene"):
        surfacing.export_to(splats.parent / "faint.ply", splats.parent / "out.obj")
    assert not (splats.parent / "out.obj").exists()
