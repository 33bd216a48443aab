"""The benchmark of whole trainings: what it runs, what it reads from a run, what it writes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import captures
from sources import SCRIPTS

if not SCRIPTS:
    pytest.skip("the scripts are not beside the tests", allow_module_level=True)

import _bench_plot
import _bench_report as report
import bench_train
from recon.datasets.errors import InputError


def row(capture: str, setting: str, wall: float, psnr: float, **more: Any) -> dict[str, Any]:
    """A measurement as it is written."""
    common = {"capture": capture, "setting": setting, "held_out": 7, "size": "269x478", "run": "", "first_step": None}
    numbers = {"step": 100, "count": 5000, "ssim": 0.9, "train_seconds": wall - 3, "peak_memory_bytes": 10**9}
    return common | numbers | {"wall": wall, "psnr": psnr} | more


def test_a_run_is_timed_and_read(tmp_path: Path) -> None:
    folder = captures.write_transforms(tmp_path / "tiny")
    chosen = bench_train.capture(str(folder))
    found = bench_train.train(chosen, ["--steps", "1", "--test-every", "2"], tmp_path / "runs")
    assert found["step"] == 1
    assert found["held_out"] == 2
    assert found["size"] == "40x36"
    assert 0 < found["psnr"] < 60
    assert 0 < found["train_seconds"] < found["wall"]
    assert found["train_seconds"] < found["first_step"] < found["wall"]
    assert found["peak_memory_bytes"] > 10**7
    assert Path(found["run"], "summary.json").is_file()


def test_what_the_command_says_is_told_in_one_line() -> None:
    assert bench_train._reason("some warning\nerror: photo.png: not readable\n") == "photo.png: not readable"
    framed = "╭─ Parsing error ─────╮\n│ Unrecognized: --x 5 │\n╰─────────────────────╯\n"
    assert bench_train._reason(framed) == "Parsing error Unrecognized: --x 5"


def test_captures_are_found_here_and_below_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fox").mkdir()
    monkeypatch.setenv("RECON_DATA", str(tmp_path))
    assert bench_train.capture("fox:4") == bench_train.Capture("fox:4", tmp_path / "fox", ("--downscale", "4"))
    assert bench_train.capture(f"{tmp_path}/fox").options == ()
    with pytest.raises(InputError, match="cat: no such folder"):
        bench_train.capture("cat:4")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--budgets", "0"], "--budgets 0.0: must be more than 0"),
        (["--steps", "-5"], "--steps -5: must be more than 0"),
        (["--repeat", "0"], "--repeat 0: must be at least 1"),
        (["--start-up", "--steps", "5"], "--start-up takes one step"),
    ],
)
def test_wrong_options_are_refused(given: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        bench_train.parse([str(tmp_path), *given])


def test_budgets_steps_and_other_options_reach_the_command(tmp_path: Path) -> None:
    arguments, passed_on = bench_train.parse(
        [str(tmp_path), "--budgets", "9", "2.5", "--steps", "200", "--threads", "1", "--preset", "fast"]
    )
    assert passed_on == ["--threads", "1", "--preset", "fast"]
    assert bench_train.settings(arguments) == [
        ("9 s", ("--budget-seconds", "9")),
        ("2.5 s", ("--budget-seconds", "2.5")),
        ("200 steps", ("--steps", "200")),
    ]
    assert bench_train.settings(bench_train.parse([str(tmp_path)])[0]) == [("default", ())]


def test_medians_are_of_the_runs_of_one_setting() -> None:
    rows = [row("fox", "9 s", wall, psnr) for wall, psnr in ((9.5, 27.0), (9.0, 28.0), (30.0, 27.4))]
    merged = bench_train.medians([*rows, row("fox", "15 s", 15.0, 30.0)])
    assert [(m["setting"], m["wall"], m["psnr"]) for m in merged] == [("9 s", 9.5, 27.4), ("15 s", 15.0, 30.0)]
    assert merged[0]["first_step"] is None


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Trainings are only noted: longer ones come out better."""
    calls: list[list[str]] = []

    def train(chosen: bench_train.Capture, options: list[str], output: Path, environment: Any = None) -> dict[str, Any]:
        calls.append(list(options))
        output.mkdir(parents=True, exist_ok=True)
        lines = [{"step": 10 * n, "loss": 1 / n, "count": 40 + n, "seconds": 0.5 * n} for n in (1, 2, 3)]
        report.append_json(output / "metrics.jsonl", lines)
        steps = int(options[1])
        cold = 8.0 if environment else 0.0
        numbers = row(chosen.name, "", 3 + steps / 100 + cold, 20 + steps / 100, step=steps)
        del numbers["setting"]
        return numbers | {"run": str(output), "first_step": 2.0 + cold}

    monkeypatch.setattr(bench_train, "train", train)
    return calls


def document(folder: Path) -> Path:
    file = folder / "page.md"
    names = ("training", "start-up")
    file.write_text("".join(f"<!-- begin: {name} -->\n<!-- end: {name} -->\n" for name in names))
    return file


def test_quality_over_time_writes_all_it_promises(tmp_path: Path, trained: list[list[str]], monkeypatch: Any) -> None:
    before, page = tmp_path / "before.jsonl", document(tmp_path)
    report.append_json(before, [row("fox", "200 steps", 12.0, 19.0)])
    (tmp_path / "fox").mkdir()
    monkeypatch.setenv("RECON_DATA", str(tmp_path))
    typed = ["fox", "--steps", "200", "500", "--repeat", "2", "--compare", str(before), "--document", str(page)]
    monkeypatch.setattr("sys.argv", ["bench_train.py", *typed, "--output", str(tmp_path / "out")])
    bench_train.main()
    assert [options[1] for options in trained] == ["1", "200", "500", "200", "500"]  # the first one warms up
    written = report.read_json(tmp_path / "out" / "measurements.jsonl")
    assert [(r["setting"], r["turn"]) for r in written] == [
        ("200 steps", 0),
        ("500 steps", 0),
        ("200 steps", 1),
        ("500 steps", 1),
    ]
    assert written[0]["machine"]["cores"] >= 1
    text = page.read_text()
    assert "python scripts/bench_train.py fox --steps 200 500" in text
    assert "25.00 | 0.900 |   8.00" in text  # PSNR, SSIM and wall time of 500 steps
    assert "19.00" in text
    for picture in (tmp_path / "out" / "psnr.png", tmp_path / "out" / "training.png", tmp_path / "benchmark_psnr.png"):
        assert min(Image.open(picture).size) > 300
    assert "20.00" not in text.partition("<!-- end: training -->")[2]


def test_start_up_is_measured_warm_and_cold(tmp_path: Path, trained: list[list[str]], monkeypatch: Any) -> None:
    page = document(tmp_path)
    monkeypatch.setattr("sys.argv", ["bench_train.py", str(tmp_path), "--start-up", "--document", str(page)])
    monkeypatch.chdir(tmp_path)
    bench_train.main()
    assert len(trained) == 3
    lines = [line for line in page.read_text().splitlines() if "compiled" in line]
    assert "2.00" in lines[0]
    assert "compiled before" in lines[0]
    assert "10.00" in lines[1]


def drawn(path: Path) -> bytes:
    return Image.open(io.BytesIO(path.read_bytes())).convert("RGB").tobytes()


def test_plots_show_what_is_measured(tmp_path: Path) -> None:
    """A picture changes with any point, and with an earlier result; an empty one is drawn too."""
    rows = [row("fox", "9 s", 9.0, 27.0), row("fox", "60 s", 60.0, 32.0)]
    variants = [
        (rows, []),
        ([rows[0], rows[1] | {"psnr": 31.0}], []),
        (rows, [row("fox", "9 s", 9.0, 24.0)]),
        ([], []),
    ]
    pictures = set()
    for number, (now, before) in enumerate(variants):
        path = tmp_path / f"{number}.png"
        _bench_plot.psnr_over_time(now, before, path)
        pictures.add(drawn(path))
    assert len(pictures) == len(variants)


def test_smoothing_follows_and_keeps_a_constant() -> None:
    assert _bench_plot.smoothed([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])
    assert _bench_plot.smoothed([1.0, 2.0]) == pytest.approx([1.0, 1.1])
    assert _bench_plot.smoothed([]) == []
