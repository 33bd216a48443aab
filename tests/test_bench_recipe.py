"""The benchmark of the recipe: what it changes, what it holds out, and 3DGS as it was published."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import pytest
import torch

import captures
import tiny
from sources import SCRIPTS

if not SCRIPTS:
    pytest.skip("the scripts are not beside the tests", allow_module_level=True)

import _plain_cpu as plain
import bench_recipe
from recon.adaptive import SPREAD_SHRINK
from recon.config import AdaptiveConfig, TrainConfig
from recon.datasets.errors import InputError
from recon.opening import initial_model
from recon.raster.reference import covariances
from recon.train import TrainState, start

SHORT = TrainConfig(steps=20, coarse=0.0, strategy=AdaptiveConfig(max_gaussians=200, refine_every=5))


def training(config: TrainConfig) -> TrainState:
    scene = tiny.scene(8)
    return start(initial_model(scene, config, torch.device("cpu")), config, scene)


def test_each_part_changes_something_and_one_nothing() -> None:
    variants = bench_recipe.parts(1500)
    assert len({variant.name for variant in variants}) == len(variants)
    usual = variants[0].config(1500, 3)
    assert usual == dataclasses.replace(bench_recipe.config.for_steps(1500), seed=3)
    for variant in variants[1:]:
        changed = variant.config(1500, 3)
        assert changed.steps == 1500
        assert changed.seed == 3
        assert (changed == usual) == (variant.before is not None), variant.name


def test_choices_are_judged_by_other_photos() -> None:
    scene = dataclasses.replace(tiny.scene(20), train=tuple(i for i in range(20) if i % 8), test=(0, 8, 16))
    chosen = bench_recipe.for_choices(scene)
    assert chosen.test == (4, 11, 18)
    assert sorted(chosen.train + chosen.test) == sorted(scene.train)
    with pytest.raises(InputError, match="3 photos to train on are too few"):
        bench_recipe.for_choices(dataclasses.replace(scene, train=(1, 2, 3)))


def test_a_training_is_scored_and_timed() -> None:
    row = bench_recipe.measure(tiny.scene(8), SHORT)
    assert 5 < row["PSNR"] < 60
    assert 0 < row["SSIM"] < 1
    assert row["s"] > 0
    assert 0 < row["Gaussians"] <= 200


def test_plain_learning_rates_are_those_of_3dgs() -> None:
    state = training(plain.config(7000, 0))
    plain.make_plain(state)
    rates = {group["name"]: (group["lr_initial"], group["lr_final"]) for group in state.optimizer.param_groups}
    assert rates["means"] == pytest.approx((1.6e-4 * state.extent, 1.6e-6 * state.extent))
    assert rates["shN"] == pytest.approx((2.5e-3 / 20, 2.5e-3 / 20))
    assert rates["logit_opacities"] == (0.05, 0.05)
    assert set(rates) == set(plain.LEARNING_RATES)
    assert state.exposure is None
    assert state.strategy is not None
    assert not state.strategy.absgrad(0.1)


def test_plain_gaussians_are_cloned_or_split_by_their_size() -> None:
    state = training(plain.config(7000, 0))
    plain.ClonesAndSplits.instead_of(state)
    strategy = state.strategy
    assert isinstance(strategy, plain.ClonesAndSplits)
    model = tiny.gaussians(20_000)
    parents = model.rows(torch.zeros(20_000, dtype=torch.int64))
    parents["log_scales"] = parents["log_scales"].clone()
    small = math.log(0.5 * plain.SPLIT_ABOVE * state.extent)
    parents["log_scales"][:10_000] = torch.minimum(parents["log_scales"][:10_000], torch.tensor(small))
    children = strategy.divided(parents, 100)
    for half in (slice(0, 10_000), slice(20_000, 30_000)):
        assert torch.equal(children["means"][half], parents["means"][:10_000])
        assert torch.equal(children["log_scales"][half], parents["log_scales"][:10_000])
    split = children["means"][10_000:20_000] - parents["means"][10_000:]
    expected = covariances(parents["quats"][-1:], parents["log_scales"][-1:])[0]
    torch.testing.assert_close(split.T @ split / len(split), expected, rtol=0, atol=0.04 * float(expected.max()))
    shrunk = parents["log_scales"][10_000:] - math.log(SPREAD_SHRINK)
    torch.testing.assert_close(children["log_scales"][30_000:], shrunk)


def test_a_whole_capture_is_measured_into_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "STEPS", 4)
    folder = captures.write_transforms(tmp_path / "tiny")
    document = tmp_path / "recipe.md"
    document.write_text("<!-- begin: whole -->\nold\n<!-- end: whole -->\n")
    arguments = [
        "whole",
        str(folder),
        "--steps",
        "3",
        "--json",
        str(tmp_path / "out.jsonl"),
        "--document",
        str(document),
    ]
    monkeypatch.setattr("sys.argv", ["bench_recipe.py", *arguments])
    monkeypatch.setattr(bench_recipe, "set_threads", lambda count: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    bench_recipe.main()
    text = document.read_text()
    assert "old" not in text
    assert "3DGS, 4 steps" in text
    assert "ours, 3 steps" in text
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 steps"):
        bench_recipe.parse(["parts", str(tmp_path), "--steps", "0"])
    with pytest.raises(InputError, match="nowhere: no such folder"):
        bench_recipe.parse(["parts", "nowhere"])
    assert isinstance(bench_recipe.parse(["lengths", str(tmp_path)]), argparse.Namespace)
