"""Splats as points: what becomes of each, and that other programs' readers find it in the files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import tiny
from recon import clouds, exporting, sh
from recon.datasets.errors import InputError
from recon.export import export
from recon.gaussians import Gaussians
from recon.parts import Parts, Place

Table = tuple[NDArray, NDArray, NDArray]  # positions, colours 0..1, normals


def read_ply(path: Path) -> Table:
    import trimesh

    cloud = trimesh.load(path)
    assert isinstance(cloud, trimesh.PointCloud)
    rows = cloud.metadata["_ply_raw"]["vertex"]["data"]
    normals = np.stack([rows[name] for name in ("nx", "ny", "nz")], axis=1).reshape(-1, 3)
    return cloud.vertices, cloud.colors[:, :3] / 255, normals


def read_las(path: Path) -> Table:
    laspy = pytest.importorskip("laspy")
    cloud = laspy.read(path)
    assert (str(cloud.header.version), cloud.header.point_format.id) == ("1.4", 7)
    columns = [np.stack([cloud[n] for n in names], axis=1) for names in (("red", "green", "blue"), clouds.las.NORMALS)]
    return np.asarray(cloud.xyz), columns[0] / 65535, columns[1]


def read_pcd(path: Path) -> Table:
    """By the header alone, as the format's description has it."""
    data = path.read_bytes()
    text, _, body = data.partition(b"DATA binary\n")
    header = dict(line.split(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    assert header["VERSION"] == "0.7"
    assert (header["WIDTH"], header["HEIGHT"], header["COUNT"]) == (header["POINTS"], "1", "1 1 1 1 1 1 1")
    kinds = [
        f"<{kind.lower()}{size}" for kind, size in zip(header["TYPE"].split(), header["SIZE"].split(), strict=True)
    ]
    rows = np.frombuffer(body, np.dtype(list(zip(header["FIELDS"].split(), kinds, strict=True))))
    assert len(rows) == int(header["POINTS"])
    words = np.ascontiguousarray(rows["rgb"]).view("<u4")
    colours = np.stack([words >> shift & 255 for shift in (16, 8, 0)], axis=1) / 255
    assert (words >> 24 == 0).all()
    return (
        np.stack([rows[axis] for axis in "xyz"], axis=1),
        colours,
        np.stack([rows[f"normal_{axis}"] for axis in "xyz"], axis=1),
    )


READERS = {".points.ply": read_ply, ".pcd": read_pcd, ".las": read_las, ".laz": read_las}


def opaque(count: int) -> Gaussians:
    scene = tiny.gaussians(count, degree=1)
    with torch.no_grad():
        scene.logit_opacities.abs_().add_(0.1)
    return scene


@pytest.mark.parametrize("suffix", sorted(clouds.SAVERS))
def test_other_readers_find_places_colours_and_normals(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = opaque(200)
    with torch.no_grad():
        scene.means[7] = torch.tensor([900.0, -40.0, 3.0])  # a stray takes nothing from the others' precision
    export(scene, tmp_path / "a.ply")
    out = tmp_path / f"b{suffix}"
    exporting.export_to(tmp_path / "a.ply", out)
    xyz, rgb, normals = READERS[suffix](out)
    assert np.allclose(xyz, scene.means.detach().numpy(), atol=1e-6, rtol=0)
    assert np.allclose(rgb, sh.to_rgb(scene.sh0[:, 0]).clamp(0, 1).detach().numpy(), atol=0.5 / 255 + 1e-6)
    assert np.allclose(normals, scene.normals().numpy(), atol=1e-6)
    said = " ".join(capsys.readouterr().out.split())
    assert f"Wrote 200 points: {out} (" in said
    assert f"{out.stat().st_size / 200:.1f} bytes each)" in said
    assert f"Lost in {suffix}: {clouds.LOSS}." in said
    assert "Normals may point either way" in said


def test_laz_is_smaller_than_las(tmp_path: Path) -> None:
    pytest.importorskip("laspy")
    points, normals = clouds.points_of(opaque(3000))
    for suffix in (".las", ".laz"):
        clouds.save(points, normals, tmp_path / f"a{suffix}", suffix)
    assert (tmp_path / "a.laz").stat().st_size < 0.8 * (tmp_path / "a.las").stat().st_size


def test_one_point_is_a_cloud_as_well(tmp_path: Path) -> None:
    points, normals = clouds.points_of(opaque(1))
    for suffix, read in READERS.items():
        clouds.save(points, normals, tmp_path / f"a{suffix}", suffix)
        assert np.allclose(read(tmp_path / f"a{suffix}")[0], points.xyz.numpy(), atol=1e-6)


def test_faint_ones_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    scene = tiny.gaussians(100, degree=0)
    export(scene, tmp_path / "a.ply")
    for parts, kept in (
        (None, scene.opacities >= clouds.MIN_OPACITY),
        (Parts(min_opacity=0.0), torch.ones(100, dtype=torch.bool)),
        (Parts(min_opacity=0.8), scene.opacities >= 0.8),
    ):
        exporting.export_to(tmp_path / "a.ply", tmp_path / "b.pcd", None, parts)
        assert np.array_equal(read_pcd(tmp_path / "b.pcd")[0], scene.means[kept].detach().numpy())
    exporting.export_to(tmp_path / "a.ply", tmp_path / "b.pcd", None, Parts(max_count=10))
    assert len(read_pcd(tmp_path / "b.pcd")[0]) == 10


def test_points_lie_in_the_frame_that_is_chosen(tmp_path: Path) -> None:
    scene = opaque(30)
    export(scene, tmp_path / "a.ply")
    exporting.export_to(tmp_path / "a.ply", tmp_path / "b.pcd", Place("z-up", translate=(0, 0, 5)))
    x, y, z = scene.means.detach().numpy().T
    xyz, _, normals = read_pcd(tmp_path / "b.pcd")
    assert np.allclose(xyz, np.stack([x, z, 5 - y], axis=1), atol=1e-6)
    nx, ny, nz = scene.normals().numpy().T
    turned = np.stack([nx, nz, -ny], axis=1)
    assert np.allclose(np.abs((turned * normals).sum(axis=1)), 1, atol=1e-5)


def test_normals_point_to_the_side_of_the_nearest_cameras() -> None:
    """A floor that is seen from above, and far away something else from below."""
    scene = opaque(40)
    with torch.no_grad():
        scene.means[:, 2] = 0.0
        scene.means[20:, 0] += 100.0
        scene.quats[:] = torch.tensor([1.0, 0.0, 0.0, 0.0])
        scene.quats[::2] = torch.tensor([0.0, 1.0, 0.0, 0.0])  # upside down
        scene.log_scales[:] = torch.tensor([-1.0, -1.0, -5.0])
    eyes = torch.tensor([[x, y, 2.0] for x in (-1.0, 1.0) for y in (-1.0, 1.0)])
    both = torch.cat([eyes, torch.tensor([100.0, 0.0, 0.0]) + eyes * torch.tensor([1.0, 1.0, -1.0])])
    _, normals = clouds.points_of(scene, both)
    assert normals[:20, 2].min() > 0.99
    assert normals[20:, 2].max() < -0.99
    _, alone = clouds.points_of(scene, eyes[:1])
    assert alone[:, 2].min() > 0.99


@pytest.mark.parametrize("missing", ["laspy", "lazrs"])
def test_what_is_to_be_installed_is_said(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    points, normals = clouds.points_of(opaque(3))
    with pytest.raises(InputError, match=r"b\.laz: needs laspy and lazrs: pip install laspy\[lazrs\]"):
        clouds.save(points, normals, tmp_path / "b.laz", ".laz")
    assert not (tmp_path / "b.laz").exists()


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    points, normals = clouds.points_of(opaque(3))
    with pytest.raises(InputError, match="cannot be written"):
        clouds.save(points, normals, tmp_path / "file" / "x.pcd", ".pcd")
