"""Methods under the same clock: trained once, scored on the way, failures told, and drawn."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from fields_cases import begin, settings_of
from recon import contest, contest_pictures, evaluate, held_out, runs, session
from recon.cli_compare import compare as command
from recon.datasets import synthetic
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage
from recon.opening import background_of
from recon.options import Options
from recon.runs import Run
from recon.train import StepMetrics, train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capture") / "scene"
    synthetic.write(synthetic.make(views=10, width=48, height=36), folder, "nerfstudio")
    return folder


@pytest.fixture(scope="module")
def compared(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Options, Path]:
    output = tmp_path_factory.mktemp("comparison")
    options = Options(scene=str(capture), steps=20)
    contest.compare(options, ["splats", "plenoxels"], output, CPU, session.Watch())
    return options, output


def rows_of(output: Path) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in runs.read_json(output / contest.RESULT)["methods"]}


def test_each_method_is_an_ordinary_run_with_the_scores_of_the_table(compared: tuple[Options, Path]) -> None:
    _, output = compared
    rows = rows_of(output)
    assert list(rows) == ["splats", "plenoxels"]
    for method, row in rows.items():
        run = Run(output / row["run"])
        assert runs.find(output / method).path == run.path
        assert run.method == method
        summary = runs.read_json(run.summary_file)
        assert (row["psnr"], row["steps"]) == (summary["psnr"], 20)
        line = next(line for line in (output / contest.TABLE).read_text().splitlines() if f"| {method}" in line)
        assert f" {summary['psnr']:.2f} | {summary['ssim']:.4f} | " in line
        assert line.split("|")[8].strip() == "20"


def test_scores_on_the_way_are_at_shares_of_the_training(compared: tuple[Options, Path]) -> None:
    _, output = compared
    lines = [json.loads(line) for line in (output / contest.CURVES).read_text().splitlines()]
    for method, row in rows_of(output).items():
        steps = [line["step"] for line in lines if line["method"] == method]
        assert steps == [1, 2, 4, 8, 14, 20]
        last = [line["psnr"] for line in lines if line["method"] == method][-1]
        # Two views are held out, and both are scored on the way.
        assert last == pytest.approx(row["psnr"], abs=1e-6)


def test_a_second_call_trains_nothing_again(
    compared: tuple[Options, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options, output = compared
    before = (output / contest.TABLE).read_text()
    with monkeypatch.context() as patched:
        patched.setattr(session, "begin", lambda *_, **__: pytest.fail("trained again"))
        contest.compare(options, ["splats", "plenoxels"], output, CPU, session.Watch())
    assert (output / contest.TABLE).read_text() == before
    assert capsys.readouterr().out.count("Trained before: ") == 2
    with pytest.raises(InputError, match=r"comparison\.json: was made with steps 20, not 30; give another --output"):
        contest.compare(dataclasses.replace(options, steps=30), ["splats"], output, CPU, session.Watch())


def test_what_fails_is_one_row_and_the_others_go_on(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = session.begin

    def failing(options: Options, *rest: Any, **more: Any) -> Run:
        if options.method == "plenoxels":
            raise RuntimeError("no such\ngrid")
        return begun(options, *rest, **more)

    monkeypatch.setattr(session, "begin", failing)
    options = Options(scene=str(capture), steps=5)
    contest.compare(options, ["plenoxels", "splats"], tmp_path, CPU, session.Watch())
    rows = rows_of(tmp_path)
    assert rows["plenoxels"] == {"method": "plenoxels", "error": "no such grid"}
    assert rows["splats"]["steps"] == 5
    text = (tmp_path / contest.TABLE).read_text()
    assert "\nplenoxels: no such grid" in text
    assert text.splitlines()[2].count(" - |") == 7
    monkeypatch.undo()
    contest.compare(options, ["plenoxels"], tmp_path, CPU, session.Watch())
    assert rows_of(tmp_path)["plenoxels"]["steps"] == 5


def test_what_was_stopped_goes_on(capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(scene=str(capture), steps=12)

    class Stop(session.StopOnSignal):
        def __call__(self, state, metrics) -> None:
            if metrics.step == 5:
                raise session.Interrupted(2, 5)

    with monkeypatch.context() as patched:
        patched.setattr(session, "StopOnSignal", Stop)
        with pytest.raises(SystemExit, match="130"):
            contest.compare(options, ["splats"], tmp_path, CPU, session.Watch())
    contest.compare(options, ["splats"], tmp_path, CPU, session.Watch())
    row = rows_of(tmp_path)["splats"]
    assert row["steps"] == 12
    assert [line["step"] for line in row["curve"]] == [1, 2, 3, 5, 9, 12]
    assert len(list(tmp_path.glob("splats/*/splats/*"))) == 1


@pytest.mark.parametrize("masked", [False, True])
def test_a_radiance_field_is_scored_by_pixels_on_its_way(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, state = tiny.scene(), begin(settings_of("plenoxels", 30))
    train(state, scene.train_views)
    if masked:
        mask = ArrayImage((torch.rand(32, 40, 1, generator=torch.Generator().manual_seed(0)) > 0.5).float())
        scene = dataclasses.replace(scene, views=tuple(dataclasses.replace(view, mask=mask) for view in scene.views))
    of_all = evaluate.evaluate(state.model, [scene.views[0]], background=background_of(state), lpips=False).psnr
    assert held_out.psnr(state, scene, [0]) == pytest.approx(of_all, abs=1e-3)
    monkeypatch.setattr(held_out, "PIXELS", 300)
    some = held_out.psnr(state, scene, [0])
    assert some == held_out.psnr(state, scene, [0])
    assert some == pytest.approx(of_all, abs=1.5)
    assert some != pytest.approx(of_all, abs=1e-3)


@pytest.mark.parametrize("method", ["nerf", "plenoxels", "ngp", "mipnerf360"])
def test_views_without_a_pixel_that_counts_are_not_scored(method: str) -> None:
    scene, state = tiny.scene(), begin(settings_of(method, 30))
    blind = dataclasses.replace(scene.views[0], mask=ArrayImage(torch.zeros(32, 40, 1)))
    half = dataclasses.replace(scene, views=(blind, *scene.views[1:]))
    assert held_out.psnr(state, half, [0]) is None
    assert held_out.psnr(state, half, [0, 1]) == held_out.psnr(state, scene, [1])


def test_the_clock_stands_while_scores_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, state = tiny.scene(), begin(settings_of("plenoxels", 10**6, seconds=0.3))
    clock = [0.0]
    monkeypatch.setattr("recon.train.time.perf_counter", lambda: clock[0])

    def slow(*_: Any) -> float:
        clock[0] += 100.0
        return 20.0

    monkeypatch.setattr(contest.held_out, "psnr", slow)

    def tick(state: Any, metrics: StepMetrics) -> None:
        clock[0] += 0.01

    keeper = contest.Timekeeper(Run(tmp_path), state, scene, lambda: False)
    train(state, scene.train_views, callbacks=[keeper, tick])
    lines = runs.read_lines(tmp_path / "metrics.jsonl")
    assert [line["seconds"] for line in lines] == pytest.approx([0.02, 0.03, 0.06, 0.12, 0.21, 0.3], abs=0.011)
    assert 28 <= state.step <= 32


def test_methods_are_named_with_commas() -> None:
    assert contest.chosen("plenoxels, splats,plenoxels") == ["plenoxels", "splats"]
    assert {"splats", "plenoxels"} <= set(contest.chosen(""))
    assert not {"nerf", "mipnerf360"} & set(contest.chosen(""))
    assert contest.chosen("mipnerf360:ipe,mipnerf360:hash,mipnerf360") == ["mipnerf360", "mipnerf360:hash"]
    with pytest.raises(InputError, match="'ngp:hash' is none of "):
        contest.chosen("ngp:hash")
    with pytest.raises(InputError, match="--methods splats,nonsense: 'nonsense' is none of splats, "):
        contest.chosen("splats,nonsense")


def test_encodings_of_a_method_are_runs_of_their_own(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = {}

    def begin(options: Options, folder: Path, *_: Any, **__: Any) -> Run:
        begun[folder.name] = (options.method, options.encoding)
        raise InputError("that is enough")

    monkeypatch.setattr(session, "begin", begin)
    methods = contest.chosen("mipnerf360,mipnerf360:hash,ngp")
    contest.compare(Options(scene=str(capture), steps=5), methods, tmp_path, CPU, session.Watch())
    assert begun == {
        "mipnerf360": ("mipnerf360", "ipe"),
        "mipnerf360-hash": ("mipnerf360", "hash"),
        "ngp": ("ngp", "ipe"),
    }
    assert list(rows_of(tmp_path)) == methods


@pytest.mark.parametrize(
    ("options", "said"),
    [({"seconds": 5, "steps": 5}, "only one of them"), ({"seconds": 0.5}, "--seconds 0.5: must be at least 1")],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        command(tmp_path, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_pictures_show_photos_and_what_methods_make_of_them(compared: tuple[Options, Path]) -> None:
    _, output = compared
    sheet = np.asarray(Image.open(output / contest.VIEWS))
    width, height = 48, 36 + evaluate.CAPTION
    assert sheet.shape == (2 * height, 3 * width + 2 * evaluate.GAP, 3)
    rows = list(rows_of(output).values())
    for number, (name, _) in enumerate(rows[0]["views"]):
        top = number * height + evaluate.CAPTION
        for column, row in enumerate(rows, 1):
            file = evaluate.comparison_file(Run(output / row["run"]).eval_folder, number, name)
            render, photo = evaluate.panels_of(file)
            left = column * (width + evaluate.GAP)
            assert (sheet[top : top + 36, left : left + width] == render).all()
            assert (sheet[top : top + 36, :width] == photo).all()
    curves = np.asarray(Image.open(output / contest.CURVES_DRAWN)).reshape(-1, 3).astype(int)
    for colour in ((0, 114, 178), (213, 94, 0)):
        assert (np.abs(curves - colour).max(axis=1) < 8).sum() > 100


def test_panels_are_those_that_were_written(tmp_path: Path) -> None:
    scene = tiny.scene()
    comparison = next(evaluate.compare(tiny.gaussians(60, degree=0), scene.test_views, lpips=False))
    render, photo = evaluate.panels_of(evaluate.save_comparison(comparison, tmp_path))
    assert np.abs(render - comparison.render.numpy() * 255).max() <= 0.51
    assert np.abs(photo - comparison.photo.numpy() * 255).max() <= 0.51


def test_axes_have_round_numbers() -> None:
    assert contest_pictures._round_steps(11.8, 27.3) == [15.0, 20.0, 25.0]
    assert contest_pictures._round_seconds(0.0, 2.0) == [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
