"""A capture in whichever format, written in another one, for other programs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from recon.datasets import blender, load_scene
from recon.datasets.cameras import similarity_scale
from recon.datasets.centred import centred
from recon.datasets.errors import InputError
from recon.datasets.files import new_folder
from recon.datasets.images import file_of
from recon.datasets.normalize import ScaledDepth
from recon.datasets.point_colours import as_seen
from recon.datasets.scene import Scene, View
from recon.datasets.writing import PLAIN, Writing

FORMATS = ("colmap", "nerfstudio", "blender")


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        scene: as written.
        kept: how many of its photos are files of the capture, byte for byte.
        remarks: what is not in it as it was in the capture, in words.
    """

    scene: Scene
    kept: int
    remarks: tuple[str, ...]


def convert(source: Path, out: Path, format: str, how: Writing = PLAIN, **loading: Any) -> Converted:
    """Read a capture and write it as one of `FORMATS` into the folder `out`, in the coordinates of its own files.

    Cameras are pinholes, as they are loaded: photos with lens distortion are written without it.

    Args:
        how: photos are written.
        loading: see `load_scene`.
    Raises:
        InputError: a capture that cannot be read, `out` is there already, or views that the format has no room for.
    """
    if format not in FORMATS:
        raise InputError(f"{out}: format {format!r} is none of {', '.join(FORMATS)}")
    with new_folder(out) as folder:
        scene = in_source_frame(load_scene(source, **loading))
        scene = replace(scene, views=renamed(scene.views, flat=format == "colmap"))
        remarks = list(_left_out(scene, format))
        if scene.tone is not None:
            scene = replace(scene, points=as_seen(scene.points, scene) if scene.points else None)
            remarks.append("Photos of linear light are written as they are seen through a tone curve, in 8 bits")
        if format == "blender" and not blender.fits(scene):
            scene = centred(scene, f"{out}: Blender's layout has one camera for all")
            camera = scene.views[0].camera
            remarks.insert(
                0,
                f"Photos are cropped and resampled to one centred camera, {camera.width}x{camera.height}:"
                " Blender's layout knows no other",
            )
        importlib.import_module(f"recon.datasets.{format}").save(scene, folder, how)
    readable = (".png",) if format == "blender" else None
    files = [file_of(view) for view in scene.views]
    kept = sum(file is not None and (readable is None or file.suffix.lower() in readable) for file in files)
    return Converted(scene, kept, tuple(remarks))


def in_source_frame(scene: Scene) -> Scene:
    """The scene with the coordinates of the capture's files as its world."""
    to_source = scene.source_from_world.double()
    if torch.equal(to_source, torch.eye(4, dtype=torch.float64)):
        return scene
    scale = float(similarity_scale(to_source))

    def moved(view: View) -> View:
        depth = None if view.depth is None else ScaledDepth(view.depth, scale)
        camera = view.camera.to(dtype=torch.float64).transformed(to_source)
        return replace(view, camera=camera, depth=depth)

    points = scene.points
    if points is not None:
        points = replace(points, xyz=points.xyz.double() @ to_source[:3, :3].T + to_source[:3, 3])
    return replace(
        scene,
        views=tuple(moved(view) for view in scene.views),
        points=points,
        source_from_world=torch.eye(4, dtype=torch.float64),
        up=None if scene.up is None else to_source[:3, :3] @ scene.up.double() / scale,
    )


def renamed(views: tuple[View, ...], *, flat: bool) -> tuple[View, ...]:
    """Views whose names are paths inside a folder, and all different; `flat`: without folders of their own, which 3DGS
    does not look for in COLMAP's layout."""
    taken: set[str] = set()
    named = []
    for view in views:
        parts = [part for part in PurePosixPath(view.name.replace("\\", "/")).parts if part not in ("/", "//", "..")]
        name = wanted = ("_" if flat else "/").join(parts)
        number = 1
        while name.lower() in taken:  # some file systems do not tell small letters from capitals
            number += 1
            name = f"{wanted}_{number}"
        taken.add(name.lower())
        named.append(replace(view, name=name))
    return tuple(named)


def _left_out(scene: Scene, format: str) -> list[str]:
    """What a scene has and a format has no place for, in words."""
    has: dict[str, Callable[[], bool]] = {
        "masks": lambda: any(view.mask is not None for view in scene.views),
        "depth": lambda: any(view.depth is not None for view in scene.views),
        "which photos see which points": lambda: scene.points is not None and scene.points.tracks is not None,
    }
    room = {"colmap": ("masks", "which photos see which points"), "nerfstudio": ("masks", "depth"), "blender": ()}
    lost = [name for name, there in has.items() if name not in room[format] and there()]
    return [f"Left out, as the format has no place for it: {', '.join(lost)}"] if lost else []
