"""Instant-NGP as a model: it learns, resumes, and is the same by kernels and by torch."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import tiny
from fields_cases import CPU, begin, by_threads, held_out_error, interrupted, settings_of
from recon import checkpoint, config, ngp, rays, volume
from recon.config import NgpConfig
from recon.datasets.cameras import Cameras
from recon.datasets.images import ArrayImage
from recon.datasets.scene import Scene, View
from recon.ngp import Ngp, shapes_of
from recon.train import TrainState, train


def trained(steps: int = 30, scene: Scene | None = None, **changes) -> Ngp:
    scene = scene or tiny.scene()
    state = begin(settings_of("ngp", steps, **changes), scene)
    train(state, scene.train_views)
    assert isinstance(state.model, Ngp)
    return state.model


def test_the_networks_are_the_published_ones() -> None:
    """Of 32 features; and of 16 numbers of the direction, and 16 of the place. No biases."""
    shapes = shapes_of(NgpConfig(levels=16, features=2, log2_rows=19, finest=2048, width=64), 0)
    assert shapes["table"] == (6_098_120, 2)
    assert [shapes[f"density.{i}"] for i in range(2)] == [(64, 32), (16, 64)]
    assert [shapes[f"colour.{i}"] for i in range(3)] == [(64, 32), (64, 64), (3, 64)]
    assert shapes_of(NgpConfig(), 5)["appearance"] == (5, 16)


def test_training_learns_a_view_it_has_not_seen() -> None:
    scene = tiny.scene(24)
    state = begin(settings_of("ngp", 200), scene)
    blank = float(scene.test_views[0].load().square().mean())  # of a black picture
    train(state, scene.train_views)
    assert held_out_error(state, scene) < blank / 4
    assert isinstance(state.model, Ngp)
    assert state.model.occupancy.cells.double().mean() < 0.9
    assert state.model.ray_count > 16


def test_resuming_ends_with_the_same_values(tmp_path) -> None:
    settings = settings_of("ngp", 40, background="random")
    straight = begin(settings)
    train(straight, tiny.scene().train_views)
    for stop in (5, 31):
        resumed = interrupted(settings, stop, tmp_path)
        for name, value in straight.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name]), name
    other = trained(40, seed=1, background="random")
    assert not torch.equal(other.state_dict()["table"], straight.model.state_dict()["table"])


def test_the_number_of_threads_changes_nothing() -> None:
    one, three = by_threads(lambda: trained().state_dict())
    assert all(torch.equal(value, three[name]) for name, value in one.items())


def gradients(model: Ngp, scene: Scene) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Of what a camera shows, and that."""
    for value in model._parameters.values():
        value.grad = None
    pixels = rays.all_pixels(scene.views[0].camera)[None, ::7].to(model.device)
    shown = model.render(scene.views[0].camera, pixels=pixels, background=torch.tensor([0.2, 0.4, 0.6])).rgb
    (shown.square().mean()).backward()
    found = {}
    for name, value in model._parameters.items():
        assert value.grad is not None, name
        found[name] = value.grad.clone()
    return shown.detach(), found


def test_kernels_and_torch_show_and_learn_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In double precision nothing is left to the kernels but where samples are."""
    scene = tiny.scene()
    model = trained(scene=scene)
    shown, found = gradients(model, scene)
    wide = {name: value.detach().double() for name, value in model._parameters.items()}
    double = Ngp(model.config, model.reach, wide, model.occupancy, model.ray_count, model.halved)
    monkeypatch.setattr(ngp, "SEEN", -1.0)  # or else what is just seen by the one is not by the other
    shown, found = gradients(model, scene)
    expected, of_double = gradients(double, scene)
    torch.testing.assert_close(shown, expected.float(), atol=1e-4, rtol=1e-3)
    for name, value in found.items():
        scale = float(of_double[name].abs().max())
        torch.testing.assert_close(value, of_double[name].float(), atol=1e-3 * scale, rtol=1e-2)


def test_a_checkpoint_gives_the_same_pictures_and_a_damaged_one_is_refused(tmp_path) -> None:
    settings = settings_of("ngp", 12)
    state = begin(settings)
    train(state, tiny.scene().train_views)
    checkpoint.save(state, tmp_path / "ngp.safetensors")
    loaded = checkpoint.load(tmp_path / "ngp.safetensors")
    camera = tiny.ring(5)[2]
    with torch.no_grad():
        whole = state.model.render(camera)
        assert torch.equal(whole.rgb, loaded.model.render(camera).rgb)
        some = loaded.model.render(camera, pixels=torch.tensor([[[3.5, 7.5]]]))
    torch.testing.assert_close(some.rgb[0, 0], whole.rgb[0, 7, 3])
    assert whole.depth is not None
    assert float(whole.depth.min()) >= 0
    tensors = {name: value.clone() for name, value in state.model.state_dict().items()}
    for name in ("table", "density.1", "occupancy"):
        with pytest.raises(ValueError, match=name):
            Ngp.restore(settings, tensors | {name: tensors[name][1:]}, CPU)


def facing_scene(exact: bool = False) -> Scene:
    """Photos from places beside each other that all look one way, at a plane with a pattern."""
    views = []
    for number in range(9):
        viewmat = torch.eye(4, dtype=torch.float64)
        viewmat[:2, 3] = -0.2 * torch.tensor([number % 3 - 1, number // 3 - 1], dtype=torch.float64)
        K = torch.tensor([[32.0, 0, 16], [0, 32, 12], [0, 0, 1]], dtype=torch.float64)
        camera = Cameras(viewmat[None], K[None], 32, 24)
        at = (rays.all_pixels(camera) - torch.tensor([16.0, 12.0])) / 32 * 3 - viewmat[:2, 3]  # at a distance of 3
        photo = torch.stack([torch.sin(4 * at[:, 0]), torch.sin(3 * at[:, 1]), torch.sin(at.sum(dim=-1))], dim=-1)
        views.append(View(f"{number}.png", camera, ArrayImage((0.5 + 0.4 * photo.float()).reshape(24, 32, 3))))
    return Scene("facing", tuple(views), train=(0, 1, 2, 3, 5, 6, 7, 8), test=(4,), exact_poses=exact)


def test_captures_that_face_one_way_are_learned_too() -> None:
    scene = facing_scene()
    state: TrainState = begin(settings_of("ngp", 150), scene)
    assert isinstance(state.model, Ngp)
    assert state.model.reach.frame is not None
    before = held_out_error(state, scene)
    train(state, scene.train_views)
    assert held_out_error(state, scene) < before / 4


def test_photos_of_estimated_poses_have_a_light_of_their_own() -> None:
    """One of them is darker than the others: it alone is learned so, and pictures are as all are on the average."""
    scene = facing_scene()
    dark = View("0.png", scene.views[0].camera, ArrayImage(0.3 * scene.views[0].load()))
    scene = dataclasses.replace(scene, views=(dark, *scene.views[1:]))
    model = trained(100, scene)
    vectors = model.state_dict()["appearance"]
    others = vectors[1:].mean(dim=0)
    assert vectors.shape == (8, 4)
    assert float((vectors[0] - others).norm()) > 2 * float((vectors[1:] - others).norm(dim=-1).max())
    assert "appearance" not in trained(1, facing_scene(exact=True)).state_dict()


def test_rays_are_as_many_as_there_is_work_for() -> None:
    """Beginning with few in fog that is everywhere, and more where most is empty, up to what is set."""
    model = trained(200)
    assert 256 // 4 < model.ray_count <= 256
    assert config.NgpConfig().rays >= 4096


def test_steps_along_rays_get_shorter() -> None:
    scene = tiny.scene()
    model = begin(settings_of("ngp", 20)).model
    assert isinstance(model, Ngp)
    camera = scene.test_views[0].camera.to(dtype=torch.float32)
    origins, directions = (v.reshape(-1, 3)[::97] for v in camera.rays(rays.all_pixels(camera)))
    of_steps = [len(model._samples(origins, directions, None).positions)]
    for halved in (1, 2):
        model.halved = halved
        of_steps.append(len(model._samples(origins, directions, None).positions))
    assert of_steps[1] == pytest.approx(2 * of_steps[0], rel=0.03)
    assert of_steps[2] == pytest.approx(4 * of_steps[0], rel=0.03)
    several = dataclasses.replace(model.config, shorter_at=(0.2, 0.6, 0.99))
    assert [trained(steps, radiance=several).halved for steps in (1, 2, 20)] == [0, 1, 2]


def test_light_along_a_ray_is_stopped_by_the_densities_on_it() -> None:
    """A sum over densities beside what is rendered, where all but the middle of the scene counts as empty."""
    scene = tiny.scene()
    model = begin(settings_of("ngp", 1)).model
    assert isinstance(model, Ngp)
    side = model.occupancy.side
    cells = torch.stack(torch.meshgrid(*[torch.arange(side)] * 3, indexing="ij"), dim=-1).reshape(-1, 3)
    middle = ((cells + 0.5) * 4 / side - 2).norm(dim=-1) < 0.8  # there the contraction changes nothing
    model.occupancy.values[~middle] = 0
    model.occupancy.decide()
    camera = scene.test_views[0].camera.to(dtype=torch.float32)
    pixels = torch.tensor([[20.0, 16.0], [22.5, 14.5], [17.5, 15.5]])
    with torch.no_grad():
        out = model.render(camera, pixels=pixels[None])
    assert out.depth is not None
    assert float((out.depth - camera.positions.norm()).abs().max()) < 0.8  # of what is in the middle
    alpha, (origins, directions) = out.alpha.reshape(-1), (values[0] for values in camera.rays(pixels))
    at = torch.linspace(model.reach.near, 6.0, 4001)
    places = (origins[:, None] + directions[:, None] * at[:, None]).reshape(-1, 3)
    x, y, z = ((places.clamp(-2, 1.999) + 2) * side / 4).long().unbind(-1)
    densities = (model.density(places) * middle[(x * side + y) * side + z]).reshape(3, -1)
    assert torch.allclose(1 - torch.exp(-torch.trapezoid(densities, at, dim=-1)), alpha, atol=0.02)
    assert float(alpha.min()) > 0.05


def test_densities_far_outside_are_of_the_world() -> None:
    """Volumes keep what they hold: a small cube of the world beside what becomes of it in contracted space."""
    model = begin(settings_of("ngp", 1)).model
    assert isinstance(model, Ngp)
    points = torch.tensor([[0.3, 0.2, 0.1], [3.0, -2.0, 1.0], [0.0, 20.0, -30.0]])
    with torch.no_grad():
        contracted = model._densities_at(volume.contract(points) / 4 + 0.5)
    shrunk = torch.stack([torch.autograd.functional.jacobian(volume.contract, point).det() for point in points])
    torch.testing.assert_close(model.density(points), contracted * shrunk ** (1 / 3), rtol=1e-3, atol=0)


def test_a_checkpoint_says_which_cells_count_as_empty() -> None:
    """They are decided now and then, and what rays have met since then does not change them."""
    state = begin(settings_of("ngp", 20))
    model = state.model
    assert isinstance(model, Ngp)
    model.occupancy.values[::2] = 0
    model.occupancy.decide()
    model.occupancy.values[:8] = 100
    again = Ngp.restore(state.config, model.state_dict(), CPU)
    assert torch.equal(again.occupancy.cells, model.occupancy.cells)
    older = {name: value for name, value in model.state_dict().items() if name != "cells"}
    assert not torch.equal(Ngp.restore(state.config, older, CPU).occupancy.cells, model.occupancy.cells)
    with pytest.raises(ValueError, match="cells is"):
        Ngp.restore(state.config, model.state_dict() | {"cells": torch.ones(3)}, CPU)
