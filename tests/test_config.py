import dataclasses
import json

import pytest

from recon import config
from recon.config import MCMCConfig, TrainConfig, preset
from recon.datasets.errors import InputError


@pytest.mark.parametrize("name", ["fast", "default", "best"])
@pytest.mark.parametrize("strategy", ["adaptive", "mcmc"])
def test_presets_survive_json(name, strategy):
    settings = preset(name, strategy)
    assert settings.strategy.kind == strategy
    assert config.from_json(json.loads(json.dumps(config.to_json(settings))), "file") == settings


def test_longer_presets_have_more_of_everything():
    steps = [preset(name).steps for name in ("fast", "default", "best")]
    counts = [preset(name).strategy.max_gaussians for name in ("fast", "default", "best")]
    assert steps == sorted(set(steps))
    assert counts == sorted(counts)


def test_unknown_settings_are_named():
    values = config.to_json(TrainConfig())
    with pytest.raises(InputError, match=r"run/config.json: colour is not a setting"):
        config.from_json(values | {"colour": 1}, "run/config.json")
    with pytest.raises(InputError, match=r"f: strategy.colour is not a setting"):
        config.from_json(values | {"strategy": {"kind": "mcmc", "colour": 1}}, "f")
    with pytest.raises(InputError, match=r'f: strategy.kind is "magic", not one of adaptive, mcmc'):
        config.from_json(values | {"strategy": {"kind": "magic"}}, "f")


@pytest.mark.parametrize(
    ("key", "value"), [("steps", "9"), ("steps", True), ("coarse_to_fine", 1), ("background", "red")]
)
def test_settings_of_the_wrong_kind_are_named(key, value):
    with pytest.raises(InputError, match=rf"f: {key} cannot be {value!r}"):
        config.from_json(config.to_json(TrainConfig()) | {key: value}, "f")


def test_strategies_have_their_own_settings():
    assert dataclasses.asdict(MCMCConfig())["noise"] > 0
    assert preset("default", "mcmc").strategy == MCMCConfig(max_gaussians=preset("default").strategy.max_gaussians)
