"""The benchmark of textures: what it counts as a seam, and that its mesh is rough by as much as it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sources import SCRIPTS

if not SCRIPTS:
    pytest.skip("the scripts are not beside the tests", allow_module_level=True)
pytest.importorskip("xatlas", reason="xatlas is not installed")

import bench_texture
from recon.datasets.errors import InputError
from recon.meshes import Mesh
from recon.meshing import atlas, bake

SIZE = 256


def ball() -> Mesh:
    import trimesh

    found = trimesh.creation.icosphere(subdivisions=3)
    return Mesh(np.array(found.vertices), np.array(found.faces))


def test_seams_are_where_charts_do_not_meet_in_colour() -> None:
    mesh = ball()
    uvs = atlas.unwrapped(mesh, SIZE)
    texels = atlas.texels(uvs, SIZE)
    places = np.einsum("tk,tkc->tc", texels.weights, mesh.vertices[mesh.faces[texels.face]])
    smooth = 0.5 + 0.2 * np.sin(places)
    sides = np.where(uvs[texels.face, 0, :1] > 0.5, smooth, smooth + 0.1)  # half of the charts are brighter
    shares = [
        bench_texture.seams(replace(mesh, uvs=uvs, texture=bake.painted(texels, colours, SIZE)))
        for colours in (smooth, sides)
    ]
    assert shares[0] < 0.01
    assert shares[1] > 0.2


def test_a_rough_mesh_is_off_by_as_much_as_is_said() -> None:
    pytest.importorskip("open3d", exc_type=ImportError)
    found = bench_texture.rough(ball())
    assert len(found.faces) == pytest.approx(bench_texture.ROUGH_FACES * 1280, rel=0.02)
    radii = np.linalg.norm(found.vertices, axis=1)
    assert 0.3 < (radii - 1).std() / (bench_texture.ROUGHNESS * np.sqrt(12)) < 3


def test_exposures_of_its_photos_have_the_mean_one(monkeypatch: pytest.MonkeyPatch) -> None:
    white = replace(ball(), colors=np.full((len(ball().vertices), 3), 0.5, np.float32))
    views = bench_texture.photos(white, bench_texture.around(12, 32))
    logs = np.log(np.stack([view.load().numpy()[16, 16, :3] / 0.5 for view in views]))
    assert np.abs(logs.mean(axis=0)).max() < 0.01
    assert logs.std(axis=0).min() > 0.05
    monkeypatch.delenv("RECON_DATA", raising=False)
    with pytest.raises(InputError, match="RECON_DATA is not set"):
        bench_texture.spot()
