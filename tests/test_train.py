import dataclasses

import pytest
import torch

import tiny
from recon import checkpoint
from recon.config import AdaptiveConfig, MCMCConfig, SurfaceConfig, TrainConfig
from recon.datasets.images import ArrayImage
from recon.gaussians import FINAL, LEARNING_RATES
from recon.kernels.runtime import get_threads, set_threads
from recon.opening import initial_model
from recon.train import start, train

ADAPTIVE = AdaptiveConfig(max_gaussians=120, refine_from=0.0, refine_until=0.8, refine_every=10, reset_every=25)
MCMC = MCMCConfig(max_gaussians=120, refine_from=0.0, refine_until=0.8, refine_every=10)
CONFIG = TrainConfig(steps=60, strategy=ADAPTIVE, background="random")


def begin(config, scene=None):
    scene = scene or tiny.scene()
    return start(initial_model(scene, config, torch.device("cpu")), config, scene)


def held_out_error(state) -> float:
    view = tiny.scene().test_views[0]
    with torch.no_grad():
        return float((state.model.render(view.camera).rgb[0] - view.load()).square().mean())


@pytest.mark.parametrize("strategy", [ADAPTIVE, MCMC])
def test_training_learns_a_view_it_has_not_seen(strategy):
    if strategy is ADAPTIVE:
        strategy = dataclasses.replace(strategy, reset_every=0)  # so short a training never recovers from a reset
    config = TrainConfig(steps=300, strategy=dataclasses.replace(strategy, max_gaussians=300))
    scene = tiny.scene(24)
    state = begin(config, scene)
    before = held_out_error(state)
    train(state, scene.train_views)
    assert state.step == 300
    assert held_out_error(state) < before / 3


@pytest.mark.parametrize(
    "how", [{}, {"strategy": MCMC}, {"surface": SurfaceConfig()}], ids=["adaptive", "mcmc", "mesh"]
)
@pytest.mark.parametrize("stop", [1, 25, 37])
def test_resuming_ends_with_the_same_parameters(how, stop, tmp_path):
    threads = get_threads()
    set_threads(1)
    try:
        config = dataclasses.replace(CONFIG, **how)
        straight = begin(config)
        train(straight, tiny.scene().train_views)

        class Stop(Exception):
            pass

        def interrupt(state, metrics):
            if state.step == stop:
                raise Stop

        broken = begin(config)
        with pytest.raises(Stop):
            train(broken, tiny.scene().train_views, callbacks=[interrupt])
        checkpoint.save(broken, tmp_path / "broken.safetensors")
        resumed = checkpoint.load(tmp_path / "broken.safetensors")
        assert resumed.step == stop
        train(resumed, tiny.scene().train_views)
    finally:
        set_threads(threads)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_two_runs_are_equal_and_another_seed_is_not():
    states = [begin(dataclasses.replace(CONFIG, seed=seed)) for seed in (0, 0, 1)]
    for state in states:
        train(state, tiny.scene().train_views)
    means = [state.model.state_dict()["means"] for state in states]
    assert torch.equal(means[0], means[1])
    assert means[0].shape != means[2].shape or not torch.equal(means[0], means[2])


def test_callbacks_hear_every_step():
    heard = []
    state = begin(CONFIG)
    train(state, tiny.scene().train_views, callbacks=[lambda state, metrics: heard.append(metrics)])
    assert [metrics.step for metrics in heard] == list(range(1, 61))
    assert heard[-1].count == len(state.model)
    assert all(torch.isfinite(metrics.loss) for metrics in heard)
    assert state.seconds > 0


def test_torch_threads_are_given_back():
    before = torch.get_num_threads()
    inside = []
    train(begin(CONFIG), tiny.scene().train_views, callbacks=[lambda *_: inside.append(torch.get_num_threads())])
    assert set(inside) == {1}
    assert torch.get_num_threads() == before


def test_learning_rates_fall_to_their_final_shares():
    state = begin(CONFIG)
    rates = []
    groups = state.optimizer.param_groups
    train(state, tiny.scene().train_views, callbacks=[lambda *_: rates.append({g["name"]: g["lr"] for g in groups})])
    for name, rate in LEARNING_RATES.items():
        expected = rate * CONFIG.lr_scale * (state.extent if name == "means" else 1)
        assert rates[0][name] == pytest.approx(expected)
        assert rates[-1][name] == pytest.approx(expected * FINAL[name] ** (59 / 60))


def test_what_a_mask_hides_is_not_learned():
    """Photos that are painted white over there do no harm."""
    scene = tiny.scene(24)
    views = []
    for view in scene.train_views:
        photo, mask = view.load().clone(), torch.ones(32, 40, 1)
        photo[:, :16], mask[:, :16] = 1, 0
        views.append(dataclasses.replace(view, image=ArrayImage(photo), mask=ArrayImage(mask)))
    config = TrainConfig(steps=300, strategy=AdaptiveConfig(max_gaussians=200))
    masked, unmasked = begin(config, scene), begin(config, scene)
    train(masked, views)
    train(unmasked, [dataclasses.replace(view, mask=None) for view in views])
    assert held_out_error(masked) < 0.5 * held_out_error(unmasked)
