"""A surface of a trained scene: depth seen by many cameras, made into triangles, cleaned and simplified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from recon.datasets.cameras import Cameras
from recon.datasets.errors import InputError
from recon.meshes import Mesh
from recon.meshing import agreement, clean, closed, colours, level, points, poisson, tsdf, voxels
from recon.meshing.depth import DepthMap, Sight, Trust, depth_map, kept_where, without_backdrop
from recon.model import Model
from recon.render import Colour

Method = Literal["tsdf", "poisson", "density"]
Progress = Callable[[str, int, int], None]

TOLERANCE = 0.03  # of depths that are said to be the same
COLOURED = 2.0  # voxels from a vertex, that what a camera sees may be, to give it its colour
HOLE = 12.0  # voxels, about the widest hole that is filled


@dataclass(frozen=True)
class Wishes:
    """What a surface is to be like.

    Attributes:
        method: how depth becomes triangles; density asks a radiance field, where depth says that it has a surface.
        voxel: side of a voxel in units of the file; None: what suits the pictures.
        triangles: the most there are to be; None: as many as come.
        components: how many parts that do not touch are kept, the largest; None: all but crumbs.
        smooth: times that it is smoothed.
        watertight: whether it is to have no holes at all.
        level: with the method density, that of the surface, per unit of the file; None: see `level.usual_level`.
    """

    method: Method = "tsdf"
    voxel: float | None = None
    triangles: int | None = None
    components: int | None = None
    smooth: int = 0
    watertight: bool = False
    level: float | None = None

    def __post_init__(self) -> None:
        if self.voxel is not None and not 0 < self.voxel < float("inf"):
            raise InputError(f"--voxel {self.voxel:g}: must be more than 0")
        if self.level is not None and self.method != "density":
            raise InputError(f"--level {self.level:g}: is for --method density")
        if self.level is not None and not 0 < self.level < float("inf"):
            raise InputError(f"--level {self.level:g}: must be more than 0")
        if self.triangles is not None and self.triangles < clean.FEWEST:
            raise InputError(f"--triangles {self.triangles}: must be at least {clean.FEWEST}")
        if self.components is not None and self.components < 1:
            raise InputError(f"--components {self.components}: must be at least 1")
        if not 0 <= self.smooth <= 1000:
            raise InputError(f"--smooth {self.smooth}: not between 0 and 1000")


def depth_maps(
    model: Model, sights: Sequence[Sight], background: Colour, trust: Trust, progress: Progress
) -> list[DepthMap]:
    """What the cameras see, where several of them agree."""
    maps = []
    for number, sight in enumerate(sights):
        maps.append(depth_map(model, sight, trust, background))
        progress("Rendering depth", number + 1, len(sights))
    maps = without_backdrop(maps, trust.farthest)
    agreed = agreement.agreeing(maps, TOLERANCE, lambda done: progress("Comparing depth", done, len(maps)))
    return kept_where(maps, agreed)


def at_level(
    maps: Sequence[DepthMap], grid: voxels.Grid, density: level.Density, wanted: float, progress: Progress
) -> Mesh:
    """The surface of a density, per world unit, near what depth maps show of it.

    Raises:
        InputError: it is nowhere as dense.
    """
    mesh = level.surface(
        *(density, wanted, grid.voxel, grid.blocks), lambda done, count: progress("Asking for densities", done, count)
    )
    mesh = colours.coloured(mesh, maps, COLOURED * grid.voxel)
    if not len(mesh.faces):
        raise InputError(f"the density is nowhere {wanted:g} a unit near what cameras see; give a lower --level")
    return mesh


def triangulated(maps: Sequence[DepthMap], grid: voxels.Grid, method: Method, progress: Progress) -> Mesh:
    """The surface as it comes of depth maps, by a method for these.

    Raises:
        InputError: nothing comes of them.
    """
    if method == "tsdf":
        mesh = tsdf.fuse(maps, grid.voxel, grid.blocks, lambda done: progress("Fusing", done, len(maps)))
        mesh = colours.coloured(mesh, maps, COLOURED * grid.voxel)
    else:
        progress("Poisson reconstruction", 0, 1)
        mesh = poisson.surface(*points.oriented(maps, grid.voxel), grid.voxel, trim=True)
    if not len(mesh.faces):
        raise InputError("the cameras agree on no surface in this scene, so there is nothing to make a mesh of")
    return mesh


def cleaned(mesh: Mesh, cameras: Sequence[Cameras], voxel: float, wishes: Wishes, progress: Progress) -> Mesh:
    """Without what no camera sees, crumbs and small holes; smoothed, closed and simplified as wished."""
    progress("Cleaning", 0, 1)
    mesh = clean.largest(mesh, wishes.components)
    if len(mesh.faces):
        mesh = clean.largest(clean.seen(mesh, cameras, voxel), wishes.components)
    if not len(mesh.faces):
        raise InputError("no camera sees anything of the surface from in front, so nothing is left to write")
    mesh = clean.smoothed(clean.holes_filled(mesh, HOLE * voxel), wishes.smooth)
    if wishes.watertight:
        progress("Closing", 0, 1)
        return closed.watertight(mesh, voxel, wishes.triangles)
    return mesh if wishes.triangles is None else clean.simplified(mesh, wishes.triangles)
