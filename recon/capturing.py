"""From the command to photos with poses, with progress bars; also what a training of photos or a video begins with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recon.datasets import has_poses, photo_folder, sources
from recon.datasets.errors import InputError, NoSceneError
from recon.datasets.sources import Wishes
from recon.kernels.runtime import get_threads
from recon.terminal import bars, say

if TYPE_CHECKING:
    from recon.datasets.capture import Report


def capture_photos(source: Path, scene: Path, wishes: Wishes = sources.USUAL) -> Report:
    """Find the poses of photos or a video and write a scene with a report on it, with a bar for each stage.

    Where no scene comes of the photos, the error names the report, which then says why.
    """
    from recon import doctoring  # what a training of a posed capture need not load
    from recon.datasets import capture

    count = get_threads()
    try:
        with bars() as shown:
            try:
                report = capture.capture(source, scene, threads=count, say=say, progress=shown, wishes=wishes)
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


def posed(source: Path, output: Path, masks: Sequence[str] = ()) -> Path:
    """The capture at `source`; of photos without poses, or a video, the scene made of them, kept beside the runs in
    `output`.

    Args:
        masks: which pixels count, see `recon.datasets.masks`.
    """
    if not source.exists() or has_poses(source) or not sources.is_source(source):
        return source
    what = "photos" if photo_folder.has_photos(source) else "a video"
    name = (source.resolve().name if source.is_dir() else source.stem) or "photos"
    place = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:8]
    scene = output / "captures" / place / name
    say(f"{source}: {what} without poses. Finding them; the scene is kept for the next time: {scene}")
    capture_photos(source, scene, Wishes(masks=tuple(masks)))
    return scene


def make_capture(folder: Path, views: int) -> None:
    """Photograph the procedural scene and write it as a capture, with a progress bar."""
    from recon.datasets import synthetic

    if not 2 <= views <= 1000:
        raise InputError(f"--views {views}: not between 2 and 1000")
    with bars() as shown:
        made = synthetic.make(views=views, progress=lambda done: shown("Making photos of a scene", done, views))
    synthetic.write(made, folder, "nerfstudio")
    say(f"Made {views} photos of a scene: {folder}")
