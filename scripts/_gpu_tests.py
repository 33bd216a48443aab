"""The tests that are marked `gpu`, run by pytest; one row for each that fails."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import torch

from _bench_report import ROOT
from _gpu_rows import FAILED, OK, Row, left_out


def tests(arguments: argparse.Namespace) -> Iterator[Row]:
    """Every one of them runs, whatever the others did."""
    if not torch.cuda.is_available():
        yield left_out("tests marked gpu", "no GPU")
        return
    report = arguments.output / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short"]
    if importlib.util.find_spec("xdist"):  # with it, a test that ends its process does not end the others
        command += ["-n", "4"]
    command += ["--continue-on-collection-errors", f"--junitxml={report.resolve()}", *files_with_tests()]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    (arguments.output / "tests.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    if not report.exists():
        last = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["nothing"]
        yield Row("tests marked gpu", f"pytest ended with {done.returncode}: {last[0][:300]}", verdict=FAILED)
        return
    counts, failures = summary(report.read_text(encoding="utf-8"))
    yield from failures
    ran = counts["passed"] + len(failures)
    yield Row(
        "tests marked gpu",
        f"{counts['passed']} of {ran} passed, {counts['skipped']} skipped, {seconds:.0f} s",
        verdict=OK if counts["passed"] and not failures else FAILED,
        data=counts | {"failed": len(failures), "seconds": seconds},
    )


def files_with_tests() -> list[str]:
    """The test files that have any: others may import what a machine with a GPU does not have."""
    return [str(file) for file in sorted((ROOT / "tests").glob("test_*.py")) if "mark.gpu" in file.read_text("utf-8")]


def summary(report: str) -> tuple[dict[str, int], list[Row]]:
    """How many passed and were skipped, and a row for each failure, of a JUnit report."""
    counts, failures = {"passed": 0, "skipped": 0}, []
    for case in ET.fromstring(report).iter("testcase"):
        problem = case.find("failure")
        if problem is None:
            problem = case.find("error")
        if problem is not None:
            name = f"{case.get('classname', '').removeprefix('tests.')}::{case.get('name')}"
            said = " ".join((problem.get("message") or problem.text or "").split())
            failures.append(Row(name, said[:300], verdict=FAILED))
        else:
            counts["skipped" if case.find("skipped") is not None else "passed"] += 1
    return counts, failures
