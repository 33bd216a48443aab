"""From the command to a file with a mesh of a scene."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import psutil
from torch import Tensor

from recon import exporting, memory, opening
from recon.datasets.cameras import similarity_scale
from recon.datasets.errors import InputError
from recon.export import glb, suffix_of
from recon.loading import load_with_state
from recon.meshes import Mesh
from recon.meshing import clean, convex, files, open3d, sights, surface, voxels
from recon.meshing.depth import Sight, Trust
from recon.parts import Parts, Place
from recon.terminal import bars, say

MEMORY = 0.5 * memory.SHARE  # of what is free, for the grid
AXES = {".mesh.glb": glb.AXES}  # formats that store other axes, as those of splats do


def is_mesh(out: Path) -> bool:
    """Whether the name of a file ends as those of meshes do."""
    return any(out.name.lower().endswith(suffix) for suffix in files.SAVERS)


def refuse(wishes: surface.Wishes, collision: bool, out: Path) -> None:
    """`InputError` where something is wished for that only meshes have, and `out` is none."""
    usual = surface.Wishes()
    given = [each.name for each in fields(wishes) if getattr(wishes, each.name) != getattr(usual, each.name)]
    for name in [*given, *(["collision"] if collision else [])]:
        raise InputError(f"--{name}: is for meshes, {', '.join(sorted(files.SAVERS))}; not for {out.name}")


def export_to(
    source: Path,
    out: Path,
    place: Place | None = None,
    parts: Parts | None = None,
    wishes: surface.Wishes | None = None,
    *,
    collision: bool = False,
) -> None:
    """Write a mesh of what `source` holds (a run, a checkpoint, a splat file) in the format that `out` ends with.

    It lies where the splats of the same export do.
    """
    place, parts, wishes = place or Place(), parts or Parts(), wishes or surface.Wishes()
    kind = suffix_of(out, files.SAVERS)
    open3d.library()
    model, source_from_world, state = load_with_state(source)
    file_from_world = exporting.file_frame(source, source_from_world, place)
    capture = exporting.capture_of(source, state)
    if parts != Parts():
        model = exporting.kept(model, file_from_world, parts).transformed(file_from_world.inverse())
    looks = sights.around(*model.bulk()) if capture is None else sights.of_views(capture[1].views)
    background = (0.0, 0.0, 0.0) if state is None else opening.background_of(state)
    with bars() as shown:
        began = time.perf_counter()
        maps = surface.depth_maps(model, looks, background, Trust(), shown)
        _say_depth(looks, time.perf_counter() - began)
        scale = float(similarity_scale(file_from_world))
        grid = voxels.grid(maps, None if wishes.voxel is None else wishes.voxel / scale, _free())
        _say_grid(grid, scale)
        mesh = surface.triangulated(maps, grid, wishes.method, shown)
        mesh = surface.cleaned(mesh, [sight.camera for sight in looks], grid.voxel, wishes, shown)
        mesh = moved(mesh, file_from_world)
        if parts.crop is not None:
            mesh = clean.inside_box(mesh, parts.crop[:3], parts.crop[3:])
        if kind in AXES and not place.is_turned_up:
            mesh = replace(mesh, vertices=mesh.vertices * AXES[kind])
        _say_written(files.save(mesh, out), mesh, kind)
        if collision:
            shown("Convex parts", 0, 1)
            pieces = convex.parts(mesh)
            (beside, *_) = files.save_parts(pieces, convex.path_beside(out))
            say(f"Wrote {len(pieces)} convex parts: {beside} ({beside.stat().st_size / 1e6:.1f} MB)")


def moved(mesh: Mesh, target_from_world: Tensor) -> Mesh:
    """The same mesh after a similarity [4,4] of its world."""
    matrix = target_from_world.double().numpy()
    return replace(mesh, vertices=mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3])


def _free() -> int:
    """Bytes that a grid may take."""
    return int(MEMORY * psutil.virtual_memory().available)


def _say_depth(looks: Sequence[Sight], seconds: float) -> None:
    camera = looks[0].camera
    pixels = sum(sight.camera.width * sight.camera.height for sight in looks)
    say(
        f"{len(looks)} depth maps, {camera.width}x{camera.height}, in {seconds:.1f} s"
        f" ({len(looks) / max(seconds, 1e-9):.1f} a second), {pixels * 7 / 1e9:.2f} GB"
    )


def _say_grid(grid: voxels.Grid, scale: float) -> None:
    text = f"Voxels of {grid.voxel * scale:.4g}, {grid.bytes / 1e9:.2f} GB for their grid"
    if grid.voxel > grid.wanted:
        text += f"; those of {grid.wanted * scale:.4g} do not fit into the memory that is free"
    say(text)


def _say_written(written: Sequence[Path], mesh: Mesh, kind: str) -> None:
    size = sum(path.stat().st_size for path in written)
    names = " ".join(map(str, written))
    say(f"Wrote {len(mesh.vertices):,} vertices, {len(mesh.faces):,} triangles: {names} ({size / 1e6:.1f} MB)")
    if kind in files.LOSSES:
        say(f"Lost in {kind}: {files.LOSSES[kind]}.")
