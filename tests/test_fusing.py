"""Depth maps become the surface that they show."""

from __future__ import annotations

import numpy as np
import pytest

import balls
from recon.datasets.errors import InputError
from recon.meshes import Mesh
from recon.meshing import closed, colours, points, poisson, surface, tsdf, voxels
from recon.meshing.depth import DepthMap

pytest.importorskip("open3d", reason="Open3D cannot be loaded", exc_type=ImportError)

VOXEL = 0.06


def maps() -> list[DepthMap]:
    return [balls.seen_by(sight.camera) for sight in balls.looks()]


def fused(found: list[DepthMap], voxel: float = VOXEL) -> Mesh:
    return tsdf.fuse(found, voxel, voxels.grid(found, voxel, 1 << 30).blocks)


def test_a_ball_is_a_ball() -> None:
    mesh = fused(maps())
    assert np.abs(balls.radii(mesh) - 1).max() < 0.5 * VOXEL
    assert np.abs(balls.radii(mesh) - 1).mean() < 0.15 * VOXEL
    assert np.abs(mesh.vertices.mean(axis=0)).max() < 0.1 * VOXEL  # no half voxel, no half pixel
    assert balls.outwards(mesh) == 1
    assert closed.is_watertight(mesh)


def test_colours_are_those_of_the_surface_alone() -> None:
    """At no rim is there anything of the black behind the ball; what no camera shows has the colour beside it."""
    found = maps()
    mesh = colours.coloured(fused(found), found, 2 * VOXEL)
    assert mesh.colors is not None
    assert np.abs(mesh.colors - balls.colours(mesh.vertices)).max() < 0.08
    one = colours.coloured(fused(found), found[:1], 2 * VOXEL)
    assert one.colors is not None
    assert one.colors.min() > 0.05


def test_what_others_see_through_does_not_stay() -> None:
    """A crumb that one map has in the air, where all others see the ball or nothing behind it."""
    found = maps()
    found[0].depth[40:50, 40:50] -= 0.5
    assert balls.radii(fused(found)).max() < 1 + 2 * VOXEL


def test_blocks_are_where_surfaces_are() -> None:
    found = maps()
    blocks = voxels.grid(found, VOXEL, 1 << 30).blocks
    middles = np.linalg.norm((blocks + 0.5) * tsdf.BLOCK * VOXEL, axis=1)
    reach = tsdf.BAND * VOXEL * 2 + np.sqrt(3) * tsdf.BLOCK * VOXEL
    assert np.abs(middles - 1).max() < reach
    # Each voxel within a band of the ball lies in one.
    direction = np.random.default_rng(0).normal(size=(500, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    listed = {tuple(block) for block in blocks}
    for radius in (1 - 0.9 * tsdf.BAND * VOXEL, 1.0, 1 + 0.9 * tsdf.BAND * VOXEL):
        assert {tuple(place) for place in np.floor(radius * direction / (tsdf.BLOCK * VOXEL)).astype(int)} <= listed


def test_the_voxel_suits_the_pictures_and_the_memory() -> None:
    found = maps()
    wanted = voxels.PIXELS * voxels.usual_spacing(found)
    free = voxels.grid(found, None, 1 << 30)
    assert free.voxel == free.wanted == wanted
    limit = free.bytes // 3
    held = voxels.grid(found, None, limit)
    assert held.bytes <= limit
    assert held.wanted == wanted < held.voxel < 4 * wanted
    assert voxels.grid(found, 1e-7, limit).bytes <= limit  # and is found without listing them all
    with pytest.raises(InputError, match=r"does not fit into the 0\.000 GB of memory"):
        voxels.grid(found, None, 1000)
    nothing = [DepthMap(each.camera, np.zeros_like(each.depth), each.rgb) for each in found]
    with pytest.raises(InputError, match="no camera sees a surface"):
        voxels.grid(nothing, None, limit)


def test_poisson_makes_the_same_ball() -> None:
    xyz, normals, colors = points.oriented(maps(), VOXEL)
    assert np.abs(np.linalg.norm(xyz, axis=1) - 1).max() < 0.2 * VOXEL
    assert ((normals * xyz).sum(axis=1) > 0.8).mean() > 0.99
    mesh = poisson.surface(xyz, normals, colors, VOXEL, trim=False)
    assert closed.is_watertight(mesh)
    assert balls.outwards(mesh) == 1
    assert np.abs(balls.radii(mesh) - 1).max() < 0.5 * VOXEL
    assert mesh.colors is not None
    assert np.abs(mesh.colors - balls.colours(mesh.vertices)).max() < 0.15


def test_poisson_is_trimmed_where_nothing_was_seen() -> None:
    """Half of the ball is not there: it is closed by a guess, and some of that is cut off."""
    xyz, normals, colors = points.oriented(maps(), VOXEL)
    half = xyz[:, 2] > 0
    whole, trimmed = (
        poisson.surface(xyz[half], normals[half], colors[half], VOXEL, trim=trim) for trim in (False, True)
    )
    assert whole.vertices[:, 2].min() < -0.05
    assert len(trimmed.faces) < len(whole.faces)
    assert not closed.is_watertight(trimmed)


@pytest.mark.parametrize("method", ["tsdf", "poisson"])
def test_from_maps_to_a_clean_surface(method: surface.Method) -> None:
    found, told = maps(), []
    grid = voxels.grid(found, VOXEL, 1 << 30)
    mesh = surface.triangulated(found, grid, method, lambda *what: told.append(what[0]))
    mesh = surface.cleaned(
        mesh,
        [each.camera for each in found],
        grid.voxel,
        surface.Wishes(triangles=500, watertight=True),
        lambda *what: told.append(what[0]),
    )
    assert len(mesh.faces) <= 500
    assert closed.is_watertight(mesh)
    assert np.abs(balls.radii(mesh) - 1).max() < VOXEL
    assert {"Cleaning", "Closing"} <= set(told)


def test_a_scene_that_nobody_sees_the_same_is_said() -> None:
    found = maps()
    nothing = [DepthMap(each.camera, np.where(each.known, 0, each.depth), each.rgb) for each in found]
    grid = voxels.grid(found, VOXEL, 1 << 30)
    with pytest.raises(InputError, match="agree on no surface"):
        surface.triangulated(nothing, grid, "tsdf", lambda *what: None)
