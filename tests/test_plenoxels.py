"""The grid as a model: how it is trained, made finer, saved, and rendered with gradients."""

import dataclasses

import numpy as np
import pytest
import torch

import tiny
from fields_cases import CPU, PLENOXELS, begin, by_threads, held_out_error, interrupted, settings_of
from recon import checkpoint, plenoxels
from recon.config import PlenoxelsConfig
from recon.datasets.cameras import OPENCV_FROM_OPENGL, Cameras
from recon.datasets.errors import InputError
from recon.kernels.voxels import EMPTY, ROW
from recon.opening import first_model
from recon.plenoxels import Plenoxels
from recon.reach import Reach
from recon.train import train


def trained(steps: int = 30, views: int = 8, **changes) -> Plenoxels:
    state = begin(settings_of("plenoxels", steps, **changes), tiny.scene(views))
    train(state, tiny.scene(views).train_views)
    assert isinstance(state.model, Plenoxels)
    return state.model


def test_training_learns_a_view_it_has_not_seen():
    scene = tiny.scene(24)
    state = begin(settings_of("plenoxels", 150), scene)
    blank = float(scene.test_views[0].load().square().mean())  # of a black picture
    train(state, scene.train_views)
    assert state.model.device == CPU
    assert len(state.model) < 24**3
    assert held_out_error(state, scene) < blank / 4


def test_resuming_ends_with_the_same_values(tmp_path):
    settings = settings_of("plenoxels", 30, background="random")
    straight = begin(settings)
    train(straight, tiny.scene().train_views)
    for stop in (4, 20):  # before and after the grid gets finer
        resumed = interrupted(settings, stop, tmp_path)
        for name, value in straight.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_the_number_of_threads_changes_nothing():
    one, three = by_threads(lambda: trained().state_dict())
    assert all(torch.equal(value, three[name]) for name, value in one.items())


def test_a_finer_grid_shows_the_same_and_drops_what_no_photo_sees():
    """Of a grid of which all is kept, the same function of space on twice as fine a lattice."""
    scene = tiny.scene()
    settings = settings_of("plenoxels", 10)
    radiance = dataclasses.replace(
        settings.radiance, sides=(9, 17), least_photos=0, least_weight=-1.0, max_voxels=17**3
    )
    settings = dataclasses.replace(settings, radiance=radiance)
    state = begin(settings, scene)
    model = state.model
    assert isinstance(model, Plenoxels)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.levels.copy_(2 * torch.rand(9**3, generator=generator))
        model.harmonics[:, :27] = 0.3 * torch.randn(9**3, 27, generator=generator)
    places = 8 * torch.rand(200, 3, generator=generator)
    before = model._interpolated(places)
    model.after_step(state.optimizer, 1.0)
    assert (model.side, len(model)) == (17, 17**3)
    torch.testing.assert_close(model._interpolated(2 * places), before, atol=1e-5, rtol=1e-5)
    names = {group["name"]: group["params"] for group in state.optimizer.param_groups}
    assert names["levels"][0] is model.levels
    assert not state.optimizer.state

    radiance = dataclasses.replace(radiance, least_weight=0.01, max_voxels=1000)
    state = begin(dataclasses.replace(settings, radiance=radiance), scene)
    assert isinstance(state.model, Plenoxels)
    state.model.after_step(state.optimizer, 1.0)
    assert 0 < len(state.model) <= 1000


def test_what_few_photos_see_is_never_begun_with():
    """Of photos from all around: the middle is in all of them, what is right in front of one in few of the others, what
    is high above in none."""
    scene = tiny.scene(24)
    photos = len(scene.train_views)

    def shown(least: int) -> torch.Tensor:
        radiance = dataclasses.replace(PLENOXELS, sides=(33,), least_photos=least)
        model = Plenoxels.start(scene, dataclasses.replace(settings_of("plenoxels", 1), radiance=radiance), CPU)
        assert len(model) == int((model.links >= 0).sum())
        return model.links >= 0

    kept = shown(3)
    assert kept[16, 16, 16]
    assert not kept[16, 16, -1]
    assert shown(0).all()
    assert not (kept & ~shown(1)).any()
    assert kept.sum() < shown(1).sum() < 33**3
    config, reach = PlenoxelsConfig(sides=(33,)), Reach(0.2, 4.0)
    counts = [plenoxels._photos_of(config, reach, views) for views in (scene.train_views, scene.train_views[:1])]
    assert int(counts[0].max()) == counts[0][16, 16, 16] == photos
    # A camera begins to look at the nearest distance.
    ahead = plenoxels._photos_of(config, dataclasses.replace(reach, near=2.9), scene.train_views[:1])
    assert 0 < int(ahead.sum()) < int(counts[1].sum())
    assert ahead[16, 16, 16] == 1


def test_colours_that_change_slowly_with_the_direction_show_the_same():
    model = trained(10)
    camera = tiny.ring(5)[2]
    with torch.no_grad():
        before = model.render(camera).rgb
        model.config = dataclasses.replace(model.config, of_direction=0.5)
        for colour in range(3):
            model.harmonics[:, 9 * colour + 1 : 9 * colour + 9] *= 2
        assert torch.equal(model.render(camera).rgb, before)


def test_corners_that_are_seen_are_found():
    """A single dense voxel in the middle, which every photo shows."""
    model = begin(settings_of("plenoxels", 10)).model
    assert isinstance(model, Plenoxels)
    middle = model.side // 2
    with torch.no_grad():
        model.levels.fill_(EMPTY)
        model.levels[model.links[middle, middle, middle]] = 13.0
    seen = model._seen()
    assert float(seen[middle, middle, middle]) > 0.3
    assert (seen > 0.01).sum() <= 27


def test_pictures_have_gradients_of_pixels_and_of_whole_images():
    model = trained(10)
    camera = tiny.ring(5, 20, 16)[2]
    background = torch.tensor([0.3, 0.6, 0.1])
    whole = model.render(camera, background=background)
    assert whole.depth is not None
    assert whole.rgb.shape == (1, 16, 20, 3)
    some = model.render(camera, pixels=torch.tensor([[[3.5, 7.5], [10.5, 8.5]]]), background=background)
    torch.testing.assert_close(some.rgb[0], whole.rgb[0, [7, 8], [3, 10]])
    loss = (some.rgb.square() + some.alpha).sum()
    loss.backward()
    assert model.levels.grad is not None
    row = int(model.levels.grad.abs().argmax())
    step, slope = 0.02, float(model.levels.grad[row])
    losses = []
    for change in (step, -step):
        with torch.no_grad():
            model.levels[row] += change
            some = model.render(camera, pixels=torch.tensor([[[3.5, 7.5], [10.5, 8.5]]]), background=background)
            losses.append(float((some.rgb.square() + some.alpha).sum()))
            model.levels[row] -= change
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(slope, rel=0.05)


def test_a_checkpoint_gives_the_same_pictures_and_a_damaged_one_is_refused(tmp_path):
    settings = settings_of("plenoxels", 12)
    state = begin(settings)
    train(state, tiny.scene().train_views)
    checkpoint.save(state, tmp_path / "grid.safetensors")
    loaded = checkpoint.load(tmp_path / "grid.safetensors")
    camera = tiny.ring(5)[2]
    with torch.no_grad():
        assert torch.equal(state.model.render(camera).rgb, loaded.model.render(camera).rgb)
    tensors = {name: value.clone() for name, value in state.model.state_dict().items()}
    for name, value in (("links", tensors["links"] + 1), ("harmonics", tensors["harmonics"][:5])):
        with pytest.raises(ValueError, match=r"links|rows"):
            Plenoxels.restore(settings, tensors | {name: value}, CPU)
    state.model.state_dict()["levels"][0] = float("nan")
    with pytest.raises(FloatingPointError, match="levels"):
        checkpoint.save(state, tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "broken.safetensors")


def test_the_grid_is_the_same_whatever_device_is_asked_for():
    model = first_model(tiny.scene(), settings_of("plenoxels", 3), torch.device("meta"))
    assert model.device == CPU
    assert np.isfinite(model.state_dict()["levels"].numpy()).all()


def test_photos_that_face_one_way_see_the_grid_in_normalised_device_coordinates():
    """All behind the middle of these coordinates is full: in the world a wall at twice the nearest distance."""
    reach = Reach(0.5, 1.0, OPENCV_FROM_OPENGL, (1.5, 1.5))
    config = dataclasses.replace(PlenoxelsConfig(), sides=(48,), finer_at=())
    full = torch.linspace(-1, 1, 48) > 0
    links = torch.arange(48**3, dtype=torch.int32).reshape(48, 48, 48)
    levels = torch.where(full, 13.0, EMPTY).repeat(48**2)  # z is the fastest
    model = Plenoxels(config, reach, links, levels, torch.zeros(48**3, ROW), {})
    K = torch.tensor([[30.0, 0, 20], [0, 30, 20], [0, 0, 1]])
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[1, 0, 3] = 0.2
    with torch.no_grad():
        out = model.render(Cameras(viewmats, K.repeat(2, 1, 1), 40, 40))
        before, behind = model.density(torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.2, 1.1]])).tolist()
    assert out.depth is not None
    assert float(out.alpha.min()) > 0.99
    torch.testing.assert_close(out.depth, torch.ones_like(out.depth), atol=0.1, rtol=0)  # a cell is 0.14
    assert before < 1 < 50 < behind
