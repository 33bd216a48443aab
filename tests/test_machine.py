"""How a command starts: what it sets before torch is loaded, and what it leaves as it was."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import types
from typing import Any

import pytest
import torch

import gsplat_stand_in
from recon.datasets.errors import InputError
from recon.kernels.runtime import get_threads, set_threads
from recon.machine import importing, pick_device, use_threads


@pytest.mark.parametrize(("given", "wanted"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_the_command_lets_threads_sleep_unless_told_otherwise(given: dict[str, str], wanted: str) -> None:
    script = (
        "import sys, os; sys.argv = ['recon', 'export', 'no-such-run', 'out.ply']\n"
        "from recon import cli; assert 'torch' not in sys.modules\n"
        "try: cli.main()\n"
        "except SystemExit: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    kept = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", script], env=kept | given, capture_output=True, text=True)
    assert done.stdout.split() == [wanted, "True"], done.stderr


def test_only_the_command_changes_the_environment() -> None:
    script = "import os, recon; before = dict(os.environ); recon.load, recon.Gaussians; print(before == os.environ)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "True\n"


def test_garbage_is_collected_again_after_imports() -> None:
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


def test_threads_and_devices_that_cannot_be_had() -> None:
    threads, torch_threads = get_threads(), torch.get_num_threads()
    try:
        use_threads(2)
        assert (get_threads(), torch.get_num_threads()) == (2, 1)
        for count in (0, 100_000):
            with pytest.raises(InputError, match=f"--threads {count}"):
                use_threads(count)
    finally:
        set_threads(threads)
        torch.set_num_threads(torch_threads)
    assert pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        assert pick_device("auto").type == "cpu"
        with pytest.raises(InputError, match="--device cuda"):
            pick_device("cuda")


def test_a_program_that_ends_at_once_leaves_nothing_undone() -> None:
    script = """
import atexit, sys, threading, time
from recon import __main__, cli

def command():
    atexit.register(print, "at exit")
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    print("command")

cli.main = command
__main__.main()
print("never")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "command\nthread\nat exit\n", "")


def test_a_program_reports_wrong_input_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "recon", "export", "nowhere", "a.ply"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: nowhere: no such run or file\n")


@pytest.mark.parametrize(
    ("version", "compiled", "problem"),
    [
        ("1.5.3", gsplat_stand_in, None),
        ("1.5.3+pt211cu130", gsplat_stand_in, None),
        ("1.6.0", object(), "gsplat 1.6.0 is not what this version works with; install it with: pip install"),
        (
            "1.5.3",
            object(),
            "this gsplat is not what this version works with: it has no ",
        ),
        ("1.5.3", None, "gsplat's CUDA kernels are not there"),
    ],
)
def test_what_is_wrong_with_gsplat_is_said(
    version: str, compiled: object, problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules: dict[str, Any] = {
        name: types.ModuleType(name) for name in ("gsplat", "gsplat.cuda", "gsplat.cuda._backend")
    }
    modules["gsplat"].__version__ = version
    modules["gsplat.cuda._backend"]._C = compiled
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if problem is None:
        assert pick_device("auto").type == "cuda"
    else:
        assert pick_device("auto").type == "cpu"
        with pytest.raises(InputError, match=f"--device cuda: {problem}"):
            pick_device("cuda")
