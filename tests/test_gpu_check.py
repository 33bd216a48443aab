"""The check of what runs on a GPU, as it runs without one, and what it makes of failures."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sources import SCRIPTS

if not SCRIPTS:
    pytest.skip("the scripts are not beside the tests", allow_module_level=True)

import _gpu_agreement
import _gpu_plain
import _gpu_tests
import _gpu_training
import gpu_check
from _gpu_rows import FAILED, LEFT_OUT, MISSED, OK, Enough, Row, StopWatch, held_against, read
from recon import losses
from recon.datasets.errors import InputError


def check(output: Path, *given: str) -> tuple[int, str, list[dict]]:
    """The exit code, what is printed, and the rows, on a machine whose GPU, if any, is hidden."""
    command = [sys.executable, gpu_check.__file__, "--quick", "--output", str(output), *given]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=hidden, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr, json.loads((output / "results.json").read_text())["rows"]


def test_without_a_gpu_it_does_what_it_can_and_names_the_rest(tmp_path: Path) -> None:
    code, said, rows = check(tmp_path, "--only", "machine", "renders")
    assert code == 0, said
    assert {row["part"] for row in rows} == {"machine", "renders"}
    assert {row["what"] for row in rows if row["verdict"] == LEFT_OUT} == {"GPU", "pictures on the GPU"}
    assert rows[-1]["what"] == "CPU, 2,000 Gaussians at 96x64"
    assert rows[-1]["data"]["ms"] > 0
    assert "0 failed, 0 goals missed, 2 left out" in said
    assert (tmp_path / "table.md").read_text().startswith("| part ")


def test_agreement_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gpu_agreement, "usable_gpu", lambda: None)
    rows = list(_gpu_agreement.agreement(argparse.Namespace(quick=True, output=tmp_path)))
    assert [row.verdict for row in rows] == [OK, LEFT_OUT]
    assert float(rows[0].data["rgb mean"]) < 1e-5
    assert float(rows[0].data["d means"]) < 1e-4


@pytest.mark.slow
def test_a_training_without_a_gpu(tmp_path: Path) -> None:
    code, said, rows = check(tmp_path, "--only", "training", "two", "resume")
    assert code == 0, said
    assert [row["verdict"] for row in rows] == [OK, LEFT_OUT, LEFT_OUT, LEFT_OUT]
    assert (tmp_path / "procedural_scene.png").exists()


def test_a_part_that_takes_too_long_is_ended_and_counts_as_failed(tmp_path: Path) -> None:
    code, said, rows = check(tmp_path, "--only", "machine", "--limit", "0.3")
    assert code == 1
    assert rows[-1]["verdict"] == FAILED
    assert "FAILED: machine: not done after 0.3 s" in said


def test_a_part_that_raises_keeps_its_rows_and_becomes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: argparse.Namespace) -> Iterator[Row]:
        yield Row("first", "1 ms", "2 ms", OK)
        raise RuntimeError("CUDA error: an illegal\nmemory access")

    module = types.ModuleType("_gpu_broken")
    module.broken = broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "_gpu_broken", module)
    monkeypatch.setitem(gpu_check.PARTS, "broken", "_gpu_broken")
    gpu_check.do_part("broken", argparse.Namespace(output=tmp_path))
    (_, first), (part, last) = read(tmp_path / gpu_check.ROWS)
    assert first == Row("first", "1 ms", "2 ms", OK)
    assert part == "broken"
    assert last.verdict == FAILED
    assert "illegal memory access" in last.found
    assert "Traceback" in (tmp_path / "errors.txt").read_text()
    assert "ok: first: 1 ms (goal: 2 ms)" in capsys.readouterr().out


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        gpu_check.parse(["nowhere"])
    assert gpu_check.parse(["nowhere", "--only", "machine"]).only == ["machine"]  # not asked for
    with pytest.raises(InputError, match="--limit 0"):
        gpu_check.parse(["--limit", "0"])


def test_a_report_of_tests_is_read() -> None:
    report = """<testsuites><testsuite>
        <testcase classname="tests.test_a" name="test_good"/>
        <testcase classname="tests.test_a" name="test_skipped"><skipped message="no"/></testcase>
        <testcase classname="tests.test_b" name="test_bad[1]"><failure message="assert 1 &lt; 0&#10;more"/></testcase>
        <testcase classname="tests.test_c" name="test_c"><error>gone</error></testcase>
    </testsuite></testsuites>"""
    counts, failures = _gpu_tests.summary(report)
    assert counts == {"passed": 1, "skipped": 1}
    assert [row.what for row in failures] == ["test_b::test_bad[1]", "test_c::test_c"]
    assert [row.found for row in failures] == ["assert 1 < 0 more", "gone"]
    assert all(row.verdict == FAILED for row in failures)


def test_files_with_tests_of_the_gpu_are_found() -> None:
    assert "test_rasterizer_contract.py" in {Path(file).name for file in _gpu_tests.files_with_tests()}


def test_too_large_a_difference_and_nan_fail() -> None:
    pictures = {"rgb": torch.zeros(1, 4, 4, 3), "alpha": torch.zeros(1, 4, 4, 1)}
    gradients = {f"d {name}": torch.ones(5) for name in (*_gpu_agreement.NAMES, "means2d", "absgrad")}
    wanted = pictures | gradients
    assert _gpu_agreement.compared("same", wanted, wanted).verdict == OK
    assert _gpu_agreement.compared("rgb", wanted | {"rgb": wanted["rgb"] + 0.01}, wanted).verdict == FAILED
    assert _gpu_agreement.compared("quats", wanted | {"d quats": 1.1 * torch.ones(5)}, wanted).verdict == FAILED
    assert _gpu_agreement.compared("NaN", wanted | {"d quats": torch.full((5,), torch.nan)}, wanted).verdict == FAILED


def test_the_plain_loop_has_the_loss_of_3dgs() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(1, 20, 30, 3, generator=generator) for _ in range(2))
    kernel = _gpu_plain._kernel(torch.device("cpu"))
    theirs = _gpu_plain._ssim(x.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2), kernel)
    assert theirs.item() == pytest.approx(losses.ssim(x, y).item(), rel=1e-4)


def test_the_plain_loop_sees_every_photo_in_each_epoch() -> None:
    order = _gpu_plain._order(7, 30)
    assert len(order) == 30
    assert all(sorted(order[start : start + 7]) == list(range(7)) for start in (0, 7, 14, 21))


def test_a_stop_watch_times_what_comes_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    watch = StopWatch(torch.device("cpu"), 1.0)
    steps = 0

    def run() -> None:
        nonlocal now, steps
        while True:
            steps += 1
            now += 1.0 if steps < StopWatch.WARM_UP else 0.01
            watch()

    with pytest.raises(Enough):
        run()
    assert watch.milliseconds == pytest.approx(10)
    assert steps == pytest.approx(StopWatch.WARM_UP + StopWatch.TRIAL + 100, abs=1)


def test_a_missed_goal_is_no_failure() -> None:
    assert held_against(True) == OK
    assert held_against(False) == MISSED


def test_the_procedural_scene_may_have_been_made_before(tmp_path: Path) -> None:
    found = _gpu_training.procedural(argparse.Namespace(demo_capture=tmp_path))
    assert found == _gpu_training.Capture("procedural scene", tmp_path, ())
