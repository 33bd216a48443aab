import dataclasses
import json

import pytest

from recon import config, fitting
from recon.config import PRESETS, MCMCConfig, TrainConfig, for_steps
from recon.datasets.errors import InputError
from recon.options import Options


@pytest.mark.parametrize("steps", PRESETS.values())
@pytest.mark.parametrize("strategy", ["adaptive", "mcmc"])
def test_presets_survive_json(steps, strategy):
    settings = for_steps(steps, strategy)
    assert settings.strategy.kind == strategy
    assert config.from_json(json.loads(json.dumps(config.to_json(settings))), "file") == settings


def test_longer_trainings_have_more_gaussians_that_learn_more_slowly():
    settings = [for_steps(steps) for steps in (1, 300, *PRESETS.values(), 10**6)]
    counts = [s.strategy.max_gaussians for s in settings]
    assert counts == sorted(set(counts))
    assert [s.lr_scale for s in settings] == sorted({s.lr_scale for s in settings}, reverse=True)


def test_more_pixels_have_more_gaussians_up_to_a_limit():
    settings = for_steps(PRESETS["full"])
    count = settings.max_gaussians
    found = [fitting.for_pixels(settings, pixels).max_gaussians for pixels in (10**6, 25 * 10**6, 10**8, 10**9, 10**12)]
    assert found[:3] == [count, count, 2 * count]
    assert found[2] < found[3] < found[4] == fitting.MOST_GAUSSIANS
    many = fitting.for_pixels(dataclasses.replace(settings, strategy=MCMCConfig(max_gaussians=4_000_000)), 10**9)
    assert many.max_gaussians == 4_000_000
    assert dataclasses.replace(many, strategy=settings.strategy) == settings


def test_only_a_full_training_of_splats_counts_pixels():
    assert Options("scene", preset="full").counts_pixels
    others = {"max_gaussians": 9}, {"budget_seconds": 9.0}, {"steps": 9}, {"preset": "best"}, {"method": "ngp"}
    assert not any(Options("scene", **{"preset": "full", **other}).counts_pixels for other in others)


def test_unknown_settings_are_named():
    values = config.to_json(TrainConfig())
    with pytest.raises(InputError, match=r"run/config.json: colour is not a setting"):
        config.from_json(values | {"colour": 1}, "run/config.json")
    with pytest.raises(InputError, match=r"f: strategy.colour is not a setting"):
        config.from_json(values | {"strategy": {"kind": "mcmc", "colour": 1}}, "f")
    with pytest.raises(InputError, match=r'f: strategy.kind is "magic", not one of adaptive, mcmc'):
        config.from_json(values | {"strategy": {"kind": "magic"}}, "f")


@pytest.mark.parametrize(("key", "value"), [("steps", "9"), ("steps", True), ("coarse", "all"), ("background", "red")])
def test_settings_of_the_wrong_kind_are_named(key, value):
    with pytest.raises(InputError, match=rf"f: {key} cannot be {value!r}"):
        config.from_json(config.to_json(TrainConfig()) | {key: value}, "f")


def test_strategies_have_their_own_settings():
    assert dataclasses.asdict(MCMCConfig())["noise"] > 0
    assert for_steps(9000, "mcmc").strategy == MCMCConfig(max_gaussians=for_steps(9000).strategy.max_gaussians)
