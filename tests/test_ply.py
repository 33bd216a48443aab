"""The splat .ply: what is written, and what readers and writers that are not ours make of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.errors import InputError
from recon.datasets.ply import read_vertices
from recon.export import export, load, ply
from recon.raster import reference
from splat_files import STANDARD_FIELDS, assert_same, columns_of, random_gaussians, written_by_gsplat


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_scene_comes_back_bit_for_bit(tmp_path: Path, degree: int, count: int) -> None:
    scene = random_gaussians(count, degree)
    ply.save(scene, tmp_path / "scene.ply")
    assert_same(ply.load(tmp_path / "scene.ply"), scene)


def test_layout_is_that_of_the_authors_files(tmp_path: Path) -> None:
    scene = random_gaussians(5, 3)
    ply.save(scene, tmp_path / "scene.ply")
    data = (tmp_path / "scene.ply").read_bytes()
    header, body = data.split(b"end_header\n", 1)
    expected = ["ply", "format binary_little_endian 1.0", "element vertex 5"]
    expected += [f"property float {name}" for name in STANDARD_FIELDS]
    assert header.decode().splitlines() == expected
    rows = np.frombuffer(body, dtype=[(name, "<f4") for name in STANDARD_FIELDS])
    for name, values in columns_of(scene).items():
        np.testing.assert_array_equal(rows[name], values, err_msg=name)
    for name in ("nx", "ny", "nz"):
        np.testing.assert_array_equal(rows[name], 0)


@pytest.mark.parametrize("degree", [0, 3])
def test_trimesh_reads_the_same_fields(tmp_path: Path, degree: int) -> None:
    trimesh = pytest.importorskip("trimesh")
    scene = random_gaussians(6, degree)
    ply.save(scene, tmp_path / "scene.ply")
    cloud = trimesh.load(tmp_path / "scene.ply", process=False)
    rows = cloud.metadata["_ply_raw"]["vertex"]["data"]
    for name, values in columns_of(scene).items():
        np.testing.assert_array_equal(np.asarray(rows[name]).ravel(), values, err_msg=name)
    np.testing.assert_array_equal(cloud.vertices, scene.means.detach().numpy())


def test_open3d_reads_the_same_fields(tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d", reason="Open3D cannot be loaded", exc_type=ImportError)
    scene = random_gaussians(6, 3)
    ply.save(scene, tmp_path / "scene.ply")
    cloud = open3d.t.io.read_point_cloud(str(tmp_path / "scene.ply"))
    values = scene.state_dict()
    expected = {
        "positions": values["means"],
        "f_dc": values["sh0"][:, 0],
        "opacity": values["logit_opacities"][:, None],
        "f_rest": values["shN"],
        "rot": values["quats"],
    }
    for name, value in expected.items():
        np.testing.assert_array_equal(cloud.point[name].numpy(), value.numpy(), err_msg=name)
    np.testing.assert_allclose(cloud.point["scale"].numpy(), values["log_scales"].exp().numpy(), rtol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_gsplat_writes_the_same_rows(tmp_path: Path, degree: int) -> None:
    scene = random_gaussians(9, degree)
    written = written_by_gsplat(scene, "ply", tmp_path / "theirs.ply")
    assert_same(ply.load(written), scene)
    ply.save(scene, tmp_path / "ours.ply")
    theirs, ours = read_vertices(written), read_vertices(tmp_path / "ours.ply")
    kept = [name for name in ours.dtype.names or () if name not in ("nx", "ny", "nz")]
    assert kept == list(theirs.dtype.names or ())
    packed = np.stack([ours[name] for name in kept], axis=1)
    assert packed.tobytes() == theirs.tobytes()


def test_a_real_file_loads(real_data: Callable[[str], Path]) -> None:
    path = real_data("splats/tiny/test-splat.3-points-from-train.ply")
    scene = load(path)
    rows = np.frombuffer(path.read_bytes().split(b"end_header\n", 1)[1], dtype=[(n, "<f4") for n in STANDARD_FIELDS])
    assert len(scene) == len(rows) == 3
    for name, values in columns_of(scene).items():
        np.testing.assert_array_equal(rows[name], values, err_msg=name)


def test_suffixes_are_known_in_capitals_and_folders_are_made(tmp_path: Path) -> None:
    scene = random_gaussians(2, 1)
    export(scene, str(tmp_path / "new" / "SCENE.PLY"))
    assert_same(load(str(tmp_path / "new" / "SCENE.PLY")), scene)


def test_a_scene_that_is_not_finite_is_not_written_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "scene.ply"
    ply.save(random_gaussians(2, 0), path)
    before = path.read_bytes()
    broken = random_gaussians(3, 0)
    with torch.no_grad():
        broken.log_scales[1, 2] = torch.nan
    with pytest.raises(InputError, match=r"scene\.ply: scale_2 of Gaussian 1 is nan"):
        ply.save(broken, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["scene.ply"]


def test_export_writes_the_captures_own_frame(tmp_path: Path) -> None:
    scene = random_gaussians(5, 3)
    # A quarter turn about z, twice the size, moved: the expectation is by hand.
    source_from_world = torch.tensor(
        [[0.0, -2.0, 0.0, 10.0], [2.0, 0.0, 0.0, 20.0], [0.0, 0.0, 2.0, 30.0], [0.0, 0.0, 0.0, 1.0]],
        dtype=torch.float64,
    )
    export(scene, tmp_path / "scene.ply", source_from_world=source_from_world)
    rows = read_vertices(tmp_path / "scene.ply")
    x, y, z = scene.means.detach().numpy().T
    np.testing.assert_allclose(rows["x"], 10 - 2 * y, rtol=1e-6)
    np.testing.assert_allclose(rows["y"], 20 + 2 * x, rtol=1e-6)
    np.testing.assert_allclose(rows["z"], 30 + 2 * z, rtol=1e-6)
    log_scales = scene.log_scales.detach().numpy()
    np.testing.assert_allclose(rows["scale_1"], log_scales[:, 1] + np.log(2), rtol=1e-5, atol=1e-6)
    w, _, _, k = scene.quats.detach().numpy().T
    np.testing.assert_allclose(rows["rot_0"], (w - k) * np.sqrt(0.5), rtol=1e-5, atol=1e-6)
    # Degree 1 is (-y, z, -x) times red: what pointed along x points along y now, what pointed along y along -x.
    shN = scene.shN.detach().numpy()
    np.testing.assert_allclose(rows["f_rest_0"], shN[:, 2, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rows["f_rest_1"], shN[:, 1, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rows["f_rest_2"], -shN[:, 0, 0], rtol=1e-4, atol=1e-5)


def test_a_scene_on_its_way_through_a_file_looks_the_same(tmp_path: Path) -> None:
    scene = random_gaussians(12, 3)
    viewmat = torch.eye(4)[None].clone()
    viewmat[0, 2, 3] = 5.0
    cameras = Cameras(viewmat, intrinsics(20, 20, 10, 8).float(), 20, 16)
    ply.save(scene, tmp_path / "scene.ply")
    loaded = ply.load(tmp_path / "scene.ply")
    loaded.rasterizer = reference.rasterize
    before, after = scene.render(cameras).rgb, loaded.render(cameras).rgb
    assert before.std() > 0.05
    torch.testing.assert_close(after, before, rtol=0, atol=0)
