"""From the command to the report on a capture: the short form on the terminal, and the page."""

from __future__ import annotations

from pathlib import Path

from recon import report_page, report_text
from recon.datasets import advice, capture, doctor
from recon.datasets.errors import InputError
from recon.datasets.matching import Progress
from recon.datasets.survey import Survey
from recon.kernels.runtime import get_threads
from recon.terminal import bars, console, say

REPORT = "report.html"


def examine(path: Path, html: Path | None) -> Path:
    """Look into a capture, say what is to be done, and write the page; where that is."""
    target = _target(path) if html is None else html
    if target.is_dir():
        raise InputError(f"--html {target}: is a folder, not a file")
    with bars() as shown:
        found = doctor.examine(path, threads=get_threads(), progress=shown)
    return _tell(found, target)


def report(scene: Path, threads: int, progress: Progress, failure: str = "") -> Path:
    """The report on a scene that `capture` made, or failed to make for a reason, in that scene's folder."""
    return _tell(doctor.captured(scene, threads=threads, progress=progress, failure=failure), scene / REPORT)


def is_reported(scene: Path) -> bool:
    """Whether a finished scene has the report on it, and not on an earlier one."""
    try:
        return (scene / REPORT).stat().st_mtime_ns >= (scene / capture.REPORT).stat().st_mtime_ns
    except OSError:
        return False


def _tell(survey: Survey, target: Path) -> Path:
    given = advice.give(survey)
    report_page.write(survey, given, target)
    for line in report_text.lines(survey, given):
        console.print(line, soft_wrap=True)
    say(f"Report: {target}")
    return target


def _target(path: Path) -> Path:
    """Beside our own scenes; else in the current folder, or above the capture if that is inside: it is not ours."""
    if doctor.is_ours(path):
        return path / REPORT
    folder = path.resolve() if path.is_dir() else path.resolve().parent
    here = Path.cwd()
    return (folder.parent if here.resolve().is_relative_to(folder) else Path()) / f"{folder.name or 'capture'}-{REPORT}"
