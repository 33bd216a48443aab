"""Depth that a surface can be made of: what is believed, what is left out, what neighbours confirm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import balls
from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.images import ArrayImage
from recon.meshing import agreement, sights, surface
from recon.meshing.depth import DepthMap, Sight, Trust, back_projected, depth_map, kept_where, without_backdrop
from recon.model import RenderOutput

BLACK = (0.0, 0.0, 0.0)
CAMERA = Cameras(torch.eye(4, dtype=torch.float64)[None], intrinsics(50, 50, 20, 15), 40, 30)


class Still(balls.Ball):
    """A model that shows the same picture to all cameras."""

    def __init__(self, depth: torch.Tensor, alpha: torch.Tensor, median: torch.Tensor | None = None) -> None:
        self.out = RenderOutput(
            torch.full((1, *depth.shape, 3), 0.5),
            alpha[None, ..., None],
            depth[None, ..., None],
            median_depth=None if median is None else median[None, ..., None],
        )

    def render(self, cameras: Cameras, *, median_depth: bool = False, **options: Any) -> RenderOutput:
        return self.out if median_depth else replace(self.out, median_depth=None)


def test_nothing_is_not_the_same_as_not_known() -> None:
    alpha = torch.ones(30, 40)
    alpha[:, :10], alpha[:, 10:20] = 0.0, 0.3
    found = depth_map(Still(torch.full((30, 40), 2.0), alpha), Sight(CAMERA), Trust(), BLACK)
    assert np.isinf(found.depth[:, :10]).all()
    assert (found.depth[:, 10:20] == 0).all()
    assert (found.depth[:, 20:] == 2).all()
    assert found.known.sum() == 30 * 20


def test_edges_are_left_out_on_both_sides() -> None:
    depth = torch.full((30, 40), 2.0)
    depth[:, 20:] = 3.0
    found = depth_map(Still(depth, torch.ones(30, 40)), Sight(CAMERA), Trust(), BLACK)
    assert (found.depth[:, 19:21] == 0).all()
    assert (found.depth[:, :19] == 2).all()
    assert (found.depth[:, 21:] == 3).all()


@pytest.mark.parametrize(("steps", "share"), [(3.0, 1.0), (20.0, 0.0)])
def test_a_slope_is_believed_until_it_is_hardly_seen(steps: float, share: float) -> None:
    """Neighbouring pixels on a surface at depth z, seen straight on, are z / 50 apart; here depth grows by so many."""
    depth = 2.0 * (1 + steps / 50) ** torch.arange(40).expand(30, 40)
    assert depth_map(Still(depth, torch.ones(30, 40)), Sight(CAMERA), Trust(), BLACK).known.mean() == share


def test_masked_pixels_are_not_known() -> None:
    mask = torch.ones(30, 40, 1)
    mask[:10] = 0
    alpha = torch.ones(30, 40)
    alpha[:20, :5] = 0
    found = depth_map(Still(torch.full((30, 40), 2.0), alpha), Sight(CAMERA, ArrayImage(mask)), Trust(), BLACK)
    assert (found.depth[:10] == 0).all()
    assert np.isinf(found.depth[10:20, :5]).all()


def test_the_median_is_taken_where_the_model_tells_it() -> None:
    still = Still(torch.full((30, 40), 2.0), torch.ones(30, 40), torch.full((30, 40), 1.5))
    for median, expected in ((True, 1.5), (False, 2.0)):
        assert (depth_map(still, Sight(CAMERA), Trust(median=median), BLACK).depth == expected).all()


def test_points_of_a_map_lie_on_the_ball() -> None:
    found = balls.seen_by(balls.looks()[3].camera)
    points, rgb = back_projected(found)
    assert np.abs(np.linalg.norm(points, axis=1) - 1).max() < 1e-5
    assert np.abs(balls.colours(points) - rgb / 255).max() < 0.01
    assert len(back_projected(found, 4)[0]) == pytest.approx(len(points) / 16, rel=0.1)


def test_the_backdrop_is_left_out_and_nothing_stays_nothing() -> None:
    depth = np.full((30, 40), 2.0, np.float32)
    depth[:5], depth[5:8] = 50.0, np.inf
    (found,) = without_backdrop([DepthMap(CAMERA, depth, np.zeros((30, 40, 3), np.uint8))], 4.0)
    assert (found.depth[:5] == 0).all()
    assert np.isinf(found.depth[5:8]).all()
    assert (found.depth[8:] == 2).all()
    assert without_backdrop([], 4.0) == []


def test_what_others_see_through_is_left_out() -> None:
    maps = [balls.seen_by(sight.camera) for sight in balls.looks()]
    exact = agreement.agreeing(maps, 0.01)
    for found, kept in zip(maps, exact, strict=True):
        assert kept.sum() > 0.95 * found.known.sum()  # at the rim hardly any other camera looks
        assert not (kept & ~found.known).any()
    depth = maps[5].depth.copy()
    depth[40:50, 40:50] -= 1.0  # something in the air, that no other camera sees
    torn = [replace(found, depth=depth) if number == 5 else found for number, found in enumerate(maps)]
    confirmed = agreement.agreeing(torn, 0.01)
    assert not confirmed[5][40:50, 40:50].any()
    assert kept_where(torn, confirmed)[5].known.sum() == confirmed[5].sum()


def test_one_camera_is_believed_alone() -> None:
    found = balls.seen_by(balls.looks()[0].camera)
    (kept,) = agreement.agreeing([found], 0.01)
    assert (kept == found.known).all()


def test_maps_of_any_model() -> None:
    told: list[tuple[str, int, int]] = []
    maps = surface.depth_maps(balls.Ball(), balls.looks(6), BLACK, Trust(), lambda *what: told.append(what))
    assert len(maps) == 6
    assert ("Rendering depth", 6, 6) in told
    assert ("Comparing depth", 6, 6) in told


def test_cameras_around_see_all_of_a_ball() -> None:
    middle = torch.tensor([3.0, -2.0, 100.0])
    every = sights.around(middle, 5.0)
    points = middle + 5 * torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)))
    for sight in every:
        pixels, depth = sight.camera.project(points.double())
        assert (depth > 0).all()
        assert (pixels > -0.01 * sights.PICTURE).all()
        assert (pixels < 1.01 * sights.PICTURE).all()


def test_of_many_photos_some_are_taken_and_large_ones_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny import scene

    views = scene().views
    assert [sight.camera.width for sight in sights.of_views(views)] == [40] * 8
    monkeypatch.setattr(sights, "MOST_SIGHTS", 3)
    assert len(sights.of_views(views)) == 3
    monkeypatch.setattr(sights, "MOST_PIXELS", 3 * 40 * 32 // 4)
    assert [(sight.camera.width, sight.camera.height) for sight in sights.of_views(views)] == [(20, 16)] * 3
