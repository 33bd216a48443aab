"""Colours for points that come without: those of photos that show them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import captures
from recon.datasets import point_colours
from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.images import ArrayImage
from recon.datasets.scene import Points, Scene, View
from small_scene import small_scene


def test_a_point_gets_the_colour_of_the_pixel_where_it_projects(tmp_path: Path) -> None:
    """The photo's red is the column, its green the row."""
    columns, rows = torch.meshgrid(torch.arange(40) / 100, torch.arange(36) / 100, indexing="xy")
    image = torch.stack([columns, rows, torch.zeros(36, 40)], dim=-1)
    view = View("a", Cameras(captures.viewmat()[None], intrinsics(50, 52, 19, 17.5), 40, 36), ArrayImage(image))
    xyz = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.3
    pixels, _ = view.camera.project(xyz)
    tracks = torch.stack([torch.arange(20), torch.zeros(20, dtype=torch.int64)], dim=-1)
    rgb = point_colours.from_photos(Points(xyz, torch.zeros(20, 3), tracks=tracks), [view]).rgb
    inside = ((pixels[0] >= 0) & (pixels[0] < torch.tensor([40, 36]))).all(dim=-1)
    assert int(inside.sum()) > 15
    assert torch.allclose(rgb[inside, :2].double() * 100, pixels[0][inside].floor(), rtol=0, atol=1e-4)


def test_points_that_no_photo_shows_get_the_mean_of_the_others() -> None:
    scene = small_scene()
    assert scene.points is not None
    assert scene.points.tracks is not None
    some = scene.points.tracks[scene.points.tracks[:, 0] < 10]
    rgb = point_colours.from_photos(replace(scene.points, tracks=some), scene.views).rgb
    assert torch.isfinite(rgb).all()
    assert torch.allclose(rgb[10:], rgb[:10].mean(dim=0).expand(20, 3), atol=1e-6)


def test_without_tracks_colours_stay() -> None:
    scene = small_scene()
    assert scene.points is not None
    bare = replace(scene.points, tracks=None)
    assert point_colours.from_photos(bare, scene.views) is bare
    assert point_colours.of_shots(bare, []) is bare


@pytest.mark.parametrize("tracks", [True, False])
def test_points_as_training_photos_show_them(tracks: bool) -> None:
    """Of three cameras along x the first is held out; each photo has one colour."""
    views = []
    for i, x in enumerate([0.0, 0.5, 3.0]):
        viewmat = torch.eye(4, dtype=torch.float64)
        viewmat[0, 3] = -x
        colour = torch.tensor([i / 10, 0.5, 1 - i / 10])
        camera = Cameras(viewmat[None], intrinsics(50, 50, 50, 50), 100, 100)
        views.append(View(f"{i}", camera, ArrayImage(colour.expand(100, 100, 3))))
    xyz = torch.tensor([[0.0, 0, 2], [0.4, 0, 2], [3.0, 0, 2], [2.0, 0, 4], [0, 0, -1]], dtype=torch.float64)
    seen = torch.tensor([(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (3, 0), (3, 1)])
    points = Points(xyz, torch.zeros(5, 3), tracks=seen if tracks else None)
    coloured = point_colours.as_seen(points, Scene("s", tuple(views), (1, 2), (0,)))
    assert coloured.tracks is points.tracks
    photo = [1, 1, 2, 1] if tracks else [1, 1, 2, 2]
    assert torch.allclose(coloured.rgb[:4, 0], torch.tensor(photo) / 10)
    assert torch.allclose(coloured.rgb[4], coloured.rgb[:4].mean(dim=0))
