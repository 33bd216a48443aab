import dataclasses
import math

import pytest
import torch

import tiny
from fields_cases import CPU, NERF, begin, check_same_pictures, held_out_error, interrupted, settings_of
from recon import checkpoint
from recon.config import NerfConfig
from recon.gaussians import Gaussians
from recon.nerf import Network, encode
from recon.options import Options
from recon.train import train


def test_positions_are_encoded_as_published():
    values = torch.tensor([[0.3, -0.7, 0.1]], dtype=torch.float64)
    found = encode(values, 3)[0].tolist()
    expected = values[0].tolist()
    for wave in (math.sin, math.cos):
        expected += [wave(2**k * x) for k in range(3) for x in values[0].tolist()]
    assert found == pytest.approx(expected)


def test_the_network_is_the_published_one():
    """The parameters of the two networks of the authors' code: 595,844 each (256 wide, 10 and 4 frequencies)."""
    network = Network(NerfConfig())
    assert sum(p.numel() for p in network.parameters()) == 595_844
    assert [layer.in_features for layer in network.trunk] == [63, 256, 256, 256, 256, 319, 256, 256]


def test_on_a_gpu_all_is_as_published_and_a_cpu_takes_small_steps():
    assert Options("scene", method="nerf").train_config(on_gpu=True).radiance == NerfConfig()
    small = Options("scene", method="nerf").train_config().radiance
    assert isinstance(small, NerfConfig)
    assert (small.width, small.depth, small.frequencies) == (256, 8, 10)
    assert small.rays * (small.coarse_samples + small.fine_samples) < NerfConfig().rays * 64
    assert 0 < small.gradients < 1


@pytest.mark.parametrize("gradients", [0.0, 0.2])
def test_resuming_ends_with_the_same_weights_and_another_seed_does_not(tmp_path, gradients):
    radiance = dataclasses.replace(NERF, gradients=gradients)
    settings = settings_of("nerf", 20, background="random", radiance=radiance)
    straight = begin(settings)
    train(straight, tiny.scene().train_views)
    resumed = interrupted(settings, 7, tmp_path)
    other = begin(dataclasses.replace(settings, seed=1))
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    weights = "fine.trunk.0.weight"
    assert not torch.equal(begin(settings).model.state_dict()[weights], other.model.state_dict()[weights])


def test_a_checkpoint_says_what_it_is_and_gives_the_same_pictures(tmp_path):
    state = begin(settings_of("nerf", 3))
    train(state, tiny.scene().train_views)
    checkpoint.save(state, tmp_path / "nerf.safetensors")
    loaded = checkpoint.load(tmp_path / "nerf.safetensors")
    assert loaded.config.method == "nerf"
    assert not isinstance(loaded.model, Gaussians)
    check_same_pictures(state.model, loaded.model)


def test_a_step_learns_from_both_networks():
    state = begin(settings_of("nerf", 1))
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    train(state, tiny.scene().train_views)
    after = state.model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {"coarse.colour.weight", "fine.colour.weight", "coarse.trunk.0.weight"} <= moved


@pytest.mark.slow
@pytest.mark.parametrize("gradients", [0.0, 0.2])
def test_a_small_network_converges_on_small_photos(gradients):
    scene = tiny.scene(24, 50, 50)
    settings = settings_of("nerf", 250, radiance=dataclasses.replace(NERF, gradients=gradients))
    state = begin(settings, scene)
    blank = float(scene.test_views[0].load().square().mean())  # of a black picture
    train(state, scene.train_views)
    assert state.model.device == CPU
    assert held_out_error(state, scene) < blank / 5
