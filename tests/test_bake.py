"""Textures from photos of a painted cube: the right colours at the right places, and nothing else."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage
from recon.datasets.scene import View
from recon.meshes import Mesh
from recon.meshing import bake, draw, files
from recon.meshing.lookup import planar, texture_colours

pytest.importorskip("xatlas")

SIZE = 128
MAGENTA = (1.0, 0.0, 1.0)
# Of the cube's sides: -x, +x, -y, +y, -z, +z.
PAINT = np.array([[0.8, 0.2, 0.2], [0.2, 0.7, 0.2], [0.2, 0.3, 0.8], [0.8, 0.8, 0.2], [0.2, 0.7, 0.7], [0.5, 0.5, 0.5]])


def cube(cuts: int = 3) -> Mesh:
    """From -1 to 1, each side cut into 4^cuts x 2 triangles."""
    import trimesh

    found = trimesh.creation.box(extents=(2, 2, 2))
    for _ in range(cuts):
        found = found.subdivide()
    return Mesh(np.array(found.vertices), np.array(found.faces))


def sides(mesh: Mesh) -> NDArray:
    """[F] which side of the cube each triangle is of."""
    middles = mesh.vertices[mesh.faces].mean(axis=1)
    axis = np.abs(middles).argmax(axis=1)
    return 2 * axis + (np.take_along_axis(middles, axis[:, None], axis=1)[:, 0] > 0)


def painted(mesh: Mesh) -> Mesh:
    """With a texture of six pixels, and each side of its colour."""
    uvs = np.repeat(np.stack([(sides(mesh) + 0.5) / 6, np.full(len(mesh.faces), 0.5)], axis=1)[:, None], 3, axis=1)
    return replace(mesh, uvs=uvs.astype(np.float32), texture=np.rint(PAINT[None] * 255).astype(np.uint8))


def around(count: int, size: int = 120) -> Cameras:
    """Evenly over a sphere."""
    index = torch.arange(count, dtype=torch.float64)
    z, angle = 1 - (2 * index + 1) / count, index * 2.399963
    flat = (1 - z * z).sqrt()
    eyes = 5.5 * torch.stack([flat * angle.cos(), flat * angle.sin(), z], dim=-1)
    c2w = look_at(eyes, torch.zeros_like(eyes), torch.tensor([0.02, 0.01, 1.0], dtype=torch.float64))
    return Cameras.from_c2w(c2w, intrinsics(1.3 * size, 1.3 * size, size / 2, size / 2).repeat(count, 1, 1), size, size)


@functools.cache
def photos(count: int = 24) -> list[View]:
    """Photos of the cube, before magenta, which nothing else has."""
    cameras = around(count)
    return [
        View(f"{number}", cameras[number], ArrayImage(torch.from_numpy(draw.over(picture, MAGENTA))))
        for number, picture in enumerate(draw.pictures(painted(cube(0)), cameras))
    ]


def changed(change: Callable[[int, NDArray], NDArray]) -> list[View]:
    """The photos, after something happened to each."""
    return [
        replace(view, image=ArrayImage(torch.from_numpy(change(number, view.load().numpy().copy()))))
        for number, view in enumerate(photos())
    ]


def shown(mesh: Mesh, face: NDArray, weights: NDArray) -> NDArray:
    """[N,3] the colours of the texture at places [N] of triangles."""
    assert mesh.uvs is not None
    assert mesh.texture is not None
    return texture_colours(planar(mesh.texture / 255), np.einsum("nk,nkc->nc", weights, mesh.uvs[face]))


def everywhere(mesh: Mesh, count: int = 20_000) -> tuple[NDArray, NDArray]:
    generator = np.random.default_rng(0)
    return generator.integers(0, len(mesh.faces), count), generator.dirichlet([1, 1, 1], count)


def errors(mesh: Mesh, factors: NDArray | None = None) -> NDArray:
    """[N] of the colours of a textured cube, but at its edges, in the channel where they are most; the paint is to be
    so many times as bright."""
    face, weights = everywhere(mesh)
    place = np.einsum("nk,nkc->nc", weights, mesh.vertices[mesh.faces[face]])
    inner = np.sort(np.abs(place), axis=1)[:, 1] < 0.85
    paint = PAINT[sides(mesh)[face]] * (1 if factors is None else factors)
    return np.abs(shown(mesh, face, weights) - paint).max(axis=1)[inner]


@pytest.fixture(scope="module")
def textured() -> Mesh:
    return bake.textured(cube(), photos(), SIZE)


def test_each_side_has_its_colour(textured: Mesh) -> None:
    assert textured.texture is not None
    assert textured.texture.shape == (SIZE, SIZE, 3)
    assert textured.texture.dtype == np.uint8
    assert errors(textured).max() < 0.03


def test_nothing_comes_from_behind_the_outline(textured: Mesh) -> None:
    """All of the texture is painted, between charts too, and nothing of it is black or has the background's magenta."""
    assert textured.texture is not None
    red, green, blue = np.moveaxis(textured.texture / 255, 2, 0)
    assert (np.minimum(red, blue) - green).max() < 0.3
    assert np.maximum(np.maximum(red, green), blue).min() > 0.35


def test_the_same_again_is_the_same(textured: Mesh) -> None:
    mesh = cube()
    again = bake.textured(mesh, photos(), SIZE)
    for name in ("texture", "uvs", "vertices", "faces"):
        assert np.array_equal(getattr(again, name), getattr(textured, name))
    assert np.array_equal(again.vertices, mesh.vertices)


def test_exposures_differ_and_the_texture_has_their_mean() -> None:
    generator = np.random.default_rng(3)
    factors = np.minimum(np.exp(generator.normal(0, 0.1, (len(photos()), 3))), 1.15).astype(np.float32)
    found = bake.textured(cube(), changed(lambda number, photo: (photo * factors[number]).clip(0, 1)), SIZE)
    mean = np.exp(np.log(factors).mean(axis=0))
    assert errors(found, mean).max() < 0.03
    assert np.abs(factors / mean - 1).max() > 0.15


def test_a_passer_by_leaves_no_trace() -> None:
    """In every fourth photo, something dark stands before the middle of the picture."""

    def crossed(number: int, photo: NDArray) -> NDArray:
        if number % 4 == 0:
            photo[45:75, 45:75] = 0.02
        return photo

    assert np.quantile(errors(bake.textured(cube(), changed(crossed), SIZE)), 0.98) < 0.05


def test_what_no_photo_shows_has_the_colours_of_the_mesh() -> None:
    mesh = cube(4)
    above = [view for view in photos() if view.camera.positions[0, 2] > 3]
    colors = np.tile(np.array([0.3, 0.4, 0.5], np.float32), (len(mesh.vertices), 1))
    found = bake.textured(replace(mesh, colors=colors), above, SIZE)
    face, weights = everywhere(mesh)
    side = sides(mesh)[face]
    colours = shown(found, face, weights)
    assert np.abs(np.median(colours[side == 5], axis=0) - PAINT[5]).max() < 0.01
    assert (colours[side == 4].max(axis=1) > 0.3).all(), "nothing is black"
    blank = replace(above[0], mask=ArrayImage(torch.zeros(120, 120, 1)))
    unseen = bake.textured(replace(mesh, colors=colors), [blank], SIZE)
    assert np.abs(shown(unseen, face, weights) - colors[0]).max() < 0.01


@dataclass
class Counted:
    """A photo that knows how many like it are in memory."""

    photo: Tensor
    alive: list[weakref.ref[Tensor]]
    most: list[int]

    def load(self) -> Tensor:
        copy = self.photo.clone()
        self.alive.append(weakref.ref(copy))
        self.most.append(sum(ref() is not None for ref in self.alive))
        return copy


def test_photos_come_one_after_the_other_and_progress_is_told() -> None:
    mesh = cube(1)
    alive: list[weakref.ref[Tensor]] = []
    most: list[int] = []
    views = [replace(view, image=Counted(view.load(), alive, most)) for view in photos()[:8]]
    told: list[tuple[str, int, int]] = []
    bake.textured(mesh, views, SIZE, lambda *what: told.append(what))
    assert len(most) == 8
    assert max(most) <= 2
    assert ("Projecting photos", 3, 8) in told
    assert all(done <= total for _, done, total in told)


def test_texels_larger_than_pixels_are_means() -> None:
    """Stripes as fine as pixels are grey, not the colour of single pixels."""
    mesh = cube(1)
    striped = np.tile(np.array([[0.0], [1.0]], np.float32), (400, 800))[..., None].repeat(3, axis=2)
    cameras = around(6, size=800)
    views = [View(f"{i}", cameras[i], ArrayImage(torch.from_numpy(striped))) for i in range(6)]
    found = bake.textured(mesh, views, 64)
    face, weights = everywhere(mesh, 2000)
    assert np.quantile(np.abs(shown(found, face, weights) - 0.5), 0.9) < 0.1


def colours_at_middles(triangles: NDArray, uvs: NDArray, texture: NDArray) -> tuple[NDArray, NDArray]:
    """Colours of the middles of triangles [F,3,3] with coordinates [F,3,2], and the paint that is right there."""
    mesh = Mesh(triangles.reshape(-1, 3), np.arange(3 * len(triangles)).reshape(-1, 3), None, uvs, texture)
    face = np.arange(len(triangles))
    return shown(mesh, face, np.full((len(face), 3), 1 / 3)), PAINT[sides(mesh)]


@pytest.mark.parametrize("suffix", [".obj", ".mesh.glb"])
def test_a_file_gives_the_colours_back(suffix: str, textured: Mesh, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    files.save(textured, path)
    read = files.load(path)
    assert read.uvs is not None
    assert read.texture is not None
    assert textured.texture is not None
    assert np.array_equal(read.texture, textured.texture)
    found, paint = colours_at_middles(read.vertices[read.faces], read.uvs, read.texture)
    assert np.mean(np.abs(found - paint).max(axis=1) < 0.03) > 0.8


def test_open3d_finds_the_colours_in_a_glb(textured: Mesh, tmp_path: Path) -> None:
    """A texture upside down would show other sides."""
    path = tmp_path / "a.mesh.glb"
    files.save(textured, path)
    o3d = pytest.importorskip("open3d", exc_type=ImportError)
    opened = o3d.io.read_triangle_mesh(str(path), enable_post_processing=False)
    image = np.asarray(opened.textures[0])[::-1, :, :3]  # Open3D has the lowest row first
    triangles = np.asarray(opened.vertices)[np.asarray(opened.triangles)]
    uvs = np.asarray(opened.triangle_uvs).reshape(-1, 3, 2)
    found, paint = colours_at_middles(triangles, uvs, image)
    upside_down, _ = colours_at_middles(triangles, uvs * [1, -1] + [0, 1], image)
    shares = [np.mean(np.abs(each - paint).max(axis=1) < 0.03) for each in (found, upside_down)]
    assert shares[0] > 0.8 > 0.5 > shares[1]


@pytest.mark.parametrize(
    ("size", "faces", "said"),
    [(8, 12, "size 8: not between"), (64, 0, "without triangles"), (64, 12, "no photos")],
)
def test_what_cannot_be_is_said(size: int, faces: int, said: str) -> None:
    mesh = cube(0)
    with pytest.raises(InputError, match=said):
        bake.textured(replace(mesh, faces=mesh.faces[:faces]), [], size)
