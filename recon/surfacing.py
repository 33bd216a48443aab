"""From the command to a file with a mesh of a scene."""

from __future__ import annotations

import time
import typing
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import psutil
from torch import Tensor

from recon import exporting, memory, opening
from recon.datasets.cameras import similarity_scale
from recon.datasets.errors import InputError
from recon.export import glb, suffix_of
from recon.gaussians import Gaussians
from recon.loading import is_run, load_state, load_with_state
from recon.meshes import Mesh
from recon.meshing import bake, clean, convex, files, level, open3d, sights, surface, voxels
from recon.meshing.depth import Sight, Trust
from recon.model import Field, Model
from recon.parts import Parts, Place
from recon.terminal import bars, say
from recon.train import TrainState

MEMORY = 0.5 * memory.SHARE  # of what is free, for the grid
AXES = {".mesh.glb": glb.AXES}  # formats that store other axes, as those of splats do


def is_mesh(out: Path) -> bool:
    """Whether the name of a file ends as those of meshes do."""
    return any(out.name.lower().endswith(suffix) for suffix in files.SAVERS)


def refuse(wishes: surface.Wishes, out: Path, *, collision: bool, texture: bool) -> None:
    """`InputError` where something is wished for that only meshes have, and `out` is none."""
    usual = surface.Wishes()
    given = [each.name for each in fields(wishes) if getattr(wishes, each.name) != getattr(usual, each.name)]
    given += [name for name, wished in (("collision", collision), ("texture", texture)) if wished]
    for name in given[:1]:
        raise InputError(f"--{name}: is for meshes, {', '.join(sorted(files.SAVERS))}; not for {out.name}")


def export_to(
    source: Path,
    out: Path,
    place: Place | None = None,
    parts: Parts | None = None,
    wishes: surface.Wishes | None = None,
    *,
    collision: bool = False,
    texture: int | None = None,
) -> None:
    """Write a mesh of what `source` holds (a run, a checkpoint, a splat file) in the format that `out` ends with.

    It lies where the splats of the same export do.

    Args:
        collision: whether convex parts are written beside it.
        texture: the size of a texture made of the photos, texels each way; None: there are colours at vertices alone.
    """
    place, parts, wishes = place or Place(), parts or Parts(), wishes or surface.Wishes()
    kind = suffix_of(out, files.SAVERS)
    if texture is not None and kind not in files.TEXTURED:
        raise InputError(f"--texture: {' and '.join(files.TEXTURED)} have room for one; {out.name} has not")
    open3d.library()
    model, source_from_world, state = load_any(source)
    file_from_world = exporting.file_frame(source, source_from_world, place)
    density = None if wishes.method != "density" else density_of(source, model)
    capture = exporting.capture_of(source, state)
    if texture is not None and capture is None:
        raise InputError(f"{source}: has no photos to make a texture of")
    if parts != (Parts() if isinstance(model, Gaussians) else Parts(crop=parts.crop)):
        splats = load_with_state(source)[0]
        model = exporting.kept(splats, file_from_world, parts).transformed(file_from_world.inverse())
    looks = sights_of(source, model, capture)
    background = (0.0, 0.0, 0.0) if state is None else opening.background_of(state)
    with bars() as shown:
        began = time.perf_counter()
        maps = surface.depth_maps(model, looks, background, Trust(), shown)
        _say_depth(looks, time.perf_counter() - began)
        scale = float(similarity_scale(file_from_world))
        grid = voxels.grid(maps, None if wishes.voxel is None else wishes.voxel / scale, _free())
        _say_grid(grid, scale)
        if density is None:
            mesh = surface.triangulated(maps, grid, wishes.method, shown)
        else:
            wanted = level.usual_level(density, maps, grid.voxel) if wishes.level is None else wishes.level * scale
            say(f"Surface at a density of {wanted / scale:.4g} a unit")
            mesh = surface.at_level(maps, grid, density, wanted, shown)
        if parts.crop is not None:  # splats in the box reach beyond it
            mesh = clean.rows(mesh, clean.in_box(moved(mesh, file_from_world), parts.crop[:3], parts.crop[3:]))
        mesh = surface.cleaned(mesh, [sight.camera for sight in looks], grid.voxel, wishes, shown)
        if texture is not None and capture is not None:
            mesh = bake.textured(mesh, capture[1].views, texture, shown)
        mesh = moved(mesh, file_from_world)
        if kind in AXES and not place.is_turned_up:
            mesh = replace(mesh, vertices=mesh.vertices * AXES[kind])
        _say_written(files.save(mesh, out), mesh, kind)
        if collision:
            shown("Convex parts", 0, 1)
            pieces = convex.parts(mesh)
            (beside, *_) = files.save_parts(pieces, convex.path_beside(out))
            say(f"Wrote {len(pieces)} convex parts: {beside} ({beside.stat().st_size / 1e6:.1f} MB)")


def load_any(source: Path) -> tuple[Model, Tensor, TrainState | None]:
    """A scene of any kind, [4,4] float64 from its world to the frame of the capture's files, and its training state."""
    if is_run(source):
        state = load_state(source)
        return state.model, state.source_from_world, state
    return load_with_state(source)


def density_of(source: Path, model: Model) -> level.Density:
    """What tells how dense a radiance field is; `InputError` of splats."""
    if isinstance(model, Gaussians):
        raise InputError(f"--method density: is for radiance fields, and {source} holds splats")
    return typing.cast(Field, model).density


def sights_of(source: Path, model: Model, capture: exporting.Capture | None) -> list[Sight]:
    """Where a scene is looked at from: where its photos were taken; of splats without photos, from all around."""
    if capture is not None:
        return sights.of_views(capture[1].views)
    if not isinstance(model, Gaussians):
        raise InputError(f"{source}: its capture is not there, which tells where this scene was seen from")
    return sights.around(*model.bulk())


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
