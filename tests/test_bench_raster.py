"""The benchmarks of the rasteriser, on scenes small enough to count by hand or by the reference."""

from __future__ import annotations

import importlib
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sources import SCRIPTS

if not SCRIPTS:
    pytest.skip("the scripts are not beside the tests", allow_module_level=True)

import _bench_commit
import _bench_report as report
import _bench_roofline as roofline
import _bench_scene
import _bench_stages as stages
import bench_raster
from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.errors import InputError
from recon.gaussians import Gaussians
from recon.kernels import runtime
from recon.kernels.runtime import get_threads, set_threads
from recon.kernels.simd import LANES
from recon.kernels.splat import CELL_HEIGHT, CELL_WIDTH
from recon.train import train


@pytest.fixture(autouse=True)
def same_threads_after() -> Any:
    before = get_threads()
    yield
    set_threads(before)


def one_gaussian(x: float, y: float, deviation: float, opacity: float) -> Gaussians:
    """A round one at distance 1 in front of `straight_camera`, whose focal length is 100: `deviation` in px."""
    sigma = math.sqrt(deviation**2 - 0.3) / 100  # the projection adds 0.3 px^2
    return Gaussians(
        torch.tensor([[(x - 32) / 100, (y - 32) / 100, 1.0]]),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        torch.full((1, 3), math.log(sigma)),
        torch.full((1,), math.log(opacity / (1 - opacity))),
        torch.zeros(1, 1, 3),
        torch.zeros(1, 15, 3),
    )


def straight_camera() -> Cameras:
    K = intrinsics(100.0, 100.0, 32.0, 32.0)
    return Cameras(torch.eye(4, dtype=torch.float64)[None], K, 64, 64)


def test_the_work_of_one_gaussian_is_the_pixels_of_its_disc() -> None:
    """Half opaque, it reaches 1/255 at sqrt(2 ln 127.5) deviations; near the corner of four tiles it touches them."""
    deviation, opacity = 2.0, 0.5
    work = roofline.count_work(one_gaussian(33.0, 31.0, deviation, opacity), straight_camera())
    radius = deviation * math.sqrt(2 * math.log(255 * opacity))
    y, x = np.mgrid[0:64, 0:64] + 0.5
    inside = (x - 33) ** 2 + (y - 31) ** 2 <= radius**2
    assert (work.gaussians, work.visible, work.entries, work.pixels) == (1, 1, 4, 4096)
    assert work.drawn == inside.sum()
    cells = inside.reshape(64 // CELL_HEIGHT, CELL_HEIGHT, 64 // CELL_WIDTH, CELL_WIDTH).any(axis=(1, 3))
    assert work.evaluated == LANES * cells.sum()


def test_what_is_behind_finished_pixels_is_not_counted() -> None:
    def repeated(count: int) -> Gaussians:
        # So large and opaque that every pixel nearly reaches the cap of 0.999: the second one finishes all of them.
        one = one_gaussian(32.0, 32.0, 4000.0, 0.9999)
        return Gaussians(*(value.expand(count, *value.shape[1:]) for value in one.state_dict().values()))

    one, many = (roofline.count_work(repeated(count), straight_camera()) for count in (1, 5))
    assert one.drawn == one.evaluated == 4096
    assert many.visible == 5
    assert many.drawn == 4096
    assert many.evaluated == 2 * 4096


def test_what_is_counted_as_visible_is_what_is_drawn() -> None:
    """The rasteriser marks boxes that touch the picture, of which few hold no pixel's centre of the ellipse."""
    camera = _bench_scene.make_camera(96, 64)
    model = _bench_scene.make_model(400, 96, 64, 2.0)
    work = roofline.count_work(model, camera)
    with torch.no_grad():
        radii = model.render(camera).radii
    assert radii is not None
    boxes = int((radii > 0).all(dim=-1).sum())
    assert 0.8 * boxes < work.visible <= boxes
    assert work.visible < work.entries
    assert work.drawn < work.evaluated


def test_costs_grow_with_what_they_are_of() -> None:
    base = {
        "gaussians": 100.0,
        "visible": 80.0,
        "entries": 300.0,
        "evaluated": 9000.0,
        "drawn": 5000.0,
        "pixels": 999.0,
    }
    before = roofline.costs(roofline.Work(**base))
    grows = {
        "gaussians": {"project", "gather", "project back + Adam"},
        "visible": {"project", "gather", "project back + Adam"},
        "entries": {"project", "bin", "blend", "blend back", "gather"},
        "evaluated": {"blend", "blend back"},
        "pixels": {"blend", "blend back", "loss", "exposure", "photo"},
        "drawn": set(),
    }
    for name, expected in grows.items():
        after = roofline.costs(roofline.Work(**(base | {name: 2 * base[name]})))
        assert {stage for stage in after if after[stage] != before[stage]} == expected, name
    # Blending: 80 bytes for each entry and 20 for each pixel; 34 operations for each pair, 6 in each lane for an entry.
    assert before["blend"] == roofline.Cost(300 * 80 + 999 * 20, 9000 * 34 + 300 * 6 * LANES)


def test_a_floor_is_the_larger_of_moving_and_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "bandwidth", lambda size, threads: 1e9 * threads)
    monkeypatch.setattr(roofline, "peak_operations", lambda threads: 4e9 * threads)
    moving, computing = roofline.Cost(3e6, 4e6), roofline.Cost(1e6, 8e6)
    assert [roofline.floor(moving, threads) for threads in (1, 2)] == pytest.approx([3.0, 1.5])
    assert roofline.floor(computing, 1) == pytest.approx(2.0)
    assert [roofline.limit(cost, 1) for cost in (moving, computing)] == ["memory", "arithmetic"]
    work = roofline.Work(100.0, 80.0, 300.0, 9000.0, 5000.0, 999.0)
    of_stages = {stage: roofline.floor(cost, 1) for stage, cost in roofline.costs(work).items()}
    rows = roofline.roofline(work, {1: {"blend": 8.0, "step": 40.0}, 2: {"blend": 5.0, "step": 25.0}})
    by_stage = {row["stage"]: row for row in rows}
    assert by_stage["blend"]["ratio, 1"] == pytest.approx(8.0 / of_stages["blend"])
    assert by_stage["blend"]["scaling"] == pytest.approx(1.6)
    assert by_stage["step"]["floor, 1"] == pytest.approx(sum(of_stages.values()))
    assert by_stage["loss"]["ms, 1"] is None
    assert by_stage["loss"]["ratio, 1"] is None


def test_peaks_are_those_of_a_machine_of_this_century() -> None:
    assert 1e9 < roofline.peak_operations(1) < 1e13
    assert 1e8 < roofline.bandwidth(1 << 20, 1) < 1e13


@pytest.fixture(scope="module")
def small_step() -> dict[str, float]:
    before = get_threads()
    found = stages.time_stages(300, 64, 48, 1, 3, 1.0)
    set_threads(before)
    return found


def test_the_stages_of_a_step_are_all_there_and_add_up(small_step: dict[str, float]) -> None:
    expected = {"project", "bin", "blend", "blend back", "gather", "project back + Adam", "loss", "exposure", "photo"}
    assert set(small_step) == expected | {"other", "step", "steps/s", "render"}
    assert all(value >= 0 for value in small_step.values())
    # Medians of parts need not add up to that of the whole, but no part is larger.
    assert max(small_step[stage] for stage in expected) < small_step["step"]
    assert small_step["steps/s"] == pytest.approx(1e3 / small_step["step"])
    assert small_step["render"] < small_step["step"]


def test_the_roofline_knows_every_stage_that_is_measured(small_step: dict[str, float]) -> None:
    work = roofline.Work(*[1.0] * 6)
    assert set(small_step) - {"other", "step", "steps/s", "render"} == set(roofline.costs(work))


def test_timing_leaves_the_kernels_as_they_were() -> None:
    original = runtime.launch
    users: list[Any] = [importlib.import_module(f"recon.kernels.{name}") for name in ("bin", "rasterize", "ssim")]
    with stages.timed_kernels(lambda: 0.0):
        assert all(user.launch is not original for user in users)
    assert all(user.launch is original for user in users)


def test_a_training_that_is_timed_stays_as_it_is() -> None:
    state, views = _bench_scene.make_training(200, 64, 48, 1.5)
    before = state.gaussians.means.detach().clone()
    taken = []

    def watch(*_: object) -> None:
        taken.append(len(state.gaussians))
        if len(taken) == 12:
            raise stages.Enough

    with pytest.raises(stages.Enough):
        train(state, views, callbacks=[watch])
    assert taken == [200] * 12
    assert torch.allclose(state.gaussians.means, before, rtol=0, atol=1e-5)
    assert not torch.equal(state.gaussians.sh0, torch.zeros_like(state.gaussians.sh0))


def test_the_reference_is_slower_and_agrees() -> None:
    row = stages.compare_with_reference(12, 24, 16, 2.0, seed=1)
    assert row["times"] > 1
    assert row["rgb"] < 1e-4
    assert all(value < 1e-3 for name, value in row.items() if name.startswith("d "))
    short = bench_raster.in_short({"size": "24x16", "Gaussians": 12, "seed": 1, **row, "d quats": 0.5})
    assert short["worst gradient"] == "quats 5.0e-01"


def test_comparing_commits_copes_with_a_stage_that_one_side_lacks() -> None:
    samples = {
        ("480x270", 100, 1): {
            "blend": {"before": [4.0, 8.0, 6.0], "now": [3.0, 2.0, 9.0]},
            "steps/s": {"before": [10.0], "now": [25.0]},
            "new": {"now": [1.0]},
        }
    }
    rows = {row["stage"]: row for row in _bench_commit.compared(samples)}
    assert (rows["blend"]["before"], rows["blend"]["now"], rows["blend"]["times faster"]) == (6.0, 3.0, 2.0)
    assert rows["steps/s"]["times faster"] == 2.5
    assert (rows["new"]["before"], rows["new"]["times faster"]) == (None, None)
    assert "| new " in report.table(list(rows.values()))


def test_turns_alternate_and_each_side_gets_its_own_package(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def measure(environment: dict[str, str], *_: object) -> list[dict[str, Any]]:
        side = "now" if environment["PYTHONPATH"] == str(report.ROOT) else "before"
        calls.append(side)
        return [{"size": "8x8", "Gaussians": 5, "threads": 1, "blend": 2.0 if side == "before" else 1.0}]

    monkeypatch.setattr(_bench_commit, "measure_in", measure)
    monkeypatch.setattr(_bench_commit, "unpack_commit", lambda *_: None)
    (row,) = _bench_commit.against(bench_raster.parse(["--against", "--rounds", "2"]))
    assert calls == ["before", "now", "now", "before"]
    assert row["times faster"] == 2.0


def test_an_unknown_commit_is_named(tmp_path: Path) -> None:
    inside = subprocess.run(["git", "rev-parse"], cwd=report.ROOT, capture_output=True)
    if inside.returncode != 0:
        pytest.skip("not a git checkout")
    with pytest.raises(InputError, match="--against no-such-commit"):
        _bench_commit.unpack_commit("no-such-commit", tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--sizes", "480"], "WIDTHxHEIGHT"),
        (["--counts", "0"], "positive"),
        (["--threads", "two"], "positive"),
        (["--fps", "--roofline"], "not allowed"),
    ],
)
def test_wrong_options_end_with_exit_code_2(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        bench_raster.parse(given)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_sections_of_the_document_are_replaced_and_nothing_else(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("a\n<!-- begin: fps -->\nold\n<!-- end: fps -->\nb\n<!-- begin: x --><!-- end: x -->\n")
    report.write_section(document, "fps", "new")
    report.write_section(document, "fps", "newer")
    expected = "a\n<!-- begin: fps -->\n\nnewer\n\n<!-- end: fps -->\nb\n<!-- begin: x --><!-- end: x -->\n"
    assert document.read_text() == expected
    with pytest.raises(InputError, match="no section"):
        report.write_section(document, "stages", "new")
    assert document.read_text() == expected


def test_the_document_has_every_section_that_the_scripts_write() -> None:
    text = report.DOCUMENT.read_text()
    for name in (*bench_raster.MEASUREMENTS, "training", "start-up"):
        assert text.count(f"<!-- begin: {name} -->") == text.count(f"<!-- end: {name} -->") == 1, name


def test_json_lines_are_added_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    report.append_json(file, [{"a": 1}])
    report.append_json(file, [{"a": 2.5}, {"b": None}])
    assert report.read_json(file) == [{"a": 1}, {"a": 2.5}, {"b": None}]
    file.write_text('{"a": 1}\n{"a":\n')
    with pytest.raises(InputError, match="line 2"):
        report.read_json(file)


def test_tables_have_the_columns_of_all_rows() -> None:
    rows = [{"stage": "blend", "ms": 1.234}, {"stage": "bin", "count": 12_000}]
    assert report.table(rows).splitlines() == [
        "| stage |   ms |  count |",
        "|-------|-----:|-------:|",
        "| blend | 1.23 |      - |",
        "| bin   |    - | 12,000 |",
    ]
