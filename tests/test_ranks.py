"""Training in several processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from safetensors.torch import load_file

import fields_cases
import ranks_at_work
from recon import checkpoint, ranks, runs, session
from recon.datasets import synthetic
from recon.datasets.errors import InputError
from recon.options import Options
from recon.ranks import ALONE, Ranks

T = TypeVar("T")

SAME_BITS = ("adaptive", "poses")  # two sums of two, whoever adds them
SAME_RAYS = ("noise", "mesh", "four views", "plenoxels")  # added up in another order
OWN = ("model.occupancy", "model.cells", "model.ray_count")  # of each process: what its own rays have met
NEAR = 0.03  # how far they then are apart: Adam takes whole steps where a gradient is next to nothing


def begin(count: int, command: Sequence[str], **environment: str) -> list[subprocess.Popen[str]]:
    """As many processes of a command as torchrun would start."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": str(port), **environment}
    return [
        subprocess.Popen(
            command,
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]


def same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in some.items())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of both processes of each case."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = begin(2, [sys.executable, ranks_at_work.__file__, str(folder)])
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", ranks_at_work.CASES)
def test_two_processes_train_as_one_does_with_the_same_batch(case: str, saved: Path) -> None:
    alone, files = ranks_at_work.trained(case), sorted(saved.glob(f"{case} ?.*"))
    first, second = (load_file(file) for file in files)
    assert same(*({name: value for name, value in told.items() if name not in OWN} for told in (first, second)))
    together = checkpoint.load(files[0])
    if case in SAME_BITS:
        assert same(alone.model.state_dict(), together.model.state_dict())
    elif case in SAME_RAYS:
        for name, value in alone.model.state_dict().items():
            difference = (value.double() - together.model.state_dict()[name].double()).norm()
            assert float(difference) <= NEAR * float(value.double().norm()), name
    scene = ranks_at_work.tiny.scene()
    errors = [fields_cases.held_out_error(state, scene) for state in (alone, together)]
    assert errors[1] == pytest.approx(errors[0], rel=0.02 if case in (*SAME_BITS, *SAME_RAYS) else 0.2)


def test_a_batch_is_shared_out() -> None:
    shares = [list(Ranks(rank, 3).share(6)) for rank in range(3)]
    assert shares == [[0, 1], [2, 3], [4, 5]]
    assert list(ALONE.share(2)) == [0, 1]


def test_only_torchrun_makes_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert ranks.expected() == ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")  # that alone is Slurm's, too
    assert ranks.expected() == ALONE
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert ranks.expected() == Ranks(3, 4, 1, 2)


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    synthetic.write(synthetic.make(views=12, width=64, height=48), tmp_path / "demo", "nerfstudio")
    return tmp_path / "demo"


def command(capture: Path, output: Path, *options: str) -> list[str]:
    asked = ["--output", str(output), "--no-viewer", "--device", "cpu", *options]
    return [sys.executable, "-m", "recon", "train", str(capture), *asked]


@pytest.mark.slow
def test_the_first_process_speaks_writes_and_scores(capture: Path, tmp_path: Path) -> None:
    processes = begin(2, command(capture, tmp_path / "runs", "--budget-seconds", "20"))
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    run = runs.find(tmp_path / "runs")
    assert len(list((tmp_path / "runs").glob("**/config.json"))) == 1
    assert run.config()["options"]["batch_size"] == 2
    assert runs.read_json(run.summary_file)["psnr"] > 15
    assert "Scores" in said[0]
    assert "Scores" not in said[1]


@pytest.mark.slow
def test_a_lost_process_ends_the_job_which_goes_on_from_its_last_step(capture: Path, tmp_path: Path) -> None:
    first, second = begin(2, command(capture, tmp_path / "runs", "--steps", "100000"))
    metrics = wait_for(lambda: next((tmp_path / "runs").glob("**/metrics.jsonl"), None), [first, second])
    wait_for(lambda: len(runs.read_lines(metrics)) > 2, [first, second])
    second.kill()
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 2
    assert "another process of this training is gone" in said
    run = runs.find(tmp_path / "runs")
    (newest, *_) = run.checkpoints()
    state = checkpoint.load(newest)
    assert state.step > 20
    assert f"step {state.step:,} is saved" in said
    alone = command(capture, tmp_path / "runs", "--resume", str(run.path))
    resumed = subprocess.Popen([*alone[:4], *alone[5:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: [line for line in runs.read_lines(metrics) if line["step"] > state.step], [resumed])
    resumed.send_signal(signal.SIGINT)
    assert resumed.wait(timeout=60) == 130


@pytest.mark.slow
def test_all_processes_stop_where_one_is_told_to(capture: Path, tmp_path: Path) -> None:
    first, second = begin(2, command(capture, tmp_path / "runs", "--steps", "100000"))
    metrics = wait_for(lambda: next((tmp_path / "runs").glob("**/metrics.jsonl"), None), [first, second])
    wait_for(lambda: len(runs.read_lines(metrics)) > 2, [first, second])
    second.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=60)
    assert [first.returncode, second.wait(timeout=60)] == [143, 143]
    assert "Stopped at step" in said


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    watch = session.Watch(ranks=Ranks(0, 2))
    with pytest.raises(InputError, match="2 processes cannot share the 3 views"):
        session.begin(Options(scene="", batch_size=3), Path(), ranks_at_work.CPU, watch)


def wait_for(ready: Callable[[], T | None], processes: Sequence[subprocess.Popen[str]], seconds: float = 120) -> T:
    """What is there once it is, while the processes run."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ready():
            return found
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError("not within the time there is")
