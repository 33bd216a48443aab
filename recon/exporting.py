"""From the command to a file of splats or points for other programs, and what is lost in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from recon import clouds, export, held_out, lost, opening
from recon.datasets.cameras import Cameras, intrinsics, look_at, similarity_scale
from recon.datasets.errors import InputError
from recon.datasets.scene import Points, Scene
from recon.distilling import load_splats
from recon.gaussians import Gaussians
from recon.loading import is_run, load_state, trained_scene
from recon.lost import Loss
from recon.meshing import files, sights, surface, voxels
from recon.meshing.depth import Trust
from recon.meshing.points import oriented
from recon.parts import Parts, Place, chosen
from recon.terminal import bars, say
from recon.train import TrainState

Capture = tuple[TrainState, Scene]

VIEWS = 6  # around splats without photos
PICTURE = (400, 300)  # px, of these
FACING = 2.5  # the distance they are taken from, in radii of most splats
FILES_UP = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)  # where no photos tell: as in COLMAP's manner


def export_to(
    source: Path,
    out: Path,
    place: Place | None = None,
    parts: Parts | None = None,
    *,
    distil_steps: int | None = None,
) -> None:
    """Write what `source` holds (a run, a checkpoint, a splat file) in the format that the name of `out` ends with.

    Of formats that lose something, what, and how much of it shows. Of a radiance field splats are made first.

    Args:
        distil_steps: see `distilling.as_splats`.
    """
    place, parts = place or Place(), parts or Parts()
    kind = export.suffix_of(out, [*export.SAVERS, *clouds.SAVERS, *files.SAVERS])
    if kind in clouds.SAVERS and is_run(source):
        field = load_state(source)
        if not isinstance(field.model, Gaussians):
            _write_points_of_field(source, field, out, kind, place, parts)
            return
    model, source_from_world, state = load_splats(source, distil_steps)
    file_from_world = file_frame(source, source_from_world, place)
    model = kept(model, file_from_world, parts if kind in export.SAVERS else _of_points(parts))
    if kind in clouds.SAVERS:
        _write_points(capture_of(source, state), out, kind, model, file_from_world)
        return
    if place.is_turned_up and kind in export.AXES:
        flip = torch.diag(torch.tensor([*export.AXES[kind], 1], dtype=torch.float64))
        model, file_from_world = model.transformed(flip), flip @ file_from_world
    export.export(model, out, z_up=place.frame == "z-up")
    size = export.bytes_of(out)
    say(f"Wrote {len(model):,} Gaussians: {out} ({_sizes(size, len(model))})")
    if model.antialiased and kind not in export.SAY_ANTIALIASED:
        say(f"{kind} does not say that this scene was trained antialiased: tell so to what shows it.")
    if kind in export.LOSSES and len(model):
        say(f"Lost in {kind}: {export.LOSSES[kind]}.")
        say(str(loss(capture_of(source, state), model, export.load(out), file_from_world)))


def file_frame(source: Path, source_from_world: Tensor, place: Place) -> Tensor:
    """[4,4] from the world of what `source` holds to the file; says what is taken for up where nothing tells."""
    up = source_from_world[:3, 2]  # the world's +z
    if export.is_splats(source):
        up = FILES_UP
        if place.is_turned_up:
            say(f"{source} does not say which way is up: its -y is taken for it, as in COLMAP's manner.")
    return place.file_from_world(source_from_world, up)


def kept(model: Gaussians, file_from_world: Tensor, parts: Parts) -> Gaussians:
    """What is left of a model, in the coordinates of the file; bit for bit the same where nothing is asked for."""
    if not torch.equal(file_from_world, torch.eye(4, dtype=torch.float64)):
        model = model.transformed(file_from_world)
    return model if parts == Parts() else chosen(model, parts)


def for_page(source: Path, place: Place, parts: Parts) -> Callable[[Gaussians, Tensor], Gaussians]:
    """What `viewing.share` is to leave of a scene, which stays in its world: a page has no coordinates."""

    def keep(model: Gaussians, source_from_world: Tensor) -> Gaussians:
        if parts == Parts():
            return model
        file_from_world = file_frame(source, source_from_world, place)
        return kept(model, file_from_world, parts).transformed(file_from_world.inverse())

    return keep


def _of_points(parts: Parts) -> Parts:
    return replace(parts, min_opacity=clouds.MIN_OPACITY) if parts.min_opacity is None else parts


def _write_points(capture: Capture | None, out: Path, kind: str, model: Gaussians, file_from_world: Tensor) -> None:
    """Write splats, which are in the coordinates of the file, as points."""
    eyes = None
    if capture is not None:
        positions = [view.camera.transformed(file_from_world).positions for view in capture[1].views]
        eyes = torch.cat(positions)
    points, normals = clouds.points_of(model, eyes)
    _save_points(points, normals, out, kind, clouds.LOSS)
    if eyes is None:
        say("Normals may point either way: there are no photos to turn them to.")


def _write_points_of_field(source: Path, field: TrainState, out: Path, kind: str, place: Place, parts: Parts) -> None:
    """Write what the photos' cameras see of a radiance field, where several of them agree, as points."""
    if parts != Parts(crop=parts.crop):
        raise InputError(
            f"{source}: of a radiance field, points are seen surfaces; of the options for parts of splats,"
            " only --crop is for them"
        )
    file_from_world = file_frame(source, field.source_from_world, place)
    scene = trained_scene(source, field, torch.device("cpu"))
    with bars() as shown:
        maps = surface.depth_maps(
            field.model, sights.of_views(scene.views), opening.background_of(field), Trust(), shown
        )
    xyz, normals, rgb = (torch.from_numpy(each) for each in oriented(maps, voxels.PIXELS * voxels.usual_spacing(maps)))
    matrix, scale = file_from_world[:3, :3], similarity_scale(file_from_world)
    points = Points(xyz @ matrix.T + file_from_world[:3, 3], rgb)
    normals = normals @ matrix.T / scale
    if parts.crop is not None:
        low, high = torch.tensor(parts.crop, dtype=torch.float64).reshape(2, 3)
        inside = ((points.xyz >= low) & (points.xyz <= high)).all(dim=-1)
        points, normals = points.select(inside), normals[inside]
    _save_points(points, normals, out, kind, clouds.LOSS_OF_FIELD)


def _save_points(points: Points, normals: Tensor, out: Path, kind: str, loss: str) -> None:
    clouds.save(points, normals, out, kind)
    say(f"Wrote {len(points):,} points: {out} ({_sizes(out.stat().st_size, len(points))})")
    say(f"Lost in {kind}: {loss}.")


def _sizes(size: int, count: int) -> str:
    return f"{size / 1e6:.1f} MB, {size / max(1, count):.1f} bytes each"


@torch.no_grad()
def loss(capture: Capture | None, model: Gaussians, written: Gaussians, file_from_world: Tensor) -> Loss:
    """What it costs to write `model`, which was trained on `capture`, and to read it again as `written`.

    Both are in the coordinates of the file, which `file_from_world` [4,4] leads to from those of the photos' cameras.
    """
    if capture is None or not capture[1].test:
        return Loss(lost.difference(model, written, around(model)))
    state, scene = capture
    numbers = held_out.some_of(scene.test, lost.MOST_VIEWS)
    shots = None if state.exposure is None else state.exposure.predicted(scene.views, numbers)
    world_from_file = file_from_world.inverse()
    before, after = (each.transformed(world_from_file) for each in (model, written))
    views = [scene.views[number] for number in numbers]
    return lost.between(before, after, views, opening.background_of(state), shots)


def capture_of(source: Path, state: TrainState | None) -> Capture | None:
    """A state that was loaded from `source`, and its capture; None where there is nothing of the kind."""
    if state is None:
        return None
    try:
        return state, trained_scene(source, state, torch.device("cpu"))
    except InputError:  # a checkpoint alone, or a capture that is gone: the export itself needs neither
        return None


def around(model: Gaussians, views: int = VIEWS) -> Cameras:
    """Cameras around splats that come without any, looking at most of them from a little above (-y, as in COLMAP)."""
    middle, radius = model.bulk()
    radius = radius or float(model.scales.max()) or 1.0
    angles = torch.arange(views, dtype=torch.float64) * (2 * math.pi / views)
    offsets = torch.stack([angles.cos(), torch.full_like(angles, -0.4), angles.sin()], dim=-1)
    target = middle.expand(views, 3)
    width, height = PICTURE
    K = intrinsics(width, width, width / 2, height / 2)
    c2w = look_at(target + FACING * radius * offsets, target, FILES_UP)
    return Cameras.from_c2w(c2w, K.repeat(views, 1, 1), width, height)
