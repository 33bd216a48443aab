import dataclasses

import pytest
import torch

import tiny
from recon.batches import Batches
from recon.config import TrainConfig
from recon.datasets import cache
from recon.datasets.images import ArrayImage, SourceCamera, make_view, save_image

FINE = TrainConfig(steps=100, coarse=0.0)
COARSE = TrainConfig(steps=100, coarse=0.4)
BLACK = (0.0, 0.0, 0.0)
CPU = torch.device("cpu")


def same(a, b) -> bool:
    return torch.equal(a.image, b.image) and torch.equal(a.cameras.viewmats, b.cameras.viewmats)


def test_every_view_comes_once_in_an_epoch_and_in_another_order_in_the_next():
    views = tiny.scene().train_views
    batches = Batches(views, FINE, BLACK, CPU)
    epochs = [[batches._view_index(e * len(views) + i) for i in range(len(views))] for e in range(4)]
    assert all(sorted(epoch) == list(range(len(views))) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_step_is_the_same_whatever_came_before():
    views = tiny.scene().train_views
    config = TrainConfig(steps=100, background="random")
    in_order = Batches(views, config, BLACK, CPU)
    expected = [in_order.at(step, step / 100) for step in range(60)]
    for step in (59, 3, 41):
        batch = Batches(views, config, BLACK, CPU).at(step, step / 100)
        assert same(batch, expected[step])
        assert torch.equal(batch.background, expected[step].background)
    other_seed = Batches(views, dataclasses.replace(config, seed=1), BLACK, CPU)
    assert any(not same(other_seed.at(step, step / 100), expected[step]) for step in range(20))


def test_the_image_is_planar_in_memory():
    image = Batches(tiny.scene().train_views, FINE, BLACK, CPU).at(0, 0.0).image
    assert image.shape == (1, 32, 40, 3)
    assert image.permute(0, 3, 1, 2).is_contiguous()


def test_coarse_to_fine_keeps_the_view_and_averages_the_photo():
    views = tiny.scene(4, 160, 128).train_views
    batches = Batches(views, COARSE, BLACK, CPU)
    cameras = [batches.at(step, (step + 0.5) / 100).cameras for step in (0, 14, 15, 39, 40, 99)]
    sizes = [(c.width, c.height) for c in cameras]
    assert sizes == [(40, 32), (40, 32), (80, 64), (80, 64), (160, 128), (160, 128)]
    coarse = batches.at(0, 0.0)
    view = views[batches._view_index(0)]
    blocks = view.load().reshape(32, 4, 40, 4, 3).mean(dim=(1, 3))
    torch.testing.assert_close(coarse.image[0], blocks)
    point = torch.tensor([[0.1, -0.2, 0.1]])
    fine_pixel, coarse_pixel = view.camera.project(point)[0], coarse.cameras.project(point)[0]
    torch.testing.assert_close(coarse_pixel.double() * 4, fine_pixel, atol=1e-4, rtol=0)


def test_depths_are_those_of_single_pixels_at_any_level_and_hidden_by_the_mask():
    scene = tiny.scene(4, 160, 128)
    depth, mask = torch.rand(128, 160, 1) + 1, torch.ones(128, 160, 1)
    mask[:64] = 0
    views = [dataclasses.replace(v, depth=ArrayImage(depth), mask=ArrayImage(mask)) for v in scene.train_views]
    batches = Batches(views, dataclasses.replace(COARSE, depth_weight=0.1), BLACK, CPU)
    assert torch.equal(batches.at(99, 0.995).depth[0], depth * mask)
    coarse = Batches(views, dataclasses.replace(COARSE, depth_weight=0.1), BLACK, CPU).at(0, 0.0).depth
    assert coarse.shape == (1, 32, 40, 1)
    assert torch.isin(coarse[0, 16:], depth[64:]).all()
    assert not coarse[0, :16].any()
    assert Batches(views, COARSE, BLACK, CPU).at(0, 0.0).depth is None
    assert Batches(scene.train_views, dataclasses.replace(COARSE, depth_weight=0.1), BLACK, CPU).at(0, 0).depth is None


def test_small_photos_are_not_made_smaller():
    batches = Batches(tiny.scene().train_views, COARSE, BLACK, CPU)
    assert batches.at(0, 0.0).cameras.height == 32


@pytest.mark.parametrize(("name", "colour"), [("black", 0.0), ("white", 1.0), ("auto", 0.25)])
def test_alpha_shows_the_background(name, colour):
    view = tiny.scene().views[0]
    photo = torch.cat([torch.full((32, 40, 3), 0.5), torch.zeros(32, 40, 1)], dim=-1)
    photo[:, 20:, 3] = 1.0
    config = dataclasses.replace(FINE, background=name)
    batch = Batches([dataclasses.replace(view, image=ArrayImage(photo))], config, (0.25, 0.25, 0.25), CPU).at(0, 0.0)
    assert torch.all(batch.image[0, :, :20] == colour)
    assert torch.all(batch.image[0, :, 20:] == 0.5)
    assert torch.all(batch.background == colour)


def test_a_coarse_pixel_counts_only_if_all_of_it_does():
    view = tiny.scene(4, 160, 128).views[0]
    mask = torch.ones(128, 160, 1)
    mask[0, 0] = 0
    batches = Batches([dataclasses.replace(view, mask=ArrayImage(mask))], COARSE, BLACK, CPU)
    coarse = batches.at(0, 0.0).mask
    assert coarse is not None
    assert coarse.shape == (1, 32, 40, 1)
    assert coarse[0, 0, 0] == 0
    assert coarse.sum() == 32 * 40 - 1


def test_photos_kept_ready_are_bounded():
    views = tiny.scene().train_views
    one = 32 * 40 * 3 * 4
    bounded = Batches(views, FINE, BLACK, CPU, max_bytes=2 * one)
    unbounded = Batches(views, FINE, BLACK, CPU)
    for step in range(3 * len(views)):
        assert same(bounded.at(step, step / 100), unbounded.at(step, step / 100))
        assert len(bounded._ready) <= 2
        assert bounded._ready_bytes == one * len(bounded._ready)


def test_a_stored_photo_is_the_same_as_one_of_floats_and_kept_once(tmp_path):
    pixels = torch.randint(0, 256, (64, 80, 4), generator=torch.Generator().manual_seed(0)) / 255
    camera = tiny.scene(1, 80, 64).views[0].camera
    source = SourceCamera("PINHOLE", (80.0, 80.0, 40.0, 32.0), 80, 64)
    for channels in (3, 4):
        path = tmp_path / f"{channels}.png"
        save_image(path, pixels[..., :channels])
        stored = make_view(path.name, path, source, camera.viewmats[0])
        floats = dataclasses.replace(stored, image=ArrayImage(stored.load()))
        held = cache.images.held_bytes
        for config in (dataclasses.replace(FINE, background="random"), COARSE):
            batches, expected = (Batches([view], config, (0.25, 0.5, 1.0), CPU) for view in (stored, floats))
            for step in (0, 20, 50, 99):
                a, b = batches.at(step, step / 100), expected.at(step, step / 100)
                torch.testing.assert_close(a.image, b.image, rtol=0, atol=1e-6)
                torch.testing.assert_close(a.background, b.background)
                assert a.image.permute(0, 3, 1, 2).is_contiguous()
            assert not batches._ready
        assert cache.images.held_bytes == held


def test_only_photos_of_the_level_are_kept():
    batches = Batches(tiny.scene(4, 160, 128).train_views, COARSE, BLACK, CPU)
    for step in range(40):
        batches.at(step, (step + 0.5) / 100)
        size = 40 * 32 if step < 15 else 80 * 64
        assert batches._ready_bytes == 12 * size * len(batches._ready)


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [3, 4])
def test_a_gpu_gets_the_same_photos_in_its_own_layout(channels, tmp_path):
    views = tiny.stored_views(tmp_path, 3, channels)
    for config in (dataclasses.replace(FINE, background="random"), COARSE):
        colour, gpu = (0.25, 0.5, 1.0), torch.device("cuda")
        on_cpu, stays, copied = (
            Batches(views, config, colour, *about)
            for about in ((CPU,), (gpu,), (gpu, 0))  # bytes that may stay there
        )
        for step in (0, 20, 50, 99, 99):
            wanted = on_cpu.at(step, step / 100)
            for on_gpu in (stays, copied):
                on_gpu.expect(step, step / 100)
                got = on_gpu.at(step, step / 100)
                assert got.image.is_contiguous()
                torch.testing.assert_close(got.image.cpu(), wanted.image, rtol=0, atol=1e-6)
                torch.testing.assert_close(got.background.cpu(), wanted.background)
                torch.testing.assert_close(got.cameras.Ks.cpu(), wanted.cameras.Ks)
