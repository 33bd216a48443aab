"""Batches of rays, pictures made of rays, and how far rays reach."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from recon.config import NerfConfig, for_field
from recon.datasets import cache
from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.images import ArrayImage
from recon.datasets.scene import Scene, View
from recon.ranks import ALONE, Ranks
from recon.rays import AT_ONCE, HELD, RayBatches, all_pixels, render
from recon.reach import UNKNOWN, Reach, reach_of

CONFIG = dataclasses.replace(for_field("nerf", 100), radiance=NerfConfig(rays=256))
CPU = torch.device("cpu")
BLACK = (0.0, 0.0, 0.0)


def numbered(views: list[View]) -> list[View]:
    """Photos whose pixels say where they are: column, row and photo."""
    made = []
    for index, view in enumerate(views):
        width, height = view.camera.width, view.camera.height
        x, y = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
        image = torch.stack([x, y, torch.full_like(x, index)], dim=-1).float()
        made.append(dataclasses.replace(view, image=ArrayImage(image)))
    return made


def test_pixels_come_from_where_they_say():
    views = numbered(tiny.scene(12).train_views)
    batches = RayBatches(views, CONFIG, BLACK, CPU)
    seen = set()
    for step in range(5):
        batch = batches.at(step)
        assert batch.pixels.shape == (11, 23, 2)
        assert torch.equal(batch.rgb[..., :2] + 0.5, batch.pixels)
        for row, photo in enumerate(batch.rgb[:, 0, 2].long().tolist()):
            assert bool((batch.rgb[row, :, 2] == photo).all())
            assert torch.equal(batch.cameras.viewmats[row], views[photo].camera.viewmats[0].float())
            seen.add(photo)
    assert seen == set(range(11))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("ranks", [ALONE, Ranks(1, 2)])
def test_of_the_rays_of_a_step_as_many_are_made_as_are_wanted(mixed: bool, ranks: Ranks) -> None:
    views = list(tiny.scene(12).train_views)
    if mixed:  # one of them has alpha
        first = views[0].image.load()
        views[0] = dataclasses.replace(views[0], image=ArrayImage(torch.cat([first, first[..., :1]], dim=-1)))
    batches = RayBatches(views, dataclasses.replace(CONFIG, batch=4), (0.2, 0.4, 0.6), CPU, ranks=ranks)
    whole = batches.at(3)
    for rays, each in ((1, 1), (44, 4 * len(ranks.share(4))), (10**6, whole.pixels.shape[1])):
        some = batches.at(3, rays)
        assert some.pixels.shape == (11, each, 2)
        assert torch.equal(some.pixels, whole.pixels[:, :each])
        assert torch.equal(some.rgb, whole.rgb[:, :each])
        assert torch.equal(some.photos, whole.photos)


def test_every_pixel_is_as_likely_as_any_other():
    views = numbered(tiny.scene(3).train_views)
    counts = torch.zeros(2, 32, 40)
    batches = RayBatches(views, dataclasses.replace(CONFIG, radiance=NerfConfig(rays=4096)), BLACK, CPU)
    for step in range(60):
        x, y, photo = batches.at(step).rgb.reshape(-1, 3).long().unbind(-1)
        counts.index_put_((photo, y, x), torch.ones(len(x)), accumulate=True)
    expected = counts.mean()
    chi_squared = float(((counts - expected).square() / expected).sum())
    degrees = counts.numel() - 1
    assert abs(chi_squared - degrees) < 5 * (2 * degrees) ** 0.5


def test_a_step_is_the_same_whatever_came_before():
    views = tiny.scene(12).train_views
    config = dataclasses.replace(CONFIG, background="random")
    in_order = RayBatches(views, config, BLACK, CPU)
    expected = [in_order.at(step) for step in range(20)]
    for step in (17, 3, 9):
        batch = RayBatches(views, config, BLACK, CPU).at(step)
        for name in ("pixels", "rgb", "background"):
            assert torch.equal(getattr(batch, name), getattr(expected[step], name))
    other = RayBatches(views, dataclasses.replace(config, seed=1), BLACK, CPU).at(0)
    assert not torch.equal(other.pixels, expected[0].pixels)


def test_what_a_mask_hides_is_never_drawn():
    views = numbered(tiny.scene().train_views)
    mask = torch.zeros(32, 40, 1)
    mask[5:9, 10:30] = 1
    masked = [dataclasses.replace(view, mask=ArrayImage(mask)) for view in views[:-1]]
    masked.append(dataclasses.replace(views[-1], mask=ArrayImage(torch.zeros(32, 40, 1))))
    rgb = RayBatches(masked, CONFIG, BLACK, CPU).at(0).rgb.reshape(-1, 3)
    assert bool(((rgb[:, 0] >= 10) & (rgb[:, 0] < 30) & (rgb[:, 1] >= 5) & (rgb[:, 1] < 9)).all())
    assert set(rgb[:, 2].tolist()) <= set(range(len(views) - 1))


def test_alpha_is_put_over_the_background_and_whole_numbers_become_floats(tmp_path):
    views = tiny.stored_views(tmp_path, 3, channels=4)
    batch = RayBatches(views, CONFIG, (0.2, 0.4, 0.6), CPU).at(0)
    by_view = {tuple(view.camera.viewmats[0].float().flatten().tolist()): view.load() for view in views}
    for row in range(len(batch.pixels)):
        image = by_view[tuple(batch.cameras.viewmats[row].flatten().tolist())]
        x, y = (batch.pixels[row] - 0.5).long().unbind(-1)
        pixel = image[y, x]
        expected = pixel[:, :3] * pixel[:, 3:] + torch.tensor([0.2, 0.4, 0.6]) * (1 - pixel[:, 3:])
        torch.testing.assert_close(batch.rgb[row], expected)


def test_photos_that_do_not_fit_are_kept_a_few_at_a_time(tmp_path):
    views = tiny.stored_views(tmp_path, 8)
    size = views[0].image.pixel_bytes
    cache.images.clear()
    batches = RayBatches(views, CONFIG, BLACK, CPU, max_bytes=3 * size)
    photos = []
    for step in (0, 1, HELD - 1, HELD, 5 * HELD):
        photos.append(frozenset(batches.at(step).cameras.positions[:, 0].tolist()))
        assert len(batches._pixels) == 3
    assert photos[0] == photos[1] == photos[2]
    assert len(set(photos)) > 1
    assert len(RayBatches(views, CONFIG, BLACK, CPU, max_bytes=8 * size).at(0).pixels) == 8


def test_the_photos_of_a_step_are_bounded():
    views = tiny.scene(8).train_views * 20
    assert len(RayBatches(views, CONFIG, BLACK, CPU).at(0).pixels) == AT_ONCE


def test_a_picture_is_rendered_in_chunks_and_its_depth_is_along_the_axis():
    """A wall across the axis, 2 in front of the camera: half of its light is stopped."""
    camera = tiny.ring(3, 20, 16)[1].to(dtype=torch.float32)

    def wall(origins, directions):
        distance = 2 / (directions @ camera.forward[0])
        return directions.abs(), torch.full_like(distance, 0.5), distance

    out = render(wall, camera, None, torch.tensor([0.2, 0.4, 0.6]), chunk=37)
    assert out.depth is not None
    assert out.rgb.shape == (1, 16, 20, 3)
    assert torch.allclose(out.depth, torch.full((1, 16, 20, 1), 2.0))
    some = render(wall, camera, torch.tensor([[[3.5, 7.5], [19.5, 0.5]]]), torch.tensor([0.2, 0.4, 0.6]))
    assert torch.equal(some.rgb[0], out.rgb[0, [7, 0], [3, 19]])
    assert torch.equal(all_pixels(camera)[20 * 7 + 3], torch.tensor([3.5, 7.5]))


def facing(count: int = 9, spread: float = 0.5) -> Scene:
    """Cameras that all face -z from a patch of the plane z = 0."""
    generator = torch.Generator().manual_seed(3)
    eyes = spread * (torch.rand(count, 3, generator=generator, dtype=torch.float64) * 2 - 1)
    eyes[:, 2] *= 0.1
    towards = eyes + torch.tensor([0.0, 0, -10]) + 0.3 * torch.randn(count, 3, generator=generator)
    c2w = look_at(eyes, towards, torch.tensor([0.0, 1, 0], dtype=torch.float64))
    K = intrinsics(30, 30, 20, 16).expand(count, 3, 3)
    cameras = Cameras.from_c2w(c2w, K, 40, 32)
    views = tuple(View(f"{i}", cameras[i], ArrayImage(torch.zeros(32, 40, 3))) for i in range(count))
    return Scene("facing", views, tuple(range(count)), ())


def test_captures_that_face_one_way_are_seen_in_ndc():
    assert reach_of(tiny.scene()).frame is None
    reach = reach_of(facing())
    assert reach.frame is not None
    assert reach.focals == pytest.approx((30 / 20, 30 / 16))
    turned = reach.frame[:3, :3] @ reach.frame[:3, :3].T
    assert torch.allclose(turned, torch.eye(3, dtype=torch.float64))
    assert float(torch.linalg.det(reach.frame[:3, :3])) == pytest.approx(1)
    restored = Reach.restore(reach.state_dict())
    assert restored.focals == reach.focals
    assert restored.near == reach.near


def test_rays_begin_on_the_way_to_what_cameras_look_at_where_no_points_tell():
    """Cameras of the ring are 3.1 from the middle; a single one tells of none."""
    scene = tiny.scene()
    away = float(scene.views[0].camera.positions.norm())
    assert reach_of(dataclasses.replace(scene, points=None)).near == pytest.approx(0.6 * away, rel=0.01)
    assert reach_of(scene).near != pytest.approx(0.6 * away, rel=0.01)
    one = dataclasses.replace(scene, points=None, train=(1,))
    assert reach_of(one).near == UNKNOWN[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_coordinates_along_a_ray_are_distances_of_the_world(seed, faces):
    """A point of a ray, in the coordinates that a field is asked for, is what stands at that distance in the world."""
    scene = facing() if faces else tiny.scene()
    reach = reach_of(scene)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(6, 2, generator=generator, dtype=torch.float64) * torch.tensor([40.0, 32])
    origins, directions = (v[0] for v in scene.views[seed % len(scene.views)].camera.rays(pixels))
    s = 0.95 * torch.rand(6, 4, generator=generator, dtype=torch.float64)
    begin, along = reach.rays(origins, directions)
    asked = begin[:, None] + s[..., None] * along[:, None]
    points = origins[:, None] + reach.distances(origins, directions, s)[..., None] * directions[:, None]
    if reach.frame is not None:
        x, y, z = (points @ reach.frame[:3, :3].T + reach.frame[:3, 3]).unbind(-1)
        fx, fy = reach.focals
        points = torch.stack([-fx * x / z, -fy * y / z, 1 + 2 * reach.near / z], dim=-1)
    assert torch.allclose(asked, points, atol=1e-8)
    assert bool((np.diff(reach.distances(origins, directions, s.sort(dim=-1).values)) > 0).all())
