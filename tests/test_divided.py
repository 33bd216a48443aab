"""A scene that is divided among processes."""

from __future__ import annotations

import functools
import itertools
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import divided_at_work
import fields_cases
import tiny
from divided_at_work import CASES, ENDS, begun, drawn_and_back, go_on
from recon import checkpoint, division, runs
from recon.config import SurfaceConfig, TrainConfig
from recon.config import for_field as settings_of_field
from recon.datasets.errors import InputError
from recon.gathering import read
from recon.gaussians import PARAMETERS
from recon.kernels import exchange
from recon.kernels.rasterize import Pictures, blend_view, project_view
from recon.memory import Workload, estimate
from recon.ranks import ALONE, Ranks
from recon.raster import cpu, gsplat_cuda
from recon.raster.passes import find, parameters_of
from test_ranks import begin, capture, command, same, wait_for  # noqa: F401 (a fixture among them)

SAME_BITS = ("still", "coarse")


def test_parts_that_are_sorted_together_are_drawn_as_the_whole() -> None:
    whole = tiny.gaussians(3000)
    tensors = list(whole.state_dict().values())
    camera = tiny.ring(5, 120, 96)[1].to("cpu", torch.float32)
    edges = itertools.pairwise((0, 1300, 1300, 3000))
    found = [find([t[a:b] for t in tensors], [camera], 3, 0.01, 1e10)[0][0] for a, b in edges]
    rows = [exchange.touching(part) for part in found]
    view, counts = exchange.together(found[0], [exchange.packed(*each) for each in zip(found, rows, strict=True)])
    assert counts == [len(each) for each in rows]
    assert counts[1] == 0
    centres, extents = np.empty((3000, 2), np.float32), np.empty((3000, 2), np.int32)
    expected = project_view(parameters_of(tensors), found[0].camera, 120, 96, 3, centres, extents)
    pictures = []
    for each in (view, expected):
        picture = Pictures(np.empty((3, 96, 120), np.float32), np.empty((96, 120), np.float32), None)
        blend_view(each, np.zeros(3, np.float32), picture, np.empty(96 * 120, np.float32))
        pictures.append(picture.rgb)
    assert np.array_equal(pictures[0], pictures[1])
    assert pictures[0].any()


def test_gradients_come_back_to_the_rows_they_are_of() -> None:
    rows, draw = np.array([3, 4, 20]), np.random.default_rng(0)
    centres, records = draw.random((20, 2), np.float32), draw.random(exchange.gradient_size(20), np.float32)
    given = exchange.rows_of_gradients(centres, records, 2 * centres)[[7, 0, 19]]
    size = exchange.gradient_size(30)
    found = np.empty((30, 2), np.float32), np.empty(size, np.float32), np.zeros((30, 2), np.float32)
    exchange.put_gradients(given, rows, *found)
    assert np.array_equal(found[0][rows], centres[[7, 0, 19]])
    assert np.array_equal(found[2], 2 * found[0])
    assert np.count_nonzero(found[0].any(axis=1)) == 3
    again = exchange.rows_of_gradients(found[0], found[1], None)
    assert np.array_equal(again[rows], given[:, :10])
    assert not np.delete(again, rows, axis=0).any()


def test_parts_are_taken_by_turns_and_are_the_whole() -> None:
    model = tiny.gaussians(11)
    parts = [division.part(model, Ranks(rank, 3)) for rank in range(3)]
    assert [len(part) for part in parts] == [4, 4, 3] == [Ranks(rank, 3).portion(11) for rank in range(3)]
    assert torch.equal(torch.cat([part.means for part in parts]).sort(0).values, model.means.sort(0).values)
    assert torch.equal(parts[1].means, model.means[1::3])


class Rows:
    """As safetensors' `get_slice` has them."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def get_shape(self) -> list[int]:
        return list(self.values.shape)

    def __getitem__(self, index: slice) -> torch.Tensor:
        return self.values[index]


@pytest.mark.parametrize("block", [4, 5, 100])
def test_any_number_of_processes_reads_what_others_wrote(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recon.gathering.BLOCK", block)
    values = torch.arange(22).reshape(11, 2)
    as_before = [read(Rows(values), [2, 9], Ranks(rank, 2)) for rank in range(2)]
    assert torch.equal(torch.cat(as_before), values)
    assert len(as_before[0]) == 2
    others = [read(Rows(values), [2, 9], Ranks(rank, 3)) for rank in range(3)]
    assert all(torch.equal(part, values[rank::3]) for rank, part in enumerate(others))
    assert torch.equal(read(Rows(values), None, ALONE), values)
    assert read(Rows(values[:0]), [2, 9], Ranks(0, 2)).shape == (0, 2)


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(InputError, match="--divide: is for splats"):
        division.check(settings_of_field("plenoxels", 10), ALONE)
    with pytest.raises(InputError, match="--divide: cannot be kept with --for-mesh"):
        division.check(TrainConfig(surface=SurfaceConfig()), ALONE)
    division.check(TrainConfig(), ALONE)


def test_a_part_takes_less_memory_than_the_whole() -> None:
    work = functools.partial(Workload, 0, 0, 0, 10_000, 0, 0, 1_000_000, 3, 1, gradients=True)
    whole, part = (estimate(work(parts=parts), program=0) for parts in (1, 4))
    assert part.gaussians == whole.gaussians / 4
    assert part.copies == whole.copies / 4
    assert part.total < whole.total / 1.5


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have left what they found."""
    folder = tmp_path_factory.mktemp("divided")
    processes = begin(2, [sys.executable, divided_at_work.__file__, str(folder)])
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("depth", [True, False])
@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("way", ["cpu", "gpu"])
def test_two_processes_draw_what_one_does(way: str, name: str, depth: bool, worked: Path) -> None:
    """On a CPU to the bit; the gradients of cameras are sums over parts."""
    tensors = list(tiny.gaussians(60).parameters().values())
    alone = [drawn_and_back(cpu.rasterize, tensors, number, depth=depth, absgrad=not depth) for number in range(2)]
    check_drawn(way, name, depth, alone, worked)


@pytest.mark.gpu
def test_two_processes_on_a_gpu_draw_what_one_does(tmp_path: Path) -> None:
    processes = begin(2, [sys.executable, divided_at_work.__file__, str(tmp_path), "gpu"])
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    tensors = list(tiny.gaussians(60).to("cuda").parameters().values())
    for name, depth in itertools.product(ENDS, (True, False)):
        alone = [
            drawn_and_back(gsplat_cuda.rasterize, tensors, number, depth=depth, absgrad=not depth)
            for number in range(2)
        ]
        check_drawn("gsplat", name, depth, alone, tmp_path)


def check_drawn(way: str, name: str, depth: bool, alone: list[dict[str, torch.Tensor]], worked: Path) -> None:
    """What two processes have left, beside what one finds."""
    found = [load_file(worked / f"{way}, {name}, {depth} {rank}.safetensors") for rank in range(2)]
    compare = torch.equal if way == "cpu" else functools.partial(torch.allclose, rtol=1e-3, atol=2e-3)
    for rank, own in enumerate(found):
        rows = slice(ENDS[name][rank], ENDS[name][rank + 1])
        for key in ("rgb", "alpha"):
            assert compare(own[key], alone[rank][key]), key
        difference = (own["motion"] - alone[rank]["motion"]).norm()
        assert float(difference) < (1e-5 if way == "cpu" else 1e-4) * float(alone[rank]["motion"].norm())
        for key in ("radii", "means2d", *(() if depth else ("absgrad",))):
            assert compare(own[key], torch.cat([of[key][:, rows] for of in alone])), key
        for number in range(len(PARAMETERS)):
            key = f"parameter {number}"
            assert compare(own[key], (alone[0][key] + alone[1][key])[rows]), key


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_divided_training_is_that_of_one_process(case: str, worked: Path) -> None:
    """Where Gaussians come and go, each part decides on its own."""
    alone, together = go_on(begun(case)), checkpoint.load(worked / f"{case}.safetensors")
    assert abs(len(alone.model) - len(together.model)) <= 2
    if case in SAME_BITS:
        assert same(alone.model.state_dict(), together.model.state_dict())
        for old, new in zip(alone.optimizer.state.values(), together.optimizer.state.values(), strict=True):
            assert same(old, new)
    scene = tiny.scene()
    errors = [fields_cases.held_out_error(state, scene) for state in (alone, together)]
    assert errors[1] == pytest.approx(errors[0], rel=1e-4 if case in SAME_BITS else 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_divided_training_goes_on_as_if_it_had_not_stopped(case: str, worked: Path) -> None:
    whole, resumed = (load_file(worked / f"{case}{name}.safetensors") for name in ("", " resumed"))
    assert same(whole, resumed)
    half = checkpoint.load(worked / f"{case} half.safetensors")  # which one process can go on with, too
    assert half.step == divided_at_work.HALFWAY
    go_on(half)
    ours, theirs = (fields_cases.held_out_error(state, tiny.scene()) for state in (half, go_on(begun(case))))
    chance = case in ("adaptive", "mcmc")  # Gaussians come and go, and after another last bit others do
    assert ours == pytest.approx(theirs, rel=0.2 if chance else 0.1)


@pytest.mark.slow
def test_a_run_is_divided_stopped_and_gone_on_with(capture: Path, tmp_path: Path) -> None:  # noqa: F811
    divided = command(capture, tmp_path / "runs", "--steps", "120", "--divide", "--save-every", "0.5")
    first, second = begin(2, divided)
    metrics = wait_for(lambda: next((tmp_path / "runs").glob("**/metrics.jsonl"), None), [first, second])
    wait_for(lambda: len(runs.read_lines(metrics)) > 2, [first, second])
    second.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=60)
    assert [first.returncode, second.wait(timeout=60)] == [143, 143]
    assert "Stopped at step" in said
    run = runs.find(tmp_path / "runs")
    assert checkpoint.load(run.checkpoints()[0]).step > 20
    resume = [*divided[:4], *divided[5:-5], "--resume", str(run.path), "--divide"]
    processes = begin(2, resume)
    told = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(told)
    summary, last = runs.read_json(run.summary_file), runs.read_lines(metrics)[-1]
    assert (summary["step"], summary["psnr"] > 15) == (120, True)
    assert summary["count"] == last["count"]
    alone = subprocess.run([*divided[:-5], "--divide", "--steps", "2"], capture_output=True, text=True, check=True)
    assert "there is one process only" in alone.stdout
