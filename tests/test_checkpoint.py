import contextlib
import dataclasses
import os
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny
from recon import checkpoint
from recon.config import AdaptiveConfig, MCMCConfig, TrainConfig
from recon.datasets.errors import InputError
from recon.opening import initial_model
from recon.train import start, train

CONFIG = TrainConfig(
    steps=12, refine_poses=True, strategy=AdaptiveConfig(max_gaussians=80, refine_from=0.0, refine_every=5)
)


@pytest.fixture(scope="module")
def trained():
    scene = dataclasses.replace(
        tiny.scene(), source_from_world=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])).double(), background=(1, 0.5, 0)
    )
    state = start(initial_model(scene, CONFIG, torch.device("cpu")), CONFIG, scene)
    train(state, scene.train_views)
    return state


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "state.safetensors"
    checkpoint.save(trained, path)
    return path


def test_everything_comes_back(trained, saved):
    loaded = checkpoint.load(saved)
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name])
    for before, after in zip(trained.optimizer.param_groups, loaded.optimizer.param_groups, strict=True):
        assert before["name"] == after["name"]
        assert before["lr_final"] == pytest.approx(after["lr_final"])
        old, new = trained.optimizer.state[before["params"][0]], loaded.optimizer.state[after["params"][0]]
        assert torch.equal(old["exp_avg"], new["exp_avg"])
        assert torch.equal(old["exp_avg_sq"], new["exp_avg_sq"])
        assert int(old["step"]) == int(new["step"]) == 12
    for name, value in trained.strategy.state_dict().items():
        assert torch.equal(value, loaded.strategy.state_dict()[name])
    for name, value in trained.exposure.state_dict().items():
        assert torch.equal(value, loaded.exposure.state_dict()[name])
    assert trained.exposure.gains.abs().min() > 0
    for name, value in trained.poses.state_dict().items():
        assert torch.equal(value, loaded.poses.state_dict()[name])
    assert abs(trained.poses.turns).min() > 0
    for name in ("config", "extent", "background", "step", "seconds"):
        assert getattr(trained, name) == getattr(loaded, name)
    assert torch.equal(trained.source_from_world, loaded.source_from_world)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_truncated_file_is_named(saved, tmp_path, share):
    path = tmp_path / "cut.safetensors"
    data = saved.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"cut.safetensors: not a readable checkpoint"):
        checkpoint.load(path)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 4000), value=st.integers(0, 255))
def test_a_damaged_header_gives_one_line_or_a_checkpoint(saved, tmp_path, position, value):
    data = bytearray(saved.read_bytes())
    data[position] = value
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        checkpoint.load(path)


def test_loading_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "trap.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match=r"trap.safetensors: not a readable checkpoint"):
        checkpoint.load(path)
    assert not (tmp_path / "sprung").exists()


def test_values_that_are_not_finite_are_refused(trained, tmp_path, monkeypatch):
    path = _save(trained, tmp_path / "state.safetensors")
    broken = checkpoint.load(path)
    with torch.no_grad():
        broken.model.quats[3, 1] = float("nan")
    with pytest.raises(FloatingPointError, match=r"model.quats has values that are not finite"):
        checkpoint.save(broken, path)
    assert checkpoint.load(path).step == trained.step
    monkeypatch.setattr(checkpoint, "_finite", lambda value: True)
    checkpoint.save(broken, path)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"state.safetensors: .*model.quats holds values that are not finite"):
        checkpoint.load(path)


def test_foreign_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weights": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"not one of our checkpoints"):
        checkpoint.load(tmp_path / "other.safetensors")
    save_file({"weights": torch.zeros(3)}, tmp_path / "newer.safetensors", {"recon": '{"format": 99}'})
    with pytest.raises(InputError, match=r"checkpoint format 99, this version reads 1"):
        checkpoint.load(tmp_path / "newer.safetensors")
    with pytest.raises(InputError, match=r"gone.safetensors: no such checkpoint"):
        checkpoint.load(tmp_path / "gone.safetensors")


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", [CONFIG.strategy, MCMCConfig(max_gaussians=80, refine_from=0.0, refine_every=5)])
@pytest.mark.parametrize("way", [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_begun_on_one_device_ends_on_the_other(way, strategy, tmp_path):
    scene = tiny.scene()
    config = dataclasses.replace(CONFIG, steps=200, strategy=strategy)
    views = scene.train_views

    def loss_of(model):
        view = scene.test_views[0]
        with torch.no_grad():
            return float((model.render(view.camera).rgb[0].cpu() - view.load()).abs().mean())

    def stop(state, metrics):
        if state.step == 100:
            raise StopIteration

    state = start(initial_model(scene, config, torch.device(way[0])), config, scene)
    before = loss_of(state.model)
    with contextlib.suppress(StopIteration):
        train(state, views, callbacks=[stop])
    half = loss_of(state.model)
    checkpoint.save(state, tmp_path / "half.safetensors")
    state = checkpoint.load(tmp_path / "half.safetensors", way[1])
    assert loss_of(state.model) == pytest.approx(half, rel=1e-3)
    assert state.model.device.type == way[1]
    train(state, views)
    assert loss_of(state.model) < half < 0.7 * before


def _save(state, path):
    checkpoint.save(state, path)
    return path
