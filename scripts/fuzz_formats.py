#!/usr/bin/env python
"""Damaged files for the readers of splats, points and meshes: each has to be read, or refused in one line.

    python scripts/fuzz_formats.py --minutes 10 --out findings
    python scripts/fuzz_formats.py spz glb --minutes 1

Each reader works in a process of its own, with a limit on its memory, on small files that were damaged; those that led
to code that none before had led to are damaged further. Whatever comes of one but splats or an `InputError` in one line
that begins with the file's name is a finding: another error, a crash, more than `SECONDS`, or more than `MEMORY`. Its
file is kept. The exit code is 1 if there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import logging
import multiprocessing
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import psutil
import torch

from _bench_report import ROOT, run, table
from _fuzz_cases import READERS
from _fuzz_damage import attacks, damaged, packed
from recon.datasets.errors import InputError

MEMORY = 1 << 30  # bytes that a reader may take beyond what its process had when it began
SECONDS = 10.0  # of one core, for one file
HUNG = 60.0  # seconds after which a process is ended
ATTACKS = 10  # every so many files one is of `attacks`, until all were tried
CORPUS = 2_000  # samples that are kept, at most


class Lines:
    """The lines of the package that were run while inside."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()

    def _in_frame(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "call" and not frame.f_code.co_filename.startswith(f"{ROOT}/recon/"):
            return None
        self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._in_frame

    def __enter__(self) -> Lines:
        sys.settrace(self._in_frame)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


def wrong_with(name: str, path: Path) -> str | None:
    """Read a file; what is a finding, as a line that is the same for the same fault."""
    began = time.process_time()
    try:
        READERS[name].read(path)
    except InputError as error:
        said = str(error)
        if "\n" in said or not said.startswith(str(path).rstrip("/")) or len(said) > len(str(path)) + 400:
            return f"no plain line: {said[len(str(path)) :][:60]!r}"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)
        ours = [
            f"{Path(frame.filename).name}:{frame.lineno}" for frame in last if "/site-packages/" not in frame.filename
        ]
        return f"{type(error).__name__} in {ours[-1]}"
    if time.process_time() - began > SECONDS:
        return "slow"
    return None


def child(name: str, seed: int, folder: Path, out: Path, executions: Any, began: Any) -> None:
    """Read damaged files until the process is ended; `began` tells when the one at hand was begun."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    rng = np.random.default_rng(seed)
    source = folder / "source"
    source.mkdir()
    corpus = READERS[name].samples(source)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    lines = Lines()
    first = attacks(list(corpus)) if seed == 0 else iter(())
    for number in itertools.count():
        sample = next(first, None) if number % ATTACKS == 0 else None
        if sample is None:
            # The newest ones are the farthest from what was tried before.
            back = rng.random() ** (3 if rng.random() < 0.7 else 1)
            sample = damaged(corpus[-1 - int(back * len(corpus))], corpus[int(rng.integers(len(corpus)))], rng)
        case = folder / "case"
        shutil.rmtree(case, ignore_errors=True)
        for file, data in packed(sample, rng).items():
            (case / file).parent.mkdir(parents=True, exist_ok=True)
            (case / file).write_bytes(data)
        before = len(lines.seen)
        began.value = time.time()
        limit = psutil.Process().memory_info().vms + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        with lines:
            wrong = wrong_with(name, case / sample.name)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        began.value = 0.0
        executions.value += 1
        if wrong:
            keep(out / name, wrong, case)
        elif len(lines.seen) > before and len(corpus) < CORPUS and sum(map(len, sample.parts.values())) < 1 << 20:
            corpus.append(sample)


def keep(out: Path, wrong: str, case: Path) -> None:
    """Keep the first file of a finding."""
    target = out / hashlib.sha1(wrong.encode()).hexdigest()[:8]
    if not target.exists():
        target.mkdir(parents=True)
        (target / "wrong.txt").write_text(wrong + "\n")
        with contextlib.suppress(FileNotFoundError):
            shutil.copytree(case, target / "case")
        print(f"{out.name}: {wrong}: {target}", flush=True)


class Reading:
    """A reader at work, in one process after the other where one does not come back."""

    def __init__(self, name: str, seconds: float, out: Path) -> None:
        self.name, self.out = name, out
        self.seconds, self.ends = seconds, 0.0
        self.context = multiprocessing.get_context("spawn")
        self.executions = self.context.Value("Q", 0)
        self.began = self.context.Value("d", 0.0)
        self.seed = 0
        self._start()

    def _start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.began.value = 0.0
        arguments = (self.name, self.seed, self.folder, self.out, self.executions, self.began)
        self.process = self.context.Process(target=child, args=arguments, daemon=True)
        self.process.start()
        self.seed += 1

    def _stop(self) -> None:
        self.process.kill()
        self.process.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def is_done(self) -> bool:
        """Looks after the process; whether the time is over."""
        began = self.began.value
        hung = began > 0 and time.time() - began > HUNG
        if hung or not self.process.is_alive():
            wrong = "hung" if hung else f"died with {self.process.exitcode}"
            keep(self.out / self.name, f"{wrong}, {self.seed}", self.folder / "case")
            self._stop()
            self._start()
        if not self.ends and self.executions.value:  # the time counts from the first file
            self.ends = time.time() + self.seconds
        if not self.ends or time.time() < self.ends:
            return False
        self._stop()
        return True


def fuzzed(names: list[str], seconds: float, out: Path, processes: int) -> list[dict[str, Any]]:
    """A row for each reader."""
    waiting, rows = list(names), []
    running: list[Reading] = []
    while waiting or running:
        while waiting and len(running) < processes:
            running.append(Reading(waiting.pop(0), seconds, out))
        time.sleep(0.2)
        for reading in [each for each in running if each.is_done()]:
            running.remove(reading)
            found = len(list((out / reading.name).glob("*")))
            rows.append({"reader": reading.name, "files": reading.executions.value, "findings": found})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", help=f"of {', '.join(READERS)}; all of them if none is named")
    parser.add_argument("--minutes", type=float, default=10, help="for each reader")
    parser.add_argument("--processes", type=int, default=2, help="readers at a time")
    parser.add_argument("--out", type=Path, default=Path("findings"), help="where files of findings are kept")
    wanted = parser.parse_args()
    unknown = [name for name in wanted.readers if name not in READERS]
    if unknown:
        raise InputError(f"{unknown[0]}: there is no such reader; there is {', '.join(READERS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which ends the readers' processes, too
    rows = fuzzed(wanted.readers or list(READERS), 60 * wanted.minutes, wanted.out, wanted.processes)
    print(table(rows))
    sys.exit(any(row["findings"] for row in rows))


if __name__ == "__main__":
    run(main)
