"""Radiance fields through the commands: trained, opened, looked at; and what cannot be done with them yet."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import recon
import tiny
from fields_cases import CPU, ZIP, begin, held_out_error, settings_of
from recon import budget, config, evaluate, exporting, loading, memory, runs, session, viewing
from recon.datasets import synthetic
from recon.datasets.errors import InputError
from recon.field_subject import FieldSubject
from recon.fields import CLASSES, field_class, kernels_of
from recon.kernels import prepare
from recon.live import LiveView
from recon.opening import first_model
from recon.options import Address, Options
from recon.parts import Parts
from recon.plenoxels import Plenoxels
from recon.train import start, train
from recon.viewer.look import Look
from serving import drawn


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capture") / "scene"
    synthetic.write(synthetic.make(views=10, width=48, height=36), folder, "nerfstudio")
    options = Options(scene=str(folder), method="plenoxels", steps=30)
    return session.begin(options, tmp_path_factory.mktemp("runs"), CPU, session.Watch()).path


def test_a_run_is_scored_and_says_its_method(run: Path) -> None:
    found = runs.find(run)
    assert found.method == run.parent.name == "plenoxels"
    summary = runs.read_json(found.summary_file)
    assert summary["step"] == 30
    assert 0 < summary["count"] < 64**3  # without what too few photos see
    assert summary["psnr"] > 8
    assert len(list(found.eval_folder.iterdir())) == 2
    assert isinstance(recon.load(run), Plenoxels)


def test_what_only_splats_can_do_is_said_in_a_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{run}: .*--method plenoxels.*recon export makes splats"):
        loading.load_with_frame(run)
    with pytest.raises(InputError, match="only --crop is for them"):
        exporting.export_to(run, tmp_path / "scene.pcd", parts=Parts(min_opacity=0.5))
    assert not list(tmp_path.iterdir())


def test_a_field_is_looked_at_without_what_edits_splats(run: Path) -> None:
    shown = viewing.open_source(run, CPU)
    assert isinstance(shown.subject, FieldSubject)
    assert shown.scene is not None
    camera = shown.scene.views[0].camera
    state = loading.load_state(run)
    with torch.no_grad():
        out = state.model.render(camera, background=torch.tensor(shown.subject.background))
    assert out.depth is not None
    modes = {mode: shown.subject.draw(camera, Look(mode)) for mode in ("rgb", "depth", "normals", "alpha", "points")}
    assert (modes["rgb"] == modes["points"]).all()
    assert abs(modes["rgb"] - out.rgb[0].clamp(0, 1).numpy() * 255).max() < 0.51
    assert len({picture.tobytes() for picture in modes.values()}) == 4
    solid = (out.alpha[0, ..., 0] > 0.9).nonzero()
    y, x = solid[len(solid) // 2].tolist()
    point = shown.subject.pick(camera, x + 0.5, y + 0.5, Look())
    assert point is not None
    position, depth = camera.project(torch.tensor([point], dtype=torch.float64))
    assert position[0, 0].tolist() == pytest.approx([x + 0.5, y + 0.5], abs=1e-3)
    assert float(depth[0, 0]) == pytest.approx(float(out.depth[0, y, x]), rel=1e-4)
    with pytest.raises(InputError, match="recon export makes some"):
        shown.subject.saver(Look())
    viewer = viewing.make_viewer(shown, Address(port=0), edits=True)
    with drawn(viewer):
        assert viewer.editor is None
        assert not {"Edit", "Crop"} & set(viewer._tabs)
        assert {"View", "File"} <= set(viewer._tabs)


def test_a_training_that_is_looked_at_has_the_result_of_one_that_is_not() -> None:
    scene, models = tiny.scene(), []
    for looked_at in (False, True):
        state = begin(settings_of("plenoxels", 12))
        subject = FieldSubject(state.model)
        shown = viewing.Shown(subject, "tiny", Path(), scene)
        live = LiveView(viewing.make_viewer(shown, Address(port=0), edits=False), subject, state, scene)
        try:
            train(state, scene.train_views, callbacks=[live] if looked_at else [])
        finally:
            live.close()
        models.append(state.model.state_dict())
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("max_gaussians", 5, "--max-gaussians"),
        ("strategy", "mcmc", "--strategy"),
        ("exposure", False, "--no-exposure"),
        ("poses", "refine", "--poses"),
        ("depth_weight", 0.1, "--depth-weight"),
    ],
)
def test_options_of_splats_are_refused(option: str, value: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"{said}: is for splats.*--method nerf"):
        dataclasses.replace(Options("scene", method="nerf"), **{option: value}).train_config()


@pytest.mark.parametrize("method", sorted(CLASSES))
def test_settings_survive_json_and_wrong_ones_are_named(method: str) -> None:
    settings = Options("scene", method=method, preset="fast", seed=3).train_config()  # type: ignore[arg-type]
    assert settings.steps == config.FIELD_PRESETS[method]["fast"]
    values = config.to_json(settings)
    assert config.from_json(values, "file") == settings
    values["radiance"]["kind"] = "nonsense"
    with pytest.raises(InputError, match=r"file: radiance\.kind is"):
        config.from_json(values, "file")
    values["radiance"] = {"kind": method, "rays": "many"}
    with pytest.raises(InputError, match=r"file: radiance\.rays cannot be 'many'"):
        config.from_json(values, "file")


def test_a_grid_is_as_fine_as_there_are_steps_for() -> None:
    assert [config.plenoxels_for(steps).sides[-1] for steps in (50, 500, 5000, 6000)] == [64, 128, 256, 384]
    assert config.plenoxels_for(5000).finer_at[-1] < config.plenoxels_for(3000).finer_at[-1]


def test_a_field_learns_for_the_seconds_there_are() -> None:
    scene = tiny.scene()
    settings = settings_of("plenoxels", 10**6)
    state = begin(settings)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    planned = budget.plan(settings, state.model, scene, 20.0, count=None)
    assert planned.settings.seconds is not None
    assert 0.5 <= planned.settings.seconds < 20
    assert planned.settings.radiance == config.for_field("plenoxels", planned.settings.steps).radiance
    assert all(torch.equal(value, before[name]) for name, value in state.model.state_dict().items())


def test_scores_that_take_most_of_the_seconds_are_left_out(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene, settings = tiny.scene(), settings_of("nerf", 10**6)
    model = begin(settings).model
    monkeypatch.setattr(budget, "_mean_step_seconds", lambda *_: 0.25)
    generous, tight = (budget.plan(settings, model, scene, seconds, count=None) for seconds in (1e5, 5.0))
    assert generous.unscored is None
    assert generous.settings.seconds is not None
    assert tight.unscored is not None
    assert tight.unscored == pytest.approx(1e5 - generous.settings.seconds, abs=1)
    assert tight.settings.seconds == pytest.approx(5, abs=0.5)
    assert budget.plan(settings, model, scene, 5.0, count=None, scored=False).unscored is None

    begun = budget.Budget(dataclasses.replace(settings, seconds=0.3), False, 123.4)
    monkeypatch.setattr(budget, "plan", lambda *_, **__: begun)
    options = Options(runs.find(run).config()["options"]["scene"], method="nerf", budget_seconds=60.0)
    made = session.begin(options, tmp_path, CPU, session.Watch())
    assert not made.summary_file.exists()
    assert f"scores would take about 123 s more. Score it with: recon eval {made.path}" in capsys.readouterr().out


def test_a_training_by_the_clock_begins_with_the_field_that_was_planned(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not with one for the most steps that there might be: a resumed run has that of its settings."""
    begun: list[Any] = []
    options = Options(runs.find(run).config()["options"]["scene"], method="plenoxels", budget_seconds=60.0)
    assert config.plenoxels_for(200) != options.train_config().radiance

    def planned(settings: config.TrainConfig, *_: Any, **__: Any) -> budget.Budget:
        return budget.Budget(dataclasses.replace(settings, seconds=9.0, radiance=config.plenoxels_for(200)), False)

    monkeypatch.setattr(budget, "plan", planned)
    monkeypatch.setattr(session, "_run", lambda _, state, *__, **___: begun.append(state))
    session.begin(options, tmp_path, CPU, session.Watch())
    assert begun[0].model.config == begun[0].config.radiance == config.plenoxels_for(200)


@pytest.mark.parametrize("method", sorted(CLASSES))
def test_memory_counts_what_a_field_takes(method: str) -> None:
    settings = settings_of(method, 10)
    work = memory.workload(tiny.scene(), settings, on_gpu=False)
    model = begin(settings).model
    assert work.count == 0
    assert work.field_bytes >= sum(v.numel() * 4 for group in model.param_groups(1.0) for v in group["params"])
    sized = memory.estimate(work, program=0)
    assert sized.gaussians == 3 * work.field_bytes
    assert sized.kernels >= work.field_bytes + work.step_bytes


def test_only_the_kernels_of_a_method_are_made_ready() -> None:
    ready = prepare.for_training(kernels_of(settings_of("plenoxels", 1)))
    names = {kernel.name.partition(":")[0].rpartition(".")[2] for kernel in ready._kernels}
    assert names == set(field_class(settings_of("plenoxels", 1)).kernels)
    assert kernels_of(config.TrainConfig()) is None


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["nerf", "ngp", "mipnerf360", "hash"])
def test_a_gpu_trains_a_field_as_the_cpu_does(method: str) -> None:
    """Not to the same numbers: precision is mixed there, and sums are made in any order."""
    scene, errors = tiny.scene(), []
    settings = settings_of("mipnerf360", 80, radiance=ZIP) if method == "hash" else settings_of(method, 80)
    for device in (CPU, torch.device("cuda")):
        state = start(first_model(scene, settings, device), settings, scene)
        errors.append(held_out_error(state, scene))
        train(state, scene.train_views)
        errors.append(held_out_error(state, scene))
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] == pytest.approx(errors[0], rel=0.02)
    assert errors[3] == pytest.approx(errors[1], rel=0.2)


def test_scores_come_of_pictures_made_of_rays() -> None:
    state = begin(settings_of("nerf", 1))
    scores = evaluate.evaluate(state.model, tiny.scene().test_views, lpips=False)
    assert scores.psnr is not None
    assert 3 < scores.psnr < 40
