"""From the command to photos with poses, with progress bars; also what a training of plain photos begins with."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from recon import doctoring
from recon.datasets import capture, has_poses, photo_folder
from recon.datasets.capture import Report
from recon.datasets.errors import InputError, NoSceneError
from recon.terminal import bars, say


def capture_photos(source: Path, scene: Path, threads: int | None) -> Report:
    """Find the poses of photos and write a scene with a report on it, with a bar for each stage.

    Where no scene comes of the photos, the error names the report, which then says why.
    """
    most = 4 * (os.cpu_count() or 1)
    if threads is not None and not 1 <= threads <= most:
        raise InputError(f"--threads {threads}: not between 1 and {most}")
    count = threads or os.cpu_count() or 1
    try:
        with bars() as shown:
            try:
                report = capture.capture(source, scene, threads=count, say=say, progress=shown)
            except NoSceneError as error:
                page = doctoring.report(scene, count, shown, failure=error.why)
                raise InputError(f"{error}; the report has more: {page}") from error
            if doctoring.is_reported(scene):
                say(f"Report: {scene / doctoring.REPORT}")
            else:
                doctoring.report(scene, count, shown)
            return report
    except KeyboardInterrupt:
        say(f"Stopped. What is done is kept in {scene}; the same command goes on from there.")
        raise


def posed(source: Path, output: Path, threads: int | None) -> Path:
    """The capture at `source`; of photos without poses, the scene made of them, kept beside the runs in `output`."""
    if not source.is_dir() or has_poses(source) or not photo_folder.has_photos(source):
        return source
    name = source.resolve().name or "photos"
    place = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:8]
    scene = output / "captures" / place / name
    say(f"{source}: photos without poses. Finding them; the scene is kept for the next time: {scene}")
    capture_photos(source, scene, threads)
    return scene
