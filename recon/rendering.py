"""From the command to pictures of a run: a video, or files of 8 bits, of 16, or of linear light."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import Progress
from torch import Tensor

from recon import config, render, runs, video
from recon.datasets.cameras import Cameras
from recon.datasets.decode import save_image, save_light
from recon.datasets.errors import InputError
from recon.datasets.scene import Scene
from recon.datasets.tone import Tone, from_srgb
from recon.nerfstudio import runs as nerfstudio_runs
from recon.opening import background_of
from recon.render import Mode
from recon.terminal import console, say
from recon.train import TrainState
from recon.viewer import paths

Format = Literal["png", "png16", "exr"]

LARGEST_SIDE = 16384  # px, of rendered pictures


def render_to(
    state: TrainState, cameras: Cameras, out: Path, *, mode: Mode, fps: float, format: Format, tone: Tone | None
) -> None:
    """Render cameras of the trained world to a video or a folder, with a progress bar.

    Args:
        format: of pictures in a folder.
        tone: the curve through which the photos were seen, from which "exr" leads back to light; sRGB's if None.
    """
    if format != "png" and (out.suffix or mode != "rgb"):
        raise InputError(f"--format {format}: is for colours in a folder; not for {out.name} with --mode {mode}")
    background = background_of(state)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Rendering", total=len(cameras))
        shown: dict[str, Any] = {
            "total": len(cameras),
            "progress": lambda done, _: bar.update(task, completed=done),
        }
        if format == "png":
            frames = render.frames(state.model, cameras, mode=mode, background=background)
            video.save_frames(frames, out, fps=fps, **shown)
        else:
            pictures = render.pictures(state.model, cameras, mode=mode, background=background)
            suffix, write = (".png", _write_png16) if format == "png16" else (".exr", _writer_of_light(tone))
            video.write_images(pictures, out, suffix=suffix, write=write, **shown)
    say(f"Rendered {len(cameras)} frames of {cameras.width}x{cameras.height}: {out}")


def tone_of(source: Path) -> Tone | None:
    """The curve through which the photos of a run were seen, if they were of linear light; nerfstudio knows none."""
    if nerfstudio_runs.find(source) is not None:
        return None
    run = runs.find(source)
    values = run.config().get("tone")
    return None if values is None else config.checked(Tone, values, f"{run.config_file}: tone.")


def _write_png16(picture: Tensor, path: Path) -> None:
    save_image(path, picture, bits=16)


def _writer_of_light(tone: Tone | None) -> Callable[[Tensor, Path], None]:
    def write(picture: Tensor, path: Path) -> None:
        shown = picture.float().cpu().numpy()
        save_light(path, from_srgb(shown.clip(0, 1)).astype(np.float32) if tone is None else tone.linear(shown))

    return write


def camera_path(path: Literal["orbit", "photos", "held-out"], scene: Scene, frames: int) -> Cameras:
    """The cameras of `recon render --path`."""
    if path == "held-out":
        if not scene.test:
            raise InputError("--path held-out: no photo of this run was held out")
        first = scene.test_views[0].camera  # a video has one size
        return Cameras.cat([view.camera.resized(first.width, first.height) for view in scene.test_views])
    return paths.orbit(scene, frames) if path == "orbit" else paths.interpolate(scene, frames)


def resized(cameras: Cameras, width: int | None, height: int | None) -> Cameras:
    """Cameras for pictures of the wanted size; of one side alone, the other follows."""
    for name, value in (("--width", width), ("--height", height)):
        if value is not None and not 1 <= value <= LARGEST_SIDE:
            raise InputError(f"{name} {value}: not between 1 and {LARGEST_SIDE}")
    if width is None:
        width = cameras.width if height is None else max(1, round(cameras.width * height / cameras.height))
    if height is None:
        height = max(1, round(cameras.height * width / cameras.width))
    return cameras.resized(width, height)
