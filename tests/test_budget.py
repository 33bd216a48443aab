import dataclasses

import pytest
import torch

import tiny
from recon import budget
from recon.config import for_steps
from recon.opening import initial_model
from recon.train import start, train


def planned(monkeypatch, seconds, *, count=None, step=0.01):
    """A plan on a machine whose steps take so long."""
    monkeypatch.setattr(budget, "_step_seconds", lambda *_: step)
    scene = tiny.scene()
    settings = for_steps(3000)
    model = initial_model(scene, settings, torch.device("cpu"))
    return budget.plan(settings, model, scene, seconds, count=count).settings


def test_more_time_is_for_more_steps_and_gaussians_that_learn_more_slowly(monkeypatch):
    plans = [planned(monkeypatch, seconds) for seconds in (5, 20, 80)]
    assert [p.steps for p in plans] == sorted({p.steps for p in plans})
    assert [p.strategy.max_gaussians for p in plans] == sorted({p.strategy.max_gaussians for p in plans})
    assert [p.lr_scale for p in plans] == sorted({p.lr_scale for p in plans}, reverse=True)
    assert all(0 < p.seconds < limit for p, limit in zip(plans, (5, 20, 80), strict=True))


def test_a_slower_machine_takes_fewer_steps(monkeypatch):
    assert planned(monkeypatch, 20, step=0.05).steps < planned(monkeypatch, 20, step=0.01).steps


def test_a_given_count_is_kept_and_what_memory_allows_not_exceeded(monkeypatch):
    assert planned(monkeypatch, 20, count=123).strategy.max_gaussians == 123
    most = for_steps(3000).strategy.max_gaussians
    assert planned(monkeypatch, 10**6).strategy.max_gaussians == most


def test_even_too_late_a_training_takes_a_few_steps(monkeypatch):
    plan = planned(monkeypatch, -3)
    assert plan.seconds == budget.LEAST_SECONDS
    assert plan.steps >= budget.LEAST_STEPS


def test_timing_steps_leaves_the_model_as_it_is():
    scene = tiny.scene()
    settings = for_steps(100)
    model = initial_model(scene, settings, torch.device("cpu"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert budget._step_seconds(settings, model, scene) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters().values())


def test_a_training_by_the_clock_passes_all_levels_and_ends():
    scene = tiny.scene()
    settings = dataclasses.replace(for_steps(100), seconds=0.5)
    state = start(initial_model(scene, settings, torch.device("cpu")), settings, scene)
    progress = []
    train(state, scene.train_views, callbacks=[lambda s, _: progress.append(s.progress)])
    assert progress == sorted(progress)
    assert progress[-1] == state.progress == pytest.approx(1.0)
    assert state.step > 3
